"""`make bench-cluster`: new packs, all at once, through the builder's process into a real registry; then once more, out of the registry.

python -m bench.cluster_builds [--packs 200] [--guards 8] [--workers 2] [--out FILE]

Debian's docker-registry and `python -m knhk.builder` on loopback. The client is the adapter that the operator has; what the operator's
statuses and log cost is not in it. Each pack is one of its own: same guards, another name. An urgent order in the middle tells what waiting
costs an update of a live pack.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from knhk.model.arrows import PackSources
from knhk.packaging.builds import PackOrder

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "registry"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "builder"))
from builder_rig import Rig, pack
from registry_servers import debian_registry

WITHIN_S = 3600.0
GOALS = {"built": 1.0, "cached": 20.0}


def shapes(guards: int) -> str:
    """A shape with so many guards."""
    rows = " ;\n".join(f"  sh:property [ sh:path ex:p{n} ; sh:maxCount {n % 7 + 1} ]" for n in range(guards - 1))
    head = "@prefix sh: <http://www.w3.org/ns/shacl#> .\n@prefix ex: <https://example.com/ns#> .\n"
    return f"{head}ex:S a sh:NodeShape ; sh:targetClass ex:Order ;\n  sh:property [ sh:path ex:currency ; sh:minCount 1 ] ;\n{rows} .\n"


def packs(count: int, guards: int) -> list[PackSources]:
    text = shapes(guards)
    return [replace(pack("1.0.0", text), name=f"orders-{n}") for n in range(count)]


def all_at_once(rig: Rig, wanted: list[PackSources]) -> tuple[float, list[str]]:
    """Seconds until the last is there, and the last step of each."""
    begun = time.perf_counter()
    builds = [rig.builder.pack(PackOrder(one)) for one in wanted]
    for build in builds:
        build.result(WITHIN_S)
    return time.perf_counter() - begun, [build.step.partition(":")[0] for build in builds]


def run(count: int, guards: int, workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="knhk-bench-") as name, debian_registry(Path(name)) as url:
        (Path(name) / "builder").mkdir()
        rig = Rig(Path(name) / "builder", url, "--workers", str(workers), "--queue", str(max(256, count)))
        try:
            rig.until_warm()
            wanted = packs(count, guards)
            built_s, steps = all_at_once(rig, wanted)
            if set(steps) != {"Signed"}:
                raise ValueError(f"not all were built: {sorted(set(steps))}")
            rig.kill()
            rig.start(rig.port)
            rig.until_warm()
            cached_s, steps = all_at_once(rig, wanted)
            if set(steps) != {"Known"}:
                raise ValueError(f"not all were known: {sorted(set(steps))}")
            waiting = [rig.builder.pack(PackOrder(one)) for one in packs(2 * count, guards)[count : count + 20]]
            begun = time.perf_counter()
            rig.builder.pack(PackOrder(packs(2 * count, guards)[-1], urgent=True)).result(WITHIN_S)
            urgent_s, left = time.perf_counter() - begun, sum(not build.done() for build in waiting)
        finally:
            rig.close()
    return {
        "packs": count,
        "guards": guards,
        "workers": workers,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load": round(os.getloadavg()[0], 1),
        "proof_cases": 20,
        "built_per_s": round(count / built_s, 2),
        "cached_per_s": round(count / cached_s, 1),
        "urgent_s": round(urgent_s, 2),
        "ordinary_orders_passed_by_it": left,
        "goals_per_s": GOALS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packs", type=int, default=200)
    parser.add_argument("--guards", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = json.dumps(run(args.packs, args.guards, args.workers), indent=1)
    print(found)
    if args.out:
        args.out.write_text(found + "\n")


if __name__ == "__main__":
    main()
