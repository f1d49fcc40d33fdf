"""Persons as keyed hashes: what stands in the log and in guards instead of a name (formats/consent.md, envelope.md)."""

from __future__ import annotations

import hmac

TAG_BYTES, SHORT_BYTES, KEY_BYTES = 32, 16, 32
SAID = r"[A-Za-z0-9][A-Za-z0-9 .,()/:_-]{0,127}"  # what a person says in an event about a subject: it stands in the log for ever
_DOMAIN = b"knhk.dev/subject/v1\n"


def tag_bytes(key: bytes, subject: str) -> bytes:
    """The tag of a subject, 32 bytes."""
    return hmac.digest(key, _DOMAIN + subject.encode(), "sha256")


def tag_of(key: bytes, subject: str) -> str:
    """The same, 64 hexadecimal digits."""
    return tag_bytes(key, subject).hex()
