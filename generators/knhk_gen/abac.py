"""Attribute-based access rules (docs/abac.md) to guards: one for each policy, one for each
prohibition. A scoped action is denied unless a permission holds; a prohibition overrides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rdflib import BNode, Literal, URIRef

from knhk.model.arrows import Source
from knhk.model.faults import Fault, Refused
from knhk_gen.exprs import Expr, conj, disj, is_in, negate, some
from knhk_gen.names import ABAC, ATTR, CALLER, KNHK, RDFS, SH, TYPE, local
from knhk_gen.shapes import SEVERITIES, Check, _iri, _severity, _string, _text
from knhk_gen.terms import iri_term, plan_term, string_term
from knhk_gen.turtle import Term, TripleStore, parse, show

HAS_ROLE: Final = ABAC + "hasRole"
RELATIONS: Final = {"atMost": "le", "atLeast": "ge", "equalTo": "eq"}

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
    why: str
    expr: Expr


def _resource(_: TripleStore, v: Term) -> str:
    return "must be an IRI or a blank node" if isinstance(v, Literal) else ""


_KINDS: Final = ("Policy", "Permission", "Prohibition")
_TERMS: Final[Mapping[str, tuple[tuple[str, ...], Check, bool]]] = {
    "scope": (("Policy",), _string, False),
    "rule": (("Policy",), _resource, False),
    "action": (("Permission", "Prohibition"), _string, False),
    "resource": (("Permission", "Prohibition"), _iri, True),
    "role": (("Permission", "Prohibition"), _iri, False),
    "region": (("Permission", "Prohibition"), _string, False),
    "attribute": (("Permission", "Prohibition"), _resource, False),
    "limit": (("Permission",), _resource, False),
    "name": (("",), _string, True),
    "value": (("",), _string, False),
    "path": (("",), _iri, True),
    "atMost": (("",), _iri, True),
    "atLeast": (("",), _iri, True),
    "equalTo": (("",), _iri, True),
}


class _Rules:
    """One abac source, checked."""

    def __init__(self, source: Source) -> None:
        self.store = parse(source.text, source.path, source.first_line)
        self.faults: list[Fault] = []
        self.kinds: dict[Term, str] = {}
        for s, p, o in self.store.triples:
            if str(p) == TYPE and str(o).startswith(ABAC):
                self._kind(s, str(o).removeprefix(ABAC), o)
        for s, p, o in self.store.triples:
            self._term(s, str(p), o)
        self._policies()
        if not self._of("Policy"):
            must = "must have an abac:Policy"
            self.faults.append(Fault(f"{source.path}:{source.first_line}", source.name, must))
        if self.faults:
            raise Refused(self.faults)

    def _kind(self, s: Term, kind: str, o: Term) -> None:
        if kind not in _KINDS:
            self._fault(s, TYPE, o, f"must be abac:{', abac:'.join(_KINDS)}")
        self.kinds[s] = kind

    def _fault(self, s: Term, p: str, o: Term | None, must: str) -> None:
        value = self.store.curie(p) + (f" {show(o)}" if o is not None else "")
        self.faults.append(Fault(self.store.where(s, p, o), value, must))

    def _term(self, s: Term, p: str, o: Term) -> None:
        kind = self.kinds.get(s, "")
        if (p == SH + "message" and (must := _text(self.store, o))) or (p == SH + "severity" and (must := _severity(self.store, o))):
            self._fault(s, p, o, must)
        elif p.startswith(SH) and p not in (SH + "message", SH + "severity"):
            self._fault(s, p, o, "must be sh:message or sh:severity here")
        if not p.startswith(ABAC):
            if kind and not p.startswith((SH, RDFS)) and p != TYPE:
                self._fault(s, p, o, "must be a term of the abac vocabulary")
            return
        kinds, check, single = _TERMS.get(p.removeprefix(ABAC), ((), _resource, False))
        if not kinds:
            self._fault(s, p, o, "must be a term of the abac vocabulary for rules")
        elif kind not in kinds:
            must = f"must stand in {' or '.join('abac:' + k for k in kinds if k) or 'a blank node'}"
            self._fault(s, p, o, must)
        elif must := check(self.store, o):
            self._fault(s, p, o, must)
        elif single and self.store.values(s, p)[0] != o:
            self._fault(s, p, o, "must be given once")

    def _of(self, kind: str) -> list[Term]:
        return [s for s, k in self.kinds.items() if k == kind]

    def values(self, s: Term, name: str) -> list[Term]:
        return self.store.values(s, ABAC + name)

    def _policies(self) -> None:
        linked: set[Term] = set()
        for policy in self._of("Policy"):
            scope = {str(v) for v in self.values(policy, "scope")}
            if not scope:
                self._fault(policy, TYPE, None, "must have an abac:scope (the actions it rules)")
            for rule in self.values(policy, "rule"):
                linked.add(rule)
                if self.kinds.get(rule) not in ("Permission", "Prohibition"):
                    must = "must be an abac:Permission or abac:Prohibition"
                    self._fault(policy, ABAC + "rule", rule, must)
                for action in self.values(rule, "action"):
                    if str(action) not in scope:
                        must = "must be an action in the abac:scope of its policy"
                        self._fault(rule, ABAC + "action", action, must)
        for rule in (*self._of("Permission"), *self._of("Prohibition")):
            self._rule(rule, rule in linked)

    def _rule(self, rule: Term, linked: bool) -> None:
        if not linked:
            self._fault(rule, TYPE, None, "must be an abac:rule of an abac:Policy")
        if not self.values(rule, "action"):
            self._fault(rule, TYPE, None, "must have an abac:action")
        for node in self.values(rule, "attribute"):
            for name in ("name", "value"):
                if not self.values(node, name):
                    self._fault(rule, ABAC + "attribute", node, f"must have an abac:{name}")
        for node in self.values(rule, "limit"):
            relations = [r for r in RELATIONS for _ in self.values(node, r)]
            if not self.values(node, "path") or len(relations) != 1:
                must = "must have abac:path and one of abac:atMost, abac:atLeast, abac:equalTo"
                self._fault(rule, ABAC + "limit", node, must)
            if not self.values(rule, "resource"):
                self._fault(rule, ABAC + "limit", node, "must come with an abac:resource")


def _any_string(p: str, values: list[Term]) -> Expr:
    return some(p, is_in([string_term(str(v)) for v in values]))


def _limit(rules: _Rules, node: Term) -> Expr:
    relation = next(r for r in RELATIONS if rules.values(node, r))
    return {
        "op": "within",
        "p": str(rules.values(node, "path")[0]),
        "rel": RELATIONS[relation],
        "focus": iri_term(CALLER),
        "q": str(rules.values(node, relation)[0]),
    }


def _match(rules: _Rules, rule: Term, target_of: TargetOf) -> Expr:
    """All conditions of a rule, over the request node."""
    found = [_any_string(ATTR + "action", rules.values(rule, "action"))]
    if roles := rules.values(rule, "role"):
        has = some(HAS_ROLE, is_in([plan_term(r) for r in roles]))
        found.append({"op": "on", "focus": iri_term(CALLER), "arg": has})
    if regions := rules.values(rule, "region"):
        found.append(_any_string(KNHK + "region", regions))
    for node in rules.values(rule, "attribute"):
        name = str(rules.values(node, "name")[0])
        found.append(_any_string(ATTR + name, rules.values(node, "value")))
    for cls in rules.values(rule, "resource"):
        limits = [_limit(rules, node) for node in rules.values(rule, "limit")]
        target = target_of({"kind": "class", "classes": [str(cls)]})
        found.append({"op": "forall", "target": target, "min": 1, "arg": conj(limits)})
    return conj(found)


def _said(rules: _Rules, node: Term, standard: str) -> tuple[str, str]:
    texts = sorted(str(v) for v in rules.store.values(node, SH + "message"))
    severity = [SEVERITIES[str(v)] for v in rules.store.values(node, SH + "severity")]
    return (texts[0] if texts else standard), (severity[0] if severity else "Violation")


def _node(term: Term) -> str:
    return f"_:{term}" if isinstance(term, BNode) else str(term)


def _label(term: Term) -> str:
    return local(str(term)) if isinstance(term, URIRef) else str(term)


def lower_abac(source: Source, target_of: TargetOf) -> tuple[list[AbacGuard], set[str]]:
    """Guards of one abac source, and what they read of the caller. Raises Refused."""
    rules = _Rules(source)
    guards: list[AbacGuard] = []
    for policy in rules._of("Policy"):
        scope = rules.values(policy, "scope")
        out_of_scope = negate(_any_string(ATTR + "action", scope))
        members = rules.values(policy, "rule")
        allowed = [_match(rules, r, target_of) for r in members if rules.kinds[r] == "Permission"]
        actions = ", ".join(sorted(str(v) for v in scope))
        text, severity = _said(rules, policy, f"no permission allows this caller to {actions} this")
        why = "abac: R1, attributes and bundle values of the request, known subjects"
        where = rules.store.where(policy, TYPE)
        guards.append(
            AbacGuard(
                f"{_label(policy)}.permission", _node(policy), ABAC + "Permission", text, severity,
                where, why, disj([out_of_scope, disj(allowed)]),
            )
        )  # fmt: skip
        for rule in members:
            if rules.kinds[rule] == "Prohibition":
                text, severity = _said(rules, rule, f"{_label(rule)} prohibits this")
                guards.append(
                    AbacGuard(
                        f"{_label(rule)}.prohibition", _node(rule), ABAC + "Prohibition", text,
                        severity, rules.store.where(rule, TYPE), why,
                        negate(_match(rules, rule, target_of)),
                    )
                )  # fmt: skip
    reads = {HAS_ROLE} | {str(v) for node in rules.store.by_subject for r in RELATIONS for v in rules.values(node, r)}
    return guards, reads
