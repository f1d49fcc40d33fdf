"""Log: the append-only record of receipts and policy events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Log(Protocol):
    """Promises of every adapter.

    Durability: an index is returned after the entry is durable (fdatasync); it is final, and entries keep their order.
    Idempotency: an entry that the log has, by its key (formats/leaf.md), gets its first index; repeat after any error.
    Atomicity: a batch that fails may have been appended in whole or not at all; repeating it tells.
    Concurrency: any number of callers and threads.
    Errors: Waiting when the log cannot be reached, its storage fails or it does not cover the entry yet; Refused for what is
    malformed, with where; NotFound for what is not in the log. Nothing else.
    """

    def append_event(self, bundle: bytes) -> int:
        """Index of a policy event, a bundle of at most 65,535 bytes."""
        ...

    def append_events(self, bundles: Sequence[bytes]) -> list[int]:
        """Index of each of several policy events, in order, as a batch: a pack that is built leaves three."""
        ...

    def append_leaves(self, leaves: Sequence[bytes]) -> list[int]:
        """Index of each leaf (118 bytes), in order; any number of them."""
        ...

    def index_of(self, key: bytes) -> int:
        """Index of the entry with this idempotency key, 17 bytes. Raises NotFound."""
        ...

    def proof(self, index: int) -> str:
        """tlog-proof text of an entry under the newest checkpoint. Raises Waiting while no checkpoint covers it: each entry is
        covered within the checkpoint interval (0.5 s)."""
        ...

    def proofs(self, indexes: Sequence[int]) -> list[str | None]:
        """`proof` of several entries; None for what no checkpoint covers yet."""
        ...

    def checkpoint(self) -> str:
        """The newest signed checkpoint."""
        ...
