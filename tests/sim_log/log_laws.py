"""What must hold of a log, whatever happens to machines, disks, the store and the line between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from machines import KEY

from knhk_runtime.record import entry_key
from knhk_runtime.tlog.served import Served
from knhk_runtime.tlog.tree import parse_bundle_of_entries, tile_path
from knhk_verify.errors import Bad
from knhk_verify.note import open_checkpoint


class Broken(Exception):
    """A law does not hold."""

    def __init__(self, law: str, what: str) -> None:
        super().__init__(what)
        self.law = law


Fetch = Callable[[str], bytes | None]


@dataclass(frozen=True)
class Ack:
    """An entry that was acknowledged: its index, and the machine (and which of its disks) that did it."""

    index: int
    machine: str
    disk: int


@dataclass
class Laws:
    """`published`: the longest history that any checkpoint has covered."""

    published: list[bytes] = field(default_factory=list)
    acked: dict[bytes, Ack] = field(default_factory=dict)
    sent: set[bytes] = field(default_factory=set)
    _seen: bytes = b""
    _sizes: list[int] = field(default_factory=list)

    def look(self, fetch: Fetch) -> None:
        """After whatever may have changed what strangers read."""
        note = fetch("checkpoint")
        if note is None or note == self._seen:
            return
        self._seen = note
        try:
            checkpoint = open_checkpoint(note, KEY.verifier)
            served = Served("log", fetch, checkpoint.size)
            root, entries = served.root(checkpoint.size), self._entries(served, fetch)
        except Bad as error:
            raise Broken("tiles", f"a checkpoint needs what is not there, or is torn: {error}") from error
        if root != checkpoint.root:
            raise Broken("root", f"the tiles do not give the root of the checkpoint of {checkpoint.size}")
        shared = min(len(entries), len(self.published))
        if entries[:shared] != self.published[:shared]:
            at = next(i for i in range(shared) if entries[i] != self.published[i])
            raise Broken("fork", f"entry {at} was another under an earlier checkpoint")
        if len(entries) > shared:
            self.published = entries
            self._once(entries)

    def _entries(self, served: Served, fetch: Fetch) -> list[bytes]:
        """All entries, those that were published before only where a bundle is new."""
        known = self.published if served.size >= len(self.published) else []
        first = len(known) // 256
        entries = list(known[: first * 256])
        for n in range(first, -(-served.size // 256)):
            path, data = served.bundle(n)
            entries += [entry for _, entry in parse_bundle_of_entries(data, path)]
        for n in range(first):
            if fetch(tile_path(None, n)) is None:
                raise Bad(tile_path(None, n), "is missing")
        return entries

    def _once(self, entries: list[bytes]) -> None:
        keys = [entry_key(entry) for entry in entries]
        if len(set(keys)) != len(keys):
            raise Broken("twice", "an entry is in the log twice")
        if not self.sent.issuperset(keys):
            raise Broken("only_asked", "an entry is in the log that nobody appended")

    def acknowledged(self, keys: list[bytes], indexes: list[int], machine: str, disk: int, exact: bool) -> None:
        """`exact`: a repeated entry has its first index."""
        for key, index in zip(keys, indexes, strict=True):
            if exact and key in self.acked and self.acked[key].index != index:
                raise Broken("index", f"a repeated entry got index {index}, and {self.acked[key].index} before")
            self.acked[key] = Ack(index, machine, disk)

    def kept(self, survives: Callable[[Ack], bool], exact: bool) -> None:
        """At the end: nothing acknowledged is lost but with the disk that held it; `exact`: no index has changed."""
        where = {entry_key(entry): index for index, entry in enumerate(self.published)}
        for key, ack in self.acked.items():
            if key not in where and survives(ack):
                raise Broken("lost", f"entry {ack.index}, acknowledged by {ack.machine}, is not in the log")
            if exact and where.get(key, ack.index) != ack.index:
                raise Broken("index", f"entry {ack.index} was acknowledged and is published as {where[key]}")
