"""Notary: who bears witness outside to what a role signed, so that other people's tools believe it."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol


class Notary(Protocol):
    """Promises of every adapter.

    What it gives is a sigstore bundle v0.3 around the same statement, by a key or a certificate that sigstore's tools take, with an entry
    of a transparency log and a timestamp; the adapter has verified it against the pinned trusted root. The given bundle is not changed,
    and stays what is in our log; one that no key of the role signed gets none (Stalled). Concurrency: any thread. Repeating it makes
    another entry outside, which harms nothing.
    Errors: Waiting while a server outside does not answer, within a minute; Stalled for what a person must mend.
    """

    def notarised(self, role: str, bundle: bytes) -> bytes:
        """For a caller that may wait: never one that rolls back."""
        ...

    def ask(self, role: str, bundle: bytes) -> Future[bytes]:
        """The same, beside the caller, who waits for nothing."""
        ...
