"""Others read the folder of the archive as it is, by its pattern or as a data set in the manner of Hive; formats/delta.md says which were
tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from delta_world import GUARDS, HOUR_NS, NOON_NS, Yard, decided, observation, receipt, refused

from knhk.adapters import delta_parquet
from knhk.reconcilers.compacting import Policy
from knhk.reconcilers.ledger import Ledger
from knhk_runtime.outbox.records import DECISION, ENFORCED, Arm, encode
from knhk_runtime.tiers.action import action_bytes

PARTS = pa.schema([("region", pa.string()), ("date", pa.date32()), ("hour", pa.int32())])
TOGETHER = "region = 'local' AND date = DATE '2026-11-26' AND hour = 12"  # the first folder: of a first file readers take the columns


@pytest.fixture
def folder(yard: Yard) -> Path:
    """Two regions, two days, five hours; rows without an index, and without what a refused request lacks; one hour was merged."""
    action, number = action_bytes(GUARDS, [1]), 0
    for _ in range(2):
        for hour in (0, 1, 5, 13, 30):
            time_ns = NOON_NS + hour * HOUR_NS
            yard.record(decided(number, time_ns=time_ns, arms=2))
            yard.record(refused(number + 1, time_ns))
            beyond = encode(
                receipt(number + 2), 1, 0, observation(b"{}", time_ns, "Žofie"), (Arm(b"q" * 20, DECISION, 1, 2, ENFORCED, 0, action),)
            )
            yard.record(beyond)
            number += 3
        yard.record(decided(1000 + number), logged=False)
        yard.clock.ns = NOON_NS + 40 * HOUR_NS
        yard.archived()
    assert Ledger(yard.store, delta_parquet, yard.clock).compact(Policy(few=2)) is not None
    assert any((yard.base / "delta" / "_replaced").rglob("*.parquet"))
    return yard.base / "delta"


def by_duckdb(folder: Path, where: str = "true") -> list[dict[str, Any]]:
    segments = f"read_parquet('{folder}/region=*/*/*/*.parquet', hive_partitioning=true)"
    with duckdb.connect() as db:
        return in_order(db.sql(f"SELECT * REPLACE (hour::INTEGER AS hour) FROM {segments} WHERE {where}").to_arrow_table())


def by_arrow(folder: Path, where: ds.Expression | None = None) -> list[dict[str, Any]]:
    return in_order(ds.dataset(folder, format="parquet", partitioning=ds.HivePartitioning(PARTS)).to_table(filter=where))


def in_order(table: pa.Table) -> list[dict[str, Any]]:
    return sorted(table.to_pylist(), key=lambda row: (row["receipt"], row["arm"]))


def test_each_reads_the_same_rows_once(folder: Path) -> None:
    rows = by_duckdb(folder)
    assert by_arrow(folder) == rows
    indexes = [row["log_index"] for row in rows]
    assert (sorted(n for n in indexes if n is not None), indexes.count(None)) == ([*range(40)], 2)
    assert {(row["region"], str(row["date"]), row["hour"]) for row in rows} == {
        (region, date, hour)
        for region in ("local", "region-1")
        for date, hour in (("2026-11-26", 12), ("2026-11-26", 13), ("2026-11-26", 17), ("2026-11-27", 1), ("2026-11-27", 18))
    }
    assert {row["actor"] for row in rows} == {"ann", "Žofie", None}


def test_who_asks_for_a_partition_opens_its_files_alone(folder: Path) -> None:
    for path in folder.glob("region=*/*/*/*.parquet"):
        if "region=local/date=2026-11-26/hour=12" not in str(path):
            path.write_bytes(b"no Parquet")
    rows = by_duckdb(folder, TOGETHER)
    assert len(rows) == 8
    where = (ds.field("region") == "local") & (ds.field("date") == pa.scalar(rows[0]["date"])) & (ds.field("hour") == 12)
    assert by_arrow(folder, where) == rows
    with pytest.raises(duckdb.Error):
        by_duckdb(folder)
