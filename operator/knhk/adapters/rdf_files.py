"""RDF files: read by their extension, relative IRIs against the file's own URI, given on as canonical N-Triples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pyoxigraph import BlankNode, Literal, NamedNode, Quad, RdfFormat, Triple, parse

from knhk.model.faults import Fault, Refused
from knhk.model.rdf import TURTLE, RdfFile

FORMATS: Mapping[str, RdfFormat] = {
    TURTLE: RdfFormat.TURTLE,
    ".nt": RdfFormat.N_TRIPLES,
    ".nq": RdfFormat.N_QUADS,
    ".trig": RdfFormat.TRIG,
    ".rdf": RdfFormat.RDF_XML,
    ".owl": RdfFormat.RDF_XML,
    ".xml": RdfFormat.RDF_XML,
    ".jsonld": RdfFormat.JSON_LD,
}
SUBCLASS_OF = NamedNode("http://www.w3.org/2000/01/rdf-schema#subClassOf")


def read(path: Path, prefix: str) -> RdfFile:
    """Reads a file; graphs of a dataset count together. Raises Refused when the syntax is unknown or broken, OSError."""
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise Refused([Fault(str(path), path.suffix or "no extension", f"must be RDF in a file named {', '.join(FORMATS)}")])
    data = path.read_bytes()
    uri = path.resolve().as_uri()
    try:
        text = data.decode().removeprefix("\ufeff")
        quads = list(parse(text.encode(), format=form, base_iri=uri))
    except UnicodeDecodeError as error:
        raise Refused([Fault(str(path), f"byte {error.start}", "must be UTF-8")]) from error
    except SyntaxError as error:
        where = f"{path}:{error.lineno}" if error.lineno else str(path)
        raise Refused([Fault(where, str(error.msg), f"must be well-formed {form.name}")]) from error
    return _named(path, text, uri, quads, prefix)


def _named(path: Path, text: str, uri: str, quads: Iterable[Quad], prefix: str) -> RdfFile:
    names: dict[str, BlankNode] = {}
    lines: dict[str, bool] = {}

    def named(term: NamedNode | BlankNode | Literal | Triple) -> NamedNode | BlankNode | Literal:
        if isinstance(term, Triple):
            raise Refused([Fault(str(path), str(term), "must be RDF 1.1: triple terms are not judged")])
        if not isinstance(term, BlankNode):
            return term
        return names.setdefault(term.value, BlankNode(f"{prefix}{len(names)}"))

    for quad in quads:
        line = f"{named(quad.subject)} {quad.predicate} {named(quad.object)} .\n"
        lines[line] = quad.predicate == SUBCLASS_OF
    return RdfFile(path, text, uri, tuple(sorted(lines)), tuple(sorted(line for line, sub in lines.items() if sub)))
