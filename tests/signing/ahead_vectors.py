"""Writes formats/vectors/ahead.json: `python tests/signing/ahead_vectors.py`. Apart from the product's code (formats/ahead.md)."""

from __future__ import annotations

import base64
import json
import lzma
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FILE = Path(__file__).parents[2] / "formats" / "vectors" / "ahead.json"
ORIGIN, FORMER = "knhk.dev/vectors", "2026-10-01T06:00:00Z"
TURNS = ("2026-12-01T00:00:00Z", "2026-12-01T23:30:00Z", "2026-12-02T23:00:00Z")
ENDS = ("2026-12-02T05:30:00Z", "2026-12-03T05:00:00Z")  # of the keys before
PASSWORD = (bytes([7]) * 32).hex()
# Keys of role rollout, of the turns in order, under PASSWORD: their salts are of chance, so they stand here.
SEALED = (
    """MIGjMF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBBzz0/k58pCG4sBFxox
/08qAgIIADAMBggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQRNl0GGIQVdvMVMqZ
j2W2tARAb12d4XIodizDF7L7SRqYZAtEaK6MRZhoNmZ2A+DaUdKUesBDEZf/QPGc
5F/I2bDrUDK3LGGywWULdhuwn6shTw==""",
    """MIGjMF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBCBJpKKwu9/vRwdNs46
H0kmAgIIADAMBggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQOP1pGSWJigy0J4gs
8IGSAARA1H+/XNKhkiLyCNyv41JiE/tsy4aE7kcbW0Ywit9WZWdyNIyl7drfR6bx
otU49UilDdQame91+VQKlJVxbp9b8w==""",
    """MIGjMF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBBiwcF8LMLYCElxu4U7
DoeKAgIIADAMBggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQhjXZ1Ij59WZ5zTDv
HQicJQRA8AWjPExrgY6U7UTLD53HT6M6uaL47qY8p4zf9CC6+9kvkbibG0a4rH+f
Y7nKxSi7bUzsoZiL0TSQWkk5hNX/UQ==""",
)


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


ROOT, ROLLOUT = key(1), (key(3), key(13), key(23))
OTHERS = {"build": key(2), "data": key(4), "log": key(9)}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def public(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


def keyid(private: Ed25519PrivateKey) -> str:
    return sha256(public(private)).hexdigest()


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def envelope(private: Ed25519PrivateKey, kind: str, document: object) -> dict[str, Any]:
    payload = canonical(document).encode()
    signature = private.sign(b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload))
    return {"payload": b64(payload), "payloadType": kind, "signatures": [{"keyid": keyid(private), "sig": b64(signature)}]}


def chapter() -> str:
    """A key of role rollout that was over before the first turn."""
    until = int(datetime.fromisoformat(FORMER).timestamp()).to_bytes(4, "big")
    return canonical({"keys": [{"role": "rollout", "name": "", "rows": b64(until + public(key(33)))}]})


def keys_json(turn: int) -> dict[str, Any]:
    """That of a turn, without the chapter."""

    def row(private: Ed25519PrivateKey, **more: str) -> dict[str, str]:
        return {"keyid": keyid(private), "pub": b64(public(private)), **more}

    over = [row(ROLLOUT[number], since=TURNS[number], until=ENDS[number]) for number in range(turn)]
    roles = {role: [row(private, since=TURNS[0], **({"name": ORIGIN} if role == "log" else {}))] for role, private in OTHERS.items()}
    roles["rollout"] = [row(ROLLOUT[turn], since=TURNS[turn]), *over]
    named = [sha256(chapter().encode()).hexdigest()]
    document = {"version": 1, "serial": 5 + turn, "expires": "2026-12-20T00:00:00Z", "roles": roles, "chapters": named}
    return envelope(ROOT, "application/vnd.knhk.keys.v1+json", document)


def receipt(turn: int) -> dict[str, Any]:
    """KeyRotated, by the rollout key from before."""
    old, new = ROLLOUT[turn - 1], ROLLOUT[turn]
    predicate = {
        "kind": "KeyRotated",
        "actor": "local:kim",
        "time": TURNS[turn],
        "evidence": {"role": "rollout", "old": keyid(old), "until": ENDS[turn - 1], "serial": 5 + turn},
    }
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "keys/rollout", "digest": {"sha256": keyid(new)}}],
        "predicateType": "https://knhk.dev/policy-event/v1",
        "predicate": predicate,
    }
    signed = envelope(old, "application/vnd.in-toto+json", statement)
    signed["signatures"][0]["keyid"] = ""
    material = {"publicKey": {"hint": keyid(old)}, "tlogEntries": []}
    return {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial": material, "dsseEnvelope": signed}


def pem(turn: int) -> str:
    return f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{SEALED[turn]}\n-----END ENCRYPTED PRIVATE KEY-----\n"


def step(turn: int) -> dict[str, Any]:
    receipts = [receipt(turn)] if turn else []
    return {"at": TURNS[turn], "keysJson": canonical(keys_json(turn)), "keys": {"rollout.key": pem(turn)}, "receipts": receipts}


def in_force(named_for: int, signs: int, named: str) -> dict[str, str]:
    """Files, as text, when keys.json is of one turn and the keys of the same or the one before."""
    whole = keys_json(named_for) | {"chapters": [chapter()]}
    turn = {"named": named, "at": TURNS[named_for], "ends": TURNS[-1]}
    receipts = [receipt(number) for number in range(1, named_for + 1)]
    return {
        "keys.json": canonical(whole),
        "rotated.json": canonical(receipts),
        "turn.json": canonical(turn),
        "rollout.key": pem(signs),
    }


def vectors() -> dict[str, Any]:
    steps = [step(turn) for turn in range(3)]
    supply = {"version": 1, "steps": steps, "chapters": [chapter()]}
    first, at_first = in_force(0, 0, TURNS[0]), "2026-12-01T23:40:00Z"
    named, signs = in_force(1, 0, at_first), in_force(1, 1, at_first)
    late = "2026-12-05T00:00:00Z"
    forged = [steps[0], step(1) | {"keysJson": canonical(envelope(key(99), "application/vnd.knhk.keys.v1+json", {}))}, steps[2]]
    return {
        "root_pub": b64(public(ROOT)),
        "password": PASSWORD,
        "seeds": {TURNS[turn]: private.private_bytes_raw().hex() for turn, private in enumerate(ROLLOUT)},
        "unpacked": canonical(supply),
        "xz": b64(lzma.compress(canonical(supply).encode())),
        "keys_json": [canonical(keys_json(turn) | {"chapters": [chapter()]}) for turn in range(3)],
        "due": [
            {"now": now, "at": at}
            for now, at in ((TURNS[0], TURNS[0]), ("2026-12-01T23:29:59Z", TURNS[0]), (TURNS[1], TURNS[1]), (late, TURNS[2]))
        ],
        "looks": [
            {"why": "nothing is due", "now": "2026-12-01T23:00:00Z", "there": first, "then": None},
            {"why": "keys.json names the new keys first", "now": at_first, "there": first, "then": named},
            {"why": "less than five minutes later", "now": "2026-12-01T23:44:59Z", "there": named, "then": None},
            {"why": "five minutes later they sign", "now": "2026-12-01T23:45:00Z", "there": named, "then": signs},
            {"why": "all is in place", "now": "2026-12-02T00:00:00Z", "there": signs, "then": None},
            {"why": "who comes days late brings both at once", "now": late, "there": first, "then": in_force(2, 2, late)},
        ],
        "refused": [
            {"why": "not XZ", "data": b64(b"steps")},
            {"why": "cut off", "data": b64(lzma.compress(canonical(supply).encode())[:-9])},
            {"why": "no turns", "data": packed({"version": 1, "steps": []})},
            {"why": "out of order", "data": packed(supply | {"steps": [steps[1], steps[0]]})},
            {"why": "two at one time", "data": packed(supply | {"steps": [steps[0], steps[0]]})},
            {
                "why": "a turn without keys.json",
                "data": packed({"version": 1, "steps": [{k: v for k, v in steps[0].items() if k != "keysJson"}]}),
            },
            {"why": "a list", "data": packed([steps[0]])},
        ],
        "not_brought": {"now": at_first, "there": first, "data": packed(supply | {"steps": forged}), "why": "the root has not signed it"},
    }


def packed(value: object) -> str:
    return b64(lzma.compress(canonical(value).encode()))


def made() -> bytes:
    return json.dumps(vectors(), indent=1, ensure_ascii=False).encode() + b"\n"


if __name__ == "__main__":
    FILE.write_bytes(made())
