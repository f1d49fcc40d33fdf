"""Source → GuardPlan (formats/guardplan.md). Pure: the same sources give the same plan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rdflib import BNode, URIRef

from knhk.model.arrows import GuardPlan, PackSources, Source
from knhk.model.canonical import canonical
from knhk.model.faults import Fault, Refused
from knhk_gen import abac_guard, shacl
from knhk_gen.abac import lower_abac
from knhk_gen.ask import lower_ask
from knhk_gen.construct import Construct, inputs, lower_construct
from knhk_gen.exprs import TRUE
from knhk_gen.mapping import ABSOLUTE, Mapping, lower_mapping
from knhk_gen.mapping_jsonld import read_jsonld
from knhk_gen.mapping_rml import read_rml
from knhk_gen.mapping_yaml import read_yaml
from knhk_gen.names import CALLER, REQUEST, SH
from knhk_gen.shapes import Shapes
from knhk_gen.table import CLASSES
from knhk_gen.turtle import BASE, Term, TripleStore, parse, read_ntriples

TOOL: Final = "knhk_gen 0.1.0"
MAX_GUARDS: Final = 4096
REQUEST_TARGET: Final[dict[str, Any]] = {"kind": "request"}
JSON_LD: Final = "application/ld+json"
YAML: Final = ("application/yaml", "text/yaml", "application/x-yaml")

Doc = dict[str, Any]


@dataclass
class _Plan:
    """A plan in the making; targets keep the index of their first use until the end."""

    targets: list[Doc] = field(default_factory=list)
    guards: list[Doc] = field(default_factory=list)
    asks: dict[str, str] = field(default_factory=dict)
    constructs: list[tuple[Source, Doc, Construct]] = field(default_factory=list)
    reads_all: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    predicates: set[str] = field(default_factory=set)
    subjects: set[str] = field(default_factory=set)
    ids: dict[str, int] = field(default_factory=dict)

    def target(self, target: Doc) -> int:
        """Index of a target, the same for equal ones."""
        if target not in self.targets:
            self.targets.append(target)
        return self.targets.index(target)

    def id(self, *parts: str) -> str:
        """A readable id that no other guard has."""
        name = ".".join(re.sub(r"[^A-Za-z0-9_-]+", "_", part) for part in parts if part)[:200]
        self.ids[name] = self.ids.get(name, 0) + 1
        if self.ids[name] == 1:
            return name
        return self.id(*parts[:-1], f"{parts[-1]}-{self.ids[name]}")


def lower(pack: PackSources) -> GuardPlan:
    """Lowers all sources of a pack. Raises Refused with every fault, each at `path:line`."""
    faults: list[Fault] = []
    plan = _Plan()
    plan.guards.append(_payload(plan))
    store = _shapes_store(pack.sources, faults)
    classes = None if pack.classes is None else read_ntriples(pack.classes, "classes")
    shapes = _collect(faults, lambda: Shapes(store, classes, pack.open_vocabulary))
    if shapes is not None:
        _add_shapes(plan, shapes, pack.sources)
    for source in pack.sources:
        if source.kind == "ask":
            _collect(faults, lambda s=source: _add_ask(plan, s))
        elif source.kind == "abac":
            _collect(faults, lambda s=source: _add_abac(plan, s, shapes))
        elif source.kind == "construct":
            _collect(faults, lambda s=source: _add_construct(plan, s))
    faults += _output_faults(plan, store)
    faults += _text_faults(plan)
    mappings = _mappings(pack.sources, faults)
    faults += _route_faults(pack)
    if len(plan.guards) > MAX_GUARDS:
        must = f"must make at most {MAX_GUARDS} guards"
        faults.append(Fault(pack.name, f"{len(plan.guards)} guards", must))
    if faults:
        raise Refused(faults)
    document = _document(pack, plan, store, mappings)
    if classes is not None:
        document["cold"]["classes"] = ntriples(classes)
    return GuardPlan(document)


def _collect(faults: list[Fault], step: Any) -> Any:
    try:
        return step()
    except Refused as refused:
        faults += refused.faults
        return None


def _payload(plan: _Plan) -> Doc:
    plan.ids["payload"] = 1
    return {
        "id": "payload", "kind": "payload", "class": "R1",
        "why": "guard 0 of every pack (formats/action.md)",
        "source": "", "shape": "", "component": "", "path": "",
        "message": "the body must be well-formed for the mapping of its route",
        "severity": "Violation", "target": plan.target(REQUEST_TARGET), "expr": dict(TRUE),
    }  # fmt: skip


def _shapes_store(sources: Sequence[Source], faults: list[Fault]) -> TripleStore:
    store = TripleStore()
    for source in sources:
        if source.kind == "shapes":
            _collect(faults, lambda s=source: parse(s.text, s.path, s.first_line, store, base=s.base or BASE))
    return store


def _source_at(where: str, sources: Sequence[Source]) -> str:
    """Name of the source that a place lies in; several may share a path (fields of one file)."""
    path, _, line = where.rpartition(":")
    inside = [s for s in sources if s.path == path and s.first_line <= int(line)]
    return max(inside, key=lambda s: s.first_line).name if inside else path


def _add_shapes(plan: _Plan, shapes: Shapes, sources: Sequence[Source]) -> None:
    for guard in shacl.Lowering(shapes).guards():
        name = _source_at(guard.where, sources)
        part = guard.param.component[0].lower() + guard.param.component[1:]
        path = shacl.path_name(guard.path) if guard.path else ""
        doc: Doc = {
            "id": plan.id(name, guard.owner, path, part),
            "kind": "shacl",
            "class": guard.piece.klass,
            "why": shacl.why(guard.piece),
            "source": guard.where,
            "shape": f"_:{guard.shape}" if isinstance(guard.shape, BNode) else str(guard.shape),
            "named": guard.named,
            "component": guard.param.iri,
            "path": shacl.path_text(shapes, guard.path),
            "message": shacl.message(shapes, guard),
            "severity": shacl.severity(shapes, guard.shape),
            "target": plan.target(guard.target),
        }
        if guard.piece.expr is not None:
            doc["expr"] = guard.piece.expr
        plan.guards.append(doc)
        _bundle_nodes(plan, shapes, guard.shape, guard.target)


def _bundle_nodes(plan: _Plan, shapes: Shapes, shape: Term, target: Doc) -> None:
    """A shape on the caller or on a named node reads its properties from the data bundle."""
    if target["kind"] != "node" or target["node"]["k"] != "iri":
        return
    node = target["node"]["v"]
    if node == REQUEST:
        return
    if node != CALLER:
        plan.subjects.add(node)
    plan.predicates |= shacl.predicates(shapes, shape)


def _query_target(source: Source) -> Doc:
    """What $this of a query ranges over."""
    if source.target is not None and not ABSOLUTE.fullmatch(source.target):
        where = f"{source.path}:{source.first_line}"
        raise Refused([Fault(where, source.target, "must be an absolute IRI of a class")])
    return {"kind": "class", "classes": [source.target]} if source.target else REQUEST_TARGET


def _add_construct(plan: _Plan, source: Source) -> None:
    target = _query_target(source)
    made = lower_construct(source, plan.target)
    guard: Doc = {
        "id": plan.id(source.name), "kind": "construct", "class": made.klass, "why": made.why,
        "source": f"{source.path}:{source.first_line}", "shape": "", "component": "", "path": "",
        "message": source.message or f"the triples that {source.name} makes must fit an action",
        "severity": source.severity, "target": plan.target(target),
    }  # fmt: skip
    plan.guards.append(guard)
    plan.constructs.append((source, guard, made))
    plan.subjects |= made.query.subjects
    if made.query.reads_bundle:
        plan.predicates |= made.query.predicates


def _output_faults(plan: _Plan, store: TripleStore) -> list[Fault]:
    """What is made must not be read: μ(O ⊔ triples(A)) = A."""
    read = inputs([g["expr"] for g in plan.guards if "expr" in g], plan.targets, store) | plan.asked
    read |= {p for _, _, made in plan.constructs for p in made.query.predicates}
    closed = any(str(p) == SH + "closed" and str(o) == "true" for _, p, o in store.triples)
    everything = bool(plan.reads_all) or closed or any(made.query.reads_all for _, _, made in plan.constructs)
    found = []
    for source, _, made in plan.constructs:
        for p in sorted(made.outputs):
            if p in read or everything:
                must = "must not be a predicate that a rule reads: what a pack makes is no input of it"
                found.append(Fault(f"{source.path}:{source.first_line}", p, must))
    return found


def _text_faults(plan: _Plan) -> list[Fault]:
    """Texts of guards end with U+0000 in a pack, so none may hold it."""
    told = [(str(guard["source"]), value) for guard in plan.guards for value in guard.values() if isinstance(value, str)]
    return [Fault(where, repr(text)[:120], "must hold no U+0000") for where, text in told if "\0" in text]


def _constructs(plan: _Plan) -> tuple[dict[str, list[Doc]], dict[str, str]]:
    """Cases by guard, or queries by guard: the outputs of a pack are made together, in the lowest class of its constructs."""
    if not plan.constructs:
        return {}, {}
    low = max(plan.constructs, key=lambda each: CLASSES.index(each[2].klass))[2]
    if low.cases is not None:
        return {guard["id"]: made.cases or [] for _, guard, made in plan.constructs}, {}
    for _, guard, made in plan.constructs:
        if made.klass != low.klass:
            guard.update({"class": low.klass, "why": f"outputs of a pack are made together: {low.klass}, {low.why}"})
    return {}, {guard["id"]: made.query.text for _, guard, made in plan.constructs}


def _add_ask(plan: _Plan, source: Source) -> None:
    target = _query_target(source)
    rule = lower_ask(source, plan.target)
    guard = plan.id(source.name)
    doc: Doc = {
        "id": guard, "kind": "ask", "class": rule.klass, "why": rule.why,
        "source": f"{source.path}:{source.first_line}", "shape": "", "component": "", "path": "",
        "message": source.message or f"the rule {source.name} must hold",
        "severity": source.severity, "target": plan.target(target),
    }  # fmt: skip
    if rule.expr is not None:
        doc["expr"] = rule.expr
    plan.guards.append(doc)
    plan.asks[guard] = rule.query
    plan.asked |= rule.predicates
    if rule.reads_all:
        plan.reads_all.append(guard)
    plan.subjects |= rule.subjects
    if rule.reads_bundle:
        plan.predicates |= rule.predicates


def _add_abac(plan: _Plan, source: Source, shapes: Shapes | None) -> None:
    """Resources of a class are those of its subclasses in the shapes, too."""

    def target(document: Doc) -> int:
        classes = [c for cls in document["classes"] for c in (shapes.closure(cls) if shapes else [cls])]
        return plan.target({**document, "classes": classes})

    guards, predicates = lower_abac(source, target)
    plan.predicates |= predicates
    for guard in guards:
        plan.guards.append(
            {
                "id": plan.id(source.name, *guard.name.rsplit(".", 1)), "kind": "abac",
                "class": "R1", "why": abac_guard.WHY, "source": guard.where, "shape": guard.node,
                "component": guard.component, "path": "", "message": guard.message,
                "severity": guard.severity, "target": plan.target(REQUEST_TARGET),
                "expr": guard.expr,
            }
        )  # fmt: skip


def read_mapping(source: Source) -> Mapping:
    """A mapping source by its media type; faults are inside. Raises Refused when it cannot be read at all."""
    if source.media == JSON_LD:
        return read_jsonld(source)
    return (read_yaml if source.media in YAML else read_rml)(source)


def _mappings(sources: Sequence[Source], faults: list[Fault]) -> list[Doc]:
    found: list[Doc] = []
    for source in sources:
        if source.kind != "mapping":
            continue
        mapping = _collect(faults, lambda s=source: read_mapping(s))
        if mapping is not None:
            where = f"{source.path}:{source.first_line}"
            found.append(lower_mapping(mapping, source.name, where))
            faults += mapping.faults
    return sorted(found, key=lambda m: str(m["id"]))


def _route_faults(pack: PackSources) -> list[Fault]:
    names = [s.name for s in pack.sources if s.kind == "mapping"]
    wrong = {m for m in pack.routes.values() if m is not None and m not in names}
    known = ", ".join(names) or "none"
    return [Fault("routes", m, f"must be a source of kind mapping: {known}") for m in sorted(wrong)]


def _document(pack: PackSources, plan: _Plan, store: TripleStore, mappings: list[Doc]) -> Doc:
    cases, queries = _constructs(plan)
    order = sorted(range(len(plan.targets)), key=lambda i: canonical(plan.targets[i]))
    renumbered = {old: new for new, old in enumerate(order)}
    payload, *rest = plan.guards
    guards = [payload, *sorted(rest, key=lambda g: str(g["id"]))]
    cold: Doc = {"shapes": ntriples(store), "asks": dict(sorted(plan.asks.items()))}
    if queries:
        cold["constructs"] = dict(sorted(queries.items()))
    made = {"constructs": _renumber(dict(sorted(cases.items())), renumbered)} if cases else {}
    return {
        "version": 1,
        "tool": TOOL,
        "pack": {"namespace": pack.namespace, "name": pack.name, "version": pack.version},
        "guards": [_renumber(g, renumbered) for g in guards],
        "targets": [plan.targets[i] for i in order],
        "mappings": mappings,
        "routes": dict(sorted(pack.routes.items())),
        "bundle": {"predicates": sorted(plan.predicates), "subjects": sorted(plan.subjects)},
        "cold": cold,
        **made,
    }


def _renumber(value: Any, numbers: dict[int, int]) -> Any:
    if isinstance(value, dict):
        return {k: numbers[v] if k == "target" and isinstance(v, int) else _renumber(v, numbers) for k, v in value.items()}
    if isinstance(value, list):
        return [_renumber(v, numbers) for v in value]
    return value


def ntriples(store: TripleStore) -> str:
    """Canonical N-Triples of a store: sorted lines, each with its line feed."""
    return "".join(sorted(f"{_nt(s)} {_nt(p)} {_nt(o)} .\n" for s, p, o in store.triples))


_ESCAPES: Final = {
    "\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f",
    "\x7f": "\\u007F",
}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(ch) or (f"\\u{ord(ch):04X}" if ord(ch) < 0x20 else ch) for ch in text)


def _nt(term: Term) -> str:
    if isinstance(term, BNode):
        return f"_:{term}"
    if isinstance(term, URIRef):
        return f"<{term}>"
    quoted = f'"{_escaped(str(term))}"'
    if term.language:
        return f"{quoted}@{term.language.lower()}"
    datatype = str(term.datatype or "")
    plain = datatype in ("", "http://www.w3.org/2001/XMLSchema#string")
    return quoted if plain else f"{quoted}^^<{datatype}>"
