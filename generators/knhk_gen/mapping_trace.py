"""Which rule of a mapping made which triple: the same mapping with a predicate of its own for each rule, run by the same extractor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from knhk.model.arrows import GuardPlan, PackSources, Source
from knhk.model.faults import Refused
from knhk_gen.lower import lower, read_mapping
from knhk_gen.names import TYPE

ROUTE: Final = "test"
_MARK: Final = "urn:knhk:rule:"


@dataclass(frozen=True)
class Rule:
    """One property of a map, or its class. `path`: what it reads, from the root of the body, as an author would write it."""

    map: str
    predicate: str
    path: str
    where: str


@dataclass(frozen=True)
class Traced:
    """The plan to run, and the rules behind its predicates."""

    plan: GuardPlan
    rules: tuple[Rule, ...]

    def rule(self, predicate: str) -> Rule:
        """The rule behind a predicate of the traced graph."""
        return self.rules[int(predicate.removeprefix(_MARK))]


def trace(source: Source) -> Traced:
    """The traced plan of a mapping source. Raises Refused with every fault."""
    plan = lower(PackSources("test", "mapping", "1", (source,), {ROUTE: source.name}))
    read = read_mapping(source)
    if read.faults:
        raise Refused(read.faults)
    document = dict(plan.document)
    (mapping,) = document["mappings"]
    rules: list[Rule] = []
    maps = [_map(m, read.maps[i].where, [p.where for p in read.maps[i].properties], mapping, rules) for i, m in enumerate(mapping["maps"])]
    document["mappings"] = [mapping | {"maps": maps}]
    return Traced(GuardPlan(document), tuple(rules))


def _map(m: Mapping[str, Any], where: str, places: Sequence[str], mapping: Mapping[str, Any], rules: list[Rule]) -> dict[str, Any]:
    xml = mapping["source"] == "xml"

    def mark(predicate: str, path: str, place: str) -> str:
        rules.append(Rule(m["id"], predicate, path, place))
        return f"{_MARK}{len(rules) - 1}"

    properties = [
        {"p": mark(TYPE, f"{show_path(m['iterator'], xml)} (class)", where), "object": {"term": {"k": "iri", "v": cls}}}
        for cls in m["classes"]
    ]
    for p, place in zip(m["properties"], places, strict=True):
        path = show_object(p["object"], m["iterator"], mapping, xml)
        properties.append({"p": mark(p["p"], path, place), "object": p["object"]})
    return {**m, "classes": [], "properties": properties}


def show_object(o: Mapping[str, Any], base: Sequence[Mapping[str, Any]], mapping: Mapping[str, Any], xml: bool) -> str:
    """Where an object comes from, in words."""
    if "term" in o:
        return f"{show_path(base, xml)} (constant)"
    if "child" in o:
        (child,) = (m for m in mapping["maps"] if m["id"] == o["child"])
        return f"{show_path(child['iterator'], xml)} (map {o['child']})"
    if "join" in o:
        (parent,) = (m for m in mapping["maps"] if m["id"] == o["join"])
        key = show_path([*parent["iterator"], *o["parentKey"]["ref"]], xml)
        return f"{_show_ref(o['key'], base, xml)} = {key} (map {o['join']})"
    if "ref" in o:
        return _show_ref(o, base, xml)
    return "".join(part["text"] if "text" in part else "{" + _show_ref(part, base, xml) + "}" for part in o["parts"])


def _show_ref(ref: Mapping[str, Any], base: Sequence[Mapping[str, Any]], xml: bool) -> str:
    names = "".join(f" | {f['f']}" for f in ref.get("functions", ()))
    return show_path([*base, *ref["ref"]], xml) + names


def show_path(steps: Sequence[Mapping[str, Any]], xml: bool) -> str:
    """A path from the root: JSONPath, or XPath with local names."""
    if xml:
        return "".join(_show_xml(step) for step in steps) or "/"
    return "$" + "".join(_show_json(step) for step in steps)


def _show_xml(step: Mapping[str, Any]) -> str:
    if "attribute" in step:
        return "/@" + str(step["attribute"]).rpartition(" ")[2]
    index = f"[{step['index'] + 1}]" if "index" in step else ""
    return "/" + str(step["element"]).rpartition(" ")[2] + index


def _show_json(step: Mapping[str, Any]) -> str:
    if "each" in step:
        return "[*]"
    if "index" in step:
        return f"[{step['index']}]"
    name = str(step["key"])
    return f".{name}" if name.isidentifier() else "['" + name.replace("\\", "\\\\").replace("'", "\\'") + "']"
