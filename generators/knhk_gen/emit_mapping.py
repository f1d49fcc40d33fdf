"""Mappings as one table of states: the paths of all iterators and references, walked together (formats/guardplan.md, MAPPING)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from knhk_gen import emit_terms as terms
from knhk_gen.emit_guards import Numbers, Pool
from knhk_gen.emit_terms import EmitError, Strings
from knhk_gen.functions import FUNCTIONS
from knhk_gen.names import NOT_IRI

NONE = 0xFFFFFFFF
NATURAL = 0xFFFFFFFF
SLOT_IRI, SLOT_ONE, SLOT_STRING = 1, 2, 4
DEPTH_MAX = 128
SUBJECTS = {"template": 0, "constant": 1, "blank": 2}
REF, TEMPLATE, TERM, CHILD, JOIN = 0, 1, 2, 3, 4
FORMATS = {"json": 0, "xml": 1, "rdf": 2}  # source of a mapping: its reader, KNHK_FORMAT_* of hot_c/include/knhk_tables.h
NODES = {"iri": terms.IRI, "bnode": terms.BNODE, "literal": terms.LITERAL}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

Step = tuple[str, str | int]
Path = tuple[Step, ...]


def path_of(steps: Sequence[Mapping[str, Any]]) -> Path:
    """STEPs as hashable pairs. An element of XML is an array of all that bear its name."""
    made: list[Step] = []
    for step in steps:
        if "element" in step:
            made.append(("key", step["element"]))
            made.append(("index", step["index"]) if "index" in step else ("each", 0))
        elif "attribute" in step:
            made.append(("key", "@" + step["attribute"]))
        elif "key" in step:
            made.append(("key", step["key"]))
        elif "index" in step:
            made.append(("index", step["index"]))
        elif step.get("each"):
            made.append(("each", 0))
        else:
            raise EmitError(f"unknown step {dict(step)!r}")
    return tuple(made)


def _is_reference(parts: Sequence[Mapping[str, Any]]) -> bool:
    """One value alone is the IRI itself: it is taken as it is."""
    return len(parts) == 1 and "ref" in parts[0]


def _check_template(parts: Sequence[Mapping[str, Any]], node: str) -> None:
    """An IRI template begins with a scheme and has only characters of IRIs, so that what it makes is an absolute IRI."""
    if node != "iri" or _is_reference(parts):
        return
    text = "".join(part.get("text", "\0") for part in parts)
    if _SCHEME.match(text) is None or any(NOT_IRI.search(part.get("text", "")) for part in parts):
        raise EmitError("an IRI template must begin with a scheme and hold no character that IRIs exclude")


def widen(going: dict[Step, list[tuple[int, int]]]) -> None:
    """An element goes on along `* LOCAL` and `*` too, so that the reader takes one edge only: the most exact."""
    for (kind, key), points in going.items():
        if kind != "key" or str(key).startswith("@") or key == "*":
            continue
        wider = [("key", "*")]
        if not str(key).startswith("* "):
            wider.insert(0, ("key", "* " + str(key).rpartition(" ")[2]))
        for step in wider:
            points.extend(point for point in going.get(step, ()) if point not in points)


@dataclass
class Waypoint:
    """A path from the root of the document and what happens at its end: a map's items begin, or a slot takes the value."""

    path: Path
    item: int | None = None
    slot: int | None = None


@dataclass
class Mappings:
    """Tables of all mappings of a plan. State 0 is nowhere."""

    strings: Strings
    pool: Pool
    mappings: list[Numbers] = field(default_factory=list)
    maps: list[Numbers] = field(default_factory=list)
    slots: list[Numbers] = field(default_factory=list)
    functions: list[Numbers] = field(default_factory=list)
    joins: list[Numbers] = field(default_factory=list)
    parts: list[Numbers] = field(default_factory=list)
    properties: list[Numbers] = field(default_factory=list)
    states: list[list[int]] = field(default_factory=lambda: [[0] * 11])
    edges: list[Numbers] = field(default_factory=list)
    members: dict[int, list[int]] = field(default_factory=dict)  # state: strings of its edges
    state_items: list[int] = field(default_factory=list)
    state_refs: list[int] = field(default_factory=list)

    def add(self, mapping: Mapping[str, Any]) -> None:
        if mapping["source"] not in FORMATS:
            raise EmitError(f"mapping {mapping['id']!r}: source {mapping['source']!r} has no walker")
        if not 1 <= mapping["maxDepth"] <= DEPTH_MAX:
            raise EmitError(f"mapping {mapping['id']!r}: maxDepth must be 1 to {DEPTH_MAX}")
        first = len(self.maps)
        numbers = {m["id"]: first + i for i, m in enumerate(mapping["maps"])}
        paths = {m["id"]: path_of(m["iterator"]) for m in mapping["maps"]}
        if len(numbers) != len(mapping["maps"]):
            raise EmitError(f"mapping {mapping['id']!r}: ids of maps must be distinct")
        waypoints: list[Waypoint] = []
        parents: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}  # map: (predicate, JOIN) of the maps that join with it
        for m in mapping["maps"]:
            for p in m["properties"]:
                if "join" in p["object"]:
                    parents.setdefault(p["object"]["join"], []).append((self.strings.id(p["p"]), p["object"]))
        first_join: dict[str, int] = {}
        joined = len(self.joins)
        for m in mapping["maps"]:
            first_join[m["id"]] = joined
            joined += len(parents.get(m["id"], ()))
        taken = dict(first_join)
        for m in mapping["maps"]:
            waypoints.append(Waypoint(paths[m["id"]], item=numbers[m["id"]]))
            self._map(m, numbers, paths, waypoints, parents.get(m["id"], []), taken)
        root = self._states(waypoints, mapping["source"] == "xml")
        deny = int(mapping["unknownMembers"] == "Deny")
        self.mappings.append((first, len(mapping["maps"]), root, mapping["maxDepth"], deny, FORMATS[mapping["source"]]))

    def _map(
        self,
        m: Mapping[str, Any],
        numbers: Mapping[str, int],
        paths: Mapping[str, Path],
        waypoints: list[Waypoint],
        parents: Sequence[tuple[int, Mapping[str, Any]]],
        taken: dict[str, int],
    ) -> None:
        base, first_slot, first_join = paths[m["id"]], len(self.slots), len(self.joins)
        known: dict[tuple[Path, int, str], int] = {}

        def slot(ref: Mapping[str, Any], flags: int = 0) -> int:
            path, functions = path_of(ref["ref"]), ref.get("functions", ())
            flags |= SLOT_STRING if ref.get("string") else 0
            key = (path, flags, repr(functions))
            if key not in known:
                known[key] = len(self.slots)
                self.slots.append((numbers[m["id"]], flags, *self._functions(functions)))
                waypoints.append(Waypoint(base + path, slot=known[key]))
            return known[key]

        subject = m["subject"]
        kind, node = SUBJECTS[subject["kind"]], NODES[subject.get("node", "iri")]
        part, npart, constant = 0, 0, 0
        if kind == SUBJECTS["template"]:
            if any("each" in step for p in subject["parts"] for step in p.get("ref", ())):
                raise EmitError(f"map {m['id']!r}: a subject's reference must have one value")
            _check_template(subject["parts"], subject.get("node", "iri"))
            repeats = any("element" in step for p in subject["parts"] for step in p.get("ref", ()))
            part, npart = self._parts(subject["parts"], slot, SLOT_ONE if repeats else 0, node == terms.IRI)
            if subject.get("orBlank"):
                constant = self.strings.id(self._label(m["id"]) + ".")
        elif kind == SUBJECTS["constant"]:
            constant = self.strings.id(subject["iri"])
        else:
            node, constant = terms.BNODE, self.strings.id(self._label(m["id"]) + ".")
        classes = sorted((self.strings.lanes(terms.IRI, "", iri) for iri in set(m["classes"])), key=lambda lanes: lanes.term)
        made = [self._property(p, numbers, paths, base, slot, numbers[m["id"]], taken) for p in m["properties"]]
        self.joins.extend((slot(join["parentKey"]), predicate) for predicate, join in parents)
        first_property = len(self.properties)
        self.properties.extend(made)
        self.maps.append((
            kind, node, part, npart, constant, self.pool.at([x for c in classes for x in (c.term, c.value, c.meta)]), len(classes),
            first_property, len(made), first_slot, len(self.slots) - first_slot, first_join, len(parents), 0,
        ))  # fmt: skip

    @staticmethod
    def _label(name: str) -> str:
        return name if _LABEL.fullmatch(name) else "x_" + name.encode().hex()

    def _parts(self, parts: Sequence[Mapping[str, Any]], slot: Any, flags: int = 0, iri: bool = False) -> tuple[int, int]:
        raw = int(iri and _is_reference(parts))
        flags |= SLOT_IRI * raw
        made = [(self.strings.id(p["text"]), NONE) if "text" in p else (raw, slot(p, flags)) for p in parts]
        first = len(self.parts)
        self.parts.extend(made)
        return first, len(made)

    def _property(
        self,
        prop: Mapping[str, Any],
        numbers: Mapping[str, int],
        paths: Mapping[str, Path],
        base: Path,
        slot: Any,
        number: int,
        taken: dict[str, int],
    ) -> Numbers:
        p, obj = self.strings.id(prop["p"]), prop["object"]
        if "term" in obj:
            lanes = self.strings.term(obj["term"])
            return (p, TERM, 0, 0, 0, 0, 0, 0, 0, 0, 0, self.pool.at((lanes.term, lanes.value, lanes.meta)))
        if "child" in obj:
            child = paths.get(obj["child"])
            if child is None or child[: len(base)] != base:
                raise EmitError(f"child {obj['child']!r} must be a map whose iterator begins with its parent's")
            self.slots.append((number, 0, 0, 0))
            return (p, CHILD, 0, 0, 0, 0, len(self.slots) - 1, 0, 0, numbers[obj["child"]], 0, 0)
        if "join" in obj:
            if obj["join"] not in taken:
                raise EmitError(f"join {obj['join']!r} must be a map")
            join = taken[obj["join"]]
            taken[obj["join"]] += 1
            return (p, JOIN, 0, 0, 0, 0, slot(obj["key"]), 0, 0, join, 0, 0)
        node, second = self._node(obj)
        if "ref" in obj:
            captured = slot(obj, SLOT_IRI if node == terms.IRI else 0)
            return (p, REF, node, 0, 0, second, captured, 0, 0, 0, 0, 0)
        _check_template(obj["parts"], obj.get("node", "literal"))
        part, npart = self._parts(obj["parts"], slot)
        return (p, TEMPLATE, node, 0, 0, second, 0, part, npart, 0, 0, 0)

    def _functions(self, functions: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        made: list[Numbers] = []
        for f in functions:
            text, other, pairs = self.strings.id(f.get("text", "")), self.strings.id(f.get("zone", "")), []
            if f["f"] == "expand":
                pairs = sorted(self.strings.id(word) << 32 | self.strings.id(iri) for word, iri in f["codes"].items())
            elif "codes" in f:
                pairs = sorted(self.strings.id(code) << 32 | self.strings.id(meaning) for code, meaning in f["codes"].items())
                other = self.strings.id(f["other"]) if "other" in f else NONE
            made.append((FUNCTIONS[f["f"]].number, text, other, self.pool.at(pairs), len(pairs)))
        first = len(self.functions) if made else 0
        self.functions.extend(made)
        return first, len(made)

    def _node(self, obj: Mapping[str, Any]) -> tuple[int, int]:
        """Kind of term and its datatype or language string."""
        if obj.get("node", "literal") != "literal":
            return NODES[obj["node"]], 0
        if obj.get("lang"):
            return terms.LANG, self.strings.id(obj["lang"].lower())
        if obj.get("datatype"):
            return terms.LITERAL, self.strings.id(obj["datatype"])
        return terms.LITERAL, NATURAL if "ref" in obj else self.strings.id(terms.XSD + "string")

    # -- states: sets of (waypoint, steps done), made deterministic --

    def _states(self, waypoints: Sequence[Waypoint], xml: bool) -> int:
        start = frozenset((i, 0) for i in range(len(waypoints)))
        known = {start: self._new_state()}
        todo = [start]
        while todo:
            here = todo.pop(0)
            self._finish(known[here], here, waypoints, known, todo, xml)
        return known[start]

    def _new_state(self) -> int:
        self.states.append([0] * 11)
        return len(self.states) - 1

    def _finish(
        self,
        number: int,
        here: frozenset[tuple[int, int]],
        waypoints: Sequence[Waypoint],
        known: dict[frozenset[tuple[int, int]], int],
        todo: list[frozenset[tuple[int, int]]],
        xml: bool,
    ) -> None:
        arrived = [waypoints[i] for i, done in sorted(here) if done == len(waypoints[i].path)]
        going: dict[Step, list[tuple[int, int]]] = {}
        for i, done in sorted(here):
            if done < len(waypoints[i].path):
                going.setdefault(waypoints[i].path[done], []).append((i, done + 1))

        def to(points: list[tuple[int, int]]) -> int:
            target = frozenset(points)
            if target not in known:
                known[target] = self._new_state()
                todo.append(target)
            return known[target]

        if xml:
            widen(going)
        state = self.states[number]
        each = going.get(("each", 0), [])
        keys = [(step[1], points) for step, points in going.items() if step[0] == "key"]
        indexes = sorted((int(step[1]), points) for step, points in going.items() if step[0] == "index")
        members = [(self.strings.id(str(key)), to(points)) for key, points in keys]
        numbered = [(index, to(points + each)) for index, points in indexes]
        state[4] = to(each) if each else 0
        state[0:2] = len(self.edges), len(members)
        self.edges.extend(members)
        if members:
            self.members[number] = [name for name, _ in members]
        state[5:7] = len(self.edges), len(numbered)
        self.edges.extend(numbered)
        items = [w.item for w in arrived if w.item is not None]
        refs = [w.slot for w in arrived if w.slot is not None]
        state[7:9] = len(self.state_items), len(items)
        self.state_items.extend(items)
        state[9:11] = len(self.state_refs), len(refs)
        self.state_refs.extend(refs)
