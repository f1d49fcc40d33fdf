"""Access rules: default deny inside the scope, prohibitions override; judged beside the oracle."""

from __future__ import annotations

import random

import pytest
from packs import abac, failing, faults, guards, plan
from rdflib import Graph, Literal, URIRef

from oracle.judge import ABAC, ATTR, KNHK, RDF_TYPE, Access

FIN = "https://f.x/"
RULES = """fin:P a abac:Policy ; abac:scope "approve" , "create" ; abac:rule fin:c , fin:m , fin:r , fin:no .
fin:c a abac:Permission ; abac:action "create" ; abac:resource fin:Invoice .
fin:m a abac:Permission ; abac:action "approve" ; abac:role fin:manager ; abac:resource fin:Invoice ;
  abac:limit [ abac:path fin:payable ; abac:atMost fin:limit ] .
fin:r a abac:Permission ; abac:action "approve" ; abac:region "eu" ;
  abac:attribute [ abac:name "level" ; abac:value "high" , "top" ] .
fin:no a abac:Prohibition ; abac:action "create" , "approve" ; abac:role fin:auditor ; sh:message "auditors read" .
"""


def request(rng: random.Random) -> Graph:
    """A request of some caller with some invoices."""
    g = Graph()
    g.add((KNHK.request, ATTR.action, Literal(rng.choice(("create", "approve", "read")))))
    g.add((KNHK.request, KNHK.region, Literal(rng.choice(("eu", "us")))))
    if rng.random() < 0.4:
        g.add((KNHK.request, ATTR.level, Literal(rng.choice(("high", "low", "top")))))
    for role in rng.sample(("manager", "auditor", "clerk"), rng.choice((0, 1, 1, 2))):
        g.add((KNHK.caller, ABAC.hasRole, URIRef(FIN + role)))
    for limit in rng.sample((5, 10, "much"), rng.choice((0, 1, 2))):
        g.add((KNHK.caller, URIRef(FIN + "limit"), Literal(limit)))
    for i in range(rng.choice((0, 1, 1, 2))):
        invoice = URIRef(f"{FIN}i{i}")
        g.add((invoice, RDF_TYPE, URIRef(FIN + "Invoice")))
        for amount in rng.sample((3, 7, 12), rng.choice((0, 1, 1, 2))):
            g.add((invoice, URIRef(FIN + "payable"), Literal(amount)))
    return g


def test_guards_say_what_the_rules_say() -> None:
    source = abac(RULES)
    made = plan(source)
    nodes = {g["id"]: g["shape"] for g in guards(made).values()}
    assert sorted(nodes) == ["rights.P.permission", "rights.no.prohibition"]
    rules = Graph().parse(data=source.text)
    rng = random.Random(11)
    seen = set()
    for _ in range(600):
        g = request(rng)
        wanted = Access(rules, g).judge()
        found = {nodes[i] for i in failing(made, g.serialize(format="nt"))}
        assert found == wanted, g.serialize(format="turtle")
        seen.add(frozenset(wanted))
    assert len(seen) == 4


def test_what_the_rules_read_of_the_caller_is_in_the_plan() -> None:
    document = plan(abac(RULES)).document
    assert document["bundle"]["predicates"] == [FIN + "limit", str(ABAC.hasRole)]


FAULTS = [
    ('abac:action "create" ; abac:resource', 'abac:action "sign" ; abac:resource', "must be an action in the abac:scope"),
    ("abac:rule fin:c , fin:m", "abac:rule fin:m", "must be an abac:rule of an abac:Policy"),
    ("abac:atMost fin:limit", "abac:upTo fin:limit", "must be a term of the abac vocabulary"),
    ("abac:atMost fin:limit", 'abac:atMost "5"', "must be an IRI"),
    ("abac:resource fin:Invoice ;\n", "", "must come with an abac:resource"),
    ("a abac:Prohibition", "a abac:Ban", "must be abac:Policy, abac:Permission, abac:Prohibition"),
    ('abac:scope "approve" , "create" ;', "", "must have an abac:scope"),
    ('abac:role fin:auditor', 'abac:role fin:auditor ; abac:limit [ abac:path fin:p ]', "must stand in abac:Permission"),
    ("abac:region", "fin:region", "must be a term of the abac vocabulary"),
    ('abac:name "level" ;', "", "must have an abac:name"),
    ('abac:region "eu"', 'abac:window [ abac:from "19:00" ; abac:until "07:00" ]', "must be later than abac:from"),
    ('abac:region "eu"', 'abac:window [ abac:from "7" ; abac:until "19:00" ]', "must be a time of day such as 09:30"),
    ('abac:region "eu"', 'abac:window [ abac:from "07:00" ]', "must have abac:from and abac:until together"),
    ('abac:region "eu"', 'abac:window [ abac:weekday "Monday" ]', "must be one of Mon, Tue"),
    ('abac:region "eu"', 'abac:notAfter "2026-01-01"', "must be an xsd:dateTime with a time zone"),
    ('abac:region "eu"', 'abac:separate fin:enteredBy', "must come with an abac:resource"),
    ('abac:region "eu"', 'abac:caller [ abac:path fin:level ; abac:atLeast fin:limit ]', "must be a literal here"),
    ('abac:region "eu"', 'abac:subject fin:ann , <https://g.x/ann>', "must not share its last part"),
    ('abac:atMost fin:limit', 'abac:atMost fin:limit ; abac:atLeast 3', "must have abac:path and one of"),
    ('abac:role fin:auditor', 'abac:separate fin:by', "must stand in abac:Permission"),
    ('abac:rule fin:c', 'abac:exclusive [ abac:role fin:clerk ] ; abac:rule fin:c', "must have 2 to 16 values"),
    ('abac:value "high" , "top"', 'abac:value "high" , 5', "must be a string"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "fault"), FAULTS, ids=[f[2][:40] for f in FAULTS])
def test_a_fault_of_access_rules(old: str, new: str, fault: str) -> None:
    assert old in RULES
    found = faults(abac(RULES.replace(old, new, 1)))
    assert any(fault in f and f.startswith("rights.ttl:") for f in found), found
