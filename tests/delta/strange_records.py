"""Records of every kind that a pod may send, right and wrong, by a seed: parts of the formats' vectors, and mutants of them."""

from __future__ import annotations

import json
import random
import struct
from functools import cache
from pathlib import Path
from typing import Any

from delta_world import NOON_NS, RING, observation

from knhk_runtime.record import h_a, h_o
from knhk_verify.leaf import LAYOUT

VECTORS = Path(__file__).resolve().parents[2] / "formats" / "vectors"
HOURS_NS = tuple(NOON_NS + hour * 3600 * 10**9 for hour in range(3))
TIMES_NS = (0, 1, 999, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


@cache
def _vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_bytes())


def _bytes(rows: list[dict[str, Any]], field: str = "bytes") -> list[bytes]:
    return [bytes.fromhex(row[field]) for row in rows if field in row]


@cache
def observations() -> list[bytes]:
    found, edges = _vectors("observation"), _vectors("edges")["observation"]
    return [*_bytes(found["good"]), *_bytes(found["bad"]), *_bytes(edges["accepted"]), *_bytes(edges["refused"])]


@cache
def actions() -> list[bytes]:
    edges = _vectors("edges")["action"]
    return [b"", *_bytes(_vectors("action")["actions"]), *_bytes(edges["accepted"]), *_bytes(edges["refused"])]


@cache
def envelopes() -> list[bytes]:
    found = _vectors("envelope")
    return [*_bytes(found["records"], "envelope"), *_bytes(found["refused"], "envelope")]


@cache
def leaves() -> list[bytes]:
    found = _vectors("leaf")
    return [*_bytes(found["leaves"]), *_bytes(found["refused"])]


@cache
def whole() -> list[bytes]:
    """Payloads of the records of the vectors."""
    sealed = _vectors("envelope")["records"]
    return [each[8:] for each in (*_bytes(_vectors("frame")["outbox"], "frame"), *_bytes(sealed, "plain"), *_bytes(sealed, "sealed"))]


def _attributes(chance: random.Random) -> bytes:
    """An O with callers of all sorts."""
    made = list[bytes]()
    for name in ("iss", "peer", "sub", "sub.x"):
        if chance.random() < 0.5:
            value = chance.choice(["", "ann", "Žofie", "spiffe://a/b", "x" * 4096, "\U0001f600"]).encode()
            made.append(len(name).to_bytes(2, "big") + name.encode() + len(value).to_bytes(4, "big") + value)
    digests = chance.choice([bytes(64), b"b" * 64, bytes(32) + b"e" * 32, b"\0" * 31 + b"\1" + bytes(32)])
    route = chance.choice(["", "orders", "Ž/ü"]).encode()
    head = b"KNO1" + NOON_NS.to_bytes(8, "big") + b"\0\5local" + len(route).to_bytes(2, "big") + route + digests
    body = chance.randbytes(chance.choice([0, 1, 300]))
    return head + len(made).to_bytes(2, "big") + b"".join(made) + len(body).to_bytes(4, "big") + body


def _action(chance: random.Random) -> bytes:
    guards = chance.choice([0, 1, 7, 8, 9, 64, 65, 65535])
    bits = chance.getrandbits(guards) if guards else 0
    triples = sorted({chance.randbytes(chance.randint(0, 9)) for _ in range(chance.choice([0, 0, 1, 8]))})
    head = b"KNA1" + bytes([chance.choice([1, 2]), 0]) + guards.to_bytes(2, "big") + bits.to_bytes((guards + 7) // 8, "little")
    return head + len(triples).to_bytes(2, "big") + b"".join(len(each).to_bytes(4, "big") + each for each in triples)


def _leaf(chance: random.Random, receipt: bytes, arm: int, salt: bytes, o: bytes, a: bytes) -> bytes:
    kind = chance.choice([1, 1, 1, 2, 3, 4])
    hashed = h_a(salt, a) if kind == 1 else bytes(32)
    verdict = chance.choice([1, 2]) if kind == 1 else chance.choice([0, 1, 2])
    flags = chance.getrandbits(6) & 62 | (arm if chance.random() < 0.9 else 0)
    pack, time_ns = chance.choice([bytes(20), b"p" * 20, bytes(19) + b"\1"]), chance.choice([*HOURS_NS, *TIMES_NS])
    head = (1, kind, chance.randint(0, 3), verdict, chance.choice([1, 2]), flags, chance.choice([0, 0, 1, 65535]))
    return LAYOUT.pack(*head, h_o(salt, o), hashed, pack, time_ns, receipt, 0)


def _named(data: bytes, at: int, number: int) -> bytes:
    """With the receipt of this number: of one in two commits the log is asked once."""
    return data[:at] + RING + number.to_bytes(8, "big") + data[at + 16 :]


def payload(chance: random.Random, number: int) -> bytes:
    """Of one record: mostly whole, some with a part that is not as its page says, some that are none."""
    if chance.random() < 0.05:
        return _mutant(chance, _named(chance.choice(whole()), 128, number)) or b"\0"  # no frame is empty
    flags, arms, salt = chance.choice([0, 0, 0, 0, 1, 2]), chance.choice([1, 1, 2]), chance.randbytes(16)
    o = chance.choice([_attributes(chance), _attributes(chance), observation(b"{}", NOON_NS), chance.choice(observations())])
    o = chance.choice(envelopes()) if flags == 2 else bytes(len(o)) if flags == 1 else o
    acts = [chance.choice([_action(chance), _action(chance), b"", chance.choice(actions())]) for _ in range(arms)]
    made = [_leaf(chance, RING + number.to_bytes(8, "big"), arm, salt, o, a) for arm, a in enumerate(acts)]
    if chance.random() < 0.1:
        made[-1] = _named(chance.choice(leaves()).ljust(118, b"\0")[:118], 100, number)
    if chance.random() < 0.1:
        o = chance.choice([_mutant(chance, o), _attributes(chance)])
    if chance.random() < 0.1:
        acts[-1] = chance.choice([_mutant(chance, acts[-1]), _action(chance), b""])
    cluster = chance.choice([0, 1, (1 << 64) - 1])
    head = struct.pack(">BBHQ16s", 1, arms, flags, cluster, salt) + b"".join(made)
    return head + len(o).to_bytes(4, "big") + o + b"".join(len(a).to_bytes(4, "big") + a for a in acts)


def _mutant(chance: random.Random, data: bytes) -> bytes:
    if not data:
        return b"\0"
    at = chance.randrange(len(data))
    made = [
        data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :],
        data[:at] + data[at + 1 :],
        data[:at] + chance.randbytes(1) + data[at:],
        data[:at],
    ]
    return chance.choice(made)
