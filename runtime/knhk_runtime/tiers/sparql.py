"""SPARQL with pre-bound variables (SHACL, Appendix A), over pyoxigraph.

Pre-binding joins the solution {variable: term} with every pattern of the query. Here each group of the text begins with a VALUES block of
one row, which is that join, nested groups and FILTERs included. Blank nodes have no name in SPARQL text: the store holds them as IRIs
`urn:knhk:bnode:LABEL`, and isBlank and isIRI are answered accordingly. `=`, `!=`, `<`, `>`, `<=`, `>=`, IN and NOT IN are functions of ours
(relations.py), for Oxigraph extends them. Oxigraph holds numbers and dates by value ("01" reads as "1"):
solutions are given back in the spelling of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache

from pyoxigraph import BlankNode, Literal, NamedNode, QueryBoolean, QuerySolutions, QueryTriples, Triple

from knhk_runtime.tiers.errors import ShapeError, Undecided
from knhk_runtime.tiers.graph import SKOLEM, Graph, Term, as_iri, from_iri
from knhk_runtime.tiers.names import XSD
from knhk_runtime.tiers.relations import FUNCTIONS, by_functions
from knhk_runtime.tiers.sparql_text import Token, tokens

THIS, VALUE, PATH = "this", "value", "PATH"
SHAPES_GRAPH, CURRENT_SHAPE = "shapesGraph", "currentShape"
OPTIONAL = frozenset({SHAPES_GRAPH, CURRENT_SHAPE})
"""Pre-bound variables that a subquery need not return (section 5.3.1)."""
REMOTE = frozenset({"service", "load", "insert", "delete"})
_BLOCKS = frozenset({"values", "construct"})  # what follows in braces is no group
UNSUPPORTED = REMOTE | {"minus", "values"}
"""What a query with pre-bound variables must not contain."""

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
    **FUNCTIONS,
}


# ---- checks, when shapes and rules are loaded ----


def check_rule(where: str, text: str) -> None:
    """Raises ShapeError for an ASK or CONSTRUCT rule with a remote clause, or that does not parse."""
    _refuse_words(where, text, "the query", REMOTE)
    _parses(where, text, "the query", (THIS,))


def check_prebound(where: str, text: str, what: str, variables: Collection[str]) -> None:
    """Raises ShapeError for a query that pre-binding does not allow, with these potentially pre-bound variables, or that does not parse."""
    _refuse_words(where, text, what, UNSUPPORTED)
    bare = [token for token in tokens(text) if not token.blank]
    for at, token in enumerate(bare):
        if token.word == "as" and bare[at + 1].var in variables:
            raise ShapeError(where, f"AS ?{bare[at + 1].var} is not allowed in {what}: the variable is pre-bound")
    wanted = set(variables) - OPTIONAL
    for returned in _subqueries(bare):
        if returned is not None and not wanted <= returned:
            missing = ", ".join(f"${name}" for name in sorted(wanted - returned))
            raise ShapeError(where, f"a subquery of {what} must return {missing}")
    _parses(where, text, what, variables)


def _refuse_words(where: str, text: str, what: str, words: Collection[str]) -> None:
    found = next((token.word for token in tokens(text) if token.word in words), None)
    if found is not None:
        raise ShapeError(where, f"{found.upper()} is not allowed in {what}")


def _subqueries(bare: list[Token]) -> Iterator[set[str] | None]:
    """What each SELECT behind the first brace returns: its variables, None for *."""
    inside = False
    for at, token in enumerate(bare):
        inside = inside or token.mark == "{"
        if not (inside and token.word == "select"):
            continue
        returned: set[str] = set()
        depth = 0
        for told in bare[at + 1 :]:
            if told.mark == "{" or told.word == "where":
                break
            depth += {"(": 1, ")": -1}.get(told.mark, 0)
            if depth == 0 and told.mark == "*":
                yield None
                break
            if depth == 0 and told.var:
                returned.add(told.var)
        else:
            continue
        if not (told.mark == "*" and depth == 0):
            yield returned


def _parses(where: str, text: str, what: str, variables: Collection[str]) -> None:
    try:
        run_query(Graph(), text, dict.fromkeys(variables, NamedNode("urn:knhk:any")))
    except (SyntaxError, ValueError, RuntimeError) as error:
        raise ShapeError(where, f"{what} does not parse: {error}") from error


# ---- evaluation ----


def with_path(text: str, path: str) -> str:
    """The query with $PATH as this property path."""
    return "".join(path if token.var == PATH else token.text for token in tokens(text))


def mentions(text: str, variable: str) -> bool:
    """Whether the query uses the variable."""
    return any(token.var == variable for token in tokens(text))


@lru_cache(maxsize=1024)
def _by_the_standard(text: str) -> tuple[Token, ...]:
    """The query's tokens, relational operators as the functions that decide them."""
    return tuple(by_functions(tokens(text)))


def prebind(text: str, bound: Mapping[str, Term]) -> str:
    """The query with the variables of `bound` joined into every group."""
    found = _by_the_standard(text)
    used = [name for name in bound if any(token.var == name for token in found)]
    names, terms = " ".join(f"?{name}" for name in used), " ".join(str(as_iri(bound[name])) for name in used)
    row = f" VALUES ({names}) {{ ({terms}) }} " if used else ""
    out: list[str] = []
    data = False  # between VALUES or CONSTRUCT and the end of its block
    for at, token in enumerate(found):
        out.append(_FUNCTIONS.get(token.word, token.text))
        data = token.word in _BLOCKS or (data and token.mark != "}")
        if token.mark == "{" and not data and _next_word(found, at) != "select":
            out.append(row)
    return "".join(out)


def _next_word(found: Sequence[Token], at: int) -> str:
    return next((token.word for token in found[at + 1 :] if not token.blank), "")


def run_query(graph: Graph, text: str, bound: Mapping[str, Term]) -> QueryBoolean | QuerySolutions | QueryTriples:
    """The result of a query. Raises SyntaxError (pyoxigraph) and ValueError."""
    return graph.store().query(prebind(text, bound), custom_functions=_CUSTOM)


def ask(graph: Graph, text: str, bound: Mapping[str, Term]) -> bool:
    """ASK with these variables pre-bound."""
    result = run_query(graph, text, bound)
    if not isinstance(result, QueryBoolean):
        raise Undecided("a rule's query must be ASK")
    return bool(result)


def construct(graph: Graph, text: str, this: Term) -> Iterator[tuple[Term, NamedNode, Term]]:
    """Triples of a CONSTRUCT with $this bound, blank nodes restored."""
    result = run_query(graph, text, {THIS: this})
    if not isinstance(result, QueryTriples):
        raise Undecided("a rule that makes triples must be CONSTRUCT")
    for triple in result:
        if isinstance(triple.subject, Triple) or isinstance(triple.object, Triple):
            raise Undecided("triple terms are not part of RDF 1.1")
        yield from_iri(triple.subject), triple.predicate, from_iri(triple.object)


def select(graph: Graph, text: str, bound: Mapping[str, Term]) -> Iterator[dict[str, Term]]:
    """Solutions of a SELECT as {name: term}, blank nodes and spellings restored, pre-bound variables included."""
    result = run_query(graph, text, bound)
    if not isinstance(result, QuerySolutions):
        raise Undecided("sh:select must be a SELECT query")
    names = [variable.value for variable in result.variables]
    for solution in result:
        row = {name: graph.spelled(from_iri(solution[name])) for name in names if solution[name] is not None}
        yield {**row, **bound}
