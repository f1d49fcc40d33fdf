"""Validation results as a report graph (SHACL 2017-07-20, section 3.6), in Turtle and in JSON-LD."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyoxigraph import BlankNode, Literal, NamedNode, RdfFormat, Triple, serialize

from knhk_runtime.tiers.graph import Node, Term
from knhk_runtime.tiers.names import RDF, RDF_FIRST, RDF_NIL, RDF_REST, RDF_TYPE, SH, XSD, sh
from knhk_runtime.tiers.paths import Path
from knhk_runtime.tiers.shacl import Result

CONTEXT: dict[str, Any] = {
    "sh": SH,
    "xsd": XSD,
    **{name: f"sh:{name}" for name in ("conforms", "result", "focusNode", "resultPath", "value", "resultMessage")},
    **{name: {"@id": f"sh:{name}", "@type": "@id"} for name in ("sourceShape", "sourceConstraint", "sourceConstraintComponent")},
    "resultSeverity": {"@id": "sh:resultSeverity", "@type": "@id"},
    "decided": None,
}
PREFIXES = {"sh": SH, "xsd": XSD, "rdf": RDF}
_TAGGED = re.compile(r'("(?:[^"\\]|\\.)*")@([a-z0-9-]+)')
_PATHS = {form: f"{form}Path" for form in ("inverse", "zeroOrMore", "oneOrMore", "zeroOrOne")}


@dataclass(frozen=True)
class Report:
    """`tags`: language tags as they were written, by their lower case, for the parser keeps no case."""

    results: Sequence[Result]
    tags: Mapping[str, str]

    @property
    def conforms(self) -> bool:
        return not self.results

    # -- Turtle --

    def turtle(self, prefixes: Mapping[str, str] | None = None) -> str:
        """The report graph."""
        text = serialize(self.triples(), format=RdfFormat.TURTLE, prefixes={**(prefixes or {}), **PREFIXES})
        assert text is not None
        return self._tagged(text.decode())

    def _tagged(self, text: str) -> str:
        return _TAGGED.sub(lambda m: f"{m[1]}@{self.tags.get(m[2], m[2])}", text) if self.tags else text

    def triples(self) -> list[Triple]:
        """Blank nodes of the report are named report, resultN and pathN."""
        report, paths = BlankNode("report"), _Paths()
        nodes = [BlankNode(f"result{number}") for number in range(len(self.results))]
        made = [Triple(report, RDF_TYPE, sh("ValidationReport")), Triple(report, sh("conforms"), _boolean(self.conforms))]
        made += (Triple(report, sh("result"), node) for node in nodes)
        for node, result in zip(nodes, self.results, strict=True):
            made += (Triple(node, predicate, value) for predicate, value in self._properties(result, paths))
        return made + paths.made

    def _properties(self, result: Result, paths: _Paths) -> Iterator[tuple[NamedNode, Term]]:
        yield RDF_TYPE, sh("ValidationResult")
        yield sh("focusNode"), result.focus
        if result.path is not None:
            yield sh("resultPath"), paths.node(result.path)
        if result.value is not None:
            yield sh("value"), result.value
        yield sh("sourceShape"), result.shape
        yield sh("sourceConstraintComponent"), NamedNode(result.component)
        if result.source is not None:
            yield sh("sourceConstraint"), result.source
        yield sh("resultSeverity"), NamedNode(result.severity)
        for message in result.messages:
            yield sh("resultMessage"), message

    # -- JSON-LD --

    def json_ld(self) -> dict[str, Any]:
        """The same graph as JSON-LD 1.1, its context inside."""
        return {
            "@context": CONTEXT,
            "@type": "sh:ValidationReport",
            "conforms": self.conforms,
            "result": [self._result(result) for result in self.results],
        }

    def _result(self, result: Result) -> dict[str, Any]:
        made: dict[str, Any] = {"@type": "sh:ValidationResult", "focusNode": self._json(result.focus)}
        if result.path is not None:
            made["resultPath"] = _json_path(result.path)
        if result.value is not None:
            made["value"] = self._json(result.value)
        made["sourceShape"] = _id(result.shape)
        made["sourceConstraintComponent"] = result.component
        if result.source is not None:
            made["sourceConstraint"] = _id(result.source)
        made["resultSeverity"] = result.severity
        if result.messages:
            made["resultMessage"] = [self._json(message) for message in result.messages]
        return made

    def _json(self, term: Term) -> dict[str, str]:
        if not isinstance(term, Literal):
            return {"@id": _id(term)}
        if term.language:
            return {"@value": term.value, "@language": self.tags.get(term.language, term.language)}
        if term.datatype.value == XSD + "string":
            return {"@value": term.value}
        return {"@value": term.value, "@type": term.datatype.value}


def _boolean(value: bool) -> Literal:
    return Literal("true" if value else "false", datatype=NamedNode(XSD + "boolean"))


def _id(term: Term) -> str:
    return f"_:{term.value}" if isinstance(term, BlankNode) else term.value


class _Paths:
    """Property paths as nodes of the report."""

    def __init__(self) -> None:
        self.made: list[Triple] = []
        self._count = 0

    def _fresh(self) -> BlankNode:
        self._count += 1
        return BlankNode(f"path{self._count}")

    def node(self, path: Path) -> Node:
        if path.predicate is not None:
            return path.predicate
        if path.form == "sequence":
            return self._list(path.parts)
        node = self._fresh()
        if path.form == "alternative":
            self.made.append(Triple(node, sh("alternativePath"), self._list(path.parts)))
        else:
            self.made.append(Triple(node, sh(_PATHS[path.form]), self.node(path.parts[0])))
        return node

    def _list(self, parts: Iterable[Path]) -> Node:
        cells = [(self._fresh(), self.node(part)) for part in parts]
        for at, (cell, value) in enumerate(cells):
            rest: Node = cells[at + 1][0] if at + 1 < len(cells) else RDF_NIL
            self.made += (Triple(cell, RDF_FIRST, value), Triple(cell, RDF_REST, rest))
        return cells[0][0]


def _json_path(path: Path) -> dict[str, Any]:
    if path.predicate is not None:
        return {"@id": path.predicate.value}
    parts = [_json_path(part) for part in path.parts]
    if path.form == "sequence":
        return {"@list": parts}
    if path.form == "alternative":
        return {"sh:alternativePath": {"@list": parts}}
    return {f"sh:{_PATHS[path.form]}": parts[0]}
