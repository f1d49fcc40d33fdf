"""Writes formats/vectors/envelope.json: `python tests/privacy/envelope_vectors.py`. Apart from the product's code (formats/envelope.md)."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VECTORS = Path(__file__).parents[2] / "formats" / "vectors"
FILE = VECTORS / "envelope.json"
TAGS = bytes(range(32))
KEY, KEY_ID, NONCE, OTHER = b"k" * 32, b"i" * 16, b"n" * 12, b"o" * 32
SUBJECTS = ("anna@example.com", "zoë", "")
CLUSTERS = (0, 77, 2**64 - 1)


def _tag(subject: str) -> bytes:
    return hmac.digest(TAGS, b"knhk.dev/subject/v1\n" + subject.encode(), "sha256") if subject else bytes(32)


def _blinded(cluster: int) -> int:
    return int.from_bytes(hmac.digest(TAGS, b"knhk.dev/cluster/v1\n" + cluster.to_bytes(8, "big"), "sha256")[:8], "big") if cluster else 0


def _frame(payload: bytes) -> bytes:
    import zlib

    size = len(payload).to_bytes(4, "big")
    return size + zlib.crc32(size + payload).to_bytes(4, "big") + payload


def _b32(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _parts(frame: bytes) -> tuple[bytes, list[bytes], bytes, list[bytes]]:
    """(salt, leaves, O, A of each arm) of a plain record."""
    payload = frame[8:]
    arms, at = payload[1], 28
    leaves = [payload[at + 118 * i : at + 118 * (i + 1)] for i in range(arms)]
    at += 118 * arms
    fields = []
    for _ in range(1 + arms):
        size = int.from_bytes(payload[at : at + 4], "big")
        fields.append(payload[at + 4 : at + 4 + size])
        at += 4 + size
    return payload[12:28], leaves, fields[0], fields[1:]


def _bare(a: bytes) -> bytes:
    return a[: 8 + (int.from_bytes(a[6:8], "big") + 7) // 8] + b"\0\0" if a else b""


def _sealed(frame: bytes, tag: bytes) -> tuple[bytes, bytes]:
    """(envelope, frame) of a plain record's frame."""
    salt, leaves, o, actions = _parts(frame)
    arms = b"".join(bytes([leaf[5] & 1]) + _b32(a) for leaf, a in zip(leaves, actions, strict=True))
    aad = b"knhk.dev/envelope/v1\n" + KEY_ID + tag + leaves[0][100:116] + leaves[0][8:40]
    text = salt + _b32(o) + bytes([len(leaves)]) + arms
    envelope = b"KNE1" + KEY_ID + tag + NONCE + AESGCM(KEY).encrypt(NONCE, text, aad)
    cluster = _blinded(int.from_bytes(frame[12:20], "big")).to_bytes(8, "big")
    beside = b"".join(_b32(_bare(a)) for a in actions)
    payload = bytes([1, len(leaves), 0, 2]) + cluster + bytes(16) + b"".join(leaves) + _b32(envelope) + beside
    return envelope, _frame(payload)


def made() -> bytes:
    records: list[dict[str, Any]] = []
    for row in json.loads((VECTORS / "frame.json").read_bytes())["outbox"]:
        plain = bytes.fromhex(row["frame"])
        envelope, frame = _sealed(plain, _tag(SUBJECTS[0]))
        records.append({"name": row["name"], "plain": row["frame"], "envelope": envelope.hex(), "sealed": frame.hex()})
    first, other = bytes.fromhex(records[0]["envelope"]), bytes.fromhex(records[1]["envelope"])
    altered = {
        "another record's envelope": other,
        "last byte": first[:-1] + bytes([first[-1] ^ 1]),
        "nonce": first[:52] + b"m" + first[53:],
        "another subject's tag": first[:20] + _tag(SUBJECTS[1]) + first[52:],
        "another key id": first[:4] + b"j" * 16 + first[20:],
        "cut off by one byte": first[:-1],
        "no ciphertext": first[:70],
        "magic": b"KNE2" + first[4:],
        "empty": b"",
    }
    wrapped = b"KNW1" + NONCE + AESGCM(OTHER).encrypt(NONCE, KEY, b"knhk.dev/wrapped-key/v1\n" + KEY_ID)
    store = b"KNW1" + NONCE + AESGCM(OTHER).encrypt(NONCE, KEY, b"knhk.dev/wrapped-key/v1\nstore")
    document = {
        "tagsKey": TAGS.hex(),
        "tags": [{"subject": subject, "tag": _tag(subject).hex()} for subject in SUBJECTS],
        "clusters": [{"cluster": str(cluster), "blinded": str(_blinded(cluster))} for cluster in CLUSTERS],
        "key": KEY.hex(),
        "keyId": KEY_ID.hex(),
        "nonce": NONCE.hex(),
        "records": records,
        "refused": [{"name": name, "envelope": data.hex()} for name, data in altered.items()],
        "wrapping": {"by": OTHER.hex(), "key": KEY.hex(), "wrapped": wrapped.hex(), "purpose": KEY_ID.hex()},
        "store": {"by": OTHER.hex(), "key": KEY.hex(), "wrapped": store.hex(), "purpose": b"store".hex()},
        "leafHashes": {
            "hashes": [hashlib.sha256(bytes([n])).hexdigest() for n in range(3)],
            "digest": hashlib.sha256(b"".join(hashlib.sha256(bytes([n])).digest() for n in range(3))).hexdigest(),
        },
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


if __name__ == "__main__":
    FILE.write_bytes(made())
