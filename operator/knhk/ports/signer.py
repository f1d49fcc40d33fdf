"""Signer: keys that are bound to a role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Signer(Protocol):
    """Promises of every adapter.

    Roles: "build", "rollout", "log", "data"; a key signs for one role only and never leaves the adapter.
    Concurrency: any thread. Errors: Stalled when a key is missing, unreadable or not private; a person must mend it. Waiting while the
    token that holds it does not answer.
    """

    def sign(self, role: str, payload_type: str, payload: bytes) -> dict[str, Any]:
        """DSSE envelope with one signature over `payload`, which is canonical JSON."""
        ...

    def bundle(self, role: str, statement: Mapping[str, Any]) -> bytes:
        """sigstore bundle v0.3 around a signed in-toto statement, canonical JSON."""
        ...

    def keyid(self, role: str) -> str:
        """keyid that signatures of this role carry now: SHA-256 of the raw public key, hexadecimal."""
        ...

    def public(self, role: str) -> bytes:
        """The raw public key (32 bytes) that verifies what this role signs now."""
        ...

    def keys_json(self) -> bytes:
        """keys.json as the root signed it (formats/signed.md)."""
        ...
