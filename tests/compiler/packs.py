"""Packs in the tests' words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from knhk.api.convert import to_sources
from knhk.api.parse import parse
from knhk.model.arrows import GuardPlan, PackSources, Source
from knhk.model.faults import Refused
from knhk_gen.lower import lower
from knhk_runtime.tiers.expr import Expressions
from knhk_runtime.tiers.graph import Graph

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
INVOICE = EXAMPLES / "packs" / "invoice-controls"
GOLDEN = Path(__file__).parent / "golden"

HEAD = """@prefix sh: <http://www.w3.org/ns/shacl#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix ex: <https://e.x/> .
"""


def shapes(text: str, head: str = HEAD) -> Source:
    """A shapes source; `text` begins at line 5 under the usual prefixes."""
    return Source("s", "shapes", head + text, "s.ttl")


def ask(text: str, target: str | None = None) -> Source:
    """An ASK rule."""
    return Source("rule", "ask", text, "rule.rq", media="application/sparql-query", target=target)


def abac(text: str) -> Source:
    """Access rules with the prefixes fin, inv, abac, sh on one line."""
    head = "@prefix abac: <https://knhk.dev/ns/abac#> . @prefix sh: <http://www.w3.org/ns/shacl#> . "
    return Source("rights", "abac", head + "@prefix fin: <https://f.x/> .\n" + text, "rights.ttl")


def yaml(text: str) -> Source:
    """A short mapping."""
    return Source("m", "mapping", text, "m.yaml", media="application/yaml")


def plan(*sources: Source, routes: dict[str, str | None] | None = None) -> GuardPlan:
    """The plan of some sources."""
    return lower(PackSources("test", "pack", "1.0.0", sources, routes or {}))


def faults(*sources: Source) -> list[str]:
    """Faults as text; empty when the pack lowers."""
    try:
        plan(*sources)
    except Refused as refused:
        return [str(f) for f in refused.faults]
    return []


def guards(made: GuardPlan) -> dict[str, dict[str, Any]]:
    """Guards by id, without guard 0."""
    return {g["id"]: g for g in made.document["guards"][1:]}


def failing(made: GuardPlan, ntriples: str) -> set[str]:
    """Ids of R1 guards that fail on a graph, by the runtime's reader of expressions."""
    graph = Graph.parse(ntriples.encode())
    reader = Expressions(made.document["targets"], graph)
    rows = [g for g in made.document["guards"] if "expr" in g]
    return {g["id"] for g in rows if not reader.holds(g["target"], g["expr"])}


def example(version: str) -> PackSources:
    """Sources of an example pack, each under its own name."""
    file = INVOICE / version / "pack.yaml"
    (resource,) = parse(file.read_text(encoding="utf-8"), f"{version}/pack.yaml")
    return to_sources(resource)


def golden(name: str, text: str) -> None:
    """Fails when a golden file differs; GOLDEN_UPDATE=1 writes it, the diff is reviewed."""
    file = GOLDEN / name
    if os.environ.get("GOLDEN_UPDATE") == "1":
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert file.exists(), f"{file}: run with GOLDEN_UPDATE=1 and review"
    assert text == file.read_text(encoding="utf-8"), f"{file}: run with GOLDEN_UPDATE=1 and review"


def pretty(document: Any) -> str:
    """JSON for goldens."""
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
