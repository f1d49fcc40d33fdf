"""Turtle with positions: every triple knows the line on which its predicate stands.

The text is read by rdflib, whose parser is subclassed to note positions, and by pyoxigraph, which
is strict where rdflib is lenient. Blank nodes are named b0, b1, … in the order of the text.
"""

from __future__ import annotations

import logging
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pyoxigraph
from rdflib import BNode, Graph, Literal, URIRef
from rdflib.plugins.parsers.notation3 import BadSyntax, RDFSink, SinkParser

from knhk.model.faults import Fault, Refused
from knhk_gen.names import RDF

BASE = "https://knhk.dev/pack/"
"""What relative IRIs in sources are resolved against."""

MAX_SOURCE_CHARS = 4 * 1024 * 1024
MAX_NESTING = 64

Term = URIRef | BNode | Literal
Subject = URIRef | BNode
Triple = tuple[Subject, URIRef, Term]

FIRST, REST, NIL = URIRef(RDF + "first"), URIRef(RDF + "rest"), URIRef(RDF + "nil")


@dataclass(frozen=True)
class Text:
    """A source text; faults name its lines `path:line`, the first one `first_line`."""

    text: str
    path: str
    first_line: int = 1
    starts: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        starts = [0]
        for i, ch in enumerate(self.text):
            if ch == "\n":
                starts.append(i + 1)
        object.__setattr__(self, "starts", tuple(starts))

    def where(self, position: int) -> str:
        """`path:line` of the character at `position`."""
        return self.at(bisect_right(self.starts, position))

    def at(self, line: int) -> str:
        """`path:line` of the `line`-th line of the text (from 1)."""
        return f"{self.path}:{self.first_line + line - 1}"


@dataclass
class TripleStore:
    """Triples in the order of the text, indexed by subject, with the place of each."""

    triples: dict[Triple, str] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)
    by_subject: dict[Subject, dict[str, list[Term]]] = field(default_factory=dict)
    blank_count: int = 0

    def add(self, triple: Triple, where: str) -> None:
        """Adds a triple; the first place of a repeated triple counts."""
        if triple in self.triples:
            return
        self.triples[triple] = where
        subject, predicate, value = triple
        self.by_subject.setdefault(subject, {}).setdefault(str(predicate), []).append(value)

    def values(self, subject: Term, predicate: str) -> list[Term]:
        """Objects of (subject, predicate) in the order of the text."""
        if isinstance(subject, Literal):
            return []
        return self.by_subject.get(subject, {}).get(predicate, [])

    def where(self, subject: Term, predicate: str | None = None, value: Term | None = None) -> str:
        """Place of the first triple that matches; that of the subject when none does."""
        found = ""
        if isinstance(subject, Literal):
            return "?"
        for p, values in self.by_subject.get(subject, {}).items():
            for o in values:
                place = self.triples[(subject, URIRef(p), o)]
                if (predicate in (None, p)) and (value is None or value == o):
                    return place
                found = found or place
        return found or "?"

    def subjects(self, predicate: str, value: Term | None = None) -> Iterator[Subject]:
        """Distinct subjects of triples (?, predicate, value) in the order of the text."""
        seen: set[Subject] = set()
        for s, p, o in self.triples:
            if str(p) == predicate and (value is None or o == value) and s not in seen:
                seen.add(s)
                yield s

    def items(self, head: Term, where: str) -> list[Term]:
        """Members of an RDF list. Raises Refused when it is not a well-formed list."""
        members: list[Term] = []
        seen: set[Term] = set()
        node = head
        while node != NIL:
            first, rest = self.values(node, str(FIRST)), self.values(node, str(REST))
            if len(first) != 1 or len(rest) != 1 or node in seen:
                raise Refused([Fault(where, show(head), "must be a well-formed list: ( … )")])
            seen.add(node)
            members.append(first[0])
            node = rest[0]
        return members

    def curie(self, iri: str) -> str:
        """`prefix:local` by the longest namespace that was declared, else `<iri>`."""
        best = ("", "")
        for prefix, namespace in self.prefixes.items():
            if iri.startswith(namespace) and len(namespace) > len(best[1]):
                best = (prefix, namespace)
        rest = iri[len(best[1]) :]
        if not best[1] or "/" in rest or "#" in rest:
            return f"<{iri}>"
        return f"{best[0]}:{rest}"


def show(term: Term) -> str:
    """A term as a person would write it, short."""
    text = term.n3() if not isinstance(term, BNode) else f"_:{term}"
    return text if len(text) <= 120 else text[:117] + "…"


class _Bindings(dict[str, str]):
    """Prefixes; an unknown one is noted, and reading goes on under a stand-in."""

    def __init__(self) -> None:
        super().__init__()
        self.unknown: list[str] = []

    def __missing__(self, prefix: str) -> str:
        if prefix == "_":
            raise KeyError(prefix)  # a labelled blank node
        self.unknown.append(prefix)
        return f"urn:knhk:unknown-prefix:{prefix}:"


class _Sink(RDFSink):
    """Receives statements; keeps lexical forms and names blank nodes by order."""

    def __init__(self, store: TripleStore, text: Text) -> None:
        super().__init__(Graph())
        self.store, self.text = store, text
        self.position = 0

    def newBlankNode(  # noqa: N802
        self, arg: Any = None, uri: str | None = None, why: Any = None
    ) -> BNode:
        label = BNode(f"b{self.store.blank_count}")
        self.store.blank_count += 1
        return label

    def newLiteral(  # noqa: N802
        self, s: str, dt: URIRef | None = None, lang: str | None = None
    ) -> Literal:
        return Literal(s, datatype=dt, lang=lang or None, normalize=False)

    def makeStatement(self, quadruple: Any, why: Any = None) -> None:  # noqa: N802
        _, p, s, o = quadruple
        subject, predicate, value = (cast(Any, self.normalise(None, x)) for x in (s, p, o))
        self.store.add((subject, predicate, value), self.text.where(self.position))


class _Parser(SinkParser):
    """rdflib's Turtle parser, telling the sink where the objects of a statement begin."""

    def __init__(self, sink: _Sink, base: str) -> None:
        super().__init__(sink, baseURI=base, turtle=True)
        self.sink = sink
        self.bindings = self._bindings = _Bindings()
        self.unknown: list[tuple[str, int]] = []
        self.depth = 0

    def objectList(self, argstr: str, i: int, res: MutableSequence[Any]) -> int:  # noqa: N802
        self.depth += 1
        if self.depth > MAX_NESTING:
            self.BadSyntax(argstr, i, f"nested deeper than {MAX_NESTING}")
        end = super().objectList(argstr, i, res)
        self.depth -= 1
        self.sink.position = i
        return end

    def uri_ref2(self, argstr: str, i: int, res: MutableSequence[Any]) -> int:
        known = len(self.bindings.unknown)
        end = super().uri_ref2(argstr, i, res)
        self.unknown += [(prefix, i) for prefix in self.bindings.unknown[known:]]
        return end


@contextmanager
def ill_formed_is_no_news() -> Iterator[None]:
    """Ill-formed literals are kept as they are; rdflib would warn and log of each."""
    log = logging.getLogger("rdflib.term")
    before, log.disabled = log.disabled, True
    warnings.simplefilter("ignore", UserWarning)
    try:
        yield
    finally:
        log.disabled = before


def _first_after(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _strict(source: Text, base: str) -> Fault | None:
    """What pyoxigraph objects to, or None."""
    try:
        for _ in pyoxigraph.parse(source.text.encode(), format=pyoxigraph.RdfFormat.TURTLE, base_iri=base):
            pass
    except SyntaxError as error:
        line = error.lineno or 1
        lines = source.text.splitlines() or [""]
        value = lines[min(line, len(lines)) - 1].strip()
        reason = str(error.msg).split(" between ")[0]
        return Fault(source.at(line), value[:120], f"must be Turtle: {reason}")
    return None


def parse(
    text: str,
    path: str,
    first_line: int = 1,
    into: TripleStore | None = None,
    prefixes: Mapping[str, str] | None = None,
    base: str = BASE,
) -> TripleStore:
    """Reads Turtle into a store (a new one, or `into`). Raises Refused: unknown prefixes all at
    once, else the first syntax error, each with its line. `prefixes` are declared beforehand; relative IRIs are resolved against `base`."""
    source = Text(text.removeprefix("\ufeff"), path, first_line)
    if len(text) > MAX_SOURCE_CHARS:
        must = f"must have at most {MAX_SOURCE_CHARS} characters"
        raise Refused([Fault(source.at(1), f"{len(text)} characters", must)])
    store = TripleStore() if into is None else into
    found = TripleStore(blank_count=store.blank_count)
    parser = _Parser(_Sink(found, source), base)
    parser.bindings.update(prefixes or {})
    broken = False
    try:
        with warnings.catch_warnings(), ill_formed_is_no_news():
            parser.loadBuf(source.text)
    except (BadSyntax, IndexError, ValueError, TypeError, AttributeError, AssertionError, RecursionError):
        broken = True  # rdflib shows lack of closing marks as any of these; the strict reader says why
    faults = {
        Fault(
            source.where(_first_after(source.text, position)),
            f"{prefix}:",
            "must be a declared prefix",
        )
        for prefix, position in parser.unknown
    }
    if not faults and (fault := _strict(_declared(source, prefixes or {}), base)):
        faults.add(fault)
    if not faults and broken:
        faults.add(Fault(source.at(1), path, f"must be Turtle nested at most {MAX_NESTING} deep"))
    if faults:
        raise Refused(faults)
    store.blank_count = found.blank_count
    for prefix, namespace in parser.bindings.items():
        store.prefixes.setdefault(prefix, namespace)
    for triple, where in found.triples.items():
        store.add(triple, where)
    return store


def from_pyoxigraph(term: Any) -> Term:
    """A term of pyoxigraph, blank nodes with their labels."""
    if isinstance(term, pyoxigraph.NamedNode):
        return URIRef(term.value)
    if isinstance(term, pyoxigraph.BlankNode):
        return BNode(term.value)
    return Literal(term.value, lang=term.language or None, datatype=None if term.language else term.datatype.value, normalize=False)


def read_ntriples(text: str, where: str) -> TripleStore:
    """N-Triples as a store; blank nodes keep their labels, for they are nodes of a graph that is told elsewhere."""
    store = TripleStore()
    for quad in pyoxigraph.parse(text.encode(), format=pyoxigraph.RdfFormat.N_TRIPLES):
        store.add(cast(Triple, tuple(from_pyoxigraph(term) for term in (quad.subject, quad.predicate, quad.object))), where)
    return store


def _declared(source: Text, prefixes: Mapping[str, str]) -> Text:
    """The text with predeclared prefixes put before its first line (same line numbers)."""
    if not prefixes:
        return source
    head = " ".join(f"@prefix {prefix}: <{iri}> ." for prefix, iri in prefixes.items())
    return Text(f"{head} {source.text}", source.path, source.first_line)
