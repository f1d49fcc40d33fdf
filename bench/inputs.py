"""What is decided: an access rule over a JSON request of about 280 bytes, the invoice pack of the examples, packs of many guards."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from knhk.api.convert import to_sources
from knhk.api.parse import parse
from knhk.model.arrows import CText, PackSources, Source
from knhk.model.observation import Observation
from knhk_gen.bundle import build as build_bundle
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_hot.toolchain import HOST, link_pack

EXAMPLES = Path(__file__).parent.parent / "examples"
SHAPES = """@prefix sh: <http://www.w3.org/ns/shacl#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
@prefix ex: <https://example.com/> .
ex:ApprovalShape a sh:NodeShape ; sh:targetClass ex:Request ;
  sh:property [ sh:path ex:action ; sh:minCount 1 ; sh:hasValue "approve" ] ,
    [ sh:path ex:role ; sh:minCount 1 ; sh:in ( "manager" "head" "director" ) ] ,
    [ sh:path ex:clearance ; sh:minCount 1 ; sh:minInclusive 3 ] ,
    [ sh:path ex:suspended ; sh:hasValue false ] ,
    [ sh:path ex:region ; sh:minCount 1 ; sh:in ( "emea" "apac" ) ] ,
    [ sh:path ex:currency ; sh:minCount 1 ; sh:in ( "EUR" "USD" "GBP" ) ] ,
    [ sh:path ex:amount ; sh:minCount 1 ; sh:minExclusive 0 ] ;
  sh:or ( [ sh:property [ sh:path ex:role ; sh:hasValue "manager" ] , [ sh:path ex:amount ; sh:maxInclusive 5000 ] ]
          [ sh:property [ sh:path ex:role ; sh:hasValue "head" ] , [ sh:path ex:amount ; sh:maxInclusive 25000 ] ]
          [ sh:property [ sh:path ex:role ; sh:hasValue "director" ] ] ) .
"""
MAPPING = """prefixes: {ex: "https://example.com/"}
unknownMembers: Allow
maps:
  - id: request
    iterator: $
    subject: {template: "https://example.com/requests/{id}"}
    class: ex:Request
    properties:
      ex:action: $.action
      ex:role: $.subject.role
      ex:clearance: $.subject.clearance
      ex:suspended: $.subject.suspended
      ex:region: $.resource.region
      ex:currency: $.resource.currency
      ex:amount: $.resource.amount
"""
LIMITS = {"manager": 5_000, "head": 25_000, "director": 1_000_000}
INPUTS = 64
TIME_NS = 1_764_000_000_000_000_000


@dataclass(frozen=True)
class Case:
    """One request: its JSON, the same as canonical O, and what the rule says of it."""

    body: bytes
    o: bytes
    admit: bool


def sources(name: str, shapes: str, mapping: str = MAPPING) -> PackSources:
    """A pack of one shapes source and one short mapping, route `decide`."""
    both = (Source("s", "shapes", shapes, "s.ttl"), Source("m", "mapping", mapping, "m.yaml", media="application/yaml"))
    return PackSources("bench", name, "1.0.0", both, {"decide": "m"})


def linked(made: PackSources) -> bytes:
    """The shared object for this machine."""
    return link_pack(emit(lower(made)), HOST)


def access_sources() -> PackSources:
    """What the access pack is made of."""
    return sources("access", SHAPES)


@cache
def access_pack() -> bytes:
    """The access rule, compiled."""
    return linked(access_sources())


def admits(request: dict[str, Any]) -> bool:
    """The access rule in Python, from which the expected verdicts come."""
    subject, resource = request["subject"], request["resource"]
    return (
        request["action"] == "approve"
        and subject["clearance"] >= 3
        and not subject["suspended"]
        and resource["region"] in ("emea", "apac")
        and resource["currency"] in ("EUR", "USD", "GBP")
        and 0 < resource["amount"] <= LIMITS.get(subject["role"], 0)
    )


def _request(chance: random.Random, number: int) -> dict[str, Any]:
    """A request that is right nine times in ten for each condition, so that about half of all are admitted."""

    def mostly(right: list[Any], wrong: list[Any]) -> Any:
        return chance.choice(right if chance.random() < 0.9 else wrong)

    role = mostly(list(LIMITS), ["clerk", "auditor"])
    limit = LIMITS.get(role, 5_000)
    amount = mostly([chance.randint(1, limit)], [0, limit if role == "director" else limit + 1])
    return {
        "id": f"req-{number:08}",
        "action": mostly(["approve"], ["read", "cancel"]),
        "subject": {
            "id": f"u-{chance.randrange(10**4):04}", "role": role, "department": "finance",
            "clearance": mostly([3, 4, 5], [0, 2]), "suspended": mostly([False], [True]),
        },
        "resource": {
            "id": f"INV-2026-{number:05}", "type": "invoice", "region": mostly(["emea", "apac"], ["amer"]),
            "currency": mostly(["EUR", "USD", "GBP"], ["XAU"]), "amount": amount,
        },
        "context": {"ip": f"10.0.0.{number % 256}", "mfa": True},
    }  # fmt: skip


@cache
def access_cases(count: int = INPUTS) -> tuple[Case, ...]:
    """`count` requests, the same on each run."""
    chance = random.Random(20261123)
    found = []
    for number in range(count):
        request = _request(chance, number)
        body = json.dumps(request, separators=(",", ":")).encode()
        found.append(Case(body, Observation(TIME_NS, "decide", body).encode(), admits(request)))
    return tuple(found)


# ---- packs of many guards over one request: each guard another predicate and constant, kinds in turn ----

_KINDS = (
    'sh:minCount 1', 'sh:maxCount 3', 'sh:datatype xsd:integer', 'sh:minInclusive {n}', 'sh:maxInclusive {m}',
    'sh:hasValue {n}', 'sh:in ( {n} {m} )', 'sh:maxLength 20',
)  # fmt: skip
MEMBERS = 7  # and the class: eight lanes


def many_guards(count: int) -> PackSources:
    """`count` guards (guard 0 among them) over one request of eight lanes."""
    lines = [
        f"[ sh:path ex:p{i % MEMBERS} ; {_KINDS[i // MEMBERS % len(_KINDS)].format(n=i % MEMBERS, m=1_000 + i)} ]" for i in range(count - 1)
    ]
    head, shapes = SHAPES[: SHAPES.index("ex:ApprovalShape")], []
    for first in range(0, len(lines), MEMBERS * len(_KINDS)):
        part = " ,\n ".join(lines[first : first + MEMBERS * len(_KINDS)])
        shapes.append(f"ex:S{first} a sh:NodeShape ; sh:targetClass ex:Request ; sh:property {part} .")
    mapped = "\n".join(f"      ex:p{i}: $.p{i}" for i in range(MEMBERS))
    mapping = MAPPING[: MAPPING.index("      ex:action")] + mapped + "\n"
    return sources(f"guards-{count}", head + "\n".join(shapes), mapping)


def many_input() -> Case:
    """The request that a pack of many guards reads; every guard holds."""
    body = json.dumps({"id": "r1", **{f"p{i}": i for i in range(MEMBERS)}}).encode()
    return Case(body, Observation(TIME_NS, "decide", body).encode(), True)


def c_text(made: PackSources) -> CText:
    """Lowered and emitted."""
    return emit(lower(made))


# ---- the invoice pack of the examples ----


def invoice_sources(version: str = "1.0.0") -> PackSources:
    """The example pack."""
    path = EXAMPLES / "packs" / "invoice-controls" / version / "pack.yaml"
    (resource,) = parse(path.read_text(encoding="utf-8"), str(path))
    return to_sources(resource)


@cache
def invoice_pack() -> bytes:
    """The example pack, compiled."""
    return linked(invoice_sources())


@cache
def finance_roles() -> bytes:
    """The example's data bundle."""
    path = EXAMPLES / "packs" / "invoice-controls" / "finance-roles.yaml"
    (resource,) = parse(path.read_text(encoding="utf-8"), str(path))
    spec = resource.spec
    return build_bundle(spec["source"]["inline"], str(path), spec["callerTemplate"])


_CHANGES: tuple[tuple[tuple[str, ...], Any], ...] = (
    ((), None),
    (("doc", "currency"), "XAU"),
    (("doc", "issue_date"), "2026-02-30"),
    (("doc", "totals", "payable"), "-1.00"),
    (("doc", "supplier", "name"), ""),
    (("doc", "type"), "poem"),
)


@cache
def invoice_cases() -> tuple[tuple[bytes, bytes], ...]:
    """(body, O) of the example payloads, as they are and each with one fault."""
    found = []
    for path in sorted((EXAMPLES / "payloads").glob("*.json")):
        for where, value in _CHANGES:
            document = json.loads(path.read_bytes())
            place = document
            for key in where[:-1]:
                place = place[key]
            if where:
                place[where[-1]] = value
            body = json.dumps(document, separators=(",", ":")).encode()
            attributes = {"action": "create", "sub": "cora"}
            found.append((body, Observation(TIME_NS, "create-invoice", body, attributes).encode()))
    return tuple(found)
