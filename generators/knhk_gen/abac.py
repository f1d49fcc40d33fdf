"""Attribute-based access rules (docs/abac.md) to guards: one for each policy, one for each
prohibition. A scoped action is denied unless a permission holds; a prohibition overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

from rdflib import Literal, URIRef

from knhk.model.arrows import Source
from knhk.model.faults import Fault, Refused
from knhk_gen.abac_graph import lower_graph
from knhk_gen.abac_guard import HAS_ROLE, AbacGuard, TargetOf, any_string, has_role, is_caller, label, namesakes, node_text
from knhk_gen.exprs import FALSE, Expr, conj, count, disj, every, is_in, negate, some
from knhk_gen.names import ABAC, ATTR, CALLER, KNHK, RDFS, REQUEST, SH, TYPE
from knhk_gen.shapes import SEVERITIES, Check, _iri, _severity, _string, _text
from knhk_gen.terms import iri_term, plan_term, scaled
from knhk_gen.turtle import Term, TripleStore, parse, show

ANY_ACTION: Final = URIRef(ABAC + "any")
RELATIONS: Final = {"atMost": "le", "atLeast": "ge", "equalTo": "eq"}
WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MAX_EXCLUSIVE: Final = 16
_CLOCK = re.compile(r"([01]\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?", re.ASCII)
_ZONE = re.compile(r"Z|([+-])(0\d|1[0-4]):([0-5]\d)", re.ASCII)


def _resource(_: TripleStore, v: Term) -> str:
    return "must be an IRI or a blank node" if isinstance(v, Literal) else ""


def _action(_: TripleStore, v: Term) -> str:
    return "" if v == ANY_ACTION else _string(_, v) and "must be a string, or abac:any"


def _any_term(_: TripleStore, v: Term) -> str:
    return "must be an IRI or a literal" if not isinstance(v, (URIRef, Literal)) else ""


def _instant(_: TripleStore, v: Term) -> str:
    fine = isinstance(v, Literal) and isinstance(found := scaled(v), tuple) and found[0] == "dateTime"
    return "" if fine else "must be an xsd:dateTime with a time zone"


def _weekday(_: TripleStore, v: Term) -> str:
    return "" if str(v) in WEEKDAYS else f"must be one of {', '.join(WEEKDAYS)}"


def _clock(_: TripleStore, v: Term) -> str:
    return "" if _CLOCK.fullmatch(str(v)) and _seconds(str(v)) <= 86400 else "must be a time of day such as 09:30"


def _zone(_: TripleStore, v: Term) -> str:
    return "" if _ZONE.fullmatch(str(v)) else "must be Z or a fixed offset such as +01:00"


def _seconds(text: str) -> int:
    hour, minute, second = (int(part) for part in (text + ":00")[:8].split(":"))
    return hour * 3600 + minute * 60 + second


def _offset(text: str) -> int:
    match = _ZONE.fullmatch(text)
    if match is None or match[1] is None:
        return 0
    return (int(match[2]) * 3600 + int(match[3]) * 60) * (-1 if match[1] == "-" else 1)


_KINDS: Final = ("Policy", "Permission", "Prohibition")
_BOTH: Final = ("Permission", "Prohibition")
_TERMS: Final[Mapping[str, tuple[tuple[str, ...], Check, bool]]] = {
    "scope": (("Policy",), _action, False),
    "rule": (("Policy",), _resource, False),
    "exclusive": (("Policy",), _resource, False),
    "action": (_BOTH, _string, False),
    "resource": (_BOTH, _iri, True),
    "role": ((*_BOTH, ""), _iri, False),
    "subject": (_BOTH, _iri, False),
    "region": (_BOTH, _string, False),
    "attribute": (_BOTH, _resource, False),
    "caller": (_BOTH, _resource, False),
    "window": (_BOTH, _resource, False),
    "notBefore": (_BOTH, _instant, True),
    "notAfter": (_BOTH, _instant, True),
    "limit": (("Permission",), _resource, False),
    "separate": (("Permission",), _iri, False),
    "when": (("Prohibition",), _resource, False),
    "unless": (("Prohibition",), _resource, False),
    "name": (("",), _string, True),
    "value": (("",), _any_term, False),
    "path": (("",), _iri, True),
    "atMost": (("",), _any_term, True),
    "atLeast": (("",), _any_term, True),
    "equalTo": (("",), _any_term, True),
    "from": (("",), _clock, True),
    "until": (("",), _clock, True),
    "weekday": (("",), _weekday, False),
    "zone": (("",), _zone, True),
}
_CONDITIONS: Final = {"limit": True, "unless": True, "when": False, "caller": False}
"""Conditions on a value, and whether it may be compared with a property of the caller."""


class _Rules:
    """One abac source, checked."""

    def __init__(self, source: Source, store: TripleStore) -> None:
        self.store = store
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
            scope = self.values(policy, "scope")
            if not scope:
                self._fault(policy, TYPE, None, "must have an abac:scope (the actions it rules)")
            for rule in self.values(policy, "rule"):
                linked.add(rule)
                if self.kinds.get(rule) not in ("Permission", "Prohibition"):
                    must = "must be an abac:Permission or abac:Prohibition"
                    self._fault(policy, ABAC + "rule", rule, must)
                for action in self.values(rule, "action"):
                    if ANY_ACTION not in scope and str(action) not in {str(v) for v in scope}:
                        must = "must be an action in the abac:scope of its policy"
                        self._fault(rule, ABAC + "action", action, must)
            for node in self.values(policy, "exclusive"):
                if not 2 <= len(self.values(node, "role")) <= MAX_EXCLUSIVE:
                    must = f"must have 2 to {MAX_EXCLUSIVE} values of abac:role"
                    self._fault(policy, ABAC + "exclusive", node, must)
        for rule in (*self._of("Permission"), *self._of("Prohibition")):
            self._rule(rule, rule in linked)
        for one, other in namesakes([s for rule in self.kinds for s in self.values(rule, "subject")]):
            must = f"must not share its last part with {show(one)}: attribute sub could not tell them apart"
            self.faults.append(Fault(self.store.where(next(self.store.subjects(ABAC + "subject", other))), show(other), must))

    def _rule(self, rule: Term, linked: bool) -> None:
        if not linked:
            self._fault(rule, TYPE, None, "must be an abac:rule of an abac:Policy")
        if not self.values(rule, "action"):
            self._fault(rule, TYPE, None, "must have an abac:action")
        for node in self.values(rule, "attribute"):
            for name in ("name", "value"):
                if not self.values(node, name):
                    self._fault(rule, ABAC + "attribute", node, f"must have an abac:{name}")
            for value in self.values(node, "value"):
                if must := _string(self.store, value):
                    self._fault(node, ABAC + "value", value, must)
        for name, compares in _CONDITIONS.items():
            for node in self.values(rule, name):
                self._condition(rule, name, node, compares)
        for name in ("limit", "separate", "when", "unless"):
            if self.values(rule, name) and not self.values(rule, "resource"):
                self._fault(rule, ABAC + name, self.values(rule, name)[0], "must come with an abac:resource")
        for node in self.values(rule, "window"):
            self._window(rule, node)

    def _condition(self, rule: Term, name: str, node: Term, compares: bool) -> None:
        relations = [r for r in (*RELATIONS, "value") if self.values(node, r)]
        if not self.values(node, "path") or len(relations) != 1:
            must = "must have abac:path and one of abac:atMost, abac:atLeast, abac:equalTo, abac:value"
            self._fault(rule, ABAC + name, node, must)
            return
        for bound in self.values(node, relations[0]):
            if isinstance(bound, Literal) and relations[0] != "value" and isinstance(scaled(bound), str):
                self._fault(
                    node,
                    ABAC + relations[0],
                    bound,
                    "must be an IRI of the caller, an exact number, a date or a dateTime with zone"
                    if compares
                    else "must be an exact number, a date or a dateTime with zone",
                )
            if isinstance(bound, URIRef) and relations[0] != "value" and not compares:
                self._fault(node, ABAC + relations[0], bound, "must be a literal here")

    def _window(self, rule: Term, node: Term) -> None:
        start, end = (self.values(node, name) for name in ("from", "until"))
        if bool(start) != bool(end):
            self._fault(rule, ABAC + "window", node, "must have abac:from and abac:until together")
        elif not start and not self.values(node, "weekday"):
            self._fault(rule, ABAC + "window", node, "must have abac:from and abac:until, or abac:weekday, or all")
        elif start and not any(_clock(self.store, v) for v in (start[0], end[0])) and _seconds(str(start[0])) >= _seconds(str(end[0])):
            must = "must be later than abac:from; a window over midnight is written as two"
            self._fault(node, ABAC + "until", end[0], must)


def _constant_test(rules: _Rules, node: Term, relation: str) -> Expr:
    """V: the term stands in that relation to the constants of the node."""
    bounds = rules.values(node, relation)
    if relation == "value" and not any(isinstance(b, Literal) and isinstance(scaled(b), tuple) for b in bounds):
        return is_in([plan_term(b) for b in bounds])
    if relation in ("value", "equalTo"):
        return disj([{"t": "value", "op": "eq", "term": plan_term(b)} for b in bounds], "t")
    (bound,) = bounds
    found = scaled(bound) if isinstance(bound, Literal) else ""
    assert isinstance(found, tuple), "checked when the rules were read"
    low, high = (None, found[1]) if relation == "atMost" else (found[1], None)
    return {"t": "range", "family": found[0], "min": low, "max": high}


def _condition(rules: _Rules, node: Term, certain: bool) -> Expr:
    """E over the node that has the value. `certain`: there is a value and each passes; else some value passes."""
    relation = next(r for r in (*RELATIONS, "value") if rules.values(node, r))
    p = str(rules.values(node, "path")[0])
    bound = rules.values(node, relation)[0]
    if relation != "value" and isinstance(bound, URIRef):
        return {"op": "within", "p": p, "rel": RELATIONS[relation], "focus": iri_term(CALLER), "q": str(bound)}
    test = _constant_test(rules, node, relation)
    return conj([count(p, 1, None), every(p, test)]) if certain else some(p, test)


def _separate(p: str) -> Expr:
    """The resource says who did p, and it was not the caller, neither by `sub` nor by IRI."""
    by_sub: Expr = {"op": "within", "p": p, "rel": "ne", "focus": iri_term(REQUEST), "q": ATTR + "sub"}
    by_iri: Expr = {"op": "within", "p": p, "rel": "ne", "focus": iri_term(REQUEST), "q": CALLER}
    nameless: Expr = {"op": "on", "focus": iri_term(REQUEST), "arg": count(CALLER, 0, 0)}
    return conj([by_sub, disj([nameless, by_iri])])


def _open_now(rules: _Rules, rule: Term) -> list[Expr]:
    """Conditions on the time of the decision."""
    found: list[Expr] = []
    low, high = ([scaled(v) for v in rules.values(rule, name) if isinstance(v, Literal)] for name in ("notBefore", "notAfter"))
    for bounds, end in ((low, "min"), (high, "max")):
        for bound in bounds:
            assert isinstance(bound, tuple), "checked when the rules were read"
            found.append(some(KNHK + "time", {"t": "range", "family": "dateTime", "min": None, "max": None, end: bound[1]}))
    if windows := [_window_test(rules, node) for node in rules.values(rule, "window")]:
        found.append(some(KNHK + "time", disj(windows, "t")))
    return found


def _window_test(rules: _Rules, node: Term) -> Expr:
    def one(name: str, standard: str) -> str:
        return next((str(v) for v in rules.values(node, name)), standard)

    named = {str(v) for v in rules.values(node, "weekday")} or set(WEEKDAYS)
    return {
        "t": "clock",
        "days": [i + 1 for i, day in enumerate(WEEKDAYS) if day in named],
        "from_s": _seconds(one("from", "00:00")),
        "until_s": _seconds(one("until", "24:00")),
        "zone_s": _offset(one("zone", "Z")),
    }


def _match(rules: _Rules, rule: Term, target_of: TargetOf) -> Expr:
    """All conditions of a rule, over the request node."""
    found = [any_string(ATTR + "action", rules.values(rule, "action"))]
    if roles := rules.values(rule, "role"):
        found.append(has_role(roles))
    if subjects := rules.values(rule, "subject"):
        found.append(is_caller(subjects))
    if regions := rules.values(rule, "region"):
        found.append(any_string(KNHK + "region", regions))
    for node in rules.values(rule, "attribute"):
        name = str(rules.values(node, "name")[0])
        found.append(any_string(ATTR + name, rules.values(node, "value")))
    for node in rules.values(rule, "caller"):
        found.append({"op": "on", "focus": iri_term(CALLER), "arg": _condition(rules, node, certain=False)})
    found += _open_now(rules, rule)
    for cls in rules.values(rule, "resource"):
        found += _resources(rules, rule, target_of({"kind": "class", "classes": [str(cls)]}))
    return conj(found)


def _resources(rules: _Rules, rule: Term, target: int) -> list[Expr]:
    """Conditions on the resources of the request: permissions ask all of them, prohibitions any."""

    def each(low: int, arg: Expr) -> Expr:
        return {"op": "forall", "target": target, "min": low, "arg": arg}

    limits = [_condition(rules, node, certain=True) for node in rules.values(rule, "limit")]
    limits += [_separate(str(p)) for p in rules.values(rule, "separate")]
    found = [each(1, conj(limits))]
    if whens := [_condition(rules, node, certain=False) for node in rules.values(rule, "when")]:
        found.append(negate(each(0, negate(conj(whens)))))
    if unless := [_condition(rules, node, certain=True) for node in rules.values(rule, "unless")]:
        found.append(negate(each(1, conj(unless))))
    return found


def _exclusive(rules: _Rules, node: Term) -> Expr:
    """The caller has at most one of the roles of the node."""
    held = [has_role([role]) for role in rules.values(node, "role")]
    return conj([negate(conj([a, b])) for a, b in combinations(held, 2)])


def _said(rules: _Rules, node: Term, standard: str) -> tuple[str, str]:
    texts = sorted(str(v) for v in rules.store.values(node, SH + "message"))
    severity = [SEVERITIES[str(v)] for v in rules.store.values(node, SH + "severity")]
    return (texts[0] if texts else standard), (severity[0] if severity else "Violation")


def lower_abac(source: Source, target_of: TargetOf) -> tuple[list[AbacGuard], set[str]]:
    """Guards of one abac source, and what they read of the caller. Raises Refused."""
    store = parse(source.text, source.path, source.first_line)
    if not any(str(p) == TYPE and str(o).startswith(ABAC + "P") for _, p, o in store.triples):
        return lower_graph(source, store, target_of)
    rules = _Rules(source, store)
    guards = [guard for policy in rules._of("Policy") for guard in _policy(rules, policy, target_of)]
    reads = {HAS_ROLE}
    for node in rules.store.by_subject:
        reads |= {str(v) for r in RELATIONS for v in rules.values(node, r) if isinstance(v, URIRef)}
        reads |= {str(p) for inner in rules.values(node, "caller") for p in rules.values(inner, "path")}
    return guards, reads


def _policy(rules: _Rules, policy: Term, target_of: TargetOf) -> Sequence[AbacGuard]:
    scope, members = rules.values(policy, "scope"), rules.values(policy, "rule")
    out_of_scope = FALSE if ANY_ACTION in scope else negate(any_string(ATTR + "action", scope))
    allowed = [_match(rules, r, target_of) for r in members if rules.kinds[r] == "Permission"]
    actions = ", ".join(sorted("do" if v == ANY_ACTION else str(v) for v in scope))

    def guard(node: Term, part: str, text: str, where: str, expr: Expr, name: str = "") -> AbacGuard:
        message, severity = _said(rules, node, text)
        component = ABAC + part.capitalize()
        return AbacGuard(f"{name or label(node)}.{part}", node_text(node), component, message, severity, where, expr)

    def at(node: Term, p: str = TYPE) -> str:
        return rules.store.where(node, p)

    text = f"no permission allows this caller to {actions} this"
    found = [guard(policy, "permission", text, at(policy), disj([out_of_scope, disj(allowed)]))]
    for node in rules.values(policy, "exclusive"):
        names = ", ".join(sorted(label(r) for r in rules.values(node, "role")))
        text = f"one caller must not have more than one of the roles {names}"
        expr = disj([out_of_scope, _exclusive(rules, node)])
        found.append(guard(node, "exclusive", text, rules.store.where(policy, ABAC + "exclusive", node), expr, label(policy)))
    for rule in members:
        if rules.kinds[rule] == "Prohibition":
            expr = negate(_match(rules, rule, target_of))
            found.append(guard(rule, "prohibition", f"{label(rule)} prohibits this", at(rule), expr))
    return found
