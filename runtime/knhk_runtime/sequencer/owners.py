"""Whose a receipt id is: the first 8 bytes of one name a ring, and a ring belongs to the client that named it first (formats/log.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from knhk_runtime.record import MAX_FRAME
from knhk_runtime.sequencer.files import Files
from knhk_runtime.sequencer.wal import Wal, payload
from knhk_runtime.sequencer.wire import KEY_BYTES, SOURCE_BYTES, item

_KEPT_AT_ONCE = MAX_FRAME // 64
MAX_SOURCES_OF_ONE = 65_536  # rings that a pod makes in its life


class Owners:
    """Durable: a source keeps its owner across restarts. One caller at a time; `OSError` and `Corrupt` as Wal."""

    def __init__(self, files: Files, folder: Path) -> None:
        self._wal = Wal(files, folder)
        self._of: dict[bytes, bytes] = {}
        self._many: Counter[bytes] = Counter()

    def recover(self) -> tuple[tuple[str, int], ...]:
        """What was cut of the last write; see Recovered."""
        found = self._wal.recover(0)
        self._of = {key[:SOURCE_BYTES]: owner for key, owner in zip(found.keys, found.entries, strict=True)}
        self._many = Counter(self._of.values())
        return found.cut

    def taken(self, client: str, sources: Collection[bytes], given: Mapping[bytes, bytes]) -> frozenset[bytes]:
        """Those of `sources` that are another client's, and all new ones of one that has too many; `given`: what is about to be."""
        owner = named(client)
        new = self.unknown(sources) - given.keys()
        crowded = new if self._many[owner] + len(new) > MAX_SOURCES_OF_ONE else frozenset[bytes]()
        return crowded | {source for source in sources if self._of.get(source, given.get(source, owner)) != owner}

    def unknown(self, sources: Iterable[bytes]) -> frozenset[bytes]:
        """Those that are nobody's yet."""
        return frozenset(source for source in sources if source not in self._of)

    def keep(self, given: Mapping[bytes, bytes]) -> None:
        """Source → owner, durable when it returns."""
        rows = list(given.items())
        payloads = []
        for at in range(0, len(rows), _KEPT_AT_ONCE):
            part = rows[at : at + _KEPT_AT_ONCE]
            items = b"".join(item(source.ljust(KEY_BYTES, b"\0"), owner) for source, owner in part)
            payloads.append(payload(len(self._of) + at, len(part), items))
        if payloads:
            self._wal.append(len(self._of), payloads)
            self._of.update(given)
            self._many.update(given.values())

    def close(self) -> None:
        """Give the descriptor back."""
        self._wal.close()


def named(client: str) -> bytes:
    """A client as it is kept."""
    return sha256(client.encode()).digest()
