"""O sealed for its subject, by AES-256-GCM (formats/envelope.md). Pure, but for nonces."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from knhk.model.subjects import TAG_BYTES as TAG
from knhk.model.subjects import tag_bytes
from knhk_verify.errors import Bad

KEY, KEY_ID, NONCE, SALT = 32, 16, 12, 16
NOBODY = bytes(TAG)
WINDOW_NS = 30 * 86_400 * 10**9
_MAGIC = b"KNE1"
_HEAD = len(_MAGIC) + KEY_ID + TAG
_ACTION_HEAD = 8  # magic, verdict, reserved, number of guards


@dataclass(frozen=True)
class Sealed:
    """What an envelope says without a key."""

    key_id: bytes
    tag: bytes
    nonce: bytes
    ciphertext: bytes


@dataclass(frozen=True)
class Plain:
    """What is in an envelope. `actions`: A of each arm, by flags & 1 of its leaf."""

    salt: bytes
    observation: bytes
    actions: dict[int, bytes]


def tag_of(tags_key: bytes, subject: str) -> bytes:
    """The subject's tag; that of nobody for an empty one."""
    return tag_bytes(tags_key, subject) if subject else NOBODY


def blinded(tags_key: bytes, cluster: int) -> int:
    """The hash of a sticky key as it stands beside an envelope."""
    if cluster == 0:
        return 0
    digest = hmac.digest(tags_key, b"knhk.dev/cluster/v1\n" + cluster.to_bytes(8, "big"), "sha256")
    return int.from_bytes(digest[:8], "big") or 1


def window_of(time_ns: int) -> int:
    """Number of the window that a time is in."""
    return time_ns // WINDOW_NS


def _aad(key_id: bytes, tag: bytes, leaf: bytes) -> bytes:
    return b"knhk.dev/envelope/v1\n" + key_id + tag + leaf[100:116] + leaf[8:40]


def seal(key: bytes, key_id: bytes, tag: bytes, leaves: Sequence[bytes], plain: Plain, nonce: bytes | None = None) -> bytes:
    """The envelope of a record with these leaves; a nonce is given in tests of vectors only."""
    nonce = os.urandom(NONCE) if nonce is None else nonce
    arms = b"".join(bytes([arm]) + len(a).to_bytes(4, "big") + a for arm, a in plain.actions.items())
    text = plain.salt + len(plain.observation).to_bytes(4, "big") + plain.observation + bytes([len(plain.actions)]) + arms
    return _MAGIC + key_id + tag + nonce + AESGCM(key).encrypt(nonce, text, _aad(key_id, tag, leaves[0]))


def parse_envelope(data: bytes, where: str = "envelope") -> Sealed:
    """Raises Bad."""
    if data[: len(_MAGIC)] != _MAGIC:
        raise Bad(where, "must begin with KNE1")
    if len(data) < _HEAD + NONCE + 16:
        raise Bad(where, f"has {len(data)} bytes: was cut off")
    at = len(_MAGIC)
    key_id, tag = data[at : at + KEY_ID], data[at + KEY_ID : _HEAD]
    return Sealed(key_id, tag, data[_HEAD : _HEAD + NONCE], data[_HEAD + NONCE :])


def unseal(key: bytes, sealed: Sealed, leaf: bytes, where: str = "envelope") -> Plain:
    """What was sealed beside this leaf. Raises Bad: another key, another record's envelope, or altered."""
    try:
        text = AESGCM(key).decrypt(sealed.nonce, sealed.ciphertext, _aad(sealed.key_id, sealed.tag, leaf))
    except InvalidTag as error:
        raise Bad(where, "does not open: it was altered, or is another record's or another key's") from error
    at = SALT + 4 + int.from_bytes(text[SALT : SALT + 4], "big")
    observation, count = text[SALT + 4 : at], text[at] if at < len(text) else 0
    at, actions = at + 1, dict[int, bytes]()
    for _ in range(count):
        size = int.from_bytes(text[at + 1 : at + 5], "big")
        actions[text[at]] = text[at + 5 : at + 5 + size]
        at += 5 + size
    if at != len(text) or len(actions) != count or not set(actions) <= {0, 1} or count == 0:
        raise Bad(where, "holds no salt, O and A of one or two arms")
    return Plain(text[:SALT], observation, actions)


def without_triples(action: bytes) -> bytes:
    """A as it may stand in clear: verdict and guard bits; nothing of a disposition."""
    if not action:
        return b""
    guards = int.from_bytes(action[6:8], "big")
    return action[: _ACTION_HEAD + (guards + 7) // 8] + bytes(2)


def wrap(by: bytes, purpose: bytes, key: bytes, nonce: bytes | None = None) -> bytes:
    """`key` wrapped by the key `by` for one purpose."""
    nonce = os.urandom(NONCE) if nonce is None else nonce
    return b"KNW1" + nonce + AESGCM(by).encrypt(nonce, key, purposed(purpose))


def unwrap(by: bytes, purpose: bytes, wrapped: bytes, where: str) -> bytes:
    """Raises Bad."""
    nonce, ciphertext = wrapped_parts(wrapped, where)
    try:
        return AESGCM(by).decrypt(nonce, ciphertext, purposed(purpose))
    except InvalidTag as error:
        raise Bad(where, "does not unwrap: it was altered, or is for another purpose or by another key") from error


def wrapped_parts(wrapped: bytes, where: str) -> tuple[bytes, bytes]:
    """(nonce, ciphertext). Raises Bad."""
    if wrapped[:4] != b"KNW1" or len(wrapped) != 4 + NONCE + KEY + 16:
        raise Bad(where, "must be a wrapped key: KNW1 and 60 bytes")
    return wrapped[4 : 4 + NONCE], wrapped[4 + NONCE :]


def purposed(purpose: bytes) -> bytes:
    """AAD of a wrapped key."""
    return b"knhk.dev/wrapped-key/v1\n" + purpose


def leaves_digest(hashes: Iterable[bytes]) -> str:
    """`leafHashes` of an event: over RFC 6962 leaf hashes in the order of their indexes."""
    digest = sha256()
    for each in hashes:
        digest.update(each)
    return digest.hexdigest()
