"""Guards that no input can make fail: the mappings of the pack make at most one value where the guard allows one. Pure.

They are still worth having: they say what the graph promises, and the next mapping may break it. Tests cannot make them fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Doc = Mapping[str, Any]


def implied(plan: Doc) -> frozenset[int]:
    """Numbers of the guards whose most count is kept by every mapping."""
    return frozenset(i for i, guard in enumerate(plan["guards"]) if guard["kind"] == "shacl" and _kept(plan, guard))


def _kept(plan: Doc, guard: Doc) -> bool:
    expr = guard.get("expr") or {}
    target = plan["targets"][guard["target"]]
    if expr.get("op") != "count" or expr["min"] or not expr["max"] or target["kind"] != "class":
        return False
    return expr["p"] not in plan["bundle"]["predicates"] and all(_single(mapping, expr["p"]) for mapping in plan["mappings"])


def _single(mapping: Doc, predicate: str) -> bool:
    """Whether the mapping makes at most one value of the predicate for any subject: one entry, in a map that makes each node once."""
    if not mapping["maps"]:
        return bool(mapping["source"] != "rdf")
    entries = [(m, p["object"]) for m in mapping["maps"] for p in m["properties"] if p["p"] == predicate]
    return not entries or (len(entries) == 1 and _once(entries[0][0]) and _one_value(mapping, *entries[0]))


def _once(triples_map: Doc) -> bool:
    """A blank node is made for each item; others by name, so that two items may be one node."""
    return triples_map["subject"]["kind"] == "blank" or not _many(triples_map["iterator"])


def _one_value(mapping: Doc, triples_map: Doc, value: Doc) -> bool:
    if "child" in value:
        child = next(m for m in mapping["maps"] if m["id"] == value["child"])
        return not _many(child["iterator"][len(triples_map["iterator"]) :])
    if not {"ref", "parts", "term"} & value.keys():
        return False  # a join may find many
    return not any(_many(steps) for steps in _references(value))


def _references(value: Doc) -> Iterator[Sequence[Doc]]:
    if "ref" in value:
        yield value["ref"]
    for part in value.get("parts", ()):
        if "ref" in part:
            yield part["ref"]


def _many(steps: Sequence[Doc]) -> bool:
    """Whether a path can lead to more than one place: any step but one by member name, index or attribute."""
    return any(not ({"key", "index", "attribute"} & step.keys()) for step in steps)
