"""What each row of the SHACL classification table costs: guards of class R1 by the tables (rows.py), the others by the tier below, for one
request, its focus node with eight parts, all of them good.

`python -m bench.shapes` writes bench/results/shapes.json, from which docs/conformance.md says in which class a row counts.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from bench import rows as tables
from bench.figures import Figures, Goal, Row, spread
from bench.machine import describe
from knhk.model.arrows import PackSources, Source
from knhk_gen import shacl
from knhk_gen.lower import lower
from knhk_runtime.tiers.evaluator import Evaluator
from knhk_runtime.tiers.judgement import cold_guards

TITLE = "Shapes: rows of the classification table"
MEASURED = Path(__file__).parent / "results" / "shapes.json"
GOALS = {"W1": Goal(1000.0, most=True, on_high=True), "C1": Goal(500_000.0, most=True, on_high=True)}
PREFIXES = "@prefix sh: <http://www.w3.org/ns/shacl#> . @prefix ex: <urn:ex:> .\n"
FORMS = {
    "sh:datatype": "sh:property [ sh:path ex:token ; sh:datatype <http://www.w3.org/2001/XMLSchema#NCName> ]",
    shacl.PATTERN: 'sh:property [ sh:path ex:code ; sh:pattern "^[A-Z]{2}[0-9]+$" ]',
    "sh:class on a value node": "sh:property [ sh:path ex:part ; sh:class ex:Part ]",
    "sh:node": "sh:property [ sh:path ex:part ; sh:node [ sh:property [ sh:path ex:n ; sh:minCount 1 ] ] ]",
    shacl.NESTED: "sh:property [ sh:path ex:part ; sh:property [ sh:path ex:n ; sh:minCount 1 ] ]",
    shacl.QUALIFIED: "sh:property [ sh:path ex:part ; sh:qualifiedValueShape [ sh:class ex:Part ] ; sh:qualifiedMinCount 1 ]",
    "inverse of a predicate": "sh:property [ sh:path [ sh:inversePath ex:whole ] ; sh:minCount 1 ]",
    "alternative of predicates": "sh:property [ sh:path [ sh:alternativePath ( ex:code ex:name ) ] ; sh:minCount 1 ]",
    "sequence of two predicates, zeroOrOne": "sh:property [ sh:path ( ex:part ex:n ) ; sh:minInclusive 1 ]",
    "sh:targetObjectsOf": "sh:nodeKind sh:IRI",
    shacl.BOUNDS: 'sh:property [ sh:path ex:at ; sh:minInclusive "2024-01-01T00:00:00"^^<http://www.w3.org/2001/XMLSchema#dateTime> ]',
    shacl.MIXED: "sh:property [ sh:path ( ex:part ex:n [ sh:inversePath ex:n ] ) ; sh:nodeKind sh:IRI ]",
    "zeroOrMore / oneOrMore": "sh:property [ sh:path [ sh:zeroOrMorePath ex:part ] ; sh:nodeKind sh:IRI ]",
    "sh:qualifiedValueShapesDisjoint": "sh:property [ sh:path ex:part ; sh:qualifiedValueShape [ sh:class ex:Part ] ;"
    " sh:qualifiedMinCount 1 ; sh:qualifiedValueShapesDisjoint true ]",
    shacl.SPARQL: 'sh:sparql [ sh:select "SELECT $this WHERE { $this <urn:ex:code> ?c . FILTER(STRLEN(?c) > 20) }" ]',
}
"""An example of each row of the classification table that is not R1."""


def graph() -> bytes:
    """The Δ: a document of eight parts."""
    type_ = "<http://www.w3.org/1999/02/22-rdf-syntax-ns#type>"
    lines = [f"<urn:ex:d> {type_} <urn:ex:Doc> .", '<urn:ex:d> <urn:ex:code> "AB12" .', '<urn:ex:d> <urn:ex:name> "x" .']
    lines.append('<urn:ex:d> <urn:ex:at> "2024-05-01T00:00:00"^^<http://www.w3.org/2001/XMLSchema#dateTime> .')
    lines.append('<urn:ex:d> <urn:ex:token> "part-of.1"^^<http://www.w3.org/2001/XMLSchema#NCName> .')
    for i in range(8):
        part = f"<urn:ex:p{i}>"
        lines += [f"<urn:ex:d> <urn:ex:part> {part} .", f"{part} {type_} <urn:ex:Part> .", f"{part} <urn:ex:whole> <urn:ex:d> ."]
        lines.append(f'{part} <urn:ex:n> "{i + 1}"^^<http://www.w3.org/2001/XMLSchema#integer> .')
    return "".join(f"{line}\n" for line in sorted(lines)).encode()


def evaluator(form: str) -> Evaluator:
    """The tier below with the one constraint."""
    target = "sh:targetObjectsOf ex:part" if form == "sh:targetObjectsOf" else "sh:targetClass ex:Doc"
    shapes = f"{PREFIXES} ex:S a sh:NodeShape ; {target} ; {FORMS[form]} ."
    return Evaluator(lower(PackSources("bench", "shapes", "1", (Source("s", "shapes", shapes, "s"),), {"r": None})).document)


def class_of(tier: Evaluator) -> str:
    """The class that the compiler gave the constraint."""
    return max(str(guard["class"]) for guard in tier.plan["guards"] if guard["class"] != "R1")


def measure(tier: Evaluator, runs: int) -> list[float]:
    """CPU microseconds of judgements, the parsing of the Δ included. CPU, for on a busy machine the clock measures its neighbours."""
    body, cold = graph(), cold_guards(tier.plan)
    taken: list[float] = []
    for _ in range(runs):
        begun = time.thread_time_ns()
        judgement = tier.judge(body, cold)
        taken.append((time.thread_time_ns() - begun) / 1000)
        assert not judgement.failing
    return taken[runs // 10 :]


def run(quick: bool) -> Figures:
    rows = list(tables.rows(quick))
    for form in FORMS:
        tier = evaluator(form)
        klass = class_of(tier)
        rows.append(Row(form, "µs CPU", spread(measure(tier, 50 if quick else 2000)), f"class {klass}", GOALS[klass]))
    notes = (
        "R1: what a guard adds to a decision of 63 others whose Δ is read, all holding, in batches of 16; means of 1,000 and more.",
        "W1, C1: one judgement: 37 lines of N-Triples parsed, one constraint, one focus node. A row above its budget counts in the next.",
    )
    return Figures("shapes", TITLE, tuple(rows), notes)


def main() -> None:
    """Measures and keeps: nanoseconds at p99, by row and class."""
    figures = run(quick=False)
    scale = {"ns/guard": 1.0, "µs CPU": 1000.0}
    measured = [
        {"row": row.name, "class": row.note.split()[1].rstrip(","), "p99_ns": round(row.spread.high * scale[row.unit], 2)}
        for row in figures.rows
        if row.spread is not None
    ]
    told = {"machine": describe()["processor"], "load": [round(n, 1) for n in os.getloadavg()], "rows": measured}
    MEASURED.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
