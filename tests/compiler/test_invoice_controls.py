"""The example pack: real invoices pass, wrong ones fail for the reason that their author gave."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from packs import EXAMPLES, INVOICE, example, golden, pretty
from rdflib import Graph, URIRef

from knhk.model.arrows import PackSources
from knhk.model.faults import Refused
from knhk_gen.bundle import build
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_gen.plan_dump import dump
from knhk_hot.pack import ADMIT, COLD, DENY, Binding, Pack
from knhk_hot.toolchain import HOST, link_pack
from oracle.expected import shapes_graph
from oracle.judge import Access, ask_fails, caller_graph, request_graph, shacl_failures
from oracle.mapping import read_yaml, triples
from oracle.observation import failing, observation
from oracle.payload import read

BUNDLE = yaml.safe_load((INVOICE / "finance-roles.yaml").read_text(encoding="utf-8"))["spec"]
PAYLOADS = sorted((EXAMPLES / "payloads").glob("gobl-*.json"))
Change = Callable[[dict[str, Any]], None]


@cache
def portable(version: str) -> PackSources:
    """The pack with sources named by themselves, as the control plane lowers it."""
    pack = example(version)
    return replace(pack, sources=tuple(replace(s, path=s.name, first_line=1) for s in pack.sources))


@cache
def binding(version: str) -> Binding:
    data = build(BUNDLE["source"]["inline"], "roles", BUNDLE["callerTemplate"])
    return Pack.load(link_pack(emit(lower(portable(version))), HOST)).bind(data)


def oracle(version: str, body: bytes, action: str, sub: str) -> set[tuple[str, str, str]]:
    """What fails: (kind, component or rule, message) of every rule, by the oracle."""
    sources = {s.name: s for s in portable(version).sources}
    graph = triples(read_yaml(sources["gobl-invoice"].text), read(body), "x")
    graph += request_graph({"action": action, "sub": sub}, "local", "r", "2027-01-15T08:00:00.000000Z")
    roles = Graph().parse(data=BUNDLE["source"]["inline"])
    graph += caller_graph(roles, URIRef(BUNDLE["callerTemplate"].replace("{}", sub)))
    rules = Graph().parse(data=sources["rights"].text)
    found = {("abac", node, "") for node in Access(rules, graph).judge()}
    rule = sources["corrections"]
    if ask_fails(graph, rule.text, rule.target):
        found.add(("ask", "corrections", ""))
    shapes = shapes_graph(sources["shapes"].text)
    return found | {("shacl", f.component, f.message) for f in shacl_failures(graph, shapes)}


def told(version: str, body: bytes, action: str = "create", sub: str = "clerk-001") -> set[str]:
    """Ids of failing guards of class R1; each (kind, component, message) is as the oracle says."""
    decision = binding(version).decide(observation(body, {"action": action, "sub": sub}, f"{action}-invoice"))
    guards = lower(portable(version)).document["guards"]
    wanted = oracle(version, body, action, sub)
    if decision.status == COLD:
        r1 = {(g["component"], g["message"]) for g in guards if g["class"] == "R1"}
        assert not {w for w in wanted if w[1:] in r1 or w[0] != "shacl"}
        return set()
    verdict, bits = failing(decision.a)
    assert verdict == (DENY if bits else ADMIT)
    names = {"ask": "id", "abac": "shape", "shacl": "component"}
    found = {(g["kind"], g[names[g["kind"]]], g["message"] if g["kind"] == "shacl" else "") for g in (guards[i] for i in bits)}
    cold = {(g["component"], g["message"]) for g in guards if g["class"] != "R1"}
    assert found == {w for w in wanted if w[1:] not in cold}
    return {guards[i]["id"] for i in bits}


def changed(change: Change, file: Path = PAYLOADS[0]) -> bytes:
    envelope = json.loads(file.read_text(encoding="utf-8"))
    change(envelope["doc"])
    return json.dumps(envelope).encode()


@pytest.mark.parametrize("version", ["1.0.0", "1.2.0"])
@pytest.mark.parametrize("file", PAYLOADS, ids=[f.stem for f in PAYLOADS])
def test_real_invoices_pass(file: Path, version: str) -> None:
    assert told(version, file.read_bytes()) == set()
    assert told(version, file.read_bytes(), "approve", "dora") == set()


WRONG: list[tuple[str, Change, set[str]]] = [
    ("no currency", lambda d: d.pop("currency"), {"shapes.InvoiceShape.currency.minCount"}),
    ("unknown currency", lambda d: d.update(currency="XXQ"), {"shapes.InvoiceShape.currency.in"}),
    ("negative", lambda d: d["totals"].update(payable="-5.00"), {"shapes.InvoiceShape.payable.minInclusive"}),
    ("no day", lambda d: d.update(issue_date="2022-02-31"), {"shapes.InvoiceShape.issueDate.datatype"}),
    ("no quantity", lambda d: d["lines"][0].update(quantity="0"), {"shapes.LineShape.quantity.minExclusive"}),
    ("no lines", lambda d: d.update(lines=[]), {"shapes.InvoiceShape.line.minCount"}),
    ("country", lambda d: d["supplier"]["tax_id"].update(country="USA"), {"shapes.SupplierShape.taxCountry.maxLength"}),
    ("credits nothing", lambda d: d.update(type="credit-note"), {"corrections"}),
    ("not an invoice", lambda d: d.update({"$schema": "x"}), {"shapes.InvoiceShape.schema.hasValue"}),
    ("no uuid", lambda d: d.pop("uuid"), {"rights.InvoiceRights.permission"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "ids"), WRONG, ids=[w[0] for w in WRONG])
def test_a_wrong_invoice_fails_for_its_reason(name: str, change: Change, ids: set[str]) -> None:
    assert ids <= told("1.0.0", changed(change))


@pytest.mark.parametrize("body", [b"{}", b"", b"[]", b'{"doc": {}}', b'{"doc": null}'])
def test_a_body_without_an_invoice_is_denied(body: bytes) -> None:
    decision = binding("1.0.0").decide(observation(body, {"action": "create", "sub": "clerk-001"}, "create-invoice"))
    assert decision.verdict == DENY


@pytest.mark.parametrize(
    ("sub", "payable", "may"),
    [
        ("max", "5000", True), ("max", "5000.01", False), ("mia", "7500", True), ("hanna", "25000", True),
        ("hanna", "25001", False), ("dora", "250000", True), ("cora", "1", False), ("nobody", "1", False),
        ("ada", "1", False), ("dora/../max", "1", False), ("", "1", False),
    ],
)  # fmt: skip
def test_who_may_approve_what(sub: str, payable: str, may: bool) -> None:
    body = changed(lambda d: d["totals"].update(payable=payable))
    denied = "rights.InvoiceRights.permission" in told("1.0.0", body, "approve", sub)
    assert denied == (not may)


def test_auditors_enter_nothing() -> None:
    assert "rights.auditorsRead.prohibition" in told("1.0.0", PAYLOADS[0].read_bytes(), "create", "ada")


def test_1_1_0_denies_foreign_currency_which_1_0_0_and_1_2_0_admit() -> None:
    body = changed(lambda d: d.update(currency="CHF"))
    assert [told(v, body) for v in ("1.0.0", "1.1.0", "1.2.0")] == [
        set(), {"shapes.InvoiceShape.currency.in"}, set(),
    ]  # fmt: skip


def test_the_faulty_pack_tells_all_its_faults() -> None:
    with pytest.raises(Refused) as refused:
        lower(example("faulty"))
    golden("faulty.txt", str(refused.value) + "\n")
    assert len(refused.value.faults) >= 6


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0", "1.2.0"])
def test_golden_plans(version: str) -> None:
    plan = lower(portable(version))
    golden(f"invoice-controls-{version}.json", pretty(plan.document))
    golden(f"invoice-controls-{version}.txt", dump(plan))


def test_pack_files_are_made_from_the_sources_beside_them() -> None:
    spec = importlib.util.spec_from_file_location("assemble", EXAMPLES / "packs" / "assemble.py")
    assert spec is not None
    assert spec.loader is not None
    assemble = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(assemble)
    for template in (EXAMPLES / "packs").rglob("pack.in.yaml"):
        made = assemble.assembled(template)
        assert made == (template.parent / "pack.yaml").read_text(encoding="utf-8"), template
