"""What a guard of each row of the classification table costs in class R1: added to a pack of 63 others, over one request that it passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from bench import inputs
from bench.figures import Goal, Row, Spread, spread
from bench.native import NativePack
from knhk.model.arrows import PackSources
from knhk.model.observation import Observation
from knhk_gen import shacl
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_hot.pack import Pack
from knhk_hot.toolchain import HOST, link_pack

BUDGET = Goal(2.0, most=True, on_high=True)
MEMBERS, GUARDS, DECISIONS = 7, 63, 1000
KINDS = ("Literal", "BlankNodeOrLiteral", "IRIOrLiteral")
VALUES: Mapping[str, Callable[[int], str]] = {  # of a property, by a number that makes guards differ
    "sh:nodeKind": lambda i: f"sh:nodeKind sh:{KINDS[i // MEMBERS % len(KINDS)]}",
    "sh:datatype": lambda i: "sh:datatype xsd:integer",
    "sh:minCount": lambda i: "sh:minCount 1",
    "sh:maxCount": lambda i: f"sh:maxCount {i // MEMBERS % 8 + 1}",
    shacl.BOUNDS: lambda i: f"sh:maxInclusive {1000 + i}",
    shacl.LENGTHS: lambda i: f"sh:maxLength {20 + i}",
    "sh:languageIn": lambda i: f'sh:languageIn ( "en" "x{i}" )',
    "sh:uniqueLang": lambda i: "sh:uniqueLang true",
    "sh:hasValue": lambda i: f"sh:hasValue {i % MEMBERS}",
    "sh:in": lambda i: f"sh:in ( {i % MEMBERS} {100 + i} {200 + i} )",
    shacl.LOGIC: lambda i: f"sh:or ( [ sh:maxInclusive {i} ] [ sh:minInclusive {i + 1} ] )",
    shacl.QUALIFIED: lambda i: f"sh:qualifiedValueShape [ sh:maxInclusive {1000 + i} ] ; sh:qualifiedMinCount 1",
    "sh:node": lambda i: f"sh:node [ sh:maxInclusive {1000 + i} ]",
}
PAIRS: Mapping[str, tuple[str, ...]] = {shacl.PAIRS: ("disjoint",), shacl.ORDERS: ("lessThan", "lessThanOrEquals")}
IGNORED = " ".join(f"ex:p{i}" for i in range(MEMBERS))
NODES: Mapping[str, Callable[[int], str]] = {
    shacl.CLOSED: lambda i: f"sh:closed true ; sh:ignoredProperties ( rdf:type {IGNORED} ex:x{i} )",
    "sh:class on the focus node": lambda i: f"sh:class ex:C{i}",
}
ROWS = (*VALUES, *PAIRS, *NODES)
TAGGED = ("sh:languageIn", "sh:uniqueLang")
HEAD = inputs.SHAPES[: inputs.SHAPES.index("ex:ApprovalShape")] + (
    "@prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> . @prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .\n"
)


def _constraints(row: str) -> Iterator[str]:
    if row in NODES:
        yield from (NODES[row](i) for i in range(GUARDS))
    elif row in PAIRS:
        every = [(rel, i, j) for rel in PAIRS[row] for i in range(MEMBERS) for j in range(i + 1, MEMBERS)]
        yield from (f"sh:property [ sh:path ex:p{i} ; sh:{rel} ex:p{j} ]" for rel, i, j in every)
    elif row:
        yield from dict.fromkeys(f"sh:property [ sh:path ex:p{i % MEMBERS} ; {VALUES[row](i)} ]" for i in range(GUARDS))


def pack(row: str) -> PackSources:
    """63 guards of lengths and those of a row (none for ""), over one request of eight lanes."""
    others = [f"sh:property [ sh:path ex:p{i % MEMBERS} ; sh:maxLength {5000 + i} ]" for i in range(GUARDS)]
    texts = [*others, *_constraints(row)]
    shapes = "\n".join(f"ex:S{n} a sh:NodeShape ; sh:targetClass ex:Request ; {text} ." for n, text in enumerate(texts))
    classes = "".join(f"ex:Request rdfs:subClassOf ex:C{i} .\n" for i in range(GUARDS)) if row == "sh:class on the focus node" else ""
    form = "{{path: $.p{0}, lang: en}}" if row in TAGGED else "$.p{0}"
    mapped = "\n".join(f"      ex:p{i}: {form.format(i)}" for i in range(MEMBERS))
    return inputs.sources("row", HEAD + classes + shapes, inputs.MAPPING[: inputs.MAPPING.index("      ex:action")] + mapped + "\n")


def _timed(row: str, samples: int) -> tuple[list[float], int, str]:
    """Nanoseconds of a decision's guards, in batches of 16, as means of 1,000 and more; how many guards, and by which kernels."""
    plan = lower(pack(row))
    guards = plan.document["guards"][1:]
    assert {(g["class"], g["why"].partition(": R1, ")[0]) for g in guards} <= {("R1", row), ("R1", shacl.LENGTHS)}, row
    so = link_pack(emit(plan), HOST)
    members = {f"p{i}": f"v{i}" if row in TAGGED else i for i in range(MEMBERS)}
    o = Observation(inputs.TIME_NS, "decide", json.dumps({"id": "r1", **members}).encode()).encode()
    variant = Pack.load(so).variants[0]
    native = NativePack(so, [o], variant)
    native.decide(1)
    assert native.verdicts() == [1], f"{row}: every guard must hold"
    decisions = DECISIONS * GUARDS // max(1, min(GUARDS, len(guards) - GUARDS))
    rounds = -(-decisions // 16)
    native.guards_batched(rounds)
    return [native.guards_batched(rounds) for _ in range(samples)], len(guards), variant


def rows(quick: bool) -> Iterator[Row]:
    """Nanoseconds of CPU that one guard of each row adds to a decision; `quick`: of every fifth row."""
    samples = 20 if quick else 1000
    others = spread(_timed("", samples)[0]).median
    for row in ROWS[:: 5 if quick else 1]:
        taken, guards, variant = _timed(row, samples)
        added = guards - GUARDS
        found: Spread = spread([max(0.0, each - others) / added for each in taken])
        yield Row(row, "ns/guard", found, f"class R1, {added} guards added, {variant}", BUDGET)
