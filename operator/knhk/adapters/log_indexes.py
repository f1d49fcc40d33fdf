"""Which index a leaf has in the log: what the archive has read of it and not met in a record yet, in memory and in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from knhk_runtime.record import entry_key, leaf_digest
from knhk_runtime.tlog.served import Served

_AT_ONCE = 500
_READ = 1 << 14
FRESH = 1 << 17  # leaves in memory, about 250 bytes each


class LogIndexes:
    """A cache: when its file is lost, the log is read again from its first entry. The log is read as far as keys are asked for. What was
    read is in memory until `forget`, which writes what no record was met of: most leaves are met at once, and never come to the file. More
    than `fresh` of them are written before. One thread at a time."""

    def __init__(self, path: Path, fresh: int = FRESH) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fresh, self._fresh_max = dict[bytes, tuple[int, bytes]](), fresh
        self._log: Served | None = None
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS leaf (key BLOB PRIMARY KEY, at INTEGER, hash BLOB) WITHOUT ROWID")
        self._db.execute("CREATE TABLE IF NOT EXISTS reach (size INTEGER)")
        self._size = int(self._db.execute("SELECT max(size) FROM reach").fetchone()[0] or 0)  # entries that were read

    def learn(self, log: Served) -> None:
        """What the log's checkpoint covers counts from now on."""
        self._log = log

    def find(self, keys: Iterable[bytes]) -> Mapping[bytes, tuple[int, bytes]]:
        """(index, hash of the leaf) of the keys that the log has, and of which no record was met. Raises Bad."""
        wanted = dict.fromkeys(keys)
        found = self._known(wanted)
        while len(found) < len(wanted) and self._read_on():
            found |= self._known(key for key in wanted if key not in found)
        return found

    def _read_on(self) -> bool:
        """Whether there was more to read."""
        part = [] if self._log is None else list(enumerate(islice(self._log.entries(self._size), _READ), self._size))
        self._fresh.update(_leaves(part))
        self._size += len(part)
        if len(self._fresh) > self._fresh_max:
            self._write(())
        return bool(part)

    def _known(self, keys: Iterable[bytes]) -> dict[bytes, tuple[int, bytes]]:
        found, rest = dict[bytes, tuple[int, bytes]](), list[bytes]()
        for key in keys:
            if (at := self._fresh.get(key)) is not None:
                found[key] = at
            else:
                rest.append(key)
        for first in range(0, len(rest), _AT_ONCE):
            part = rest[first : first + _AT_ONCE]
            marks = ",".join("?" * len(part))
            found |= {row[0]: (row[1], row[2]) for row in self._db.execute(f"SELECT key, at, hash FROM leaf WHERE key IN ({marks})", part)}
        return found

    def forget(self, keys: Iterable[bytes]) -> None:
        """Of these no second record is expected."""
        self._write(key for key in keys if self._fresh.pop(key, None) is None)

    def _write(self, gone: Iterable[bytes]) -> None:
        """What is in memory, and how far the log was read."""
        self._db.execute("BEGIN")
        self._db.executemany("DELETE FROM leaf WHERE key = ?", ((key,) for key in gone))
        self._db.executemany("INSERT OR REPLACE INTO leaf VALUES (?, ?, ?)", ((key, *at) for key, at in self._fresh.items()))
        self._db.execute("DELETE FROM reach")
        self._db.execute("INSERT INTO reach VALUES (?)", (self._size,))
        self._db.execute("COMMIT")
        self._fresh.clear()

    def close(self) -> None:
        self._db.close()


def _leaves(entries: Iterable[tuple[int, bytes]]) -> Iterator[tuple[bytes, tuple[int, bytes]]]:
    for index, entry in entries:
        if entry[:1] != b"{":
            yield entry_key(entry), (index, leaf_digest(entry))
