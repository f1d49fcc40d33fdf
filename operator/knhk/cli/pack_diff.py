"""`knhk pack diff A B`: guards that changed, and samples whose verdict changes, with the guards responsible."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, command
from knhk.cli.schema import array, boolean, integer, mapping, obj, string

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from knhk.model.arrows import GuardPlan
    from knhk.model.expectations import Case
    from knhk.model.packs import Found

CHANGED = obj(what=string(), before=string(), after=string())
FAIL_ON = ("verdicts", "admits", "guards", "never")


@command(
    ("pack", "diff"),
    summary="Compare two packs: guards added, removed and changed, and payloads whose verdict changes",
    arguments=(
        Argument("before", help="a PolicyPack file or folder: what is", kind=Path, metavar="A"),
        Argument("after", help="a PolicyPack file or folder: what will be", kind=Path, metavar="B"),
        Argument("--payload", help="a payload to decide with both; may be given again", kind=Path, repeat=True, metavar="FILE"),
        Argument(
            "--samples",
            help="a folder of payloads, or a file of expectations (default: tests.yaml beside the packs)",
            kind=Path,
            repeat=True,
            metavar="DIR_OR_FILE",
        ),
        Argument("--route", help="route of payloads that are no expectations (default: the first with a body)"),
        Argument("--attr", help="a verified attribute of such payloads", repeat=True, metavar="NAME=VALUE"),
        Argument("--fail-on", help="what ends with exit 1 (default verdicts)", choices=FAIL_ON, default="verdicts"),
    ),
    output=obj(
        before=string(),
        after=string(),
        guards=obj(added=array(string()), removed=array(string()), changed=mapping(array(CHANGED))),
        mappings=mapping(string("added", "removed", "changed")),
        routes=mapping(string("added", "removed", "changed")),
        samples=obj(
            all=integer(),
            changed=array(obj(name=string(), before=string(), after=string(), guards=array(string()), verdict=boolean())),
        ),
        failed=boolean(),
    ),
    examples=(
        "knhk pack diff examples/packs/invoice-controls/1.0.0 examples/packs/invoice-controls/1.1.0 --samples examples/payloads",
        "knhk pack diff main/pack.yaml pack.yaml --payload invoice.json --attr sub=alice --attr action=create",
        "knhk pack diff main/pack.yaml pack.yaml -o markdown | tee -a summary.md",
    ),
    detail="Both packs decide the samples by the same compiled evaluator that Envoy runs. --fail-on verdicts: a verdict of a sample\n"
    "changes; admits: one that was denied, or not judged, is admitted; guards: anything differs; never: exit 0 when both compile.",
    exits={FAULTS: "what --fail-on names was found, or a pack or sample is faulty"},
    formats=("markdown",),
)
def diff(call: Call) -> Outcome:
    from knhk.adapters.pack_folder import find
    from knhk.api import to_sources
    from knhk.reconcilers.admission import bundle_bytes
    from knhk.reconcilers.comparing import compare
    from knhk.reconcilers.lowering import plan_of
    from knhk.reconcilers.testing import subject
    from knhk.wiring import packs
    from knhk_gen.plan_diff import diff as diff_plans

    found = find(call.args.before), find(call.args.after)
    plans = plan_of(to_sources(found[0].pack)), plan_of(to_sources(found[1].pack))
    samples = _samples(call, found, plans)
    call.say(f"{len(samples)} samples")
    made = diff_plans(plans[0].document, plans[1].document)
    changed = []
    if samples:
        data = [None if f.bundle is None else bundle_bytes(f.bundle) for f in found]
        both = [subject(plan, packs.compiler(), packs.host_arch(), d) for plan, d in zip(plans, data, strict=True)]
        changed = list(compare(both[0], both[1], samples))
    failed = {
        "verdicts": any(c.verdict for c in changed),
        "admits": any(c.verdict and c.after == "ADMIT" for c in changed),
        "guards": not made.empty or bool(changed),
        "never": False,
    }[call.args.fail_on]
    told = {
        "before": _name(plans[0]),
        "after": _name(plans[1]),
        "guards": {
            "added": list(made.added),
            "removed": list(made.removed),
            "changed": {name: [{"what": c.what, "before": c.before, "after": c.after} for c in cs] for name, cs in made.changed.items()},
        },
        "mappings": dict(made.mappings),
        "routes": dict(made.routes),
        "samples": {
            "all": len(samples),
            "changed": [
                {"name": c.name, "before": c.before, "after": c.after, "guards": list(c.guilty), "verdict": c.verdict} for c in changed
            ],
        },
        "failed": failed,
    }
    tables = _tables(told)
    return Outcome(told, FAULTS if failed else OK, tables, {"markdown": _markdown(told, tables)})


def _name(plan: GuardPlan) -> str:
    return "{namespace}/{name}@{version}".format(**plan.document["pack"]) + f" (plan {plan.digest[:12]})"


def _samples(call: Call, found: tuple[Found, Found], plans: tuple[GuardPlan, GuardPlan]) -> list[Case]:
    """Cases by name: those that were asked for, else the expectations beside the packs, of the second before those of the first."""
    from knhk.adapters.expectation_files import beside, expectations, sample, samples

    args, after = call.args, plans[1].document
    if not args.payload and not args.samples:
        files = [(beside(f.file), plan.document) for f, plan in zip(reversed(found), reversed(plans), strict=True)]
        known = [case for file, plan in files if file.is_file() for case in expectations(file, plan).cases]
        return list({case.name: case for case in reversed(known)}.values())[::-1]
    like = _like(args, after)
    cases = [sample(file, like) for file in args.payload]
    for place in args.samples:
        cases += expectations(place, after).cases if place.suffix in (".yaml", ".yml") else samples(place, like)
    return cases


def _like(args: Any, plan: Mapping[str, Any]) -> Case:
    from knhk.adapters.expectation_files import first_route
    from knhk.api.expectations import DEFAULT_REGION, DEFAULT_TIME, time_ns
    from knhk.cli.arguments import attributes, route
    from knhk.model.expectations import Case

    chosen = first_route(plan) if args.route is None else route(args.route, tuple(plan["routes"]))
    return Case("", {"": ""}, chosen, b"", False, attributes(args.attr), time_ns(DEFAULT_TIME), DEFAULT_REGION, "ADMIT", None)


def _tables(told: Mapping[str, Any]) -> tuple[Table, ...]:
    guards, samples = told["guards"], told["samples"]
    rows = [("added", name, "") for name in guards["added"]] + [("removed", name, "") for name in guards["removed"]]
    for name, changes in guards["changed"].items():
        rows.append(("changed", name, "\n".join(f"{c['what']}: {c['before'] or '(none)'} → {c['after'] or '(none)'}" for c in changes)))
    for kind in ("mappings", "routes"):
        rows += [(what, f"{kind[:-1]} {name}", "") for name, what in told[kind].items()]
    verdicts = [c for c in samples["changed"] if c["verdict"]]
    reasons = [c for c in samples["changed"] if not c["verdict"]]
    tables = [Table(f"{told['before']} → {told['after']}", ("", "guard", "what"), tuple(rows or [("", "no guard differs", "")]))]
    title = f"{len(verdicts)} of {samples['all']} samples change their verdict"
    if samples["all"] == 0:
        return (*tables, Table("no samples were decided: name some by --samples or --payload", ("",), ()))
    tables.append(Table(title, ("sample", "before", "after", "guards responsible"), _lines(verdicts)))
    if reasons:
        tables.append(Table("same verdict, other reasons", ("sample", "before", "after", "guards"), _lines(reasons)))
    return tuple(tables)


def _lines(changed: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], ...]:
    return tuple((c["name"], c["before"], c["after"], "\n".join(c["guards"])) for c in changed)


def _markdown(told: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """The same tables for a pull request."""
    lines = [
        f"## Policy difference: {'verdicts change' if any(c['verdict'] for c in told['samples']['changed']) else 'no verdict changes'}"
    ]
    for table in tables:
        lines += ["", f"### {table.title}", ""]
        if not table.rows:
            lines.append("none")
            continue
        lines += ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
        lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")
