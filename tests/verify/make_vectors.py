"""Write formats/vectors/{leaf,log,signed}.json: python tests/verify/make_vectors.py. Same code, same bytes; Go checks them independently
(tests/go_check)."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knhk.lockchain import PolicyEvent, assemble, statement
from knhk_runtime.record import SEGMENT_MAGIC, encode_leaf, entry_key, frame
from knhk_runtime.sequencer.edge import Edge
from knhk_runtime.signatures import COSIGN_SIGN, ROLLOUT
from knhk_runtime.tlog.notes import format_checkpoint, format_proof, format_vkey, sign_note
from knhk_runtime.tlog.tree import Tiles, consistency_proof, inclusion_proof, tile_path
from knhk_verify.leaf import Leaf
from knhk_verify.note import Checkpoint, Verifier
from knhk_verify.signed import KEYS, STATEMENT, canonical, keyid, pae
from knhk_verify.tree import EMPTY, leaf_hash

VECTORS = Path(__file__).parents[2] / "formats" / "vectors"
SIZE = 66_000
SIZES = (1, 2, 3, 6, 7, 8, 255, 256, 257, 300, 511, 65_535, 65_536, 65_537, 66_000)
PAIRS = ((0, 1), (0, 8), (5, 7), (254, 255), (255, 256), (256, 257), (299, 300), (0, 65_536), (65_535, 66_000), (65_999, 66_000))
STEPS = ((1, 2), (3, 7), (6, 8), (8, 255), (255, 256), (256, 257), (257, 65_537), (65_536, 66_000), (511, 66_000))
CANONICAL: tuple[object, ...] = ({"b": 1, "a": [True, None, 'ü\n"\\'], "": {}}, [], "\u2028", -5)
PACK = {"name": "invoice-controls", "namespace": "erp", "version": "1.0.0", "digest": "sha256:" + "ab" * 32}


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def leaf_vectors() -> dict[str, Any]:
    h, p, r = bytes(range(32)), bytes(range(20)), b"SOURCE01" + (7).to_bytes(8, "big")
    leaves = {
        "admitted by R1": Leaf(1, 1, 1, 1, 0, 0, h, h[::-1], p, 1_763_900_000_123_456_789, r),
        "denied, candidate arm, observed, stale": Leaf(1, 1, 2, 2, 3, 1, h, h[::-1], p, 1_763_900_000_123_456_789, r),
        "parked": Leaf(2, 0, 0, 1, 0, 0, h, bytes(32), p, 1, r),
        "unavailable": Leaf(3, 0, 0, 1, 8, 0, h, bytes(32), bytes(20), 2**64 - 1, r),
        "refused": Leaf(4, 0, 2, 1, 0, 65_535, h, bytes(32), bytes(20), 0, r),
        "decided by C1, resumed, fail-open": Leaf(1, 3, 1, 1, 0b110000, 0, h, h, p, 5, r),
    }
    made = []
    for name, leaf in leaves.items():
        fields = {k: v.hex() if isinstance(v, bytes) else str(v) if k == "time_ns" else v for k, v in vars(leaf).items()}
        data = encode_leaf(leaf)
        made.append({"name": name, "fields": fields, "bytes": data.hex(), "key": entry_key(data).hex(), "leaf_hash": leaf_hash(data).hex()})
    good = encode_leaf(leaves["admitted by R1"])
    changes = {"version 2": (0, 2), "kind 0": (1, 0), "kind 5": (1, 5), "class 4": (2, 4), "decision without verdict": (3, 0)}
    changes |= {
        "verdict 3": (3, 3),
        "mode 0": (4, 0),
        "mode 3": (4, 3),
        "flags 64": (5, 64),
        "disposition with H(A)": (1, 2),
        "reserved": (117, 1),
    }
    refused = [{"why": why, "bytes": (good[:at] + bytes([value]) + good[at + 1 :]).hex()} for why, (at, value) in changes.items()]
    refused += [
        {"why": "117 bytes", "bytes": good[:-1].hex()},
        {"why": "119 bytes", "bytes": good.hex() + "00"},
        {"why": "empty", "bytes": ""},
    ]
    return {"leaves": made, "refused": refused}


def log_vectors() -> dict[str, Any]:
    """Entry i is the ASCII text `entry i`."""
    private, tiles, roots, edge = key(9), dict[str, bytes](), [{"size": 0, "root": EMPTY.hex()}], Edge()
    hashes, at = [leaf_hash(b"entry %d" % i) for i in range(SIZE)], 0
    for size in SIZES:
        for level, n, width, data in edge.extend(b"".join(hashes[at:size])):
            tiles[tile_path(level, n, width)] = data
        at = size
        roots.append({"size": size, "root": edge.root().hex()})
    verifier = Verifier("knhk.dev/vectors", private.public_key().public_bytes_raw())
    note = sign_note(format_checkpoint(Checkpoint(verifier.name, SIZE, edge.root())), verifier.name, verifier.public, private.sign)
    read = Tiles(tiles.__getitem__, SIZE)
    items = b"".join(entry_key(e) + len(e).to_bytes(2, "big") + e for e in (bytes.fromhex(leaf_vectors()["leaves"][0]["bytes"]),))
    wal = b"\1" + (41).to_bytes(8, "big") + (1).to_bytes(4, "big") + items
    return {
        "entries": f"entry i, i from 0 to {SIZE - 1}, is the ASCII text `entry i` with i in decimal",
        "vkey": format_vkey(verifier),
        "seed": (bytes([9]) * 32).hex(),
        "checkpoint": note,
        "roots": roots,
        "inclusion": [{"index": i, "size": n, "path": [h.hex() for h in inclusion_proof(read, i, n)]} for i, n in PAIRS],
        "consistency": [{"old": m, "new": n, "path": [h.hex() for h in consistency_proof(read, m, n)]} for m, n in STEPS],
        "proof": {"index": 4242, "text": format_proof(4242, inclusion_proof(read, 4242, SIZE), note)},
        "tiles": [
            {"path": path, "first": data[:32].hex(), "last": data[-32:].hex()}
            for path, data in sorted(tiles.items())
            if "/0/" not in path[:7]
        ],
        "paths": [
            {"level": level, "n": n, "width": width, "path": tile_path(level, n, width)}
            for level, n, width in ((0, 0, 256), (0, 1, 7), (2, 999, 256), (1, 1000, 255), (0, 1_234_067, 256), (63, 10**9, 1))
        ],
        "append_body": ((1).to_bytes(4, "big") + items).hex(),
        "wal_segment": (SEGMENT_MAGIC + (41).to_bytes(8, "big") + frame(wal)).hex(),
    }


def envelope(private: Ed25519PrivateKey, kind: str, payload: bytes) -> dict[str, Any]:
    signature = {"keyid": keyid(private.public_key().public_bytes_raw()), "sig": b64(private.sign(pae(kind, payload)))}
    return {"payload": b64(payload), "payloadType": kind, "signatures": [signature]}


FORMER = [
    {"chapter": 0, "role": "rollout", "name": "", "until": "2026-10-01T06:00:00Z", "pub": b64(key(33).public_key().public_bytes_raw())},
    {"chapter": 0, "role": "rollout", "name": "", "until": "2026-10-02T06:00:00Z", "pub": b64(key(34).public_key().public_bytes_raw())},
    {
        "chapter": 0,
        "role": "log",
        "name": "knhk.dev/größe",
        "until": "2026-10-02T06:00:00Z",
        "pub": b64(key(39).public_key().public_bytes_raw()),
    },
    {"chapter": 1, "role": "build", "name": "", "until": "2106-02-07T06:28:15Z", "pub": b64(key(32).public_key().public_bytes_raw())},
]


def chapters_of() -> list[str]:
    """Of FORMER, apart from the product's code."""
    texts = []
    for chapter in range(2):
        found: dict[tuple[str, str], bytes] = {}
        for each in FORMER:
            if each["chapter"] == chapter:
                until = int(datetime.fromisoformat(str(each["until"])).timestamp())
                place = (str(each["role"]), str(each["name"]))
                found[place] = found.get(place, b"") + until.to_bytes(4, "big") + base64.b64decode(str(each["pub"]))
        parts = [{"role": role, "name": name, "rows": b64(rows)} for (role, name), rows in found.items()]
        texts.append(canonical({"keys": parts}).decode())
    return texts


def signed_vectors() -> dict[str, Any]:
    root, roles = key(1), {"build": key(2), "rollout": key(3), "log": key(9), "data": key(4)}

    def named(role: str) -> dict[str, str]:
        public = roles[role].public_key().public_bytes_raw()
        return {"keyid": keyid(public), "pub": b64(public)} | ({"name": "knhk.dev/vectors"} if role == "log" else {})

    keys = {"version": 1, "serial": 1, "expires": "2027-01-01T00:00:00Z", "roles": {role: [named(role)] for role in roles}}
    chapters = chapters_of()
    digests = [sha256(text.encode()).hexdigest() for text in chapters]
    chaptered = envelope(root, KEYS, canonical(keys | {"serial": 2, "chapters": digests}))
    document = {
        "version": 1,
        "point": "erp/orders",
        "epoch": 17,
        "origin": "knhk.dev/vectors",
        "issued": "2026-11-23T10:00:00Z",
        "notAfter": "2026-11-23T11:00:00Z",
        "mode": "Canary",
        "weight": 100,
        "salt": "00112233445566778899aabbccddeeff",
        "baseline": "Deny",
        "stable": PACK,
        "candidate": PACK | {"version": "1.1.0", "digest": "sha256:" + "cd" * 32},
        "data": {"name": "finance-roles", "digest": "sha256:" + "ef" * 32},
        "flags": {"strict": "on", "größe": "süß"},
        "pointConfig": "12" * 32,
        "bootstrap": "34" * 32,
    }
    event = PolicyEvent(
        "Promoted", ("pack/erp/invoice-controls@1.0.0", "ab" * 32), "control-plane", "2026-11-23T10:00:00Z", PACK, "erp/orders", step=3
    )
    signature = {
        "_type": STATEMENT,
        "subject": [{"name": "pack/erp/invoice-controls@1.0.0", "digest": {"sha256": "ab" * 32}}],
        "predicateType": COSIGN_SIGN,
        "predicate": {},
    }
    seeds = {"root": (bytes([1]) * 32).hex()} | {role: private.private_bytes_raw().hex() for role, private in roles.items()}
    entry = assemble(statement(event), lambda kind, payload: envelope(roles["rollout"], kind, payload))
    return {
        "seeds": seeds,
        "root_pub": b64(root.public_key().public_bytes_raw()),
        "pae": {"type": KEYS, "payload": "{}", "bytes": pae(KEYS, b"{}").hex()},
        "keys.json": envelope(root, KEYS, canonical(keys)),
        "chapters": {
            "keys.json": chaptered | {"chapters": chapters},
            "without_the_first": chaptered | {"chapters": chapters[1:]},
            "former": FORMER,
            "refused": [chaptered | {"chapters": [text]} for text in (chapters[0] + " ", chapters[0].replace("rollout", "data"), "{}")],
        },
        "rollout": envelope(roles["rollout"], ROLLOUT, canonical(document)),
        "event": entry.decode(),
        "event_key": entry_key(entry).hex(),
        "signature": assemble(signature, lambda kind, payload: envelope(roles["build"], kind, payload)).decode(),
        "canonical": [{"value": value, "bytes": canonical(value).hex()} for value in CANONICAL],
        "not_canonical": ['{"b":1,"a":2}', '{"a": 1}', '{"a":1.0}', '{"a":1,"a":1}', '{"a":NaN}', '{"a":1}\n', '"\\u0061"', ""],
    }


def made() -> dict[str, bytes]:
    """File name → bytes."""
    parts = {"leaf": leaf_vectors(), "log": log_vectors(), "signed": signed_vectors()}
    return {f"{name}.json": json.dumps(part, indent=1, ensure_ascii=False).encode() + b"\n" for name, part in parts.items()}


if __name__ == "__main__":
    for file, data in made().items():
        VECTORS.mkdir(exist_ok=True)
        (VECTORS / file).write_bytes(data)
