"""The Δ of a payload, as N-Triples: iterators, references, templates, children, constants, request and bundle (formats/guardplan.md)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hot_plans import (
    ATTR,
    BLANK,
    EX,
    KNHK,
    XSD,
    Json,
    a_map,
    bindings,
    guard,
    iri,
    item,
    lit,
    mapping,
    pack,
    path,
    plan,
    prop,
    ref,
    template,
)
from hot_wire import bundle, caller_iri, observation, tagged
from hot_wire import iri as b_iri
from hot_wire import literal as b_lit

from knhk_hot.pack import PackError

TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"


def lines(maps: tuple[Json, ...], payload: Any, **options: Any) -> set[str]:
    """Triples of the payload, without those of the request."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload, ensure_ascii=False).encode()
    made = plan([], [mapping(*maps)])
    graphs = {b.graph(observation(body, **options)) for b in bindings(made)}
    assert len(graphs) == 1
    text = graphs.pop().decode()
    rows = text.split("\n")
    assert rows.pop() == ""
    assert rows == sorted(set(rows), key=str.encode)
    return {row.removesuffix(" .") for row in rows if not row.startswith(f"<{KNHK}request>")}


def s(name: str) -> str:
    return f"<{EX}{name}>"


ROOT = (item("id"), "root")
CASES: list[Any] = [
    (
        "natural types",
        (a_map("m", [], item("id"), prop("p", ref("v", "*"))),),
        b'{"id":7,"v":["x",1,-2,1.50,1E3,true,false,null,"x"]}',
        {
            f"{s('i/7')} {s('p')} {o}"
            for o in (
                '"x"',
                f'"1"^^<{XSD}integer>',
                f'"-2"^^<{XSD}integer>',
                f'"1.50"^^<{XSD}double>',
                f'"1E3"^^<{XSD}double>',
                f'"true"^^<{XSD}boolean>',
                f'"false"^^<{XSD}boolean>',
            )
        },
    ),
    (
        "datatype, language, iri",
        (
            a_map(
                "m",
                [],
                item("id"),
                prop("a", ref("x", datatype="decimal")),
                prop("b", ref("x", lang="DE")),
                prop("c", ref("y", node="iri")),
                classes=("C", "D"),
            ),
        ),
        {"id": "1", "x": 5, "y": "urn:x:ü"},
        {
            f'{s("i/1")} {s("a")} "5"^^<{XSD}decimal>',
            f'{s("i/1")} {s("b")} "5"@de',
            f"{s('i/1')} {s('c')} <urn:x:ü>",
            f"{s('i/1')} <{TYPE}> {s('C')}",
            f"{s('i/1')} <{TYPE}> {s('D')}",
        },
    ),
    (
        "templates are percent-encoded",
        (a_map("m", [], item("id"), classes=("C",)),),
        {"id": "a b/ü~._-"},
        {f"<{EX}i/a%20b%2F%C3%BC~._-> <{TYPE}> {s('C')}"},
    ),
    ("no subject without the reference", (a_map("m", [], item("id"), classes=("C",)),), {"x": 1}, set()),
    ("no subject from an empty reference", (a_map("m", [], item("id"), classes=("C",)),), {"id": ""}, set()),
    (
        "templates of objects",
        (
            a_map(
                "m",
                [],
                item("id"),
                prop(
                    "t", {"parts": template("<", path("v", "*"), "|", path("w", "*"), ">"), "datatype": None, "lang": "", "node": "literal"}
                ),
                prop("u", {"parts": template(EX, path("v", "*")), "datatype": None, "lang": "", "node": "iri"}),
            ),
        ),
        {"id": "1", "v": ["a b", "c"], "w": [1, 2]},
        {f'{s("i/1")} {s("t")} "<{v}|{w}>"' for v in ("a b", "c") for w in "12"}
        | {f"{s('i/1')} {s('u')} {s('a%20b')}", f"{s('i/1')} {s('u')} {s('c')}"},
    ),
    (
        "blank subjects and children",
        (
            a_map("root", [], item("id"), prop("line", {"child": "line"}), prop("tax", {"child": "tax"})),
            a_map("line", path("lines", "*"), BLANK, prop("n", ref("n")), prop("tax", {"child": "tax"})),
            a_map("tax", path("lines", "*", "taxes", "*"), BLANK, prop("r", ref())),
        ),
        {"id": "1", "lines": [{"n": 1, "taxes": ["a", "b"]}, {"taxes": []}, {"n": 3, "taxes": ["c"]}]},
        {
            f"{s('i/1')} {s('line')} _:line.0",
            f"{s('i/1')} {s('line')} _:line.1",
            f"{s('i/1')} {s('line')} _:line.2",
            f"{s('i/1')} {s('tax')} _:tax.0",
            f"{s('i/1')} {s('tax')} _:tax.1",
            f"{s('i/1')} {s('tax')} _:tax.2",
            f'_:line.0 {s("n")} "1"^^<{XSD}integer>',
            f'_:line.2 {s("n")} "3"^^<{XSD}integer>',
            f"_:line.0 {s('tax')} _:tax.0",
            f"_:line.0 {s('tax')} _:tax.1",
            f"_:line.2 {s('tax')} _:tax.2",
            f'_:tax.0 {s("r")} "a"',
            f'_:tax.1 {s("r")} "b"',
            f'_:tax.2 {s("r")} "c"',
        },
    ),
    (
        "maps over one item are one another's children",
        (
            a_map("a", path("x"), item("id"), prop("b", {"child": "b"})),
            a_map("b", path("x"), {"kind": "template", "parts": template(EX + "j/", path("id")), "node": "iri"}, prop("a", {"child": "a"})),
        ),
        {"x": {"id": 1}},
        {f"{s('i/1')} {s('b')} {s('j/1')}", f"{s('j/1')} {s('a')} {s('i/1')}"},
    ),
    (
        "indexes and every element together",
        (a_map("m", [], item("id"), prop("first", ref("v", 0)), prop("third", ref("v", 2)), prop("each", ref("v", "*"))),),
        {"id": "1", "v": ["a", "b"]},
        {f'{s("i/1")} {s("first")} "a"', f'{s("i/1")} {s("each")} "a"', f'{s("i/1")} {s("each")} "b"'},
    ),
    (
        "constants",
        (
            a_map(
                "m",
                path("v", "*"),
                {"kind": "constant", "iri": EX + "k"},
                prop("p", {"term": lit("x", lang="en")}),
                prop("q", {"term": iri("y")}),
            ),
        ),
        {"v": [1, 2]},
        {f'{s("k")} {s("p")} "x"@en', f"{s('k')} {s('q')} {s('y')}"},
    ),
    (
        "subjects with one IRI are one node",
        (a_map("m", path("v", "*"), item("id"), prop("p", ref("p"))),),
        {"v": [{"id": "1", "p": "a"}, {"id": "1", "p": "b"}, {"id": "1", "p": "a"}]},
        {f'{s("i/1")} {s("p")} "a"', f'{s("i/1")} {s("p")} "b"'},
    ),
    (
        "names that look alike",
        (a_map("m", [], item("id"), prop("p", ref("a.b")), prop("q", ref("a", "b")), prop("r", ref('*é"\\'))),),
        {"id": "1", "a.b": "x", "a": {"b": "y"}, '*é"\\': "z"},
        {f'{s("i/1")} {s("p")} "x"', f'{s("i/1")} {s("q")} "y"', f'{s("i/1")} {s("r")} "z"'},
    ),
    (
        "escapes of canonical N-Triples",
        (a_map("m", [], item("id"), prop("p", ref("v"))),),
        {"id": "1", "v": '\b\t\n\f\r"\\\0\x1f\x7fé\u2028'},
        {f'{s("i/1")} {s("p")} "\\b\\t\\n\\f\\r\\"\\\\\\u0000\\u001F\\u007Fé\u2028"'},
    ),
    (
        "bnode templates",
        (a_map("m", path("v", "*"), {"kind": "template", "parts": template("n-", path("id")), "node": "bnode"}, classes=("C",)),),
        {"v": [{"id": "m.0"}, {"id": "m.0"}, {"id": "m_0"}]},
        {f"_:n_2Dm_2E0_ <{TYPE}> {s('C')}", f"_:n_2Dm_5F0_ <{TYPE}> {s('C')}"},
    ),
    (
        "an array of arrays",
        (a_map("m", path("v", "*", "*"), BLANK, prop("p", ref())),),
        {"v": [[1], [], [2, 3]]},
        {f'_:m.{i} {s("p")} "{i + 1}"^^<{XSD}integer>' for i in range(3)},
    ),
    (
        "a root that is an array",
        (a_map("m", path("*"), item("id"), prop("p", ref("v"))),),
        [{"id": 1, "v": "x"}],
        {f'{s("i/1")} {s("p")} "x"'},
    ),
]


@pytest.mark.parametrize(("maps", "payload", "wanted"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_payload_to_triples(maps: tuple[Json, ...], payload: Any, wanted: set[str]) -> None:
    assert lines(maps, payload) == wanted


def test_runs_of_any_length_keep_every_value() -> None:
    maps = (a_map("m", [], item("id"), prop("p", ref("p", "*")), prop("q", ref("q", "*")), prop("r", ref("r"))),)
    for count in (1, 7, 8, 9, 16, 17, 500):
        values = [f"v{i}" for i in range(count)]
        found = lines(maps, {"id": "1", "p": values, "q": values[:5], "r": "x"})
        assert len(found) == count + min(count, 5) + 1


REQUEST = f"<{KNHK}request>"


def request_lines(o: bytes, data: bytes | None = None, **options: Any) -> set[str]:
    made = plan([], [mapping(a_map("m", [], BLANK))], **options)
    return set(pack(made).bind(data).graph(o).decode().splitlines())


def test_triples_of_the_request() -> None:
    o = observation(b"", "bare", {"action": "approve", "path.id": "7 ü"}, time_ns=1_709_210_096_000_001_999, region="eu-1")
    assert request_lines(o) == {
        f'{REQUEST} <{KNHK}region> "eu-1" .',
        f'{REQUEST} <{KNHK}route> "bare" .',
        f'{REQUEST} <{KNHK}time> "2024-02-29T12:34:56.000001Z"^^<{XSD}dateTime> .',
        f'{REQUEST} <{ATTR}action> "approve" .',
        f'{REQUEST} <{ATTR}path.id> "7 ü" .',
    }


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (2**64 - 1, "2554-07-21T23:34:33.709551Z"),
        (951_868_800 * 10**9 - 1, "2000-02-29T23:59:59.999999Z"),
    ],
)
def test_decision_time_is_civil_time(time_ns: int, text: str) -> None:
    assert f'{REQUEST} <{KNHK}time> "{text}"^^<{XSD}dateTime> .' in request_lines(observation(b"", "bare", time_ns=time_ns))


TEMPLATE = EX + "users/{}?x"
DATA = bundle(
    {
        caller_iri(TEMPLATE, "a b/ü"): [
            (EX + "limit", b_lit("500", XSD + "integer")),
            (EX + "role", b_iri(EX + "clerk")),
            (EX + "secret", b_lit("x")),
            (EX + "name", tagged("Anna", "de")),
        ],
        EX + "vendors": [(EX + "role", b_iri(EX + "v1"))],
        EX + "other": [(EX + "role", b_iri(EX + "v2"))],
    },
    TEMPLATE,
)
READS = {"predicates": (EX + "limit", EX + "role", EX + "name"), "subjects": (EX + "vendors",)}


def test_triples_of_the_bundle_are_the_callers_and_the_constant_subjects() -> None:
    found = request_lines(observation(b"", "bare", {"sub": "a b/ü"}), DATA, **READS)
    caller = f"<{KNHK}caller>"
    assert {row for row in found if REQUEST not in row} == {
        f'{caller} <{EX}limit> "500"^^<{XSD}integer> .',
        f"{caller} <{EX}role> <{EX}clerk> .",
        f'{caller} <{EX}name> "Anna"@de .',
        f"<{EX}vendors> <{EX}role> <{EX}v1> .",
    }
    assert f"{REQUEST} {caller} <{caller_iri(TEMPLATE, 'a b/ü')}> ." in found


def test_an_unknown_caller_has_an_iri_and_no_facts() -> None:
    found = request_lines(observation(b"", "bare", {"sub": "eve"}), DATA, **READS)
    assert not any(row.startswith(f"<{KNHK}caller>") for row in found)
    assert f"{REQUEST} <{KNHK}caller> <{caller_iri(TEMPLATE, 'eve')}> ." in found


def test_without_subject_or_bundle_there_is_no_caller() -> None:
    for found in (
        request_lines(observation(b"", "bare"), DATA, **READS),
        request_lines(observation(b"", "bare", {"sub": "a"}), None, **READS),
    ):
        assert not any(f"<{KNHK}caller>" in row for row in found)


def test_a_bundle_with_a_flipped_field_is_refused_or_reads_as_a_bundle() -> None:
    opened = pack(plan([], [mapping(a_map("m", [], BLANK))], **READS))
    o = observation(b"", "bare", {"sub": "a b/ü"})
    statuses = []
    for at in range(len(DATA)):
        broken = DATA[:at] + bytes([DATA[at] ^ 0x55]) + DATA[at + 1 :]
        try:
            opened.bind(broken).graph(o)
        except PackError as error:
            statuses.append(error.status)
    assert set(statuses) == {-3}
    assert len(statuses) > len(DATA) // 3
    for cut in (0, 7, 31, 32, len(DATA) - 1):
        with pytest.raises(PackError, match="bundle"):
            opened.bind(DATA[:cut])
    with pytest.raises(PackError, match="bundle"):
        opened.bind(DATA + b"\0")


O_BREAKS = [
    observation(b"{}")[:-1],
    observation(b"{}") + b"\0",
    b"KNO2" + observation(b"{}")[4:],
    b"",
    b"KNO1",
    observation(b"{}", region="EU"),
    observation(b"{}", attributes={"Sub": "x"}),
    observation(b"{}", attributes={"": "x"}),
    observation(b"{}", attributes={"a" * 64: "x"}),
    observation(b"{}", attributes={"a": "x" * 4097}),
    observation(b"{}", attributes={f"a{i:02}": "" for i in range(65)}),
    observation(b"x" * (2**20 + 1)),
    observation(b"{}", attributes={"a": "1", "b": "2"}).replace(b"\0\1b", b"\0\1a"),
    observation(b"{}", attributes={"a": "xx"}).replace(b"xx", b"\xff\xff"),
]


@pytest.mark.parametrize("o", O_BREAKS)
def test_observations_that_are_not_canonical_are_refused(o: bytes) -> None:
    binding = pack(plan([], [mapping(a_map("m", [], BLANK))])).bind()
    assert binding.decide(o).status == -1


def test_limits_give_the_input_to_the_tier_below_and_lose_nothing_in_silence() -> None:
    maps = (a_map("m", path("v", "*"), BLANK, prop("p", ref()), prop("q", ref()), prop("r", ref())),)
    made = plan([], [mapping(*maps)])
    body = b'{"v":[' + b",".join(b"%d" % i for i in range(90_000)) + b"]}"
    binding = bindings(made)[0]
    assert binding.decide(observation(body)).status == 2
    with pytest.raises(PackError):
        binding.graph(observation(body))


def test_values_of_a_template_that_multiply_are_given_to_the_tier_below() -> None:
    """Whatever they make: nothing, or one long text again and again."""
    made = {"parts": template(path("a", "*"), "-", path("b", "*")), "node": "literal"}
    count = guard("count", {"op": "count", "p": EX + "v", "min": 0, "max": 5})
    rules = plan([count], [mapping(a_map("m", [], BLANK, prop("v", made), classes=("Thing",)))])
    few, many, long = ["1"] * 300, ["1"] * 4000, ["1" * 100_000]
    for a, b, status in ((few, [""] * 300, 0), (few, ["2"], 0), (many, [""] * 4000, 2), (long, ["2"] * 300, 0), (long, ["2"] * 4000, 2)):
        body = json.dumps({"a": a, "b": b}).encode()
        assert {x.decide(observation(body)).status for x in bindings(rules)} == {status}
