"""Access rules as a graph of facts (docs/abac.md): who has which role, and what a role can do.

    :User123 :hasRole :FinanceManager .  :FinanceManager :canApprove :Invoice .

hasRole∘canACTION is closed here, ahead of time, so that the guard asks who the caller is and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rdflib import URIRef

from knhk.model.arrows import Source
from knhk.model.faults import Fault, Refused
from knhk_gen.abac_guard import HAS_ROLE, AbacGuard, TargetOf, any_string, has_role, is_caller, label, namesakes
from knhk_gen.exprs import TRUE, Expr, conj, disj, negate
from knhk_gen.names import ABAC, ATTR, RDFS, SH, TYPE, local
from knhk_gen.turtle import Term, TripleStore, show

_CAN = re.compile(r"can([A-Z]\w*)", re.ASCII)
_KINDS: Final = (ABAC + "Role", ABAC + "Subject")
APPROVE: Final = "approve"


@dataclass
class _Facts:
    """One source, read: grants are (holder, action, class)."""

    store: TripleStore
    faults: list[Fault] = field(default_factory=list)
    held: dict[Term, list[Term]] = field(default_factory=dict)
    above: dict[Term, list[Term]] = field(default_factory=dict)
    grants: list[tuple[Term, str, Term]] = field(default_factory=list)
    required: dict[Term, list[Term]] = field(default_factory=dict)
    declared: dict[Term, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for s, p, o in self.store.triples:
            if not str(p).startswith((SH, RDFS)):
                self._fact(s, p, o)
        for holder, _, _ in self.grants:
            self._known(holder)
        for one, other in namesakes(self.subjects()):
            must = f"must not share its last part with {show(one)}: attribute sub could not tell them apart"
            self.faults.append(Fault(self.store.where(other), show(other), must))

    def _fact(self, s: Term, p: URIRef, o: Term) -> None:
        name = local(str(p))
        if not isinstance(s, URIRef) or not isinstance(o, URIRef):
            self._fault(s, p, o, "must be an IRI on both sides")
        elif str(p) == TYPE and str(o) in _KINDS:
            self.declared[s] = str(o)
        elif name == "hasRole":
            self.held.setdefault(s, []).append(o)
        elif name == "inherits":
            self.above.setdefault(s, []).append(o)
        elif name == "requiresApproval":
            self.required.setdefault(s, []).append(o)
        elif match := _CAN.fullmatch(name):
            self.grants.append((s, match[1][0].lower() + match[1][1:], o))
        else:
            must = "must be hasRole, inherits, canACTION or requiresApproval, or the source must have an abac:Policy"
            self._fault(s, p, o, must)

    def _fault(self, s: Term, p: URIRef, o: Term, must: str) -> None:
        self.faults.append(Fault(self.store.where(s, str(p), o), f"{self.store.curie(str(p))} {show(o)}", must))

    def _known(self, holder: Term) -> None:
        if not self.is_role(holder) and not self.is_subject(holder):
            must = "must be a role (some subject has it, or it is an abac:Role) or a subject (it has a role, or is an abac:Subject)"
            self.faults.append(Fault(self.store.where(holder), show(holder), must))

    def is_role(self, node: Term) -> bool:
        """Roles are had, inherited, inherit, or are declared."""
        had = any(node in roles for roles in (*self.held.values(), *self.above.values(), *self.required.values()))
        return had or node in self.above or self.declared.get(node) == ABAC + "Role"

    def is_subject(self, node: Term) -> bool:
        return not self.is_role(node) and (node in self.held or self.declared.get(node) == ABAC + "Subject")

    def subjects(self) -> list[Term]:
        return [s for s in dict.fromkeys((*self.held, *self.declared)) if self.is_subject(s)]

    def closure(self, roles: Sequence[Term]) -> set[Term]:
        """These roles and all that they inherit."""
        found: set[Term] = set()
        todo = list(roles)
        while todo:
            role = todo.pop()
            if role not in found:
                found.add(role)
                todo += self.above.get(role, [])
        return found

    def holds(self, holder: Term) -> Expr:
        """The caller is `holder`, or has it as a role: by these facts, or by the data bundle and then these facts."""
        if not self.is_role(holder):
            return is_caller([holder])
        below = [role for role in dict.fromkeys((holder, *self.above)) if holder in self.closure([role])]
        named = [s for s, roles in self.held.items() if holder in self.closure(roles)]
        return disj([has_role(below), *([is_caller(named)] if named else [])])


def lower_graph(source: Source, store: TripleStore, target_of: TargetOf) -> tuple[list[AbacGuard], set[str]]:
    """Guards of a graph of facts: default deny for each action that something can do, and for approval by the required role."""
    facts = _Facts(store)
    actions = dict.fromkeys([action for _, action, _ in facts.grants] + [APPROVE] * bool(facts.required))
    if not facts.grants and not facts.faults:
        must = "must have an abac:Policy, or a canACTION fact"
        facts.faults.append(Fault(f"{source.path}:{source.first_line}", source.name, must))
    if facts.faults:
        raise Refused(facts.faults)

    def present(cls: Term) -> Expr:
        target = target_of({"kind": "class", "classes": [str(cls)]})
        return {"op": "forall", "target": target, "min": 1, "arg": TRUE}

    guards = []
    for action in actions:
        allowed = [conj([facts.holds(holder), present(cls)]) for holder, a, cls in facts.grants if a == action]
        expr = disj([negate(any_string(ATTR + "action", [action])), *allowed])
        place = next((store.where(h, None, c) for h, a, c in facts.grants if a == action), f"{source.path}:{source.first_line}")
        text = f"no permission allows this caller to {action} this"
        guards.append(AbacGuard(f"{action}.permission", "", ABAC + "Permission", text, "Violation", place, expr))
    for cls, roles in facts.required.items():
        approving = conj([any_string(ATTR + "action", [APPROVE]), present(cls)])
        expr = disj([negate(approving), *(facts.holds(role) for role in roles)])
        names = ", ".join(sorted(label(role) for role in roles))
        text = f"{label(cls)} requires approval by {names}"
        place = store.where(cls, None, roles[0])
        guards.append(AbacGuard(f"{label(cls)}.requiresApproval", str(cls), ABAC + "Requirement", text, "Violation", place, expr))
    return guards, {HAS_ROLE}
