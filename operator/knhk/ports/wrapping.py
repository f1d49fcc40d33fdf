"""Wrapping: a key-encryption key, which wraps other keys and never leaves its adapter."""

from __future__ import annotations

from typing import Protocol


class Wrapping(Protocol):
    """Promises of every adapter.

    The key is AES-256 and is made by the first `wrap` when it is missing; formats/envelope.md has what a wrapped key looks like, the
    same by every adapter. Concurrency: any thread. Errors: Stalled when the key is missing, unreadable or not private; Corrupt for what it
    did not wrap; Waiting while the token that holds it does not answer.
    """

    def wrap(self, purpose: bytes, key: bytes) -> bytes:
        """`key`, 32 bytes, wrapped for one purpose."""
        ...

    def unwrap(self, purpose: bytes, wrapped: bytes) -> bytes:
        """The key that was wrapped for this purpose."""
        ...
