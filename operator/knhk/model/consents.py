"""Consents: what a subject agreed to, by tag and purpose, and how that travels to a point (formats/consent.md)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import Final

GRANTED: Final = "Granted"
WITHDRAWN: Final = "Withdrawn"
EVENTS: Final[Mapping[str, str]] = {GRANTED: "ConsentGranted", WITHDRAWN: "ConsentWithdrawn"}
BASES: Final = ("consent", "contract", "legal-obligation", "vital-interests", "public-task", "legitimate-interests")
PAYLOAD_TYPE: Final = "application/vnd.knhk.consents.v1+json"
DOCUMENT, BASE = "consents.json", "consents.bin"
SECRET, SECRET_KEY = "knhk-subjects", "key"  # of the namespace
MAX_PURPOSES = 32
MAX_CHANGES = 4096
NOTHING = (0, 0)
_RECORD = struct.Struct("<16sII")
Masks = tuple[int, int]
"""Purposes that a subject has granted and withdrawn, a bit each."""


def consent_name(tag: str, purpose: str) -> str:
    """Name of the Consent of a subject to a purpose: there is one of each."""
    return f"{tag[:32]}-{hashlib.sha256(purpose.encode()).hexdigest()[:8]}"


def masks_of(standing: Iterable[tuple[str, str]], bits: Mapping[str, int]) -> Masks:
    """`standing`: purposes, and Granted or Withdrawn; of two about one the one that was withdrawn counts. `bits`: purpose → mask."""
    granted = withdrawn = 0
    for purpose, state in standing:
        if state == GRANTED:
            granted |= bits.get(purpose, 0)
        else:
            withdrawn |= bits.get(purpose, 0)
    return granted & ~withdrawn, withdrawn


def base_bytes(records: Iterable[tuple[bytes, Masks]]) -> bytes:
    """consents.bin of records in any order."""
    return b"".join(_RECORD.pack(tag, *masks) for tag, masks in sorted(records))


def base_records(data: bytes) -> dict[bytes, Masks]:
    """Raises ValueError for what is no consents.bin."""
    if len(data) % _RECORD.size:
        raise ValueError(f"must be records of {_RECORD.size} bytes")
    found = {tag: (granted, withdrawn) for tag, granted, withdrawn in _RECORD.iter_unpack(data)}
    if len(found) * _RECORD.size != len(data) or list(found) != sorted(found):
        raise ValueError("must have tags strictly ascending")
    return found
