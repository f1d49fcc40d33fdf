"""Whose a receipt id is: the first 8 bytes of one name a ring, and a ring belongs to the client that named it first (formats/log.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from knhk.model.faults import Corrupt
from knhk_runtime.record import MAX_FRAME
from knhk_runtime.sequencer.files import Files
from knhk_runtime.sequencer.wal import Wal, payload
from knhk_runtime.sequencer.wire import KEY_BYTES, SOURCE_BYTES, item

_KEPT_AT_ONCE = MAX_FRAME // 64
_ALL = b"\xff" * KEY_BYTES  # key of a row after which all that was known is said again
MAX_SOURCES_OF_ONE = 65_536  # rings with leaves that a pod makes in its life
MAX_UNUSED_OF_ONE = 1024  # rings that it names and that have no leaf yet
MAX_STALE = 8192  # rows that are kept beside twice those that count
Given = Mapping[bytes, tuple[bytes, bool]]  # source → owner, and whether it has leaves


class Owners:
    """Durable: a source keeps its owner across restarts, for ever once it has a leaf. Of those that a client named and that have none, its
    own oldest give way: nobody loses a ring by another's doing. One caller at a time; `OSError` and `Corrupt` as Wal."""

    def __init__(self, files: Files, folder: Path) -> None:
        self._wal, self._folder = Wal(files, folder), folder
        self._of: dict[bytes, bytes] = {}
        self._unused: dict[bytes, dict[bytes, None]] = {}  # of each owner, the oldest first
        self._many: Counter[bytes] = Counter()  # of each owner, those with leaves
        self._end = self._stored = 0  # number of the next row, and how many are kept

    def recover(self) -> tuple[tuple[str, int], ...]:
        """What was cut of the last write; see Recovered."""
        first, found = self._wal.recover_all()
        many = len(found.keys)
        said = [at for at, key in enumerate(found.keys) if key == _ALL]
        whole = [at for at, following in pairwise((*said, many)) if at + int.from_bytes(found.entries[at], "big") < following]
        if first and not whole:
            raise Corrupt(str(self._folder), f"begins at row {first}: what was known before it is missing")
        for at in range(whole[-1] if whole else 0, many):
            if (key := found.keys[at]) != _ALL:
                self._take(key[:SOURCE_BYTES], found.entries[at], key[SOURCE_BYTES] == 0)
        self._end, self._stored = first + many, many
        return found.cut

    def taken(self, client: str, sources: Collection[bytes], given: Given) -> frozenset[bytes]:
        """Those of `sources` that are another client's; `given`: what is about to be."""
        owner = named(client)
        return frozenset(source for source in sources if self._of.get(source, given.get(source, (owner,))[0]) != owner)

    def crowded(self, client: str, used: Collection[bytes], given: Given) -> frozenset[bytes]:
        """Those of `used` that would be the first leaves of one ring too many."""
        owner = named(client)
        new = {source for source in used if self._is_new(owner, source, given)}
        about = sum(1 for of, is_used in given.values() if is_used and of == owner)
        return frozenset(new if new and self._many[owner] + about + len(new) > MAX_SOURCES_OF_ONE else ())

    def gives(self, client: str, used: Collection[bytes], claimed: Collection[bytes], given: Given) -> Given:
        """What is to be kept so that `used`, of which leaves come, and `claimed` are the client's. Nobody else has them."""
        owner = named(client)
        news = {source: (owner, False) for source in claimed if source not in self._of and source not in given}
        return news | {source: (owner, True) for source in used if self._is_new(owner, source, given)}

    def _is_new(self, owner: bytes, source: bytes, given: Given) -> bool:
        """Whether it has no leaves yet."""
        return (source not in self._of or source in self._unused.get(owner, ())) and not given.get(source, (owner, False))[1]

    def keep(self, given: Given) -> None:
        """Durable when it returns."""
        if not given:
            return
        if self._stored > 2 * len(self._of) + MAX_STALE:
            self._say_all()
        self._write([_row(source, owner, is_used) for source, (owner, is_used) in given.items()])
        for source, (owner, is_used) in given.items():
            self._take(source, owner, is_used)

    def _say_all(self) -> None:
        """Into a segment of its own; then those before it go."""
        begin, rows = self._end, list(self._rows())
        self._wal.begin(begin)
        self._write([item(_ALL, len(rows).to_bytes(32, "big")), *rows])
        self._stored = len(rows) + 1
        self._wal.forget(begin)

    def _rows(self) -> Iterator[bytes]:
        for source, owner in self._of.items():
            if source not in self._unused.get(owner, ()):
                yield _row(source, owner, True)
        for owner, sources in self._unused.items():
            yield from (_row(source, owner, False) for source in sources)

    def _write(self, rows: list[bytes]) -> None:
        starts = range(0, len(rows), _KEPT_AT_ONCE)
        parts = [(at, rows[at : at + _KEPT_AT_ONCE]) for at in starts]
        self._wal.append(self._end, [payload(self._end + at, len(part), b"".join(part)) for at, part in parts])
        self._end += len(rows)
        self._stored += len(rows)

    def _take(self, source: bytes, owner: bytes, is_used: bool) -> None:
        held = self._of.get(source)
        unused = self._unused.get(held, {}) if held is not None else {}
        if held == owner and not (is_used and source in unused):
            return
        unused.pop(source, None)
        self._of[source] = owner
        if is_used:
            self._many[owner] += 1
            return
        mine = self._unused.setdefault(owner, {})
        mine[source] = None
        if len(mine) > MAX_UNUSED_OF_ONE:
            oldest = next(iter(mine))
            del mine[oldest], self._of[oldest]

    def close(self) -> None:
        """Give the descriptor back."""
        self._wal.close()


def _row(source: bytes, owner: bytes, is_used: bool) -> bytes:
    return item((source + bytes([not is_used])).ljust(KEY_BYTES, b"\0"), owner)


def named(client: str) -> bytes:
    """A client as it is kept."""
    return sha256(client.encode()).digest()
