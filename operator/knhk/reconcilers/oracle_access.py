"""Access rules judged by their words (docs/abac.md) over the graph of a request: no expressions, no closure ahead of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from pyoxigraph import Literal, NamedNode

from knhk_gen.names import ABAC, ATTR, KNHK, RDF
from knhk_runtime.tiers.graph import Graph, Hierarchy, Term
from knhk_runtime.tiers.literals import compare, value_of

Key = tuple[str, str, str]
REQUEST, CALLER = NamedNode(KNHK + "request"), NamedNode(KNHK + "caller")
TYPE = NamedNode(RDF + "type")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ORDERS = {"atMost": (-1, 0), "atLeast": (0, 1), "equalTo": (0,)}


def _abac(name: str) -> NamedNode:
    return NamedNode(ABAC + name)


def _local(iri: str) -> str:
    cut = max(iri.rfind("#"), iri.rfind("/"), iri.rfind(":"))
    return iri[cut + 1 :] or iri


def _name(term: Term) -> str:
    return term.value if isinstance(term, NamedNode) else f"_:{term.value}"


def _related(x: Term, y: Term, orders: tuple[int, ...]) -> bool:
    if x == y:
        return 0 in orders
    if not isinstance(x, Literal) or not isinstance(y, Literal):
        return False
    a, b = value_of(x), value_of(y)
    return a is not None and b is not None and compare(a, b) in orders


def _differs(x: Term, y: Term) -> bool:
    """Known to be different."""
    if x == y:
        return False
    if not isinstance(x, Literal) or not isinstance(y, Literal):
        return True
    a, b = value_of(x), value_of(y)
    return a is not None and b is not None and a.family == b.family and compare(a, b) in (-1, 1)


class Access:
    """One source over one request. `classes` holds the subclasses that the pack's shapes declare."""

    def __init__(self, source: str, rules: Graph, data: Graph, classes: Hierarchy) -> None:
        self.source = source
        self.rules = rules
        self.data = data
        self.classes = classes
        self.actions = {t.value for t in self._request(ATTR + "action")}

    def failing(self) -> Iterator[Key]:
        """Policies without a permission, prohibitions that apply, exclusive roles held together, approvals that lack their role."""
        policies = self.rules.subjects(TYPE, _abac("Policy"))
        if not policies:
            yield from self._facts()
        for policy in policies:
            scope = self.rules.objects(policy, _abac("scope"))
            if _abac("any") not in scope and not self.actions & {t.value for t in scope}:
                continue
            members = self.rules.objects(policy, _abac("rule"))
            if not any(self._is(rule, "Permission") and self._permits(rule) for rule in members):
                yield "abac", _name(policy), ABAC + "Permission"
            for rule in members:
                if self._is(rule, "Prohibition") and self._prohibits(rule):
                    yield "abac", _name(rule), ABAC + "Prohibition"
            for node in self.rules.objects(policy, _abac("exclusive")):
                if len(self._roles() & set(self.rules.objects(node, _abac("role")))) > 1:
                    yield "abac", _name(node), ABAC + "Exclusive"

    def _is(self, rule: Term, kind: str) -> bool:
        return _abac(kind) in self.rules.objects(rule, TYPE)

    def _request(self, iri: str) -> list[Term]:
        return self.data.objects(REQUEST, NamedNode(iri))

    def _roles(self) -> set[Term]:
        return set(self.data.objects(CALLER, _abac("hasRole")))

    def _applies(self, rule: Term) -> bool:
        """Caller, action, region, attributes and time are those of the rule."""
        of = self.rules.objects
        wanted = [(ATTR + "action", of(rule, _abac("action"))), (KNHK + "region", of(rule, _abac("region")))]
        for node in of(rule, _abac("attribute")):
            wanted += [(ATTR + name.value, of(node, _abac("value"))) for name in of(node, _abac("name"))]
        if any(texts and not {t.value for t in texts} & {t.value for t in self._request(p)} for p, texts in wanted):
            return False
        roles, subjects = set(of(rule, _abac("role"))), of(rule, _abac("subject"))
        if (roles and not roles & self._roles()) or (subjects and not any(self._is_caller(s) for s in subjects)):
            return False
        return all(self._some(CALLER, node) for node in of(rule, _abac("caller"))) and self._in_time(rule)

    def _is_caller(self, subject: Term) -> bool:
        names = {t.value for t in self._request(ATTR + "sub")}
        return subject in self._request(CALLER.value) or bool(names & {subject.value, _local(subject.value)})

    def _in_time(self, rule: Term) -> bool:
        times = self._request(KNHK + "time")
        for name, orders in (("notBefore", (0, 1)), ("notAfter", (-1, 0))):
            for bound in self.rules.objects(rule, _abac(name)):
                if not any(_related(t, bound, orders) for t in times):
                    return False
        windows = self.rules.objects(rule, _abac("window"))
        return not windows or any(self._open(window, t) for window in windows for t in times)

    def _open(self, window: Term, time: Term) -> bool:
        def one(name: str, standard: str) -> str:
            return next((t.value for t in self.rules.objects(window, _abac(name))), standard)

        zone = one("zone", "Z")
        ahead = timedelta() if zone == "Z" else timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
        shift = -ahead if zone[0] == "-" else ahead
        local = (datetime.fromisoformat(time.value).astimezone(UTC) + shift).replace(tzinfo=None)
        days = {t.value for t in self.rules.objects(window, _abac("weekday"))} or set(DAYS)
        clock = local.strftime("%H:%M:%S.%f")
        return DAYS[local.weekday()] in days and one("from", "00:00") <= clock and clock < one("until", "24:00")

    def _resources(self, rule: Term) -> list[Term] | None:
        """Resources of the request that the rule is about; None when it names no class."""
        named = self.rules.objects(rule, _abac("resource"))
        if not named:
            return None
        found = [r for cls in named for kind in self.classes.below(cls) for r in self.data.subjects(TYPE, kind)]
        return list(dict.fromkeys(found))

    def _permits(self, rule: Term) -> bool:
        if not self._applies(rule):
            return False
        resources = self._resources(rule)
        if resources is None:
            return True
        limits, separate = self.rules.objects(rule, _abac("limit")), self.rules.objects(rule, _abac("separate"))
        fine = all(self._every(r, n) for r in resources for n in limits) and all(self._apart(r, p) for r in resources for p in separate)
        return bool(resources) and fine

    def _prohibits(self, rule: Term) -> bool:
        if not self._applies(rule):
            return False
        resources = self._resources(rule)
        if resources is None:
            return True
        whens, unless = self.rules.objects(rule, _abac("when")), self.rules.objects(rule, _abac("unless"))
        if not resources or (whens and not any(all(self._some(r, n) for n in whens) for r in resources)):
            return False
        return not unless or not all(self._every(r, n) for r in resources for n in unless)

    def _apart(self, resource: Term, p: Term) -> bool:
        """Who did p is known and was not the caller."""
        assert isinstance(p, NamedNode)
        actors = self.data.objects(resource, p)
        known = [*self._request(ATTR + "sub"), *self._request(CALLER.value)]
        return bool(actors) and bool(self._request(ATTR + "sub")) and all(_differs(a, k) for a in actors for k in known)

    def _bounds(self, node: Term) -> Iterator[tuple[Term, tuple[int, ...]]]:
        """Terms that a value is compared with, and the orders that are allowed; an IRI beside atMost … names a property of the caller."""
        for value in self.rules.objects(node, _abac("value")):
            yield value, (0,)
        for name, orders in ORDERS.items():
            for bound in self.rules.objects(node, _abac(name)):
                if isinstance(bound, NamedNode):
                    for value in self.data.objects(CALLER, bound):
                        yield value, orders
                else:
                    yield bound, orders

    def _values(self, holder: Term, node: Term) -> list[Term]:
        return [v for p in self.rules.objects(node, _abac("path")) if isinstance(p, NamedNode) for v in self.data.objects(holder, p)]

    def _every(self, holder: Term, node: Term) -> bool:
        values, bounds = self._values(holder, node), list(self._bounds(node))
        return bool(values) and all(any(_related(v, b, orders) for b, orders in bounds) for v in values)

    def _some(self, holder: Term, node: Term) -> bool:
        return any(_related(v, b, orders) for v in self._values(holder, node) for b, orders in self._bounds(node))

    # -- facts instead of rules --

    def _facts(self) -> Iterator[Key]:
        facts = [(s, _local(p.value), o) for s, p, o in self.rules.triples()]
        grants = [(s, name[3].lower() + name[4:], o) for s, name, o in facts if name[:3] == "can" and name[3:4].isupper()]
        needed: dict[Term, list[Term]] = {}
        for s, name, o in facts:
            if name == "requiresApproval":
                needed.setdefault(s, []).append(o)
        actions = {action for _, action, _ in grants} | ({"approve"} if needed else set())
        for action in actions & self.actions:
            if not any(a == action and self._holds(x, facts) and self._carried(cls) for x, a, cls in grants):
                yield "abac", f"{self.source}.{action}.permission", ABAC + "Permission"
        for cls, roles in needed.items():
            if "approve" in self.actions and self._carried(cls) and not any(self._holds(role, facts) for role in roles):
                yield "abac", _name(cls), ABAC + "Requirement"

    def _carried(self, cls: Term) -> bool:
        return any(self.data.subjects(TYPE, kind) for kind in self.classes.below(cls))

    def _holds(self, x: Term, facts: Sequence[tuple[Term, str, Term]]) -> bool:
        """The caller is x, or has x after following inherits from every role."""
        callers = {s for s, name, _ in facts if name == "hasRole"} | {s for s, name, o in facts if name == "type" and o == _abac("Subject")}
        roles = self._roles() | {o for s, name, o in facts if name == "hasRole" and self._is_caller(s)}
        while more := {o for s, name, o in facts if name == "inherits" and s in roles} - roles:
            roles |= more
        return x in roles or (x in callers and self._is_caller(x) and not any(o == x for _, name, o in facts if name == "hasRole"))
