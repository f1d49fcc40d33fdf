"""Bodies of N-Triples: the Δ is the graph that another parser reads, and what is no N-Triples is refused by guard 0."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hot_plans import EX, a_map, bindings, guard, iri, lit, mapping, path, plan, prop, ref
from hot_wire import bundle, literal, observation
from hypothesis import given
from hypothesis import strategies as st
from pyoxigraph import BlankNode, Literal, NamedNode, Quad, RdfFormat, Triple, parse, serialize

XSD = "http://www.w3.org/2001/XMLSchema#"
RDF_MAPPING = {"id": "m", "source": "rdf", "unknownMembers": "Deny", "duplicateMembers": "Deny", "maxDepth": 64, "maps": []}
RULE = guard("has-a", {"op": "count", "p": EX + "a", "min": 1, "max": None})
PLAN = plan([RULE], [RDF_MAPPING])
REQUEST = "<https://knhk.dev/ns#request>"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
iris = st.sampled_from(["a", "é", "b?c=d#e", "%20"]).map(lambda tail: NamedNode(EX + tail))
blanks = st.sampled_from(["b0", "x.y", "A-1", "_z"]).map(BlankNode)
literals = st.one_of(
    texts.map(Literal),
    st.tuples(texts, st.sampled_from(["en", "de-AT"])).map(lambda pair: Literal(pair[0], language=pair[1])),
    st.tuples(texts, st.sampled_from(["integer", "dateTime"])).map(lambda pair: Literal(pair[0], datatype=NamedNode(XSD + pair[1]))),
)
triples = st.builds(Triple, st.one_of(iris, blanks), iris, st.one_of(iris, blanks, literals))


def graph_of(body: bytes) -> set[str]:
    lines = {b.graph(observation(body=body)) for b in bindings(PLAN)}
    assert len(lines) == 1
    return {line for line in lines.pop().decode().split("\n") if not line.startswith(REQUEST)}


def failing(body: bytes, bundle: bytes | None = None) -> set[int]:
    (bits,) = {b.decide(observation(body=body)).failing_guards for b in bindings(PLAN, bundle)}
    return set(bits)


def as_read(quads: Iterable[Quad]) -> set[str]:
    return {f"{q.subject} {q.predicate} {q.object} ." for q in quads}


@given(st.lists(triples, max_size=8), st.booleans())
def test_the_graph_is_what_another_parser_reads(graph: list[Triple], escaped: bool) -> None:
    body = serialize(graph, format=RdfFormat.N_TRIPLES)
    assert body is not None
    if escaped:  # every character beyond ASCII as an escape
        body = b"".join(bytes([ord(c)]) if ord(c) < 128 else f"\\U{ord(c):08X}".encode() for c in body.decode())
    mine = as_read(parse("\n".join(graph_of(body)).encode(), format=RdfFormat.N_TRIPLES))
    assert mine == as_read(parse(body, format=RdfFormat.N_TRIPLES))


@pytest.mark.parametrize(
    "body",
    [
        '<urn:a> <urn:b> "c"',
        '<urn:a> <urn:b> "c" . <urn:d> <urn:e> <urn:f> .',
        "<urn:a> <urn:b> <rel> .",
        "<rel> <urn:b> <urn:c> .",
        "<urn:a b> <urn:b> <urn:c> .",
        "<urn:a\\u0020b> <urn:b> <urn:c> .",
        '<urn:a> "p" <urn:c> .',
        '"s" <urn:b> <urn:c> .',
        "<urn:a> _:p <urn:c> .",
        '<urn:a> <urn:b> "c\nd" .',
        '<urn:a> <urn:b> "\\x" .',
        '<urn:a> <urn:b> "\\uD800" .',
        '<urn:a> <urn:b> "\\U00110000" .',
        '<urn:a> <urn:b> "c"@ .',
        '<urn:a> <urn:b> "c"@1x .',
        '<urn:a> <urn:b> "c"@toolonglanguage .',
        '<urn:a> <urn:b> "c"^^<integer> .',
        '<urn:a> <urn:b> "c"^^<http://www.w3.org/1999/02/22-rdf-syntax-ns#langString> .',
        "<< <urn:a> <urn:b> <urn:c> >> <urn:b> <urn:c> .",
        "_: <urn:b> <urn:c> .",
        "<urn:a> <urn:b> <urn:c> <urn:g> .",
        '{"a":1}',
        '<urn:a> <urn:b> "c',
        '<urn:a> <urn:b> "c\\',
    ],
)
def test_what_is_no_ntriples_is_refused(body: str) -> None:
    assert failing(body.encode()) == {0}


def test_bytes_that_are_no_utf8_are_refused() -> None:
    assert failing(b'<urn:a> <urn:b> "\xff" .') == {0}


@pytest.mark.parametrize("body", ["", "\n", "# nothing", " # a\r\n\r\n", "<urn:a> <urn:b> _:c.\n", '<urn:a><urn:b>"c"@EN.#x'])
def test_blank_lines_comments_and_dots(body: str) -> None:
    assert failing(body.encode()) == set()


@pytest.mark.parametrize("subject", ["https://knhk.dev/ns#request", "https://knhk.dev/ns#caller", "https://knhk.dev/ns/attr#x"])
def test_a_body_cannot_grant_itself_attributes(subject: str) -> None:
    body = f'<urn:a> <urn:b> "c" .\n<{subject}> <https://knhk.dev/ns/attr#role> "admin" .'
    (binding, *_) = bindings(PLAN)
    decided = binding.decide(observation(body=body.encode()))
    assert decided.failing_guards == (0,)
    (told,) = binding.explain(observation(body=body.encode()), decided.a)
    assert "must not describe names of knhk.dev" in told["message"]
    assert told["path"].startswith("byte ")


LIMITS = EX + "limits"
TRUSTED = {LIMITS: [(EX + "max", literal("100", XSD + "integer"))]}
WITHIN = guard("in-limit", {"op": "within", "p": EX + "n", "rel": "le", "focus": iri(LIMITS), "q": EX + "max"})


@pytest.mark.parametrize("form", ["json", "rdf"])
def test_a_body_cannot_speak_of_what_the_data_bundle_describes(form: str) -> None:
    """Else a caller could raise the limit that it is held to."""
    by_reference = {"kind": "template", "parts": [{"ref": path("id")}], "node": "iri"}
    fields = [prop("n", ref("n", datatype="integer")), prop("max", ref("max", datatype="integer"))]
    maps = mapping(a_map("m", path("things", "*"), by_reference, *fields, classes=("Thing",)))
    made = plan([WITHIN], [maps if form == "json" else RDF_MAPPING], predicates=(EX + "max",), subjects=(LIMITS,))

    def body(*things: dict[str, str]) -> bytes:
        if form == "json":
            return json.dumps({"things": things}).encode()
        number = f"^^<{XSD}integer> ."
        lines = [f"<{t['id']}> <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <{EX}Thing> ." for t in things]
        return "\n".join([*lines, *(f'<{t["id"]}> <{EX}{k}> "{t[k]}"{number}' for t in things for k in ("n", "max") if k in t)]).encode()

    data = bundle(TRUSTED)
    order = {"id": "urn:order", "n": "5000"}
    for binding in bindings(made, data):
        forged = ([order, {"id": subject, "n": "1", "max": "9000"}] for subject in (LIMITS, "urn:other"))
        asked = [[{"id": "urn:order", "n": "50"}], [order], *forged]
        seen = [binding.decide(observation(body=body(*things))).failing_guards for things in asked]
        assert seen == [(), (1,), (0,), (1,)]
        for own in ("https://knhk.dev/ns#request", "https://knhk.dev/ns#caller"):
            assert binding.decide(observation(body=body({"id": own, "n": "1"}))).failing_guards == (0,)


def test_comparisons_of_all_focus_nodes_together_are_bounded() -> None:
    """A few on each of many nodes are many."""
    fields = [prop("n", ref("n", datatype="integer"))]
    maps = mapping(a_map("m", path("things", "*"), {"kind": "blank"}, *fields, classes=("Thing",)))
    made = plan([WITHIN], [maps], predicates=(EX + "max",), subjects=(LIMITS,))
    data = bundle({LIMITS: [(EX + "max", literal(str(100 + i), XSD + "integer")) for i in range(500)]})
    for things, status in ((1000, 0), (10_000, 2)):
        body = json.dumps({"things": [{"n": 7}] * things}).encode()
        assert {b.decide(observation(body=body)).status for b in bindings(made, data)} == {status}


def test_guards_judge_the_triples() -> None:
    thing = f"<urn:a> <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <{EX}Thing> ."
    assert failing(thing.encode()) == {1}
    assert failing(f'{thing}\n<urn:a> <{EX}a> "x" .'.encode()) == set()


@pytest.mark.parametrize(("rel", "values", "fails"), [
    ("equals", ["i"], False), ("equals", ["i", "j"], True), ("equals", [], True), ("equals", ["j"], True),
    ("disjoint", ["i"], True), ("disjoint", ["j"], False), ("disjoint", [], False),
])  # fmt: skip
def test_the_focus_node_itself_in_a_pair(rel: str, values: list[str], fails: bool) -> None:
    made = plan([guard("pair", {"op": "pair", "rel": rel, "p": None, "q": EX + "q"})], [RDF_MAPPING])
    lines = [f"<{EX}i> <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <{EX}Thing> ."] + [f"<{EX}i> <{EX}q> <{EX}{v}> ." for v in values]
    for binding in bindings(made):
        assert bool(binding.decide(observation(body="\n".join(lines).encode())).failing_guards) == fails


def test_a_constant_focus_node_beyond_the_tables_is_left_to_the_tier_below() -> None:
    target = {"kind": "node", "node": lit("1e3", "double")}
    positive = {"op": "self", "test": {"t": "range", "family": "numeric", "min": 0, "max": None}}
    made = plan([guard("bound", positive)], [RDF_MAPPING], [target])
    assert {binding.decide(observation(body=b"")).status for binding in bindings(made)} == {2}
