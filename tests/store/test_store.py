"""Every adapter keeps the contract; then what only files and processes can do."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from knhk.adapters.store_sqlite import SqliteStore
from knhk.adapters.system import SystemClock, SystemRandom
from knhk.model.faults import AlreadyExists, Stalled, Waiting

sys.path.insert(0, str(Path(__file__).parent))
from contract import StoreContract, pack
from memory import MemoryStore
from writer import KEY, WRITES


def opened(path: Path) -> SqliteStore:
    return SqliteStore(path, SystemClock(), SystemRandom())


def writer(what: str, path: Path, stdout: int | None = None) -> subprocess.Popen[bytes]:
    """Another process; see writer.py."""
    program = [sys.executable, str(Path(__file__).with_name("writer.py")), what, str(path)]
    return subprocess.Popen(program, stdout=stdout)


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestSqlite(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SqliteStore]:
        store = opened(tmp_path / "state.db")
        yield store
        store.close()

    def test_another_opening_sees_everything(self, store: SqliteStore, tmp_path: Path) -> None:
        made = store.create(pack())
        store.close()
        again = opened(tmp_path / "state.db")
        assert again.get(made.key) == made
        assert again.list("PolicyPack").revision == int(made.resource_version)
        again.close()

    def test_a_waiting_reader_sees_the_write_of_another_process(self, store: SqliteStore, tmp_path: Path) -> None:
        since = store.list("PolicyPack").revision
        process = writer("create", tmp_path / "state.db")
        found, _ = store.changes(since, timeout_s=60.0)
        assert process.wait() == 0
        assert [(c.type, c.resource.name) for c in found] == [("Added", "controls")]

    def test_each_thread_may_write(self, store: SqliteStore) -> None:
        threads = [threading.Thread(target=store.create, args=(pack(f"p{n}"),)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [r.name for r in store.list("PolicyPack").resources] == [f"p{n}" for n in range(8)]


def test_processes_that_write_at_once_lose_no_update(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = opened(path)
    store.create(pack())
    writers = [writer("count", path) for _ in range(3)]
    assert [process.wait() for process in writers] == [0, 0, 0]
    assert store.get(KEY).status == {"n": 3 * WRITES}
    store.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_write_that_returned_survives_sigkill(tmp_path: Path, seed: int) -> None:
    process = writer("endless", tmp_path / "state.db", stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(random.Random(seed).randrange(1, 60)):
        process.stdout.readline()
    process.kill()
    acknowledged = 0
    for line in process.stdout:
        acknowledged = int(line)
    process.stdout.close()
    process.wait()
    store = opened(tmp_path / "state.db")
    assert store.get(KEY).status["n"] >= acknowledged
    store.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_text("not a database, but long enough to be taken for one\n" * 100)
    with pytest.raises(Stalled, match=r"state\.db is not a SQLite database") as caught:
        opened(path)
    assert caught.value.reason == "StoreDamaged"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Stalled, match=r"folder must exist and be writable"):
        opened(tmp_path / "absent" / "state.db")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    opened(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(Stalled, match="has format 7, must be 1"):
        opened(path)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    """A cap on the pages of the file is to SQLite what a full disk is."""
    store = opened(tmp_path / "state.db")
    made = store.create(pack())
    pages = store._connection().execute("PRAGMA page_count").fetchone()[0]
    store._connection().execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(Waiting, match="disk is full") as caught:
        store.create(pack("large", sources=[{"name": "shapes", "kind": "shapes", "inline": "x" * 90_000}]))
    assert caught.value.reason == "StoreFull"
    assert store.get(made.key) == made
    store.close()


def test_a_store_held_by_another_process_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knhk.adapters.store_sqlite.BUSY_S", 0.05)
    store = opened(tmp_path / "state.db")
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Waiting, match="another process") as caught:
        store.create(pack())
    assert caught.value.retry_after_s > 0
    other.execute("ROLLBACK")
    other.close()
    store.create(pack())
    with pytest.raises(AlreadyExists):
        store.create(pack())
    store.close()
