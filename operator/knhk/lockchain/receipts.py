"""Receipts of policy events: what a Receipt resource holds, and its verification step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from knhk.lockchain.events import parse_event
from knhk.model.faults import Refused
from knhk_verify.errors import Bad
from knhk_verify.note import open_checkpoint, parse_proof, parse_vkey, verify_proof
from knhk_verify.signed import Keys, member, verify_event, verify_keys


@dataclass(frozen=True)
class Trust:
    """What a verifier trusts: the log's vkey, the pinned root key (raw, 32 bytes), and keys.json signed by it. `now`: refuse a
    keys.json that has expired then (None: verify the past)."""

    vkey: str
    root_public: bytes
    keys_json: bytes
    now: datetime | None = None


@dataclass(frozen=True)
class Step:
    """One step of a verification: what was checked, with which key, whether it held, and what was found."""

    what: str
    key: str
    ok: bool
    detail: str


def receipt_spec(event_bundle: bytes, event: Mapping[str, Any], index: int, proof: str) -> dict[str, Any]:
    """`spec` of the Receipt of a policy event: `event` is its statement, `proof` the tlog-proof text for `index`."""
    parsed = parse_event(event)
    spec = {
        "event": parsed.kind,
        "bundle": event_bundle.decode(),
        "logIndex": index,
        "proof": proof,
        "checkpoint": parse_proof(proof).checkpoint,
    }
    names = {"pack": str((parsed.pack or {}).get("name", "")), "point": parsed.point.rpartition("/")[2]}
    return spec | {name: value for name, value in names.items() if value}


def verify_receipt(receipt: Mapping[str, Any], trust: Trust) -> tuple[Step, ...]:
    """Steps of verifying a Receipt's `spec` offline; it verifies when every step is ok. A step that needs what an earlier one did
    not give is not ok either. Never raises for a malformed receipt."""
    spec, found = dict(receipt), dict[str, Any]()

    def keys() -> str:
        found["keys"] = verify_keys(trust.keys_json, trust.root_public, trust.now)
        return f"serial {found['keys'].serial}, expires {found['keys'].expires:%Y-%m-%dT%H:%M:%SZ}"

    def event() -> str:
        trusted = _needed(found, "keys", Keys)
        found["statement"] = verify_event(member(spec, "bundle", str, "receipt").encode(), trusted)
        parsed = parse_event(found["statement"])
        if parsed.kind != member(spec, "event", str, "receipt"):
            raise Bad("receipt event", f"{spec['event']!r}: the signed event is {parsed.kind!r}")
        return f"{parsed.kind} of {parsed.subject[0]} by {parsed.actor} at {parsed.time}"

    def checkpoint() -> str:
        proof = parse_proof(member(spec, "proof", str, "receipt"))
        if spec.get("checkpoint", proof.checkpoint) != proof.checkpoint:
            raise Bad("receipt checkpoint", "is not the one of the proof")
        opened = open_checkpoint(proof.checkpoint, parse_vkey(trust.vkey))
        return f"{opened.origin}, size {opened.size}, root {opened.root.hex()}"

    def inclusion() -> str:
        entry = member(spec, "bundle", str, "receipt").encode()
        index, opened = verify_proof(member(spec, "proof", str, "receipt"), entry, parse_vkey(trust.vkey))
        if index != member(spec, "logIndex", int, "receipt"):
            raise Bad("receipt logIndex", f"{spec['logIndex']}: the proof is for {index}")
        return f"entry {index} of {opened.size}"

    return (
        _step("keys.json is signed by the root", "root", keys),
        _step("the event is signed by a key of role rollout", "rollout", event),
        _step("the checkpoint is signed by the log", trust.vkey.split("+")[0], checkpoint),
        _step("the event is in the log at its index", "none", inclusion),
    )


def _needed(found: Mapping[str, Any], name: str, kind: type[Keys]) -> Keys:
    value = found.get(name)
    if not isinstance(value, kind):
        raise Bad(name, "did not verify, see above")
    return value


def _step(what: str, key: str, check: Callable[[], str]) -> Step:
    try:
        return Step(what, key, True, check())
    except (Bad, Refused) as error:
        return Step(what, key, False, str(error))
