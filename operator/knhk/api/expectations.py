"""The spelling of expectations beside a pack (`tests.yaml`): one declaration, every fault with file and line (docs/pack-tests.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from knhk.api import document
from knhk.api.check import Checker, excerpt
from knhk.api.document import Node, plain_text
from knhk.api.rules import matches
from knhk.api.shape import Int, List, Map, Obj, Rule, Str
from knhk.model.expectations import Edits
from knhk.model.faults import Fault, Refused

DEFAULT_TIME = "2026-01-01T00:00:00Z"
DEFAULT_REGION = "local"
MAX_CASES = 2048
TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$"


def _moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).year >= 1970
    except ValueError:
        return False


_FIELDS: Mapping[str, Any] = {
    "route": Str("Route of the request.", max=63, min=1),
    "attributes": Map("Verified attributes.", Str("Value.", max=4096), max=64),
    "time": Str(
        "Decision time, RFC 3339.",
        max=40,
        rules=(
            matches(TIME, "must be RFC 3339 with a zone, such as 2026-01-01T00:00:00Z"),
            Rule("true", "must be a moment of the calendar, from 1970 on", _moment),
        ),
    ),
    "region": Str("Region of the enforcement point.", max=63),
}
_ONE_BODY = Rule("true", "must have payload or body, not both", lambda case: not ("payload" in case and "body" in case))
CASE = Obj(
    "One payload and what must come of it.",
    {
        "name": Str("What the case shows.", max=200, min=1),
        "payload": Str("File with the body, relative to this file.", max=512, min=1),
        "body": Str("The body itself.", max=1 << 20),
        "remove": List("JSON Pointers of what is taken out.", Str("Pointer.", max=512), max=64),
        "replace": Map("Text that occurs once → what stands there instead.", Str("New text.", max=1 << 16), max=64),
        "verdict": Str("ADMIT or DENY.", max=16, rules=(matches("^(ADMIT|DENY)$", "must be ADMIT or DENY"),)),
        "without": List("Attributes of the defaults that this request does not carry.", Str("Attribute.", max=63, min=1), max=64),
        "triples": List("Exactly the triples of A, as canonical N-Triples without line feeds.", Str("Triple.", max=4096, min=1), max=64),
        "failing": List("Every guard that fails, by id, or by the IRI of its shape.", Str("Guard or shape.", max=512, min=1), max=256),
        **_FIELDS,
    },
    required=("name", "verdict"),
    rules=(_ONE_BODY,),
)
SHEET = Obj(
    "Expectations of one pack.",
    {
        "defaults": Obj("What each case has that does not say otherwise.", _FIELDS, default={}),
        "require": Obj(
            "Least percentages.",
            {
                "coverage": Int("Guards that both failed and passed in some case.", min=0, max=100, default=0),
                "mutation": Int("Mutants that some case notices.", min=0, max=100, default=0),
            },
            default={},
        ),
        "cases": List("Cases.", CASE, max=MAX_CASES, min=1, key="name"),
    },
    required=("cases",),
)


@dataclass(frozen=True)
class Draft:
    """A case as it is written; `fields` are its own over the defaults."""

    fields: Mapping[str, Any]
    edits: Edits
    places: Mapping[str, str]


@dataclass(frozen=True)
class Sheet:
    """A file of expectations."""

    drafts: tuple[Draft, ...]
    coverage: int
    mutation: int


def read_sheet(text: bytes, path: str) -> Sheet:
    """The expectations of a file. Raises Refused with every fault."""
    nodes, faults = document.read(text, path)
    if len(nodes) != 1 and not faults:
        faults = [Fault(f"{path}:1", f"{len(nodes)} documents", "must hold one YAML document with `cases`")]
    if faults:
        raise Refused(faults)
    checker = Checker(path)
    node, sets = _without_sets(checker, nodes[0])
    value = checker.check(SHEET, node, "")
    if checker.faults:
        raise Refused(checker.faults)
    drafts = tuple(_draft(checker, value["defaults"], case, sets.get(i, ()), i) for i, case in enumerate(value["cases"]))
    return Sheet(drafts, value["require"]["coverage"], value["require"]["mutation"])


def time_ns(text: str) -> int:
    """Nanoseconds since 1970 of a checked `time`."""
    since = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000


def _without_sets(checker: Checker, node: Node) -> tuple[Node, dict[int, tuple[tuple[str, str], ...]]]:
    """The tree without `set`, whose values are free JSON that no shape declares; and the (pointer, JSON text) of each case."""
    cases = node.value.get("cases") if node.kind == "object" else None
    if cases is None or cases[1].kind != "array":
        return node, {}
    found: dict[int, tuple[tuple[str, str], ...]] = {}
    left = []
    for i, case in enumerate(cases[1].value):
        if case.kind == "object" and "set" in case.value:
            line, members = case.value["set"]
            if members.kind == "object":
                found[i] = tuple((pointer, json_text(value)) for pointer, (_, value) in members.value.items())
                checker.lines[f"cases[{i}].set"] = line
            else:
                checker.fault(members, f"cases[{i}].set", excerpt(members), "must be an object of JSON Pointer → value")
            case = Node(case.kind, {name: child for name, child in case.value.items() if name != "set"}, case.line)
        left.append(case)
    array = Node("array", tuple(left), cases[1].line)
    return Node(node.kind, {**node.value, "cases": (cases[0], array)}, node.line), found


def json_text(node: Node) -> str:
    """A YAML value as JSON, numbers spelled as they were written."""
    if node.kind == "array":
        return "[" + ",".join(map(json_text, node.value)) + "]"
    if node.kind == "object":
        return "{" + ",".join(f"{json.dumps(name)}:{json_text(child)}" for name, (_, child) in node.value.items()) + "}"
    return json.dumps(node.value) if node.kind == "string" else plain_text(node.value)


def _draft(checker: Checker, defaults: Mapping[str, Any], case: Mapping[str, Any], sets: tuple[tuple[str, str], ...], i: int) -> Draft:
    at = f"cases[{i}]"
    places = {name[len(at) :].lstrip("."): f"{checker.path}:{line}" for name, line in checker.lines.items() if name.startswith(at)}
    kept = {name: value for name, value in defaults.get("attributes", {}).items() if name not in case.get("without", ())}
    attributes = {**kept, **case.get("attributes", {})}
    fields = {"time": DEFAULT_TIME, "region": DEFAULT_REGION, **defaults, **case, "attributes": attributes}
    edits = Edits(sets, tuple(case.get("remove", ())), tuple(case.get("replace", {}).items()))
    return Draft(fields, edits, places)
