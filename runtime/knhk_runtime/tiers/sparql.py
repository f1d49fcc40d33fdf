"""SPARQL with pre-bound variables, over pyoxigraph.

SHACL's pre-binding puts a value for `$this` everywhere in the query, in nested groups and FILTERs too. pyoxigraph's own substitution binds
at the outermost group only, so the query's tokens are rewritten. Blank nodes have no name in SPARQL text: the store holds them as IRIs
`urn:knhk:bnode:LABEL`, and isBlank and isIRI are answered accordingly. Known limits: numbers and dates are held by value ("01" reads as
"1"), as in every Oxigraph store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from pyoxigraph import BlankNode, Literal, NamedNode, QueryBoolean, QuerySolutions, QueryTriples, Triple

from knhk_runtime.tiers.errors import ShapeError, Undecided
from knhk_runtime.tiers.graph import SKOLEM, Graph, Term, as_iri, from_iri
from knhk_runtime.tiers.names import XSD

_TOKEN = re.compile(
    r"""(?P<skip>\#[^\n]*|<[^<>"{}|^`\\\x00-\x20]*>|\"\"\"(?:[^"\\]|\\.|"{1,2}(?!"))*\"\"\"|'''(?:[^'\\]|\\.|'{1,2}(?!'))*'''"""
    r"""|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
    r"""|\bbound\s*\(\s*[?$](?P<bound>\w+)\s*\)|[?$](?P<var>\w+)|\b(?P<word>select|where|isblank|isiri|isuri)\b|(?P<brace>[{}])|(?P<any>[\s\S])""",
    re.IGNORECASE,
)
REMOTE = re.compile(r"\b(service|load|insert|delete)\b", re.IGNORECASE)
PREBOUND = re.compile(r"\b(service|minus|values|load|insert|delete)\b", re.IGNORECASE)
_IS_BLANK = NamedNode("urn:knhk:isBlank")
_IS_IRI = NamedNode("urn:knhk:isIri")
_FUNCTIONS = {"isblank": f"<{_IS_BLANK.value}>", "isiri": f"<{_IS_IRI.value}>", "isuri": f"<{_IS_IRI.value}>"}


def _boolean(value: bool) -> Literal:
    return Literal("true" if value else "false", datatype=NamedNode(XSD + "boolean"))


def _is_skolem(term: Term) -> bool:
    return isinstance(term, NamedNode) and term.value.startswith(SKOLEM)


_CUSTOM: dict[NamedNode, Callable[..., NamedNode | BlankNode | Literal | Triple | None]] = {
    _IS_BLANK: lambda term: _boolean(_is_skolem(term)),
    _IS_IRI: lambda term: _boolean(isinstance(term, NamedNode) and not _is_skolem(term)),
}


def check_query(where: str, text: str, what: str, forbidden: re.Pattern[str] = REMOTE) -> None:
    """Raises ShapeError for a query with a forbidden clause, or that does not parse."""
    bare = "".join(match.group() for match in _TOKEN.finditer(text) if not match["skip"])
    found = forbidden.search(bare)
    if found:
        raise ShapeError(where, f"{found[1].upper()} is not allowed in {what}")
    try:
        run_query(Graph(), text, {"this": NamedNode("urn:knhk:any")})
    except (SyntaxError, ValueError, RuntimeError) as error:
        raise ShapeError(where, f"{what} does not parse: {error}") from error


def prebind(text: str, bound: Mapping[str, Term]) -> str:
    """The query with each variable of `bound` replaced by its term; `$PATH` is replaced by the caller."""
    out: list[str] = []
    in_projection = False
    for match in _TOKEN.finditer(text):
        word = (match["word"] or "").lower()
        if match["bound"] and match["bound"] in bound:
            out.append("true")
        elif match["var"] and match["var"] in bound:
            term = str(as_iri(bound[match["var"]]))
            out.append(f"({term} AS ?{match['var']})" if in_projection else f" {term} ")
        else:
            out.append(_FUNCTIONS.get(word, match.group()))
        if word == "select":
            in_projection = True
        elif word == "where" or match["brace"]:
            in_projection = False
    return "".join(out)


def run_query(graph: Graph, text: str, bound: Mapping[str, Term]) -> QueryBoolean | QuerySolutions | QueryTriples:
    """The result of a query. Raises SyntaxError (pyoxigraph) and ValueError."""
    return graph.store().query(prebind(text, bound), custom_functions=_CUSTOM)


def ask(graph: Graph, text: str, this: Term) -> bool:
    """ASK with $this bound. A literal cannot be a subject, so a query that needs it there is false for it."""
    try:
        result = run_query(graph, text, {"this": this})
    except SyntaxError:
        if isinstance(this, Literal):
            return False
        raise
    if not isinstance(result, QueryBoolean):
        raise Undecided("a rule's query must be ASK")
    return bool(result)


def construct(graph: Graph, text: str, this: Term) -> Iterator[tuple[Term, NamedNode, Term]]:
    """Triples of a CONSTRUCT with $this bound, blank nodes restored."""
    result = run_query(graph, text, {"this": this})
    if not isinstance(result, QueryTriples):
        raise Undecided("a rule that makes triples must be CONSTRUCT")
    for triple in result:
        if isinstance(triple.subject, Triple) or isinstance(triple.object, Triple):
            raise Undecided("triple terms are not part of RDF 1.1")
        yield from_iri(triple.subject), triple.predicate, from_iri(triple.object)


def select(graph: Graph, text: str, bound: Mapping[str, Term]) -> Iterator[dict[str, Term]]:
    """Solutions of a SELECT as {name: term}, blank nodes restored, pre-bound variables included."""
    result = run_query(graph, text, bound)
    if not isinstance(result, QuerySolutions):
        raise Undecided("sh:select must be a SELECT query")
    names = [variable.value for variable in result.variables]
    for solution in result:
        row = {name: from_iri(solution[name]) for name in names if solution[name] is not None}
        yield {**bound, **row}
