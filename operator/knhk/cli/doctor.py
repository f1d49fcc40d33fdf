"""`knhk doctor`: what this machine has and what a lack costs."""

from __future__ import annotations

from knhk.cli.framework import FAILURE, OK, Call, Outcome, Table, command
from knhk.cli.schema import array, boolean, obj, string


@command(
    "doctor",
    summary="Look at Python, zig, Envoy, processor, caches, NUMA, pages, clock and limits, and say what a lack costs",
    output=obj(
        ok=boolean(),
        checks=array(
            obj(
                name=string(),
                state=string("ok", "warn", "fail"),
                found=string(),
                cost=string(),
                must=string(),
            )
        ),
    ),
    examples=("knhk doctor", "knhk doctor -o json | jq '.checks[] | select(.state != \"ok\")'"),
    exits={FAILURE: "something without which it cannot run is missing"},
)
def doctor(call: Call) -> Outcome:
    from dataclasses import asdict

    from knhk.adapters.machine import examine

    checks = examine(call.home)
    ok = all(check.state != "fail" for check in checks)
    rows = tuple((c.name, c.state, c.found, "; ".join(part for part in (c.cost, c.must) if part)) for c in checks)
    table = Table("", ("what", "state", "found", "what a lack costs; what to do"), rows)
    return Outcome({"ok": ok, "checks": [asdict(check) for check in checks]}, OK if ok else FAILURE, (table,))
