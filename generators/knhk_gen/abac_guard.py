"""What both forms of access rules share: the guard that they make, and expressions over caller and request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rdflib import BNode, Literal, URIRef

from knhk_gen.exprs import Expr, disj, is_in, some
from knhk_gen.names import ABAC, ATTR, CALLER, local
from knhk_gen.terms import iri_term, plan_term, string_term
from knhk_gen.turtle import Term

HAS_ROLE: Final = ABAC + "hasRole"
WHY: Final = "abac: R1, attributes and bundle values of the request, known subjects"

TargetOf = Callable[[dict[str, Any]], int]


@dataclass(frozen=True)
class AbacGuard:
    """A guard before it gets its id."""

    name: str
    node: str
    component: str
    message: str
    severity: str
    where: str
    expr: Expr


def node_text(term: Term) -> str:
    """A node as the plan spells it."""
    return f"_:{term}" if isinstance(term, BNode) else str(term)


def label(term: Term) -> str:
    """A short readable name of a node."""
    return local(str(term)) if isinstance(term, URIRef) else str(term)


def any_string(p: str, texts: Sequence[Term | str]) -> Expr:
    """The request has one of these strings as p."""
    return some(p, is_in([string_term(str(text)) for text in texts]))


def has_role(roles: Sequence[Term]) -> Expr:
    """The data bundle gives the caller one of these roles."""
    held = some(HAS_ROLE, is_in([plan_term(role) for role in roles if not isinstance(role, Literal)]))
    return {"op": "on", "focus": iri_term(CALLER), "arg": held}


def is_caller(subjects: Sequence[Term]) -> Expr:
    """The caller is one of these: their IRI by the bundle's caller template, or attribute `sub` is the IRI or its local name."""
    by_template = some(CALLER, is_in([plan_term(s) for s in subjects]))
    names = sorted({name for s in subjects for name in (str(s), local(str(s)))})
    return disj([by_template, any_string(ATTR + "sub", names)])


def namesakes(subjects: Sequence[Term]) -> list[tuple[Term, Term]]:
    """Pairs of subjects that one value of `sub` would name."""
    first: dict[str, Term] = {}
    found = []
    for subject in dict.fromkeys(subjects):
        other = first.setdefault(local(str(subject)), subject)
        if other != subject:
            found.append((other, subject))
    return found
