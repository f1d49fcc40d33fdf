"""`knhk pack tiers`: over many packs, the share of evaluations and payloads that each class decides, coverage and mutation score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, command
from knhk.cli.schema import array, boolean, integer, mapping, nullable, obj, string

NUMBER = {"type": "number"}
CLASSES = ("R1", "W1", "C1")
COUNTED = ("evaluations", "cases", "payloads")
COUNTS = {name: mapping(integer()) for name in COUNTED}
SHARES = {name: obj(r1=NUMBER, r1_or_w1=NUMBER) for name in COUNTED}


@command(
    ("pack", "tiers"),
    summary="Count, over the expectations of many packs, what each class decides: R1 alone, R1 or W1",
    arguments=(
        Argument("path", help="folders; each tests.yaml in and below them is one pack's", kind=Path, metavar="DIR", repeat=True),
        Argument("--mutants", help="count the mutation score too", flag=True),
    ),
    output=obj(
        ok=boolean(),
        packs=array(
            obj(
                path=string(), pack=string(), ok=boolean(), guards=integer(), cases=integer(), coverage=NUMBER,
                mutation=nullable(NUMBER), counts=obj(**COUNTS),
            )
        ),
        total=obj(counts=obj(**COUNTS), share=obj(**SHARES)),
    ),
    examples=("knhk pack tiers examples/packs", "knhk pack tiers examples/packs --mutants -o markdown"),
    detail="Evaluations are guards on cases in which they had a focus node; payloads are cases whose body is a file as it lies there.\n"
    "What was beyond the tables counts in the class that decided it. Coverage and mutation score are those of `knhk pack test`.",
    exits={FAULTS: "a pack does not meet its expectations, or is faulty"},
    formats=("markdown",),
)  # fmt: skip
def tiers(call: Call) -> Outcome:
    from knhk.model.expectations import TESTS_FILE
    from knhk.model.faults import Fault, Refused

    files = sorted({file for path in call.args.path for file in (path.rglob(TESTS_FILE) if path.is_dir() else [path])})
    if not files:
        where = ", ".join(map(str, call.args.path))
        raise Refused([Fault(where, f"no {TESTS_FILE}", "must hold packs with expectations: docs/pack-tests.md")])
    rows = []
    for file in files:
        call.say(f"{file.parent}")
        rows.append(_row(file, call.args.mutants))
    counts = {name: {klass: sum(row["counts"][name][klass] for row in rows) for klass in CLASSES} for name in COUNTED}
    share = {name: _share(counts[name]) for name in COUNTED}
    ok = all(row["ok"] for row in rows)
    told = {"ok": ok, "packs": rows, "total": {"counts": counts, "share": share}}
    return Outcome(told, OK if ok else FAULTS, _tables(told), {"markdown": markdown(told)})


def _row(file: Path, mutate: bool) -> dict[str, Any]:
    from knhk.adapters.expectation_files import expectations
    from knhk.adapters.pack_folder import find
    from knhk.api import to_sources
    from knhk.reconcilers import testing
    from knhk.reconcilers.admission import bundle_bytes
    from knhk.reconcilers.lowering import plan_of
    from knhk.wiring import packs

    found = find(file.parent)
    plan = plan_of(to_sources(found.pack))
    wanted = expectations(file, plan.document)
    data = None if found.bundle is None else bundle_bytes(found.bundle)
    subject = testing.subject(plan, packs.compiler(), packs.host_arch(), data)
    report = testing.test(subject, wanted, packs.compiler(), packs.host_arch(), mutate)
    return {
        "path": str(file.parent),
        "pack": "{namespace}/{name}@{version}".format(**plan.document["pack"]),
        "ok": report.meets(wanted),
        "guards": len(report.covered),
        "cases": len(report.seen),
        "coverage": report.coverage,
        "mutation": report.mutation,
        "counts": {name: {klass: getattr(report.tiers, name)[klass] for klass in CLASSES} for name in COUNTED},
    }


def _share(counts: Mapping[str, int]) -> dict[str, float]:
    from knhk.reconcilers.testing import percent

    whole = sum(counts.values())
    return {"r1": percent(counts["R1"], whole), "r1_or_w1": percent(counts["R1"] + counts["W1"], whole)}


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    mutation = "" if row["mutation"] is None else f"{row['mutation']:g} %"
    counts = (" / ".join(str(row["counts"][name][klass]) for klass in CLASSES) for name in COUNTED)
    return (row["pack"], str(row["guards"]), str(row["cases"]), f"{row['coverage']:g} %", mutation, *counts)


COLUMNS = ("pack", "guards", "cases", "coverage", "mutation", *(f"{name} R1 / W1 / C1" for name in COUNTED))


def _lines(told: Mapping[str, Any]) -> list[tuple[str, ...]]:
    share = told["total"]["share"]
    rows = [_cells(row) for row in told["packs"]]
    for title, key in (("by R1 alone", "r1"), ("by R1 or W1", "r1_or_w1")):
        rows.append((title, "", "", "", "", *(f"{share[name][key]:g} %" for name in COUNTED)))
    return rows


def _tables(told: Mapping[str, Any]) -> tuple[Table, ...]:
    wrong = [(row["path"], f"knhk pack test {row['path']}") for row in told["packs"] if not row["ok"]]
    rows = tuple(tuple(cell.replace(" / ", "/") for cell in row) for row in _lines(told))
    tables = [Table("R1/W1/C1: what each class decided", tuple(column.removesuffix(" R1 / W1 / C1") for column in COLUMNS), rows)]
    return (*tables, Table("not as expected", ("pack", "look at"), tuple(wrong))) if wrong else tuple(tables)


def markdown(told: Mapping[str, Any]) -> str:
    """The table for docs."""
    rows: Sequence[Sequence[str]] = [COLUMNS, ["---", *["---:"] * (len(COLUMNS) - 1)], *_lines(told)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
