"""keys.json as large as it may be, made to cost whoever reads it memory."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knhk_verify.signed import KEYS, MAX_KEYS_BYTES, canonical, keyid, pae

ROOT = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
ROOT_PUBLIC = ROOT.public_key().public_bytes_raw()
_BEGIN = f'{{"payloadType":"{KEYS}","payload":"'


def _filled(head: bytes, unit: bytes, tail: bytes) -> bytes:
    return head + unit * ((MAX_KEYS_BYTES - len(head) - len(tail)) // len(unit)) + tail


def _few() -> bytes:
    """Objects, fewer than are refused unread."""
    return b"".join(b'{"%d":{}},' % number for number in range(40_000))


_DEEP = b'{"a":' * 400 + b"0" + b"}" * 400
# by what they are made of; nobody has signed them
UNSIGNED: Mapping[str, Callable[[], bytes]] = {
    "empty objects": lambda: _filled(b"[", b"{},", b"0]"),
    "empty lists": lambda: _filled(b"[", b"[[]],", b"0]"),
    "nested lists": lambda: _filled(b"[", b"[" * 400 + b"]" * 400 + b",", b"0]"),
    "nested objects": lambda: _filled(b"[", _DEEP + b",", b"0]"),
    "numbers": lambda: _filled(b"[", b"1,", b"0]"),
    "as many as may be": lambda: _filled(b'{"a":[' + _few() + b'0],"b":"', b"a", b'"}'),
    "a wide letter": lambda: _filled(f"{_BEGIN}\U0001f600".encode(), b"a", b'"}'),
    "a wide letter, escaped": lambda: _filled(f"{_BEGIN}\\ud83d\\ude00".encode(), b"a", b'"}'),
    "a long keyid": lambda: _filled(f'{_BEGIN}","signatures":[{{"sig":"","keyid":"\U0001f600'.encode(), b"a", b'"}]}'),
}


def of_the_root(origin: str) -> bytes:
    """Signed by ROOT: chapters of as many keys of a log as there is room for."""
    texts = list[str]()
    for chapter in range(16):
        keys = (sha256(f"{origin} {chapter} {number}".encode()).digest() for number in range(21_700))
        rows = base64.b64encode(b"".join(b"\x7f\xff\xff\xff" + key for key in keys)).decode()
        texts.append(canonical({"keys": [{"role": "log", "name": origin, "rows": rows}]}).decode())
    digests = [sha256(text.encode()).hexdigest() for text in texts]
    payload = canonical({"version": 1, "serial": 1, "expires": "2100-01-01T00:00:00Z", "roles": {}, "chapters": digests})
    signature = {"keyid": keyid(ROOT_PUBLIC), "sig": base64.b64encode(ROOT.sign(pae(KEYS, payload))).decode()}
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": KEYS, "signatures": [signature], "chapters": texts}
    return canonical(envelope)
