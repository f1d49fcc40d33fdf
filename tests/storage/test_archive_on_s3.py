"""The archive of the Δ log on a real S3: both lies at every step of it, two writers, and other people's reader."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "delta"))
from delta_world import HOUR_NS, NOON_NS, Crash, Failing, Yard, decided

from knhk.adapters import delta_parquet
from knhk.cli import main
from knhk.model.faults import Deposed, Waiting
from knhk.reconcilers import delta
from knhk.reconcilers.archiving import Archive
from knhk.reconcilers.compacting import Policy
from knhk.reconcilers.ledger import Kept, Ledger, contents_of
from knhk_runtime.objects.opening import open_store
from knhk_runtime.objects.port import ObjectStore

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    made = Yard(tmp_path)
    yield made
    made.close()


@pytest.fixture
def bucket(s3_address: str) -> ObjectStore:
    return open_store(f"{s3_address}/delta")


def drained(made: Archive) -> None:
    while made.round() is not None:
        pass


def indexes(store: ObjectStore) -> list[int | None]:
    """Of all rows that are committed, each segment held against its commit's digest."""
    kept = Kept(store, delta_parquet)
    return sorted((row.log_index for name in kept.names() for row in kept.rows(name)), key=lambda index: -1 if index is None else index)


@pytest.mark.parametrize("dies", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_each_step_on_s3_may_fail_or_be_done_and_seem_to_fail(yard: Yard, bucket: ObjectStore, after: bool, dies: bool) -> None:
    number = 0
    for step in range(60):
        for hour in (0, 1):
            yard.record(decided(number, time_ns=NOON_NS + hour * HOUR_NS))
            number += 1
        failing = Failing(bucket, step, after, dies)
        made = yard.archive(failing)
        try:
            drained(made)
        except (Crash, Waiting):
            drained(yard.archive(bucket) if dies else made)
        if failing.step < step:
            break
    assert step > 5
    assert indexes(bucket) == list(range(number))
    segments = [each for each in bucket.list() if not each.key.startswith("_")]
    assert len(segments) == len(Kept(bucket, delta_parquet).names()), "no segment lies there that no commit names"
    newest = contents_of(bucket).number
    assert [each.key for each in bucket.list(delta.COMMITS)] == [delta.commit_key(n) for n in range(newest + 1)]


def test_of_two_writers_on_s3_one_is_told(yard: Yard, bucket: ObjectStore) -> None:
    for number in (1, 3):
        yard.record(decided(number))
    first = yard.archive(bucket, state="other", commit_bytes=1)

    class Raced(Failing):
        """Another writer is faster by a moment, once."""

        def create(self, key: str, data: bytes, *more: object) -> str:
            if key.startswith(delta.PLANS) and not list(self.inner.list(delta.PLANS)):
                assert first.round() is not None
                yard.record(decided(2))
            return super().create(key, data)

    second = yard.archive(Raced(bucket, -1, after=True, dies=False))
    with pytest.raises(Deposed, match="another writer"):
        second.round()
    yard.log.integrate()
    drained(second)
    assert first.round() is None
    assert indexes(bucket) == [0, 1, 2]


@pytest.mark.parametrize("after", [True, False], ids=["done", "not done"])
def test_a_death_at_any_step_of_a_merge_on_s3_is_mended_by_the_next_writer(
    yard: Yard, s3_address: str, bucket: ObjectStore, after: bool
) -> None:
    number = 0
    for at in range(60):
        for _ in range(3):  # an hour that is over, of three segments
            yard.record(decided(number, time_ns=NOON_NS + at * HOUR_NS))
            number += 1
            drained(yard.archive(bucket))
        yard.clock.ns = NOON_NS + (at + 2) * HOUR_NS
        failing = Failing(bucket, at, after, dies=True)
        with suppress(Crash):
            compacted(Ledger(failing, delta_parquet, yard.clock))
        assert indexes(bucket) == list(range(number))
        compacted(Ledger(bucket, delta_parquet, yard.clock))
        if failing.step < at:
            break
    assert at > 12
    assert indexes(bucket) == list(range(number))
    names = Kept(bucket, delta_parquet).names()
    assert len(names) == at + 1
    assert [each.key for each in bucket.list() if not each.key.startswith("_")] == names


def compacted(made: Ledger) -> None:
    while made.compact(Policy(few=2)) is not None:
        pass
    made.tidy()


def test_of_two_writers_on_s3_that_merge_one_is_told(yard: Yard, bucket: ObjectStore) -> None:
    for number in range(3):
        yard.record(decided(number))
        drained(yard.archive(bucket))
    yard.clock.ns += HOUR_NS

    class Raced(Failing):
        """Another writer is faster by a moment."""

        def create(self, key: str, data: bytes, *more: object) -> str:
            if key == delta.plan_key(3):
                yard.clock.ns += 1
                assert Ledger(bucket, delta_parquet, yard.clock).compact(Policy()) is not None
            return super().create(key, data)

    with pytest.raises(Deposed, match="another writer"):
        Ledger(Raced(bucket, -1, after=True, dies=False), delta_parquet, yard.clock).compact(Policy())
    assert indexes(bucket) == [0, 1, 2]
    assert len(Kept(bucket, delta_parquet).names()) == 1


Ask = Callable[[str, object], tuple[int, Any]]
HOURS = (12, 13, 14)
RISK = Path(__file__).parents[2] / "docs" / "risk.md"


@pytest.fixture
def ask(yard: Yard, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """`knhk receipt query SQL --archive PLACE`, of a log whose archive has three hours of four decisions, one of each hour denied."""
    monkeypatch.setenv("KNHK_CACHE", str(tmp_path / "cache"))
    for hour in range(len(HOURS)):
        for number in range(4 * hour, 4 * hour + 4):
            yard.record(decided(number, time_ns=NOON_NS + hour * HOUR_NS + number, deny=number % 4 == 1))

    def asked(sql: str, place: object) -> tuple[int, Any]:
        words = ("receipt", "query", sql, "--archive", str(place), "--log", str(yard.log_dir), "-o", "json")
        code = main(["--home", str(tmp_path / "home"), *words])
        said = capsys.readouterr()
        return code, json.loads(said.out or said.err)

    return asked


def test_an_archive_on_s3_is_asked_as_its_folder_is(yard: Yard, s3_address: str, bucket: ObjectStore, ask: Ask) -> None:
    """Question 11 reads the table twice."""
    drained(yard.archive(bucket))
    drained(yard.archive(state="beside"))
    (guards,) = re.findall(r"^## 11\. .*?```sql\n(.*?)```", RISK.read_text(), re.DOTALL | re.MULTILINE)
    joined = "SELECT hour, d.verdict, count(*) FROM observations JOIN decisions d USING (log_index) GROUP BY ALL ORDER BY ALL"
    for sql in ("FROM observations ORDER BY log_index", guards, joined):
        code, said = ask(sql, f"{s3_address}/delta")
        assert (code, said) == ask(sql, yard.base / "delta")
        assert code == 0, said
    assert said["rows"] == [[hour, verdict, count] for hour in HOURS for verdict, count in (("ADMIT", 3), ("DENY", 1))]
    assert ask(guards, f"{s3_address}/delta")[1]["rows"] == [[b"p".hex() * 20, guard] for guard in (0, 2)]


def test_a_segment_on_s3_that_was_altered_answers_nothing(yard: Yard, s3_address: str, bucket: ObjectStore, ask: Ask) -> None:
    """But of other hours than its own, for which it is not read."""
    drained(yard.archive(bucket))
    (name,) = (name for name in Kept(bucket, delta_parquet).names() if "hour=13" in name)
    (other,) = (name for name in Kept(bucket, delta_parquet).names() if "hour=14" in name)
    bucket.put(name, bucket.get(other).data)  # whole, and another's
    for sql in ("SELECT count(*) FROM observations", "SELECT actor FROM observations", "FROM observations WHERE hour > 12"):
        code, said = ask(sql, f"{s3_address}/delta")
        told = [(fault["where"], fault["must"]) for fault in said["faults"]]
        assert (code, told) == (1, [(f"{s3_address}/delta/{name}", "is not what its commit says: it was altered")])
    code, said = ask("SELECT count(*), min(hour) FROM observations WHERE hour != 13", f"{s3_address}/delta")
    assert (code, said["rows"]) == (0, [[8, 12]]), said
    bucket.delete([name])
    code, said = ask("SELECT actor FROM observations", f"{s3_address}/delta")
    assert (code != 0, name in json.dumps(said)) == (True, True), said


def test_of_an_archive_on_s3_only_what_is_committed_is_asked(yard: Yard, s3_address: str, bucket: ObjectStore, ask: Ask) -> None:
    drained(yard.archive(bucket))
    (name,) = (name for name in Kept(bucket, delta_parquet).names() if "hour=13" in name)
    bucket.put(f"{name.rpartition('/')[0]}/{99:016x}.parquet", bucket.get(name).data)
    assert ask("SELECT count(*) FROM observations", f"{s3_address}/delta")[1]["rows"] == [[12]]
    code, said = ask("SELECT count(*) FROM observations", f"{s3_address}/nothing")
    assert (code, [fault["must"] for fault in said["faults"]]) == (1, ["must be an archive with segments that are committed"]), said
