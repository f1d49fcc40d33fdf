"""Requests that try a pack: boundary values of its own constants, one change at a time, pairs, absent and repeated members. Pure; the same
plan, samples and seed give the same cases.

A case is a base (a sample, or a body made from the mapping) with a few edits. What is right about a case is not said here.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final

from rdflib import Literal, URIRef

from knhk.model.expectations import Case, EditError, Edits, edited
from knhk_gen import cases_xml
from knhk_gen.examples import matching
from knhk_gen.names import ATTR, KNHK, SH, XSD
from knhk_gen.terms import INTEGERS, scaled

Doc = Mapping[str, Any]
BASE_TIME_NS: Final = 1_772_445_600_000_000_000
"""2026-03-02T10:00:00Z, a Monday."""
MAX_VALUES: Final = 40
MAX_EDITS: Final = 4
STRINGS: Final = ('""', '"a"', '"b"', '"' + "x" * 40 + '"', '"ä€𝄞"', '" "')
NATURAL: Final = ("0", "1", "-1", "true", "false", "2.5")
NUMBERS: Final = ('"0"', '"1"', '"-1"', '"0.000001"', '"-0.5"', '"999999999.5"', '"abc"', '""', "7")
WHOLE: Final = ('"0"', '"1"', '"-1"', '"8"', '"1000000"', '"1.5"', '"abc"', "7")
TYPED: Final[Mapping[str, tuple[str, ...]]] = {
    XSD + "decimal": NUMBERS,
    XSD + "double": NUMBERS,
    XSD + "date": ('"1970-01-01"', '"2024-02-29"', '"2023-02-29"', '"2026-03-02"', '"9999-12-31"', '"today"'),
    XSD + "dateTime": ('"2026-03-02T10:00:00Z"', '"2026-03-02T11:00:00+01:00"', '"1969-12-31T23:59:59.999999Z"', '"noon"'),
    XSD + "boolean": ('"true"', '"false"', '"1"', '"0"', "true", "false"),
    **dict.fromkeys(INTEGERS, WHOLE),
}
BODY_EDITS: Final = frozenset({"set", "remove", "copy", "xml-set", "xml-remove", "xml-repeat", "xml-copy"})
IRIS: Final = ('"https://example.com/a"', '"urn:x:y"', '"https://example.com/b"', '"no iri"')

_PATTERNS: Final = re.compile(rf'<{SH}pattern> "((?:[^"\\]|\\[^U])*)" \.$', re.MULTILINE)
_QUERY_CONSTANTS: Final = re.compile(r"""\"([^"\\\n]*)\"|'([^'\\\n]*)'|(?<![\w.:<])(-?\d+(?:\.\d+)?)(?![\w.:>])""")


@dataclass(frozen=True)
class Slot:
    """A member that the mapping reads: JSON Pointer of its first occurrence, values to try (JSON texts), and the pointer of its list; or
    its place in a body of XML (knhk_gen.cases_xml)."""

    pointer: str
    values: tuple[str, ...]
    list_pointer: str = ""
    xml: bool = False


@dataclass
class _Constants:
    """What a plan compares with: JSON texts by predicate, and those of the cold shapes for every predicate."""

    of: dict[str, dict[str, None]] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)
    times_us: dict[int, None] = field(default_factory=dict)

    def add(self, p: str, *texts: str) -> None:
        self.of.setdefault(p, {}).update(dict.fromkeys(texts))

    def expr(self, e: Any) -> None:
        if isinstance(e, list):
            for part in e:
                self.expr(part)
        if not isinstance(e, dict):
            return
        if "test" in e:
            self._test(e.get("p") or e.get("op") or "", e["test"])
        if e.get("op") in ("pair", "within"):
            self.links.append((e["p"], e["q"]))
        for part in e.values():
            self.expr(part)

    def _test(self, p: str, v: Any) -> None:
        kind = v["t"]
        for part in [*v.get("args", ()), *([v["arg"]] if "arg" in v else [])]:
            self._test(p, part)
        if kind == "range":
            for bound in (v["min"], v["max"]):
                if bound is not None:
                    self._bound(p, v["family"], bound)
        elif kind == "length":
            sizes = [n + d for n in (v["min"], v["max"]) if n is not None for d in (-1, 0, 1) if 0 <= n + d <= 5000]
            self.add(p, *(json.dumps("y" * n) for n in sizes))
        elif kind in ("in", "value"):
            for term in v.get("terms") or [v["term"]]:
                self._term(p, term)
        elif kind == "clock":
            self.times_us.update(dict.fromkeys(_clock_times(v)))

    def _term(self, p: str, term: Doc) -> None:
        self.add(p, json.dumps(term["v"], ensure_ascii=False), json.dumps(term["v"] + "x", ensure_ascii=False))
        if term["k"] == "lit":
            found = scaled(Literal(term["v"], datatype=URIRef(term["dt"]), normalize=False))
            if isinstance(found, tuple):
                self._bound(p, *found)

    def _bound(self, p: str, family: str, bound: int) -> None:
        if p == KNHK + "time":
            self.times_us.update(dict.fromkeys((bound - 1, bound, bound + 1)))
        self.add(p, *(json.dumps(text) for step in (-1, 0, 1) for text in _spelled(family, bound, step)))

    def shapes(self, ntriples: str) -> None:
        """Literals of the shapes graph, and their neighbours, for every predicate."""
        for text, datatype in re.findall(r'> "((?:[^"\\]|\\.)*)"(?:\^\^<([^>]*)>)? \.$', ntriples, re.MULTILINE):
            self._term("", {"k": "lit", "v": text[:200], "dt": datatype or XSD + "string"})
        for text in _PATTERNS.findall(ntriples):
            for made in matching(json.loads(f'"{text}"')):
                self.add("", json.dumps(made), json.dumps(made + "!"))

    def plan(self, plan: Doc) -> None:
        """All constants of a plan."""
        for guard in plan["guards"]:
            self.expr(guard.get("expr"))
        self.expr(plan.get("constructs"))
        self.shapes(plan["cold"]["shapes"])
        for query in (*plan["cold"]["asks"].values(), *plan["cold"].get("constructs", {}).values()):
            for found in _QUERY_CONSTANTS.findall(query):
                self.add("", json.dumps("".join(found)))

    def linked(self) -> None:
        """Predicates that are compared with each other share their values."""
        for p, q in self.links:
            both = {**self.of.get(p, {}), **self.of.get(q, {})}
            self.of[p], self.of[q] = dict(both), dict(both)


def _spelled(family: str, bound: int, step: int) -> tuple[str, ...]:
    """Lexical forms one smallest step around a bound; numbers also by whole ones."""
    if family == "numeric":
        exact, whole = Decimal(bound + step).scaleb(-6), Decimal(bound).scaleb(-6) + step
        return tuple(dict.fromkeys(f"{n.normalize():f}" for n in (exact, whole)))
    if family == "boolean":
        return (("false", "true")[bound],) if step == 0 else ()
    days, micros = (bound + step, 0) if family == "date" else divmod(bound + step, 86_400_000_000)
    try:
        day = date(1970, 1, 1) + timedelta(days=days)
    except OverflowError:
        return ()
    if family == "date":
        return (day.isoformat(),)
    second, fraction = divmod(micros, 1_000_000)
    clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.{fraction:06}"
    return (f"{day.isoformat()}T{clock}Z",)


def _clock_times(v: Doc) -> Iterator[int]:
    """Edges of a window on every day of one week."""
    monday_us = BASE_TIME_NS // 1000 - 10 * 3600 * 10**6
    for day in range(7):
        for second in (v["from_s"] - 1, v["from_s"], v["until_s"] - 1, v["until_s"]):
            yield monday_us + (day * 86400 + second - v["zone_s"]) * 10**6


def _pointer(steps: Iterable[Doc]) -> tuple[str, str]:
    """JSON Pointer of the first occurrence, and that of the innermost list ("" without one)."""
    at = inner = ""
    for step in steps:
        if step.get("each"):
            inner, at = at, at + "/0"
        elif "index" in step:
            at += f"/{step['index']}"
        else:
            at += "/" + step["key"].replace("~", "~0").replace("/", "~1")
    return at, inner


def _values(constants: _Constants, p: str, obj: Doc) -> tuple[str, ...]:
    datatype = obj.get("datatype")
    generic = (
        IRIS if obj.get("node") == "iri" and "ref" in obj else TYPED.get(datatype or "", STRINGS if datatype else (*STRINGS, *NATURAL))
    )
    own = list(constants.of.get(p, {}))
    if not datatype and obj.get("node") != "iri":
        own += [text[1:-1] for text in own if re.fullmatch(r'"-?(0|[1-9]\d{0,14})(\.\d{1,6})?"', text)]
    shared = [text for text in constants.of.get("", {}) if text not in own]
    return tuple(dict.fromkeys((*own, *generic, *shared)))[:MAX_VALUES]


@dataclass(frozen=True)
class Trial:
    """All that can be varied for one plan."""

    slots: Mapping[str, tuple[Slot, ...]]  # by route
    attributes: Mapping[str, tuple[str, ...]]
    regions: tuple[str, ...]
    times_ns: tuple[int, ...]
    bases: tuple[Case, ...]


def trial(plan: Doc, samples: Sequence[Case], callers: Sequence[str], beside: Sequence[Doc] = ()) -> Trial:
    """What to vary. `samples` are bases; routes without one get a body made from their mapping. `callers`: values of `sub` that are known;
    `beside`: plans whose constants are tried too."""
    constants = _Constants()
    for each in (plan, *(other for other in beside if other is not plan)):
        constants.plan(each)
    constants.linked()
    mappings = {m["id"]: m for m in plan["mappings"]}
    slots = {route: _slots(constants, mappings[m]) if m else () for route, m in plan["routes"].items()}
    attributes: dict[str, tuple[str, ...]] = {"sub": (*callers[:30], "stranger"), "action": ("nothing",)}
    for p, texts in constants.of.items():
        if p.startswith(ATTR):
            name = p.removeprefix(ATTR)
            attributes[name] = tuple(dict.fromkeys((*attributes.get(name, ()), *(json.loads(t) for t in texts))))[:MAX_VALUES]
    regions = tuple(dict.fromkeys(("local", *(json.loads(t) for t in constants.of.get(KNHK + "region", {})))))
    fine = tuple(r for r in regions if re.fullmatch(r"[a-z0-9-]{0,63}", r))
    times = (BASE_TIME_NS, *(t * 1000 for t in constants.times_us if 0 <= t < 2**63 // 1000))
    known = {case.route for case in samples}
    plain = [_base(route, plan, mappings) for route in plan["routes"] if route not in known]
    made = [replace(base, attributes={"action": action} if action else {}) for base in plain for action in ("", *attributes["action"][1:9])]
    return Trial(slots, attributes, fine, times, (*samples, *made))


def _slots(constants: _Constants, mapping: Doc) -> tuple[Slot, ...]:
    found: dict[str, Slot] = {}
    xml = mapping["source"] == "xml"
    for each in mapping["maps"]:
        found |= _unlisted(each["iterator"], xml)
        references = [(prop["p"], prop["object"], part) for prop in each["properties"] for part in _references(prop["object"])]
        references += [("", {"datatype": XSD + "string"}, part) for part in _references(each["subject"])]
        references += [("", {"datatype": XSD + "string"}, part) for part in _parent_keys(mapping, each["id"])]
        for p, obj, part in references:
            steps = [*each["iterator"], *part["ref"]]
            pointer, inner = (cases_xml.place(steps), cases_xml.place(steps[:-1])) if xml else _pointer(steps)
            if pointer and pointer not in found:
                values = [form for text in _values(constants, p, obj) for form in _before(part.get("functions", ()), text)]
                found[pointer] = Slot(pointer, tuple(dict.fromkeys((*_examples(part), *values))), inner, xml)
    return tuple(found.values())


def _unlisted(iterator: Sequence[Doc], xml: bool) -> dict[str, Slot]:
    """A member, or an attribute, that no mapping names."""
    if not xml:
        pointer = _pointer([*iterator, {"key": "unlisted"}])[0]
    elif iterator:
        pointer = cases_xml.place([*iterator, {"attribute": "unlisted"}])
    else:
        return {}
    return {pointer: Slot(pointer, ("1",), xml=xml)}


def _references(obj: Doc) -> list[Doc]:
    """REFs of a subject or an object; of a join that in its own map."""
    return [part for part in (obj, obj.get("key", {}), *obj.get("parts", ())) if "ref" in part]


def _parent_keys(mapping: Doc, name: str) -> list[Doc]:
    """REFs by which other maps find this one."""
    return [prop["object"]["parentKey"] for each in mapping["maps"] for prop in each["properties"] if prop["object"].get("join") == name]


def _before(functions: Sequence[Doc], text: str) -> tuple[str, ...]:
    """JSON texts that become this one by functions, where that is easily said; and itself."""
    name, dated = functions[-1]["f"] if functions else "", re.fullmatch(r'"(\d{4})-(\d\d)-(\d\d)"', text)
    if name == "decimalComma":
        return (text.replace(".", ","), text)
    if name == "date" and dated:
        return (_by_pattern(functions[-1]["text"], dated.groups()), text)
    if name == "codes":
        codes = [code for code, meaning in functions[-1]["codes"].items() if json.dumps(meaning) == text]
        return (*(json.dumps(code) for code in codes), text)
    return (text,)


def _by_pattern(pattern: str, day: Sequence[str]) -> str:
    parts = {"YYYY": day[0], "MM": day[1], "M": day[1].lstrip("0"), "DD": day[2], "D": day[2].lstrip("0"), "f": "0", "Z": "Z", "*": ""}
    return json.dumps(re.sub(r"YYYY|MM?|DD?|hh?|mm|ss|f|Z|\*", lambda token: parts.get(token[0], "10"), pattern))


_WRITTEN: Final[Mapping[str, str]] = {
    "dotNetDate": '"/Date(1772445600000+0100)/"',
    "dotNetDateTime": '"/Date(1772445600000+0100)/"',
    "epochMillis": '"1772445600123"',
    "epochSeconds": '"1772445600"',
}


def _examples(part: Doc) -> tuple[str, ...]:
    """JSON texts that the functions of a REF take, the first of them all."""
    for function in part.get("functions", ()):
        name = function["f"]
        if name in ("date", "dateTime"):
            return (_by_pattern(function["text"], ("2026", "03", "02")),)
        if name in ("codes", "expand"):
            return tuple(json.dumps(code) for code in list(function["codes"])[:8])
        if name in _WRITTEN:
            return (_WRITTEN[name],)
    return ()


def _base(route: str, plan: Doc, mappings: Mapping[str, Doc]) -> Case:
    """A body that has every member of the mapping once, without attributes."""
    mapping = mappings.get(plan["routes"][route] or "")
    body = b"" if mapping is None else cases_xml.grown(_leaves(mapping)) if mapping["source"] == "xml" else _json_base(mapping)
    return Case(f"made for {route}", {"": route}, route, body, False, {}, BASE_TIME_NS, "local", "ADMIT", None)


def _leaves(mapping: Doc) -> Iterator[tuple[list[Doc], str]]:
    """Every place that a mapping reads, with a value for it."""
    for each in mapping["maps"]:
        for obj in [*(prop["object"] for prop in each["properties"]), each["subject"]]:
            plain = "https://example.com/a" if obj.get("node") == "iri" and "ref" in obj else "1"
            for part in _references(obj):
                yield [*each["iterator"], *part["ref"]], json.loads(next(iter(_examples(part)), json.dumps(plain)))
        for part in _parent_keys(mapping, each["id"]):
            yield [*each["iterator"], *part["ref"]], "1"


def _json_base(mapping: Doc) -> bytes:
    document: Any = None
    for each in mapping["maps"]:
        document = _grown(document, each["iterator"], None)
    for steps, leaf in _leaves(mapping):
        document = _grown(document, steps, leaf)
    return b"" if document is None else json.dumps(document).encode()


def _grown(document: Any, steps: Sequence[Doc], leaf: Any) -> Any:
    """The document with these steps in it; a leaf stays what it is."""
    if not steps:
        return document if document is not None else {} if leaf is None else leaf
    head, rest = steps[0], steps[1:]
    if head.get("each") or "index" in head:
        items = document if isinstance(document, list) else []
        at = head.get("index", 0) if not head.get("each") else 0
        items += [None] * (at + 1 - len(items))
        items[at] = _grown(items[at], rest, leaf)
        return items
    members = document if isinstance(document, dict) else {}
    members[head["key"]] = _grown(members.get(head["key"]), rest, leaf)
    return members


@dataclass(frozen=True)
class Edit:
    """One change of a base: of a member, of an attribute (None: absent), of region or time."""

    kind: str
    name: str
    value: Any

    def on(self, case: Case) -> Case:
        """The case with this change. Raises EditError where the body has no such place."""
        match self.kind:
            case "set":
                return replace(case, body=edited(case.body, Edits(set=((self.name, self.value),))))
            case "remove":
                return replace(case, body=edited(case.body, Edits(remove=(self.name,))))
            case "copy":
                return replace(case, body=edited(case.body, Edits(copy=(self.name,))))
            case "xml-copy":
                return replace(case, body=cases_xml.copied(case.body, self.name))
            case "xml-set":
                return replace(case, body=cases_xml.text_set(case.body, self.name, self.value))
            case "xml-remove":
                return replace(case, body=cases_xml.removed(case.body, self.name))
            case "xml-repeat":
                return replace(case, body=cases_xml.repeated(case.body, self.name, self.value))
            case "attribute":
                rest = {k: v for k, v in case.attributes.items() if k != self.name}
                return replace(case, attributes=rest if self.value is None else {**rest, self.name: self.value})
            case "region":
                return replace(case, region=self.value)
        return replace(case, time_ns=self.value)


def edits(trial_of: Trial, route: str) -> list[Edit]:
    """Every single change for a route."""
    found = [Edit("attribute", name, value) for name, values in trial_of.attributes.items() for value in (*values, None)]
    found += [Edit("region", "", region) for region in trial_of.regions] + [Edit("time", "", at) for at in trial_of.times_ns]
    for slot in trial_of.slots.get(route, ()):
        if slot.xml:
            found += _xml_edits(slot)
            continue
        found += [Edit("set", slot.pointer, value) for value in slot.values]
        found.append(Edit("remove", slot.pointer, None))
        if slot.list_pointer and slot.pointer == slot.list_pointer + "/0":
            found += [Edit("set", slot.list_pointer + "/-", value) for value in slot.values[:8]]
        elif slot.list_pointer:
            found += [Edit("remove", slot.list_pointer + "/0", None), Edit("copy", slot.list_pointer, None)]
    return list(dict.fromkeys(found))


def _xml_edits(slot: Slot) -> list[Edit]:
    texts = [json.loads(value) if value.startswith('"') else value for value in slot.values]
    found = [Edit("xml-set", slot.pointer, text) for text in texts]
    if slot.list_pointer:
        found.append(Edit("xml-copy", slot.list_pointer, None))
    return [*found, Edit("xml-remove", slot.pointer, None), *(Edit("xml-repeat", slot.pointer, text) for text in texts[:8])]


def several(every: Sequence[Sequence[Edit]], rng: random.Random) -> tuple[Edit, ...]:
    """Two to four changes, each of another place."""
    places = rng.sample(every, min(len(every), rng.choice((2, 2, 2, 3, MAX_EDITS))))
    return tuple(rng.choice(place) for place in places)


def by_place(every: Iterable[Edit]) -> list[list[Edit]]:
    """Changes of each place together, values from the plan's own constants first."""
    found: dict[tuple[str, str], list[Edit]] = {}
    for edit in every:
        found.setdefault(("body" if edit.kind in BODY_EDITS else edit.kind, edit.name.removesuffix("/-")), []).append(edit)
    return list(found.values())


def cases(trial_of: Trial, seed: int, count: int) -> Iterator[Case]:
    """`count` cases at most, all different: the bases, single changes, then pairs and more, drawn by the seed."""
    rng = random.Random(seed)
    seen: set[tuple[Any, ...]] = set()

    def fresh(case: Case) -> bool:
        key = (case.route, case.body, tuple(sorted(case.attributes.items())), case.time_ns, case.region)
        known = key in seen
        seen.add(key)
        return not known

    every = {case.route: by_place(edits(trial_of, case.route)) for case in trial_of.bases}
    yield from (case for case in trial_of.bases if fresh(case))
    singles = _singles(trial_of.bases, every, rng)
    drawn: Iterator[tuple[Case, tuple[Edit, ...]]] = iter(singles[: max(1, count // 2)])
    for _ in range(count * 8):
        if len(seen) >= count:
            return
        try:
            base, changes = next(drawn)
        except StopIteration:
            base = rng.choice(trial_of.bases)
            changes = several(every[base.route], rng)
        case = base
        try:
            for change in changes:
                case = change.on(case)
        except EditError:
            continue
        if fresh(case):
            yield case


def _singles(
    bases: Sequence[Case], every: Mapping[str, Sequence[Sequence[Edit]]], rng: random.Random
) -> list[tuple[Case, tuple[Edit, ...]]]:
    """Every single change of every base. First each change once, on one base or another, so that few cases try all constants; of each place
    its first values first."""
    turns = []
    for route, places in every.items():
        own = [base for base in bases if base.route == route]
        for number, (i, edit) in enumerate((i, edit) for place in places for i, edit in enumerate(place)):
            turns += [(turn, i, rng.random(), own[(number + turn) % len(own)], edit) for turn in range(len(own))]
    return [(base, (edit,)) for _, _, _, base, edit in sorted(turns, key=lambda each: each[:3])]


def smaller(case: Case) -> Iterator[Case]:
    """Cases that are a step simpler: a member, an item or an attribute less, or a simpler scalar."""
    for name in case.attributes:
        yield replace(case, attributes={k: v for k, v in case.attributes.items() if k != name})
    try:
        document = json.loads(case.body)
    except ValueError:
        yield from (replace(case, body=body) for body in cases_xml.smaller(case.body))
        return
    for pointer, value in _places(document, ""):
        for edit in (Edits(remove=(pointer,)), *(Edits(set=((pointer, text),)) for text in _simpler(value))):
            try:
                body = edited(case.body, edit)
            except EditError:
                continue
            if body != case.body:
                yield replace(case, body=body)


def _simpler(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and len(value) > 1:
        return (json.dumps(value[: len(value) // 2]), '"a"')
    return ()


def _places(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    """Pointers of everything inside, large parts first."""
    inner: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        inner = [(f"{at}/{name.replace('~', '~0').replace('/', '~1')}", child) for name, child in value.items()]
    elif isinstance(value, list):
        inner = [(f"{at}/{i}", child) for i, child in enumerate(value)]
    yield from inner
    for pointer, child in inner:
        yield from _places(child, pointer)
