"""Which index a leaf has in the log: what the archive has read of it and not met in a record yet, in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from knhk_runtime.record import entry_key, leaf_digest
from knhk_runtime.tlog.served import Served

_AT_ONCE = 500
_LEARN = 50_000


class LogIndexes:
    """A cache: when its file is lost, the log is read again from its first entry. One thread at a time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS leaf (key BLOB PRIMARY KEY, at INTEGER, hash BLOB) WITHOUT ROWID")
        self._db.execute("CREATE TABLE IF NOT EXISTS reach (size INTEGER)")

    @property
    def size(self) -> int:
        """Entries of the log that were read."""
        found = self._db.execute("SELECT max(size) FROM reach").fetchone()[0]
        return int(found or 0)

    def learn(self, log: Served) -> None:
        """Reads what is new under the log's checkpoint. Raises Bad."""
        entries = enumerate(log.entries(self.size), self.size)
        while part := list(islice(entries, _LEARN)):
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR REPLACE INTO leaf VALUES (?, ?, ?)", _leaves(part))
            self._db.execute("DELETE FROM reach")
            self._db.execute("INSERT INTO reach VALUES (?)", (part[-1][0] + 1,))
            self._db.execute("COMMIT")

    def find(self, keys: Iterable[bytes]) -> Mapping[bytes, tuple[int, bytes]]:
        """(index, hash of the leaf) of the keys that are known."""
        found, rest = dict[bytes, tuple[int, bytes]](), iter(keys)
        while part := list(islice(rest, _AT_ONCE)):
            marks = ",".join("?" * len(part))
            found |= {row[0]: (row[1], row[2]) for row in self._db.execute(f"SELECT key, at, hash FROM leaf WHERE key IN ({marks})", part)}
        return found

    def forget(self, keys: Iterable[bytes]) -> None:
        """Of these no second record is expected."""
        self._db.execute("BEGIN")
        self._db.executemany("DELETE FROM leaf WHERE key = ?", ((key,) for key in keys))
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()


def _leaves(entries: Iterable[tuple[int, bytes]]) -> Iterator[tuple[bytes, int, bytes]]:
    for index, entry in entries:
        if entry[:1] != b"{":
            yield entry_key(entry), index, leaf_digest(entry)
