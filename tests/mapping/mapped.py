"""Payloads through the compiled extractor, in the tests' words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pyoxigraph
from rdflib import Graph

from knhk.model.arrows import PackSources, Source
from knhk.model.faults import Refused
from knhk.reconcilers.oracle import canonical_lines
from knhk.reconcilers.oracle_mapping import Malformed, MappingOracle, Unsaid
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_hot.fuzz_seeds import observation
from knhk_hot.pack import Binding, Pack
from knhk_hot.toolchain import HOST, link_pack

DENY = 2
EX = "https://e.x/"


def source(text: str, media: str = "application/yaml") -> Source:
    """A mapping named m."""
    return Source("m", "mapping", text, {"application/yaml": "m.yaml", "text/turtle": "m.ttl"}.get(media, "m.jsonld"), media=media)


def together(texts: dict[str, str], media: str = "text/turtle") -> Binding:
    """One pack with a mapping and a route for each name: one link instead of many."""
    sources = tuple(Source(name, "mapping", text, f"{name}.ttl", media=media) for name, text in texts.items())
    plan = lower(PackSources("test", "pack", "1.0.0", sources, {name: name for name in texts}))
    return Pack.load(link_pack(emit(plan), HOST)).bind()


@cache
def _binding(text: str, media: str) -> Binding:
    plan = lower(PackSources("test", "pack", "1.0.0", (source(text, media),), {"create": "m"}))
    return Pack.load(link_pack(emit(plan), HOST)).bind()


def binding(text: str, media: str = "application/yaml") -> Binding:
    """A pack of one mapping, compiled."""
    return _binding(text, media)


def faults(text: str, media: str = "application/yaml") -> list[str]:
    """Faults of a mapping as text."""
    try:
        lower(PackSources("test", "pack", "1.0.0", (source(text, media),), {"create": "m"}))
    except Refused as refused:
        return [str(fault) for fault in refused.faults]
    return []


@dataclass(frozen=True)
class Denied:
    """What guard 0 says: where, and what it must be."""

    path: str
    value: str
    must: str


def lines(text: str, body: bytes, media: str = "application/yaml") -> Denied | list[str]:
    """The triples of a body as N-Triples, without those of the request, or why it is refused. The reading that proofs compare with says
    the same."""
    found = lines_of(binding(text, media), body)
    try:
        read = canonical_lines(MappingOracle(source(text, media)).triples(body))
    except Malformed:
        assert isinstance(found, Denied), found
    except Unsaid:
        pass
    else:
        assert not isinstance(found, Denied), found
        assert canonical(found) == read
    return found


def canonical(found: list[str]) -> set[str]:
    """The lines of a graph with canonical names of blank nodes."""
    parsed = pyoxigraph.parse("\n".join(found).encode(), pyoxigraph.RdfFormat.N_TRIPLES)
    dataset = pyoxigraph.Dataset(pyoxigraph.Quad(q.subject, q.predicate, q.object) for q in parsed)
    dataset.canonicalize(pyoxigraph.CanonicalizationAlgorithm.UNSTABLE)
    return {str(quad) for quad in dataset}


def lines_of(bound: Binding, body: bytes, route: str = "create") -> Denied | list[str]:
    """The same by a pack that is there."""
    o = observation(body, route.encode())
    decision = bound.decide(o)
    if decision.verdict == DENY:
        (told,) = bound.explain(o, decision.a)
        assert told["guard"] == "payload"
        return Denied(told["path"], told["value"], told["message"].rpartition(": ")[2])
    return [line for line in bound.graph(o).decode().split("\n") if line and not line.startswith("<https://knhk.dev/ns#request>")]


def extract(text: str, body: bytes, media: str = "application/yaml") -> Denied | Graph:
    """The same as a graph."""
    found = lines(text, body, media)
    return found if isinstance(found, Denied) else Graph().parse(data="\n".join(found), format="nt")


def objects(text: str, body: bytes, media: str = "application/yaml") -> list[str] | Denied:
    """All objects, as N-Triples writes them, sorted."""
    found = lines(text, body, media)
    return found if isinstance(found, Denied) else sorted(line.split(" ", 2)[2].removesuffix(" .") for line in found)
