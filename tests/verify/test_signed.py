"""DSSE, keys.json, bundles."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knhk_runtime.signatures import COSIGN_SIGN, ROLLOUT, verify_document, verify_signature_of
from knhk_verify.errors import Bad
from knhk_verify.signed import (
    BUNDLE,
    IN_TOTO,
    KEYS,
    POLICY_EVENT,
    STATEMENT,
    canonical,
    keyid,
    pae,
    parse_canonical,
    verify_bundle,
    verify_event,
    verify_keys,
)

ROOT, BUILD, ROLL = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def envelope(key: Ed25519PrivateKey, kind: str, payload: bytes) -> dict[str, Any]:
    return {
        "payload": b64(payload),
        "payloadType": kind,
        "signatures": [{"keyid": keyid(raw(key)), "sig": b64(key.sign(pae(kind, payload)))}],
    }


def named(key: Ed25519PrivateKey, **more: str) -> dict[str, str]:
    return {"keyid": keyid(raw(key)), "pub": b64(raw(key)), **more}


def keys_json(signer: Ed25519PrivateKey = ROOT, **changes: object) -> bytes:
    roles = {"build": [named(BUILD)], "rollout": [named(ROLL, until="2026-12-01T00:00:00Z")], "log": [], "data": []}
    document = {"version": 1, "serial": 4, "expires": "2027-01-01T00:00:00Z", "roles": roles} | changes
    return canonical(envelope(signer, KEYS, canonical(document)))


def bundle(key: Ed25519PrivateKey, predicate_type: str, predicate: object, subject: str = "ab" * 32) -> bytes:
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": "x", "digest": {"sha256": subject}}],
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    material = {"publicKey": {"hint": keyid(raw(key))}, "tlogEntries": []}
    return canonical({"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope(key, IN_TOTO, canonical(statement))})


def test_pae_example_of_the_dsse_specification() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_keys_are_read_with_their_roles() -> None:
    keys = verify_keys(keys_json(), raw(ROOT), NOW)
    assert keys.of("build") == {keyid(raw(BUILD)): raw(BUILD)}
    assert keys.of("nonsense") == {}


def test_every_flipped_bit_of_keys_json_is_refused() -> None:
    data = keys_json()
    for at in range(len(data)):
        for bit in range(8):
            with pytest.raises(Bad):
                verify_keys(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], raw(ROOT))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (keys_json(serial=3), "serial"),
        (keys_json(serial=True), "serial"),
        (keys_json(expires="2026-11-23T00:00:00Z"), "expired"),
        (keys_json(expires="soon"), "expires"),
        (keys_json(version=2), "version"),
        (keys_json(roles={"admin": []}), "admin"),
        (keys_json(roles={"build": [named(BUILD)], "rollout": [named(BUILD)]}), "rollout"),
        (keys_json(roles={"build": [named(ROOT)]}), "root"),
        (keys_json(roles={"build": [named(BUILD) | {"keyid": "00"}]}), "keyid"),
        (keys_json(BUILD), "none is a key allowed here"),
        (b"[" * 100_000, "JSON"),
        (b'{"a":1,"a":2}', "repeats"),
        (b"", "JSON"),
        (b"\xff", "JSON"),
    ],
)
def test_other_keys_files_are_refused_with_what_is_wrong(data: bytes, says: str) -> None:
    with pytest.raises(Bad, match=says):
        verify_keys(data, raw(ROOT), NOW, min_serial=4)


@pytest.mark.parametrize("payload", [b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1.0}', b'{"a":NaN}', b'{"a":1}\n', b'"\\u0061"', b'"\\ud800"'])
def test_what_is_not_canonical_is_refused(payload: bytes) -> None:
    with pytest.raises(Bad):
        parse_canonical(payload, "payload")
    with pytest.raises(Bad):
        verify_document(canonical(envelope(ROLL, ROLLOUT, payload)), ROLLOUT, {keyid(raw(ROLL)): raw(ROLL)}, "document")


def test_a_key_signs_for_its_role_only() -> None:
    keys = verify_keys(keys_json(), raw(ROOT))
    predicate = {"kind": "Promoted", "time": "2026-11-23T00:00:00Z"}
    assert verify_event(bundle(ROLL, POLICY_EVENT, predicate), keys)[0]["predicate"] == predicate
    with pytest.raises(Bad, match="is a key of build: must be of rollout"):
        verify_event(bundle(BUILD, POLICY_EVENT, predicate), keys)


def test_a_replaced_key_counts_for_the_past_only() -> None:
    keys = verify_keys(keys_json(), raw(ROOT))
    with pytest.raises(Bad, match="after its key was replaced"):
        verify_event(bundle(ROLL, POLICY_EVENT, {"kind": "Promoted", "time": "2026-12-01T00:00:01Z"}), keys)
    assert keys.of("rollout", datetime(2026, 12, 2, tzinfo=UTC)) == {}


def test_an_image_signature_is_for_one_digest() -> None:
    keys = {keyid(raw(BUILD)): raw(BUILD)}
    data = bundle(BUILD, COSIGN_SIGN, {})
    verify_signature_of(data, "sha256:" + "ab" * 32, keys)
    with pytest.raises(Bad, match="subject"):
        verify_signature_of(data, "sha256:" + "cd" * 32, keys)
    with pytest.raises(Bad, match="predicateType"):
        verify_signature_of(bundle(BUILD, POLICY_EVENT, {}), "sha256:" + "ab" * 32, keys)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b | {"mediaType": "x"},
        lambda b: b | {"verificationMaterial": {}},
        lambda b: b | {"verificationMaterial": {"publicKey": {"hint": keyid(raw(ROOT))}}},
        lambda b: b | {"dsseEnvelope": b["dsseEnvelope"] | {"signatures": []}},
        lambda b: b | {"dsseEnvelope": b["dsseEnvelope"] | {"signatures": b["dsseEnvelope"]["signatures"] * 2}},
        lambda b: b | {"dsseEnvelope": b["dsseEnvelope"] | {"payloadType": KEYS}},
        lambda b: [],
    ],
)
def test_malformed_bundles_are_refused(change: Any) -> None:
    data = json.loads(bundle(ROLL, POLICY_EVENT, {"kind": "Promoted"}))
    with pytest.raises(Bad):
        verify_bundle(canonical(change(data)), {keyid(raw(k)): raw(k) for k in (ROLL, ROOT)})
