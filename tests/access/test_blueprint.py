"""The blueprint's own example of access rules, word for word (section 5): closed ahead of time as `abac`, plain SPARQL as `ask`."""

from __future__ import annotations

import pytest

from knhk.model.arrows import PackSources, Source
from knhk.model.canonical import sha256_hex
from knhk.model.faults import Refused
from knhk_gen.bundle import build
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_hot.pack import OK, Pack
from knhk_hot.toolchain import HOST, link_pack
from knhk_runtime.tiers.evaluator import Evaluator
from oracle.observation import observation

PREFIX = "@prefix : <https://example.com/ns#> .\n"
BLUEPRINT = """# Example: ABAC policy in RDF
:User123 :hasRole :FinanceManager .
:FinanceManager :canApprove :Invoice .
:Invoice :requiresApproval :FinanceManager .

# Guard checks: ASK { :User123 :canApprove ?invoice }
"""
MAPPING = """prefixes: {"": "https://example.com/ns#"}
maps:
  - {id: invoice, iterator: "$", subject: {template: "https://example.com/invoices/{id}"}, class: "https://example.com/ns#Invoice"}
"""
INVOICE = b'{"id": "7"}'


def answers(rules: Source, requests: list[dict[str, str]], bundle: bytes | None = None) -> list[bool]:
    """Whether each request is admitted: by every kernel variant, and by the cold tier."""
    mapping = Source("m", "mapping", MAPPING, "m.yaml", media="application/yaml")
    plan = lower(PackSources("t", "blueprint", "1.0.0", (rules, mapping), {"r": "m"}))
    pack = Pack.load(link_pack(emit(plan), HOST))
    bindings, cold = [pack.bind(bundle, kernel=name) for name in pack.variants], Evaluator(plan.document)
    digest = bytes(32) if bundle is None else bytes.fromhex(sha256_hex(bundle))
    found = []
    for attributes in requests:
        o = observation(INVOICE, attributes, bundle=digest)
        decisions = [binding.decide(o) for binding in bindings]
        assert {(d.status, d.verdict) for d in decisions} == {(OK, 2 if cold.judge(bindings[0].graph(o)).failing else 1)}
        found.append(decisions[0].verdict == 1)
    return found


def graph(text: str) -> Source:
    return Source("rights", "abac", PREFIX + text, "rights.ttl")


def test_user123_may_approve_and_nobody_else() -> None:
    who = ["User123", "https://example.com/ns#User123", "User124", "FinanceManager", "Invoice", ""]
    requests = [{"sub": sub, "action": "approve"} for sub in who]
    requests += [{"action": "approve"}, {"sub": "User123", "action": "Approve"}, {"sub": "User124", "action": "create"}]
    expected = [True, True, False, False, False, False, False, True, True]  # other actions are not ruled by these facts
    assert answers(graph(BLUEPRINT), requests) == expected


def test_the_same_facts_as_ask_say_false_as_sparql_does() -> None:
    ask = Source("may", "ask", "PREFIX : <https://example.com/ns#>\nASK { :User123 :canApprove ?invoice }", "may.rq")
    bundle = build(PREFIX + BLUEPRINT, "facts.ttl", "https://example.com/ns#{}")
    assert answers(ask, [{"sub": "User123", "action": "approve"}], bundle) == [False]
    direct = build(PREFIX + ":User123 :canApprove :Invoice .", "facts.ttl", "https://example.com/ns#{}")
    assert answers(ask, [{"sub": "User123", "action": "approve"}], direct) == [True]


def test_roles_inherit_and_the_data_bundle_may_give_them() -> None:
    text = ":CFO :inherits :FinanceManager . :Ann :hasRole :CFO . :FinanceManager :canApprove :Invoice .\n"
    text += ":Bo a <https://knhk.dev/ns/abac#Subject> ; :canApprove :Invoice ."
    bundle = build(
        "@prefix abac: <https://knhk.dev/ns/abac#> . <https://example.com/u/cy> abac:hasRole <https://example.com/ns#CFO> .",
        "b.ttl",
        "https://example.com/u/{}",
    )
    requests = [{"sub": sub, "action": "approve"} for sub in ("Ann", "Bo", "cy", "dan", "CFO")]
    assert answers(graph(text), requests, bundle) == [True, True, True, False, False]
    assert answers(graph(text), requests) == [True, True, False, False, False]


def test_an_approval_that_a_class_requires_binds_those_who_could_otherwise() -> None:
    text = ":Ann :hasRole :Clerk . :Clerk :canApprove :Invoice . :Invoice :requiresApproval :FinanceManager .\n"
    text += ":Mia :hasRole :FinanceManager , :Clerk ."
    assert answers(graph(text), [{"sub": sub, "action": "approve"} for sub in ("Ann", "Mia")]) == [False, True]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (":A :hasRole :R . :R :approves :Invoice .", "must be hasRole, inherits, canACTION or requiresApproval"),
        (":A :hasRole :R .", "must have an abac:Policy, or a canACTION fact"),
        (":X :canApprove :Invoice .", "must be a role (some subject has it"),
        (':A :hasRole "R" . :R :canApprove :Invoice .', "must be an IRI on both sides"),
        (":A :hasRole :R . <https://other.example/A> :hasRole :R . :R :canApprove :Invoice .", "must not share its last part with"),
    ],
)
def test_facts_that_say_nothing_certain_are_refused(text: str, fault: str) -> None:
    with pytest.raises(Refused) as refused:
        lower(PackSources("t", "p", "1.0.0", (graph(text),), {"r": None}))
    assert any(fault in str(f) and str(f).startswith("rights.ttl:") for f in refused.value.faults), refused.value.faults
