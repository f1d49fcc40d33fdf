"""The Δ log: every record that the log acknowledged is in it once, whatever dies, and others read it as it is."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from delta_world import GUARDS, HOUR_NS, NOON_NS, Crash, Failing, Yard, decided, observation, receipt, refused

from knhk.model.faults import Corrupt, Deposed, Waiting
from knhk.reconcilers import archiving
from knhk.reconcilers.archiving import SETTLE_S
from knhk.reconcilers.ledger import contents_of
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.objects.port import PLAIN, About
from knhk_runtime.outbox.records import Entries
from knhk_runtime.record import frame, h_a, h_o, parse_record
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.tiers.action import action_bytes


def query(yard: Yard, text: str) -> list[tuple[object, ...]]:
    """By DuckDB, which knows nothing of us."""
    segments = f"read_parquet('{yard.base}/delta/region=*/*/*/*.parquet', hive_partitioning=true)"
    return duckdb.connect().execute(text.format(segments=segments)).fetchall()


def test_every_leaf_is_a_row_with_what_was_decided_upon(yard: Yard) -> None:
    yard.record(decided(1))
    yard.record(decided(2, sub="bob", deny=True, time_ns=NOON_NS + HOUR_NS))
    yard.record(decided(3, arms=2, flags=16))
    yard.record(refused(4))
    progress = yard.archived().progress
    assert (progress.commits, progress.rows) == (1, 5)
    rows = query(
        yard, "SELECT log_index, receipt, verdict, arm, actor, region, hour, failing, fail_open, kind FROM {segments} ORDER BY log_index"
    )
    assert rows == [
        (0, receipt(1).hex(), "ADMIT", "stable", "ann", "local", 12, [], False, "DECISION"),
        (1, receipt(2).hex(), "DENY", "stable", "bob", "local", 13, [1], False, "DECISION"),
        (2, receipt(3).hex(), "ADMIT", "stable", "ann", "local", 12, [], True, "DECISION"),
        (3, receipt(3).hex(), "ADMIT", "candidate", "ann", "local", 12, [], True, "DECISION"),
        (4, receipt(4).hex(), "DENY", "stable", None, "local", 12, None, False, "REFUSED"),
    ]
    for leaf, salt, o, a in query(yard, "SELECT leaf, salt, observation, action FROM {segments}"):
        assert isinstance(leaf, bytes)
        assert isinstance(salt, bytes)
        assert isinstance(o, bytes)
        assert leaf[8:40] == h_o(salt, o)
        assert a is None or (isinstance(a, bytes) and leaf[40:72] == h_a(salt, a))


def test_segments_are_sorted_and_can_be_searched_without_reading_them(yard: Yard) -> None:
    for number in range(600):
        yard.record(decided(number, sub=f"user{number % 7}", deny=number % 5 == 0, pack=bytes([number % 2 + 1]) * 20))
    yard.archived()
    (file,) = contents_of(yard.store).files.values()
    path = yard.base / "delta" / file.path
    table = pq.read_table(path, partitioning=None)
    order = list(zip(*(table.column(name).to_pylist() for name in ("pack", "verdict", "actor", "key", "time_ns")), strict=True))
    assert order == sorted(order)
    assert (file.rows, file.first, file.last) == (600, 0, 599)
    group = pq.ParquetFile(path).metadata.row_group(0)
    searched = {group.column(n).path_in_schema for n in range(group.num_columns) if group.column(n).statistics is not None}
    assert {"pack", "verdict", "actor", "key", "log_index", "time_ns", "receipt"} <= searched
    assert not {"observation", "salt", "leaf"} & searched
    bloom = "SELECT bloom_filter_excludes FROM parquet_bloom_probe('{path}', 'receipt', '{value}')"
    assert duckdb.connect().execute(bloom.format(path=path, value=receipt(9999).hex())).fetchall() == [(True,)]
    assert duckdb.connect().execute(bloom.format(path=path, value=receipt(5).hex())).fetchall() == [(False,)]


def test_what_the_log_has_not_acknowledged_waits(yard: Yard) -> None:
    yard.record(decided(1))
    yard.record(decided(2), acked=False)
    assert yard.archived().progress.rows == 1
    yard.record(decided(3))
    made = yard.archived()
    assert made.progress.rows == 2
    assert made.waiting() == 0


def test_a_record_that_an_agent_wrote_twice_is_told_from_the_one_in_the_log(yard: Yard) -> None:
    yard.record(decided(1))
    yard.archived()
    yard.record(decided(1), logged=False)  # with another salt: the log holds the first
    yard.record(decided(2))
    made = yard.archived()
    assert (made.progress.rows, made.progress.unmatched) == (2, 1)
    assert query(yard, "SELECT log_index FROM {segments} ORDER BY 1 NULLS FIRST") == [(None,), (0,), (1,)]


def test_a_young_record_that_the_log_does_not_show_waits_for_it(yard: Yard) -> None:
    young = yard.clock.now_ns()
    yard.record(decided(1, time_ns=young), logged=False)
    assert yard.archived().progress.rows == 0
    yard.clock.ns += 120 * 10**9
    assert yard.archived().progress.rows == 1


def lying(made: Entries, observation: bytes | None = None, action: bytes | None = None) -> Entries:
    """The same leaf beside another O, or another A (formats/frame.md)."""
    record = parse_record(made.frames[8:], "made")
    fields = observation or record.observation, action or record.actions[0]
    head = struct.pack(">BBHQ16s", 1, 1, 0, record.cluster, record.salt)
    return replace(made, frames=frame(head + record.leaves[0] + b"".join(len(each).to_bytes(4, "big") + each for each in fields)))


def test_all_that_lack_leaves_wait_for_one_checkpoint(yard: Yard) -> None:
    """However many outboxes name records that the log does not have, a look at all of them waits once."""
    young = yard.clock.now_ns()
    for number in range(40):
        yard.outbox(source := f"a.bad~pod-{number}~{number:016x}", acked=False)
        yard.record(decided(number, time_ns=young), source, logged=False)
    yard.record(decided(99), "z.good~pod~0123456789abcdef")
    made, before = yard.archive(), yard.clock.ns
    assert made.round() is not None
    assert (yard.clock.ns - before, made.progress.rows) == (int(SETTLE_S * 1e9), 1)


def test_who_lacks_leaves_takes_a_share_of_each_look_and_no_more(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pods that fill each look with what the log does not have: who comes after them is archived all the same, and what they sent
    when it is no longer young."""
    monkeypatch.setattr(archiving, "DOUBTED_BYTES", 1000)
    young = yard.clock.now_ns() + HOUR_NS  # they stay young while the archive waits for checkpoints
    for number in range(300):
        yard.record(decided(number, time_ns=young), f"a.bad~pod-{number % 10}~{number % 30:016x}", logged=False)
    for number in range(300, 303):
        yard.record(decided(number), "z.good~pod~0123456789abcdef")
    made = yard.archived(commit_bytes=3000)
    assert (made.progress.rows, query(yard, "SELECT DISTINCT source FROM {segments}")) == (3, [("z.good~pod~0123456789abcdef",)])
    yard.clock.ns += 2 * HOUR_NS
    made = yard.archived(commit_bytes=3000)
    assert (made.progress.rows, made.progress.unmatched) == (300, 300)


def test_a_row_that_is_not_what_its_leaf_commits_to_is_nobodys_evidence(yard: Yard) -> None:
    """A guard that lies sends another O than it decided upon, or another A: its rows are there, and stand for nothing in the log."""
    yard.record(decided(1))
    yard.record(lying(decided(2), observation=observation(b'{"n":9}', NOON_NS)))
    yard.record(lying(decided(3, deny=True), action=action_bytes(GUARDS, [])))
    yard.record(refused(4))
    made = yard.archived()
    assert (made.progress.rows, made.progress.untrue) == (4, 2)
    assert query(yard, "SELECT log_index FROM {segments} ORDER BY receipt") == [(0,), (None,), (None,), (3,)]


@pytest.mark.parametrize("dies", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_each_step_may_fail_or_be_done_and_seem_to_fail(yard: Yard, after: bool, dies: bool) -> None:
    """Both lies at every step of the store: nothing is lost, nothing is there twice, and numbers leave none out."""
    number = 0
    for step in range(60):
        for hour in (0, 1):
            yard.record(decided(number, time_ns=NOON_NS + hour * HOUR_NS))
            number += 1
        failing = Failing(yard.store, step, after, dies)
        made = yard.archive(failing)
        try:
            while made.round() is not None:
                pass
        except (Crash, Waiting):
            made = yard.archive() if dies else made
            while made.round() is not None:
                pass
        if failing.step < step:
            break
    assert step > 5
    assert query(yard, "SELECT log_index FROM {segments} ORDER BY 1") == [(n,) for n in range(number)]
    assert sum(file.rows for file in contents_of(yard.store).files.values()) == number
    names = sorted(path.name for path in (yard.base / "delta" / "_commits").iterdir())
    assert names == [f"{n:016x}.json" for n in range(len(names))]


def test_of_two_writers_one_is_told(yard: Yard) -> None:
    """Whoever creates the plan writes; the other goes on from there, and no row is there twice."""
    yard.record(decided(1))
    yard.record(decided(3))
    first = yard.archive(state="other", commit_bytes=1)  # plans less than the other at the same time

    class Raced(FolderStore):
        def create(self, key: str, data: bytes, about: About = PLAIN) -> str:
            if key.startswith("_plans/") and not list(self.list("_plans")):
                assert first.round() is not None
                yard.record(decided(2))
            return super().create(key, data, about)

    second = yard.archive(Raced(yard.base / "delta"))
    with pytest.raises(Deposed, match="another writer"):
        second.round()
    yard.log.integrate()
    while second.round() is not None:
        pass
    assert first.round() is None
    assert query(yard, "SELECT log_index FROM {segments} ORDER BY 1") == [(0,), (1,), (2,)]


def test_copies_that_are_archived_are_removed_but_for_their_end(yard: Yard) -> None:
    source = "erp.orders~pod-1~0123456789abcdef"
    yard.outbox(source, segment_bytes=600, acked=False)
    for number in range(10):
        yard.record(decided(number), source)
    folder = yard.log_dir / "observations" / source
    last = sorted(folder.glob("*.seg"))[-1]
    assert len(list(folder.glob("*.seg"))) > 3
    yard.archived(remove=True)
    assert sorted(folder.glob("*.seg")) == [last]
    yard.record(decided(10), source)
    yard.archived(remove=True)
    assert query(yard, "SELECT log_index, point FROM {segments} ORDER BY 1") == [(n, "erp/orders") for n in range(11)]


def test_an_altered_outbox_is_named(yard: Yard) -> None:
    yard.record(decided(1))
    path = next((yard.log_dir / "observations").glob("*/*.seg"))
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"0000\.seg.*altered"):
        yard.archived()
    assert query_count(yard.base) == 0


def test_a_pod_that_sends_what_is_no_record_holds_up_nobody_but_itself(yard: Yard) -> None:
    """Its frames are whole: that is all that the log's server looks at."""
    junk, lying = "erp.orders~pod-1~0123456789abcdef", "erp.orders~pod-2~0123456789abcdef"
    beside = yard.outbox(junk, acked=False)
    beside.segments.sync(beside.segments.append(frame(b"no record")))
    made = decided(1)
    record = parse_record(made.frames[8:], "made")
    beside = yard.outbox(lying, acked=False)
    beside.segments.sync(beside.segments.append(frame(made.frames[8:].replace(record.observation, b"?" * len(record.observation)))))
    yard.log.commit([parse_append(made.count.to_bytes(4, "big") + made.entries)])
    yard.record(decided(2), lying)
    yard.record(decided(3), "erp.orders~pod-3~0123456789abcdef")
    progress = yard.archived().progress
    assert (progress.rows, progress.broken) == (2, {junk, lying})
    assert query(yard, "SELECT receipt FROM {segments} ORDER BY 1") == [(receipt(2).hex(),), (receipt(3).hex(),)]


def test_a_time_that_no_table_holds_is_told_as_the_last(yard: Yard) -> None:
    yard.record(decided(1, time_ns=(1 << 64) - 1))
    yard.archived()
    assert query(yard, "SELECT time_ns, year(time) FROM {segments}") == [((1 << 63) - 1, 2554)]


def query_count(base: Path) -> int:
    return len(list((base / "delta").glob("region=*/*/*/*.parquet")))


def test_memory_is_bounded_by_a_commit(yard: Yard) -> None:
    """However much waits, a commit holds about as much as it may."""
    for number in range(200):
        yard.record(decided(number))
    made = yard.archived(commit_bytes=8 << 10)
    assert made.progress.commits > 5
    for path in sorted((yard.base / "delta" / "_plans").iterdir()):
        ((start, end),) = json.loads(path.read_bytes())["ranges"].values()
        assert end[1] - start[1] < 9 << 10
    assert query(yard, "SELECT count(*), count(DISTINCT log_index) FROM {segments}") == [(200, 200)]
