"""Compaction: few segments of many, the same rows; whatever dies, and whoever reads meanwhile, each row is there once."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from delta_world import HOUR_NS, NOON_NS, Crash, Failing, Yard, decided

from knhk.adapters import delta_parquet
from knhk.model.delta import Row
from knhk.model.faults import Corrupt, Deposed, NotFound, Waiting
from knhk.ports.segments import Part
from knhk.reconcilers import delta
from knhk.reconcilers.compacting import Policy, chosen
from knhk.reconcilers.delta import File
from knhk.reconcilers.ledger import SNAPSHOT_EVERY, Kept, Ledger, contents_of
from knhk.wiring.archive import Options, opened_folder, serve
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.objects.port import PLAIN, About, ObjectStore, Stored

HOURS, COMMITS = 3, 3
EVERY = Policy(few=2)
FORMAT = (Path(__file__).parents[2] / "formats" / "delta.md").read_text("utf-8")
BY_COMMITS = re.findall(r"```sql\n(.*?)```", FORMAT, re.DOTALL)[0]  # as the page has it


@pytest.fixture
def filled(yard: Yard) -> Yard:
    """An archive of three hours, each of as many segments as there were commits; the last hour is not over."""
    number = 0
    for _ in range(COMMITS):
        for hour in range(HOURS):
            for _ in range(2):
                yard.record(decided(number, sub=f"user{number % 5}", deny=number % 4 == 0, time_ns=NOON_NS + hour * HOUR_NS + number))
                number += 1
        yard.archived()
    yard.clock.ns = NOON_NS + HOURS * HOUR_NS
    return yard


def ledger(yard: Yard, store: ObjectStore | None = None) -> Ledger:
    return Ledger(store or yard.store, delta_parquet, yard.clock)


def compacted(made: Ledger) -> Ledger:
    while made.compact(EVERY) is not None:
        pass
    made.tidy()
    return made


def rows(store: ObjectStore) -> Counter[Row]:
    kept = Kept(store, delta_parquet)
    return Counter(row for name in kept.names() for row in kept.rows(name))


def glob(folder: Path) -> list[int]:
    """Indexes in the log, by DuckDB over the folder as it is."""
    found = duckdb.connect().execute(f"SELECT log_index FROM read_parquet('{folder}/region=*/*/*/*.parquet') ORDER BY 1")
    return [index for (index,) in found.fetchall()]


def by_commits(folder: Path) -> list[int]:
    """The same by the statement in formats/delta.md."""
    db = duckdb.connect()
    for statement in BY_COMMITS.replace("ROOT", str(folder)).split(";\n"):
        found = db.execute(statement)
    return sorted(index for (index,) in found.fetchall())


def visible(store: ObjectStore) -> set[str]:
    return {each.key for each in store.list() if not each.key.startswith("_")}


def test_an_hour_that_is_over_becomes_one_segment_of_the_same_rows(filled: Yard) -> None:
    before, whole = rows(filled.store), set(before_names := Kept(filled.store, delta_parquet).names())
    assert len(before_names) == HOURS * COMMITS
    made = compacted(ledger(filled))
    assert rows(filled.store) == before
    assert set(before.values()) == {1}
    names = Kept(filled.store, delta_parquet).names()
    assert Counter(name.rpartition("/")[0][-7:] for name in names) == {"hour=12": 1, "hour=13": 1, "hour=14": COMMITS}
    assert visible(filled.store) == set(names)
    assert len(whole & set(names)) == COMMITS, "the hour that is not over is left alone"
    assert (made.progress.commits, made.progress.merged) == (2, 2 * COMMITS)
    filled.clock.ns += int(3600e9 + 600e9)
    compacted(ledger(filled))
    assert len(visible(filled.store)) == HOURS
    assert rows(filled.store) == before


def test_a_merged_segment_is_what_one_commit_would_have_made(filled: Yard) -> None:
    """Sorted, with row groups, statistics, page index and Bloom filters."""
    once = FolderStore(filled.base / "once")
    assert filled.archive(once, state="once").round() is not None
    compacted(ledger(filled))
    (file,) = (file for file in contents_of(filled.store).files.values() if "hour=12" in file.path)
    path = filled.base / "delta" / file.path
    table = pq.read_table(path, partitioning=None)
    order = list(zip(*(table.column(name).to_pylist() for name in ("pack", "verdict", "actor", "key", "time_ns")), strict=True))
    assert order == sorted(order)
    (alone,) = (each for each in contents_of(once).files.values() if "hour=12" in each.path)
    assert path.read_bytes() == once.get(alone.path).data
    assert (file.rows, file.first, file.last) == (alone.rows, alone.first, alone.last)


@pytest.mark.parametrize("dies", [True, False], ids=["dies", "fails"])
@pytest.mark.parametrize("after", [True, False], ids=["done", "not done"])
def test_a_death_or_a_lost_answer_at_any_step_is_mended_by_the_next_writer(filled: Yard, after: bool, dies: bool) -> None:
    before = rows(filled.store)
    for at in range(60):
        folder = filled.base / f"delta-{at}"
        shutil.copytree(filled.base / "delta", folder)
        store = FolderStore(folder)
        failing = Failing(store, at, after, dies)
        made = ledger(filled, failing)
        with suppress(Crash, Waiting):
            compacted(made)
        assert rows(store) == before, at  # at once, for who reads by commits
        ended = failing.step < at
        compacted(ledger(filled, store) if dies or ended else made)
        assert rows(store) == before, at
        assert visible(store) == set(Kept(store, delta_parquet).names()), at
        assert [each.key for each in store.list(delta.PLANS)] == [delta.plan_key(n) for n in range(contents_of(store).number + 1)], at
        if ended:
            break
    assert at > 15


def test_what_could_not_be_deleted_is_deleted_by_the_same_writers_next_tidying(filled: Yard) -> None:
    class Refusing(FolderStore):
        refuses = False

        def delete(self, keys: Sequence[str]) -> None:
            if self.refuses:
                raise Waiting("Store", "no answer", 0.0)
            super().delete(keys)

    store = Refusing(filled.base / "delta")
    made = ledger(filled, store)
    made.tidy()
    store.refuses = True
    with pytest.raises(Waiting):
        made.compact(EVERY)
    store.refuses = False
    made.tidy()
    assert visible(filled.store) == set(Kept(filled.store, delta_parquet).names())


def test_the_archiving_process_goes_on_with_a_merge_that_another_began(filled: Yard) -> None:
    """And the other way round: records that another began to archive are told."""

    class Dying(FolderStore):
        def put_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> None:
            raise Crash

    with pytest.raises(Crash):
        ledger(filled, Dying(filled.base / "delta")).compact(EVERY)
    filled.record(decided(999))
    made = filled.archived()
    assert (made.progress.merged, made.progress.rows) == (COMMITS, 1)
    filled.record(decided(1000))
    begun = filled.archive()
    begun.progress.rows = 0
    plan = begun._choose(begun.followed().number + 1)
    assert plan is not None
    filled.store.create(delta.plan_key(plan.number), delta.plan_bytes(plan))
    with pytest.raises(Waiting, match="knhk log archive"):
        ledger(filled).compact(EVERY)


@dataclass
class Watched(Failing):
    """A store beside which somebody looks before each step."""

    look: Callable[[], object] = lambda: None

    def _do(self, act: object) -> object:
        self.look()
        return super()._do(act)


def test_whoever_reads_by_commits_finds_each_row_once_at_every_moment(filled: Yard) -> None:
    """Who reads the folder as it is: before and after, and never too few."""
    folder, whole, looks = filled.base / "delta", list(range(HOURS * COMMITS * 2)), list[int]()
    early = Kept(filled.store, delta_parquet)  # has begun long before

    def look() -> None:
        assert by_commits(folder) == whole
        seen = glob(folder)
        assert set(seen) == set(whole)
        looks.append(len(seen) - len(whole))

    compacted(ledger(filled, Watched(filled.store, -1, after=False, dies=False, look=look)))
    assert len(looks) > 10
    assert looks[0] == 0
    assert glob(folder) == whole
    assert sorted(index for name in early.names() for index in early.indexes(name) if index is not None) == whole


def test_what_was_merged_lies_aside_for_readers_until_its_time_is_over(filled: Yard) -> None:
    early = Kept(filled.store, delta_parquet)
    compacted(ledger(filled))
    gone = [name for name in early.names() if name not in visible(filled.store)]
    assert len(gone) == 2 * COMMITS
    assert early.indexes(gone[0])
    filled.clock.ns += 7 * HOUR_NS
    ledger(filled).tidy()
    assert list(filled.store.list(delta.REPLACED)) == []
    assert contents_of(filled.store).gone == {}
    with pytest.raises(NotFound):
        early.indexes(gone[0])


def test_of_two_writers_one_is_told(filled: Yard) -> None:
    before = rows(filled.store)

    class Raced(FolderStore):
        def create(self, key: str, data: bytes, about: About = PLAIN) -> str:
            if key == delta.plan_key(COMMITS):
                filled.clock.ns += 1
                assert ledger(filled).compact(EVERY) is not None
            return super().create(key, data, about)

    second = ledger(filled, Raced(filled.base / "delta"))
    with pytest.raises(Deposed, match="another writer"):
        second.compact(EVERY)
    compacted(second)
    assert rows(filled.store) == before
    assert visible(filled.store) == set(Kept(filled.store, delta_parquet).names())


def test_what_is_erased_lies_nowhere_aside(filled: Yard) -> None:
    made = compacted(ledger(filled))
    assert made.erase(((0, 9),)) == 10
    assert list(filled.store.list(delta.REPLACED)) == []
    assert sum(row.erased for row in rows(filled.store)) == 10
    compacted(ledger(filled))
    assert {row.log_index for row in rows(filled.store) if row.erased} == set(range(10))


def test_many_rows_that_are_all_erased_are_one_range_of_a_segment(filled: Yard) -> None:
    """Though rows of other segments lie between them in the log: a plan is small, whatever is erased."""
    made = compacted(ledger(filled))
    number = made.contents().number + 1
    assert made.erase(((0, 8), (10, 15))) == 15
    plan = delta.parse_plan(filled.store.get(delta.plan_key(number)).data, "plan", number)
    assert sorted(plan.erase.values()) == [((0, 13),), ((2, 8), (14, 15)), ((4, 5),), ((10, 11),)]
    assert sorted(row.log_index for row in rows(filled.store) if row.log_index is not None and not row.erased) == [9, 16, 17]
    assert made.erase(((8, 9),)) == 1
    (erased,) = delta.parse_plan(filled.store.get(delta.plan_key(number + 1)).data, "plan", number + 1).erase.values()
    assert erased == ((9, 9),)


def test_rows_of_other_points_between_those_that_are_erased_stay(yard: Yard) -> None:
    for number in range(9):
        yard.record(decided(number, time_ns=NOON_NS + number), "crm.orders" if number % 3 == 1 else "erp.orders")
    yard.archived()
    yard.clock.ns = NOON_NS + 2 * HOUR_NS
    made = compacted(ledger(yard))
    assert made.erase(((0, 8),), lambda point: point.startswith("erp/")) == 6
    assert sorted((row.point, row.log_index) for row in rows(yard.store) if not row.erased) == [("crm/orders", n) for n in (1, 4, 7)]
    assert len(Kept(yard.store, delta_parquet).names()) == 1


def test_a_writer_that_slept_brings_nothing_back_that_was_erased(filled: Yard) -> None:
    """It carries out a plan that another has carried out meanwhile, and of whose rows some were erased since."""

    class Slow(FolderStore):
        slept = False

        def put_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> None:
            if not self.slept:
                self.slept = True
                other = ledger(filled)
                assert other.compact(EVERY) is not None
                assert other.erase(((0, 4),)) == 5
            super().put_all(items, about)

    made = ledger(filled, Slow(filled.base / "delta"))
    made.compact(EVERY)
    assert visible(filled.store) == set(Kept(filled.store, delta_parquet).names())
    assert list(filled.store.list(delta.REPLACED)) == []
    assert sum(row.erased for row in rows(filled.store)) == 5


def test_a_start_reads_few_commits_however_many_there_were(yard: Yard) -> None:
    for number in range(SNAPSHOT_EVERY + 10):
        yard.record(decided(number))
        yard.archived()

    class Reads(FolderStore):
        found = 0

        def get(self, key: str) -> Stored:
            self.found += key.startswith(delta.COMMITS)
            return super().get(key)

    yard.archive(again := FolderStore(yard.base / "delta")).round()
    store = Reads(yard.base / "delta")
    assert len(Kept(store, delta_parquet).names()) == SNAPSHOT_EVERY + 10
    assert store.found <= SNAPSHOT_EVERY
    assert len(list(again.list(delta.SNAPSHOTS))) <= 2


def test_a_segment_of_a_later_version_is_not_merged(filled: Yard) -> None:
    table = pq.read_table(filled.base / "delta" / Kept(filled.store, delta_parquet).names()[0], partitioning=None)
    later = filled.base / "later.parquet"
    pq.write_table(table.append_column("mood", table.column("arm")), later)
    with pytest.raises(Corrupt, match="mood"):
        delta_parquet.rewrite([Part("later.parquet", later.read_bytes())])


def test_what_is_read_is_held_by_no_thread_of_arrow_s_afterwards(filled: Yard) -> None:
    """A thread that lets go of it while the interpreter ends aborts the process."""
    where = Kept(filled.store, delta_parquet).names()[0]
    data = filled.store.get(where).data
    held = sys.getrefcount(data)
    reads = (
        lambda: list(delta_parquet.rows(data, where)),
        lambda: list(delta_parquet.about(data, where, "erp", "", True)),
        lambda: delta_parquet.rewrite([Part(where, data, ((0, 1),))]),
    )
    for read in reads * 100:
        assert read()
        assert sys.getrefcount(data) == held


MIB = 1 << 20


@pytest.mark.parametrize(
    ("sizes", "merged"),
    [
        ([], 0),
        ([10], 0),
        ([10, 10], 2),
        ([10, 1000], 0),  # not worth writing 1,000 again
        ([10] * 6 + [1000], 6),
        ([10] * 7 + [1000], 8),  # many are merged in any case
        ([20 * MIB, 20 * MIB], 0),  # large enough
        ([12 * MIB] * 5, 2),  # no more than the target
    ],
)
def test_which_segments_are_worth_it(sizes: list[int], merged: int) -> None:
    folder = "region=local/date=2025-01-01/hour=12"
    files = [File(f"{folder}/{number:016x}.parquet", 1, size, "", 0, 0, size) for number, size in enumerate(sizes)]
    assert len(chosen(files, NOON_NS, Policy())) == merged


def test_memory_is_bounded_whatever_compresses_well() -> None:
    folder = "region=local/date=2025-01-01/hour=12"
    files = [File(f"{folder}/{number:016x}.parquet", 1, 10, "", 0, 0, 60 * MIB) for number in range(9)]
    assert len(chosen(files, NOON_NS, Policy())) == 3


def test_the_archiving_process_does_it_by_itself(filled: Yard) -> None:
    before, stop, told = rows(filled.store), threading.Event(), list[str]()
    options = Options(filled.log_dir, str(filled.base / "delta"), filled.base / "state", interval_s=0.01, policy=Policy(settle_s=None))
    process = threading.Thread(target=serve, args=(options, stop, told.append))
    process.start()
    try:
        while process.is_alive() and len(contents_of(filled.store).files) > HOURS:
            stop.wait(0.05)
    finally:
        stop.set()
        process.join()
    assert rows(filled.store) == before
    assert visible(filled.store) == set(Kept(filled.store, delta_parquet).names())
    assert told == [f"archives {filled.log_dir} to {options.store}"]


# ---- copies of pods that are gone ------------------------------------------------------------------

GONE, LIVING = "erp.orders~pod-1~0123456789abcdef", "erp.orders~pod-2~0123456789abcdef"


def test_a_pod_that_is_gone_leaves_no_copy_and_no_name_in_later_commits(yard: Yard) -> None:
    yard.outbox(GONE, acked=False)
    yard.outbox(LIVING, acked=False)
    for number in range(3):
        yard.record(decided(number), GONE)
    folder = yard.log_dir / "observations" / GONE
    yard.clock.ns = folder.stat().st_mtime_ns + HOUR_NS
    yard.archived(remove=True)
    assert folder.exists(), "an hour is not long enough"
    yard.clock.ns += 25 * HOUR_NS
    for number in (10, 11):
        yard.record(decided(number), LIVING)
        for path in (folder.parent / LIVING).glob("*.seg"):
            os.utime(path, ns=(yard.clock.ns, yard.clock.ns))
        yard.archived(remove=True)
    assert not folder.exists()
    assert set(contents_of(yard.store).sources) == {LIVING}


def test_a_pod_that_was_silent_for_long_is_archived_once_all_the_same(yard: Yard) -> None:
    """It sends again from the first record that it has."""
    test_a_pod_that_is_gone_leaves_no_copy_and_no_name_in_later_commits(yard)
    yard.outboxes.pop(GONE).segments.close()
    yard.outbox(GONE, acked=False)
    for number in range(4):
        yard.record(decided(number), GONE, logged=number == 3)
    yard.archived(remove=True)
    assert glob(yard.base / "delta") == [0, 1, 2, 3, 4, 5]
    assert opened_folder(yard.log_dir).served.size == 6
    assert set(contents_of(yard.store).sources) == {GONE, LIVING}
