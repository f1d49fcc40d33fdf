"""A plan as a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from knhk.model.arrows import GuardPlan

_COLUMNS = ("class", "severity", "id", "target", "path", "source", "message")


def dump(plan: GuardPlan) -> str:
    """The guards of a plan, one line each, with classes counted, and what it reads and maps."""
    document = plan.document
    guards: Sequence[Mapping[str, Any]] = document["guards"]
    pack = document["pack"]
    counts = Counter(g["class"] for g in guards)
    lines = [
        f"{pack['namespace']}/{pack['name']}@{pack['version']}  plan sha256:{plan.digest}",
        f"{len(guards)} guards: " + ", ".join(f"{n} {k}" for k, n in sorted(counts.items())),
        "",
        *_table([_COLUMNS, *(_row(g, document["targets"]) for g in guards)]),
        "",
        *(f"route {route}: {mapping or 'no body'}" for route, mapping in document["routes"].items()),
        *(_mapping(mapping) for mapping in document["mappings"]),
        *(f"reads {p} of the data bundle" for p in document["bundle"]["predicates"]),
        "",
        *(f"{g['class']} {g['id']}: {g['why']}" for g in guards if g["class"] != "R1"),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _row(guard: Mapping[str, Any], targets: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return (
        guard["class"],
        guard["severity"],
        guard["id"],
        target_text(targets[guard["target"]]),
        guard["path"],
        guard["source"],
        guard["message"],
    )


def target_text(target: Mapping[str, Any]) -> str:
    """A target in a few words."""
    kind = target["kind"]
    if kind == "class":
        return "class " + ", ".join(target["classes"])
    if kind == "node":
        return f"node {target['node']['v']}"
    return kind if kind == "request" else f"{kind} {target['predicate']}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _mapping(mapping: Mapping[str, Any]) -> str:
    if mapping["source"] == "rdf":
        return f"mapping {mapping['id']}: RDF as it is"
    maps = ", ".join(f"{m['id']} ({len(m['properties'])} properties)" for m in mapping["maps"])
    return f"mapping {mapping['id']}: {maps}; unknown members: {mapping['unknownMembers']}"
