"""`knhk pack test`: expectations beside a pack, guard coverage and mutation score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, command
from knhk.cli.schema import array, boolean, integer, mapping, nullable, obj, string

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping, Sequence

    from knhk.model.expectations import Expectations
    from knhk.reconcilers.testing import Report

NUMBER = {"type": "number"}
PLACED = {"guard": string(), "source": string()}


@command(
    ("pack", "test"),
    summary="Decide the expectations beside a pack; count guard coverage and the mutants that they notice",
    arguments=(
        Argument("path", help="a PolicyPack file, or a folder that holds pack.yaml", kind=Path, metavar="DIR_OR_FILE"),
        Argument(
            "--tests", help="file of expectations (default: tests.yaml beside the pack, or one folder above)", kind=Path, metavar="FILE"
        ),
        Argument("--no-mutants", help="leave the mutation score out", flag=True),
        Argument("--coverage", help="least guard coverage in percent (default: what the file requires)", kind=int, metavar="PERCENT"),
        Argument("--mutation", help="least mutation score in percent (default: what the file requires)", kind=int, metavar="PERCENT"),
    ),
    output=obj(
        ok=boolean(),
        pack=string(),
        tests=string(),
        cases=obj(
            all=integer(),
            wrong=array(
                obj(name=string(), where=string(), verdict=string(), expected=string(), failing=array(string()), told=array(string()))
            ),
        ),
        coverage=obj(
            percent=NUMBER,
            required=integer(),
            guards=integer(),
            implied=array(string()),
            missing=array(obj(**PLACED, failed=integer(), passed=integer())),
        ),
        mutation=nullable(obj(percent=NUMBER, required=integer(), mutants=integer(), survivors=array(obj(**PLACED, what=string())))),
        tiers=obj(evaluations=mapping(integer()), cases=mapping(integer()), payloads=mapping(integer())),
    ),
    examples=(
        "knhk pack test examples/packs/invoice-controls/1.2.0",
        "knhk pack test examples/packs/candidate --no-mutants",
        "knhk pack test . --coverage 100 --mutation 90 -o json | jq '.mutation.survivors'",
    ),
    detail="The format of tests.yaml is in docs/pack-tests.md. A guard is covered when it failed in some case and passed in another. A\n"
    "mutant is one small mistake (a guard dropped, a bound moved by one, an operator swapped); it survives when no case comes out\n"
    "otherwise. `tiers` counts which class decided: evaluations of guards, whole cases, and payloads that are files as they lie there.",
    exits={FAULTS: "a case came out otherwise, a requirement is missed, or pack or expectations are faulty"},
)
def test(call: Call) -> Outcome:
    from dataclasses import replace

    from knhk.adapters.expectation_files import beside, expectations
    from knhk.adapters.pack_folder import find
    from knhk.api import to_sources
    from knhk.reconcilers import testing
    from knhk.reconcilers.admission import bundle_bytes
    from knhk.reconcilers.lowering import place, plan_of
    from knhk.wiring import packs

    args = call.args
    found = find(args.path)
    sources = to_sources(found.pack)
    plan = plan_of(sources)
    file = args.tests or beside(found.file)
    wanted = expectations(file, plan.document)
    wanted = replace(
        wanted,
        coverage=wanted.coverage if args.coverage is None else args.coverage,
        mutation=wanted.mutation if args.mutation is None else args.mutation,
    )
    call.say(f"{len(wanted.cases)} cases, {len(plan.document['guards'])} guards")
    data = None if found.bundle is None else bundle_bytes(found.bundle)
    subject = testing.subject(plan, packs.compiler(), packs.host_arch(), data)
    report = testing.test(subject, wanted, packs.compiler(), packs.host_arch(), not args.no_mutants)
    told = _data(report, wanted, plan.document, lambda where: place(sources, where))
    told |= {"pack": f"{sources.namespace}/{sources.name}@{sources.version}", "tests": str(file)}
    return Outcome(told, OK if told["ok"] else FAULTS, _tables(told))


def _data(report: Report, wanted: Expectations, plan: Mapping[str, Any], place: Any) -> dict[str, Any]:
    wrong = [
        {
            "name": seen.case.name,
            "where": seen.case.place(),
            "verdict": seen.verdict,
            "expected": seen.case.verdict,
            "failing": [plan["guards"][i]["id"] for i in sorted(seen.failing)],
            "told": list(seen.told),
        }
        for seen in report.wrong
    ]
    missing = [
        {"guard": c.guard, "source": place(c.source), "failed": c.failed, "passed": c.passed}
        for c in report.covered
        if not ((c.failed and c.passed) or c.implied)
    ]
    implied = [c.guard for c in report.covered if c.implied]
    mutation = report.mutation
    return {
        "ok": report.meets(wanted),
        "cases": {"all": len(report.seen), "wrong": wrong},
        "coverage": {
            "percent": report.coverage,
            "required": wanted.coverage,
            "guards": len(report.covered),
            "implied": implied,
            "missing": missing,
        },
        "mutation": None
        if mutation is None
        else {
            "percent": mutation,
            "required": wanted.mutation,
            "mutants": report.mutants,
            "survivors": [{"guard": s.guard, "source": place(s.source), "what": s.what} for s in report.survivors],
        },
        "tiers": {
            "evaluations": _counts(report.tiers.evaluations),
            "cases": _counts(report.tiers.cases),
            "payloads": _counts(report.tiers.payloads),
        },
    }


def _counts(counter: Counter[str]) -> dict[str, int]:
    return {klass: counter[klass] for klass in ("R1", "W1", "C1")}


def _tables(told: Mapping[str, Any]) -> tuple[Table, ...]:
    cases, coverage, mutation = told["cases"], told["coverage"], told["mutation"]
    rows = [
        ("cases", f"{cases['all'] - len(cases['wrong'])} of {cases['all']} as expected", "all", _mark(not cases["wrong"])),
        (
            "guard coverage",
            f"{coverage['percent']:g} % of {coverage['guards'] - len(coverage['implied'])} guards{_kept(coverage['implied'])}",
            f"{coverage['required']} %",
            _mark(_enough(coverage)),
        ),
    ]
    if mutation is not None:
        noticed = mutation["mutants"] - len(mutation["survivors"])
        score = f"{mutation['percent']:g} % ({noticed} of {mutation['mutants']} mutants noticed)"
        rows.append(("mutation score", score, f"{mutation['required']} %", _mark(_enough(mutation))))
    for name, counts in told["tiers"].items():
        rows.append((f"{name} by class", ", ".join(f"{n} {klass}" for klass, n in counts.items()), "", ""))
    tables = [Table(told["pack"], ("", "found", "must be", ""), tuple(rows))]
    if cases["wrong"]:
        lines = tuple((w["where"], w["name"], "\n".join(w["told"])) for w in cases["wrong"])
        tables.append(Table("cases that came out otherwise", ("where", "case", "what"), lines))
    if coverage["missing"]:
        lines = tuple((m["guard"], "never fails" if not m["failed"] else "never passes", m["source"]) for m in coverage["missing"])
        tables.append(Table("guards that are not covered", ("guard", "what", "source"), lines))
    if mutation is not None and mutation["survivors"]:
        by_guard: dict[tuple[str, str], list[str]] = {}
        for survivor in mutation["survivors"]:
            by_guard.setdefault((survivor["guard"], survivor["source"]), []).append(survivor["what"])
        lines = tuple((guard, "\n".join(whats), source) for (guard, source), whats in by_guard.items())
        tables.append(Table("mutants that no case notices", ("guard", "mistakes", "source"), lines))
    return tuple(tables)


def _kept(implied: Sequence[str]) -> str:
    return f", {len(implied)} more are kept by the mapping" if implied else ""


def _enough(figure: Mapping[str, Any]) -> bool:
    return bool(figure["percent"] >= figure["required"])


def _mark(good: bool) -> str:
    return "ok" if good else "missed"
