"""Segments of the Δ log (formats/delta.md) as Parquet, by pyarrow. Nothing else of the product imports it: it costs 80 MiB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from knhk.model.delta import Row
from knhk.model.faults import Corrupt

ROW_GROUP_ROWS, ROW_GROUP_BYTES = 65_536, 64 << 20
FALSE_POSITIVES = 0.01
ORDER = ("pack", "verdict", "actor", "key", "time_ns")
BLOOM = ("receipt", "pack", "actor", "key", "subject")
UNSEARCHED = ("leaf", "salt", "observation", "action")
DICTIONARIES = (
    "kind",
    "verdict",
    "class",
    "mode",
    "arm",
    "pack",
    "point",
    "route",
    "actor",
    "key",
    "bundle",
    "evaluator",
    "subject",
    "source",
)


_INT, _TEXT, _BYTES, _TRUTH = pa.int64(), pa.string(), pa.binary(), pa.bool_()
_TYPES = {
    "log_index": _INT,
    "time": pa.timestamp("us", tz="UTC"),
    "time_ns": _INT,
    "guards": pa.int32(),
    "failing": pa.list_(pa.int32()),
    "segment": _INT,
    "offset": _INT,
    **dict.fromkeys(UNSEARCHED, _BYTES),
    **dict.fromkeys(("stale", "cached", "brownout", "fail_open", "resumed", "sealed", "erased"), _TRUTH),
}
_NULL = ("log_index", "route", "actor", "bundle", "evaluator", "guards", "failing", "salt", "observation", "action", "subject")
NAMES = tuple(name.rstrip("_") for name in Row._fields)
SCHEMA = pa.schema([pa.field(name, _TYPES.get(name, _TEXT), name in _NULL) for name in NAMES])


def encode(rows: Sequence[Row]) -> bytes:
    """A segment: the same rows give the same bytes."""
    ordered = sorted(rows, key=_order)
    columns = zip(*ordered, strict=True) if ordered else [() for _ in NAMES]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=SCHEMA)
    bloom = {name: {"ndv": max(1, min(len(rows), ROW_GROUP_ROWS)), "fpp": FALSE_POSITIVES} for name in BLOOM}
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        SCHEMA,
        compression="zstd",
        use_dictionary=list(DICTIONARIES),
        write_statistics=[name for name in NAMES if name not in UNSEARCHED],
        write_page_index=True,
        sorting_columns=[pq.SortingColumn(NAMES.index(name), nulls_first=True) for name in ORDER],
        bloom_filter_options=bloom,
        store_schema=False,
    ) as writer:
        for first, count in _groups(ordered):
            writer.write_table(table.slice(first, count), row_group_size=ROW_GROUP_ROWS)
    return bytes(sink.getvalue())


def _order(row: Row) -> tuple[object, ...]:
    return (
        row.pack,
        row.verdict,
        row.actor is not None,
        row.actor or "",
        row.key,
        row.time_ns,
        row.receipt,
        row.arm,
        row.segment,
        row.offset,
    )


def _groups(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """(first, count) of each row group."""
    first = held = 0
    for number, row in enumerate(rows):
        size = len(row.observation or b"")
        if number > first and (number - first == ROW_GROUP_ROWS or held + size > ROW_GROUP_BYTES):
            yield first, number - first
            first, held = number, 0
        held += size
    if len(rows) > first:
        yield first, len(rows) - first


def rows(data: bytes, where: str) -> Iterator[Row]:
    """The rows of a segment, a row group at a time in memory. Raises Corrupt."""
    for columns in _batches(data, where, NAMES):
        yield from map(Row._make, zip(*columns, strict=True))


def column(data: bytes, where: str, name: str) -> list[Any]:
    """All values of one column. Raises Corrupt."""
    return [value for columns in _batches(data, where, (name,)) for value in columns[0]]


def _batches(data: bytes, where: str, names: Sequence[str]) -> Iterator[list[list[Any]]]:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        lacking = [name for name in names if name not in file.schema_arrow.names]
        if lacking:
            raise Corrupt(where, f"has no column {lacking[0]}")
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=list(names))
            yield [_values(table.column(name)) for name in names]
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(where, f"is no segment of the Δ log: {error}") from error


def _values(found: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(found.type):
        found = found.cast(pa.int64())
    values = found.to_pylist()
    return [None if value is None else tuple(value) for value in values] if pa.types.is_list(found.type) else values
