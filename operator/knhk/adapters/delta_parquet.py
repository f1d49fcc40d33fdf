"""Segments of the Δ log (formats/delta.md) as Parquet, by pyarrow. Nothing else of the product imports it: it costs 80 MiB."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from knhk.model.delta import Row
from knhk.model.faults import Corrupt
from knhk.model.ranges import Ranges, Within
from knhk.ports.segments import Batch, Folder, Made, Part
from knhk_verify.leaf import CLASSES, KINDS, MODES, VERDICTS

if TYPE_CHECKING:  # loads the native library, which who reads segments does not need
    from knhk_hot.records import Text

ROW_GROUP_ROWS, ROW_GROUP_BYTES = 65_536, 64 << 20
FALSE_POSITIVES = 0.01
ORDER = ("pack", "verdict", "actor", "key", "time_ns")
KNOWN = "actor is known"
SORTED = ("pack", "verdict", KNOWN, *ORDER[2:], "receipt", "arm", "source", "segment", "offset")
BLOOM = ("receipt", "pack", "actor", "key", "subject")
CHOSEN_BY = ("point", "sealed", "subject", "erased")
UNSEARCHED = ("leaf", "salt", "observation", "action")
ERASED: dict[str, object] = {
    **dict.fromkeys(("salt", "observation", "action", "actor", "route", "subject")),
    **{"key": "", "sealed": False, "erased": True},
}
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
SLOT = "slot"  # of which region and hour
_SLOTTED = pa.schema([pa.field(SLOT, _INT), *SCHEMA])


_FLAGS = {"stale": 2, "cached": 4, "brownout": 8, "fail_open": 16, "resumed": 32, "sealed": 64, "erased": 128}
_WORDS = {  # by the number in the leaf
    "kind": (("", *KINDS.values()), "kind"),
    "verdict": (("", *list(VERDICTS.values())[1:]), "verdict"),
    "class": (("", *list(CLASSES.values())[1:]), "klass"),
    "mode": (("", *MODES.values()), "mode"),
}
_ARMS = pa.array(["stable", "candidate"])


def encode(batches: Iterable[Batch], folder: Folder) -> Iterator[tuple[str, Made]]:
    """Segments: the same rows give the same bytes."""
    table = pa.concat_tables([_SLOTTED.empty_table(), *map(_table_of, batches)]).combine_chunks()
    for name, part in _by_folder(table.drop_columns(SLOT), table.column(SLOT), folder):
        yield name, _made(part)


def _by_folder(table: pa.Table, slots: pa.ChunkedArray, folder: Folder) -> Iterator[tuple[str, pa.Table]]:
    known = pc.unique(slots)
    belongs = [folder(*divmod(slot, 1 << 32)) for slot in known.to_pylist()]
    names = sorted(set(belongs))
    if len(names) < 2:
        yield from ((name, table) for name in names)
        return
    number = {name: at for at, name in enumerate(names)}
    numbers = pa.array([number[name] for name in belongs], pa.int32()).take(pc.index_in(slots, value_set=known).combine_chunks())
    table, first = table.take(pc.sort_indices(numbers)), 0
    for each in sorted(pc.value_counts(numbers).to_pylist(), key=itemgetter("values")):
        yield names[each["values"]], table.slice(first, each["counts"])
        first += each["counts"]


def _table_of(batch: Batch) -> pa.Table:
    found, rows = batch.columns, batch.columns.rows

    def number(name: str, kind: pa.DataType) -> pa.Array:
        return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(found.numbers[name])])

    flags, judged = number("flags", pa.uint8()), _bits(found.numbers["judged"], rows)
    failing = pa.Array.from_buffers(pa.int32(), len(found.failing.data) // 4, [None, pa.py_buffer(found.failing.data)])
    made = {
        SLOT: number("slot", _INT),
        "log_index": pa.array(batch.log_index, _INT),
        "time": number("time_us", _TYPES["time"]),
        "time_ns": number("time_ns", _INT),
        "guards": pa.Array.from_buffers(pa.int32(), rows, [judged, pa.py_buffer(found.numbers["guards"])]),
        "failing": pa.Array.from_buffers(_TYPES["failing"], rows, [judged, pa.py_buffer(found.failing.offsets)], children=[failing]),
        "arm": _ARMS.take(pc.bit_wise_and(flags, pa.scalar(1, pa.uint8()))),
        "offset": pc.add(number("at", _INT), batch.offset),
        "segment": pa.repeat(pa.scalar(batch.segment, _INT), rows),
        "source": pa.repeat(batch.source, rows),
        "point": pa.repeat(batch.point, rows),
        **{name: pc.not_equal(pc.bit_wise_and(flags, pa.scalar(bit, pa.uint8())), 0) for name, bit in _FLAGS.items()},
        **{name: pa.array(words).take(number(column, pa.uint8())) for name, (words, column) in _WORDS.items()},
        **{name: _texts(text, rows, _TYPES.get(name, _TEXT)) for name, text in found.text.items()},
    }
    return pa.table({name: made[name] for name in (SLOT, *NAMES)}, schema=_SLOTTED)


def _texts(text: Text, rows: int, kind: pa.DataType) -> pa.Array:
    valid = None if text.valid is None else _bits(text.valid, rows)
    return pa.Array.from_buffers(kind, rows, [valid, pa.py_buffer(text.offsets), pa.py_buffer(text.data)])


def _bits(truths: Any, rows: int) -> pa.Buffer:
    """A byte for each row as a bit for each."""
    return pa.Array.from_buffers(pa.uint8(), rows, [None, pa.py_buffer(truths)]).cast(_TRUTH).buffers()[1]


def rewrite(parts: Sequence[Part]) -> Made:
    """One segment of the rows of several, without what is to be erased. Raises Corrupt."""
    return _made(pa.concat_tables([_erased(_table(part.data, part.where), part.erase) for part in parts]))


def _erased(table: pa.Table, ranges: Ranges) -> pa.Table:
    if not ranges:
        return table
    wanted = Within(ranges)
    hit = pa.array([index is not None and wanted.has(index) for index in table.column("log_index").to_pylist()], pa.bool_())
    for name, value in ERASED.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, SCHEMA.field(at), pc.if_else(hit, pa.scalar(value, SCHEMA.field(at).type), table.column(name)))
    return table


def _table(data: bytes, where: str) -> pa.Table:
    try:
        file = pq.ParquetFile(buffered(data))
        found = file.schema_arrow.names
        if sorted(found) != sorted(NAMES):
            other = sorted(set(found) ^ set(NAMES))
            raise Corrupt(where, f"cannot be merged by this version: {', '.join(other)} is a column of one of the two alone")
        return file.read().select(NAMES).cast(SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(where, f"is no segment of the Δ log: {error}") from error


def buffered(data: bytes) -> pa.BufferReader:
    """In memory of Arrow's own. Its threads let go of what they have read some time after the reader has it; were that an object of Python,
    they would want the interpreter for it, and one that is about to end aborts the process then."""
    held = pa.allocate_buffer(len(data))
    memoryview(held).cast("B")[:] = data
    return pa.BufferReader(held)


def _made(table: pa.Table) -> Made:
    known = table.append_column(KNOWN, pc.is_valid(table.column("actor")))  # null is the least
    order = pc.sort_indices(known, sort_keys=[(name, "ascending") for name in SORTED])
    sizes = pc.fill_null(pc.binary_length(table.column("observation")), 0).take(order).to_pylist()
    bloom = {name: {"ndv": max(1, min(len(sizes), ROW_GROUP_ROWS)), "fpp": FALSE_POSITIVES} for name in BLOOM}
    sink, decoded = pa.BufferOutputStream(), 0
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
        for first, count in _groups(sizes):
            group = table.take(order.slice(first, count)).combine_chunks()
            writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
            decoded += group.nbytes
    bounds = pc.min_max(table.column("log_index")).as_py()
    first_index, last_index = (-1 if bounds[name] is None else bounds[name] for name in ("min", "max"))
    return Made(bytes(sink.getvalue()), len(sizes), first_index, last_index, decoded)


def _groups(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of each row group. `sizes`: bytes of O of each row."""
    first = held = 0
    for number, size in enumerate(sizes):
        if number > first and (number - first == ROW_GROUP_ROWS or held + size > ROW_GROUP_BYTES):
            yield first, number - first
            first, held = number, 0
        held += size
    if len(sizes) > first:
        yield first, len(sizes) - first


def rows(data: bytes, where: str) -> Iterator[Row]:
    """The rows of a segment, a row group at a time in memory. Raises Corrupt."""
    for columns in _batches(data, where, NAMES):
        yield from map(Row._make, zip(*columns, strict=True))


def about(data: bytes, where: str, namespace: str, subject: str, in_clear: bool) -> Iterator[Row]:
    """See the port. Raises Corrupt."""
    for group in _groups_of(data, where, NAMES):
        few = group(CHOSEN_BY)
        sealed = few.column("sealed")
        wanted = pc.and_(sealed, pc.fill_null(pc.equal(few.column("subject"), subject), False))
        if in_clear:
            wanted = pc.or_(wanted, pc.invert(sealed))
        here = pc.and_(pc.starts_with(few.column("point"), f"{namespace}/"), pc.invert(few.column("erased")))
        if pc.any(chosen := pc.and_(wanted, here)).as_py():
            table = group(NAMES).filter(chosen)
            yield from map(Row._make, zip(*(_values(table.column(name)) for name in NAMES), strict=True))


def column(data: bytes, where: str, name: str) -> list[Any]:
    """All values of one column. Raises Corrupt."""
    return [value for columns in _batches(data, where, (name,)) for value in columns[0]]


def _batches(data: bytes, where: str, names: Sequence[str]) -> Iterator[list[list[Any]]]:
    for group in _groups_of(data, where, names):
        table = group(names)
        yield [_values(table.column(name)) for name in names]


def _groups_of(data: bytes, where: str, names: Sequence[str]) -> Iterator[Callable[[Sequence[str]], pa.Table]]:
    """Reads columns of each row group; `names` must be there. Raises Corrupt, which is also what reading them raises."""
    try:
        file = pq.ParquetFile(buffered(data))
        lacking = [name for name in names if name not in file.schema_arrow.names]
        if lacking:
            raise Corrupt(where, f"has no column {lacking[0]}")
        for number in range(file.num_row_groups):
            yield partial(_group, file, number, where)
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(where, f"is no segment of the Δ log: {error}") from error


def _group(file: pq.ParquetFile, number: int, where: str, names: Sequence[str]) -> pa.Table:
    try:
        return file.read_row_group(number, columns=list(names))
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(where, f"is no segment of the Δ log: {error}") from error


def _values(found: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(found.type):
        found = found.cast(pa.int64())
    values = found.to_pylist()
    return [None if value is None else tuple(value) for value in values] if pa.types.is_list(found.type) else values
