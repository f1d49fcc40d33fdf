"""Machines that write one log into one store: each with a disk of its own, and a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knhk_runtime.keyfile import raw_public
from knhk_runtime.objects.port import ObjectStore
from knhk_runtime.record import encode_leaf, entry_key
from knhk_runtime.sequencer.core import Log, LogKey, Taken
from knhk_runtime.sequencer.files import Disk, Files
from knhk_runtime.sequencer.lease import Lease
from knhk_runtime.sequencer.publication import StorePublication
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.sequencer_client import encode_batch
from knhk_verify.leaf import Leaf
from knhk_verify.note import Verifier

ORIGIN, TTL_S = "knhk.dev/test", 10.0
private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = LogKey(Verifier(ORIGIN, raw_public(private)), private.sign)
_processes = count()


def leaves(start: int, stop: int) -> list[bytes]:
    """Leaves of the receipt ids [start, stop)."""
    ids = [b"RING0001" + number.to_bytes(8, "big") for number in range(start, stop)]
    return [encode_leaf(Leaf(1, 1, 1, 1, 0, 0, id_ * 2, id_ * 2, bytes(20), 7, id_)) for id_ in ids]


class Quick(Disk):
    """A disk that does not wait: what survives a power cut cannot be seen from inside a process."""

    def sync(self, fd: int) -> None:
        pass

    def sync_dir(self, path: Path) -> None:
        pass


@dataclass
class Clock:
    """Seconds; every machine has this one."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Machine:
    """`start` is a new process on it."""

    folder: Path
    store: ObjectStore
    now_s: Callable[[], float]
    files: Files = field(default_factory=Quick)
    acked: dict[bytes, int] = field(default_factory=dict)

    def lease(self) -> Lease:
        """Not yet taken."""
        return Lease(self.store, self.folder.name, f"process-{next(_processes)}", self.now_s, TTL_S)

    def start(self) -> tuple[Log, Lease]:
        """Raises AssertionError when another holds the lease."""
        lease = self.lease()
        wait_s = lease.take()
        assert wait_s == 0, f"{wait_s} s to wait"
        return Log(self.folder, KEY, self.files, public=StorePublication(self.store, lease)), lease

    def append(self, log: Log, rows: Sequence[bytes]) -> list[int]:
        """Indexes, remembered as acknowledged."""
        (found,) = log.commit([parse_append(encode_batch(rows))])
        assert not isinstance(found, Taken)
        self.acked |= dict(zip(map(entry_key, rows), found, strict=True))
        return found
