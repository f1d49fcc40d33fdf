"""SQL over receipts by DuckDB: tables in memory, from an index or a cluster, and the archive of observations where there is one.

One SELECT, which reads nothing else: no file, no network, no extension."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.lockchain.entries import Row
from knhk.model.columns import BOOLEAN, INTEGER, TEXT, TIME, Column
from knhk.model.csv_cells import cell
from knhk.model.faults import Fault, Refused
from knhk.model.selection import FLAGS
from knhk_runtime.durable import whole
from knhk_runtime.record import LAST_NS

if TYPE_CHECKING:
    import pyarrow

    from knhk.adapters.observations import Archive

MEMORY = "2GB"
# Words without which a question needs none of these; query() and query_table() make names of text.
OF_DECISIONS, OF_EVENTS = (re.compile(words, re.IGNORECASE) for words in ("decision|shapes|overrides|query", "events|live|overrides|query"))
# A PIVOT that finds its columns itself is several statements to DuckDB, whose tree it does not give: none may begin with one of these.
WRITES = frozenset(
    (
        *("alter", "attach", "call", "copy", "create", "delete", "detach", "drop", "execute", "export", "import", "insert"),
        *("install", "load", "merge", "pragma", "prepare", "set", "truncate", "update", "use", "vacuum"),
    )
)
PIVOTS = frozenset(("pivot", "pivot_wider"))
READS = frozenset(("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"))
BATCH = 1 << 16
_RENAMED = {"failOpen": "fail_open", "packDigest": "pack_digest"}
# What rows share, of which there are few. A digest that no event names is not of it (NULL): of those there may be as many as rows.
SHAPE = ("namespace", "kind", "verdict", "class", "mode", "arm", "pack", "version", "packDigest", *FLAGS)
EVENTS = (
    ("log_index", "BIGINT"),
    ("time", "TIMESTAMP"),
    ("event", "VARCHAR"),
    ("namespace", "VARCHAR"),
    ("subject", "VARCHAR"),
    ("subject_digest", "VARCHAR"),
    ("pack", "VARCHAR"),
    ("version", "VARCHAR"),
    ("pack_digest", "VARCHAR"),
    ("point", "VARCHAR"),
    ("stage", "VARCHAR"),
    ("arm", "VARCHAR"),
    ("step", "BIGINT"),
    ("weight", "BIGINT"),
    ("actor", "VARCHAR"),
    ("reason", "VARCHAR"),
    ("unreviewed", "BOOLEAN"),
    ("approved_by", "VARCHAR[]"),
    ("evidence", "JSON"),
)
_VIEWS = """
CREATE VIEW decisions AS SELECT log_index, make_timestamp(time_ns // 1000) AS time, time_ns, receipt, namespace, kind, verdict,
  class, mode, arm, pack, version, coalesce(pack_digest, stranger) AS pack_digest, region, stale = 'true' AS stale,
  cached = 'true' AS cached, brownout = 'true' AS brownout, fail_open = 'true' AS fail_open, resumed = 'true' AS resumed
  FROM decision_rows JOIN shapes USING (shape);
CREATE VIEW live AS SELECT namespace, pack, version, pack_digest, time AS since,
  lead(time) OVER (PARTITION BY namespace, pack ORDER BY log_index) AS until, approved_by, unreviewed, log_index, evidence
  FROM events WHERE event = 'Promoted';
CREATE VIEW overrides AS
  SELECT 'event' AS what, log_index, time, namespace, event AS how, pack, version, point, actor, reason, NULL AS receipt
    FROM events WHERE event IN ('FlagChanged', 'Aborted', 'Drifted') OR unreviewed
  UNION ALL SELECT 'decision', log_index, time, namespace, concat_ws(',', CASE WHEN fail_open THEN 'fail-open' END,
    CASE WHEN brownout THEN 'brownout' END, CASE WHEN stale THEN 'stale' END), pack, version, '', '', '', receipt
    FROM decisions WHERE (fail_open OR brownout OR stale) AND mode = 'ENFORCED';
"""


def query(sql: str, decisions: Iterable[Row], events: Iterable[Row], archive: Archive | None = None) -> pyarrow.Table:
    """What one SELECT over `decisions`, `events`, `live`, `overrides` and, with an archive, `observations` gives. Raises Refused for what
    is no such question, and what reading the rows raises."""
    try:
        return _answer(sql, decisions, events, archive)
    finally:
        if archive is not None:
            archive.reading.end()


def _answer(sql: str, decisions: Iterable[Row], events: Iterable[Row], archive: Archive | None) -> pyarrow.Table:
    import duckdb

    # No folder to spill into: DuckDB takes .tmp of where one stands, and lets a question read what lies there.
    config: dict[str, Any] = {
        "memory_limit": MEMORY,
        "temp_directory": "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with duckdb.connect(":memory:", config=config) as db:
        _one_select(db, sql)
        _load(db, decisions if OF_DECISIONS.search(sql) else (), events if OF_EVENTS.search(sql) else ())
        db.execute(_VIEWS)
        if archive is not None:
            db.register("observations", archive.table())
        db.execute("SET python_enable_replacements = false")  # nor variables of this process
        db.execute("SET enable_external_access = false")
        db.execute("SET lock_configuration = true")
        try:
            found = db.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            if archive is not None and archive.reading.failed:
                raise archive.reading.failed[0] from error
            tables = "decisions, events, live, overrides" + (", observations" if archive else "; with --archive observations")
            must = f"must be a question that can be answered from {tables}: {error}"
            raise Refused([Fault("SQL", sql[:200], must)]) from error
    if archive is not None and archive.reading.failed:
        raise archive.reading.failed[0]
    return found


def _one_select(db: Any, sql: str) -> None:
    import duckdb

    try:
        found = db.extract_statements(sql)
    except duckdb.Error as error:
        raise Refused([Fault("SQL", sql[:200], f"must be SQL: {error}")]) from error
    kinds = [statement.type for statement in found]
    only_reads = kinds == [duckdb.StatementType.SELECT] and _nodes(_parsed(db, sql)) <= READS
    if not only_reads and not (kinds == [duckdb.StatementType.MULTI] and _pivots(sql)):
        raise Refused([Fault("SQL", sql[:200], "must be one SELECT: receipts are only read")])


def _parsed(db: Any, sql: str) -> Any:
    """The tree of a SELECT by DuckDB's own parser."""
    ((told,),) = db.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    return json.loads(told)


def _pivots(sql: str) -> bool:
    """Whether it has a PIVOT, and no word that something is written by."""
    import duckdb

    text = sql.encode()
    found = duckdb.tokenize(sql)
    ends = [*(at for at, _ in found[1:]), len(text)]
    tokens = (text[at:end].decode(errors="replace") for (at, _), end in zip(found, ends, strict=True))
    words = {word[0].lower() for token in tokens if (word := re.match(r"\w+", token))}
    return bool(words & PIVOTS) and not words & WRITES


def _nodes(tree: Any) -> set[str]:
    """Kinds of queries in a tree: a WITH may hold what writes, and the statement is called a SELECT all the same."""
    inner = list(tree.values()) if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    own = tree.get("type") if isinstance(tree, dict) else None
    named = {own} if isinstance(own, str) and own.endswith("_NODE") else set[str]()
    return named.union(*map(_nodes, inner))


def _load(db: Any, decisions: Iterable[Row], events: Iterable[Row]) -> None:
    import pyarrow as pa

    shapes = _Shapes()
    numbers = [("log_index", pa.int64()), ("time_ns", pa.int64()), ("region", pa.int32()), ("shape", pa.int32())]
    schema = pa.schema([*numbers, ("receipt", pa.string()), ("stranger", pa.string())])
    db.execute(
        "CREATE TABLE decision_rows (log_index BIGINT, time_ns BIGINT, region INTEGER, shape INTEGER, receipt VARCHAR, stranger VARCHAR)"
    )
    # In this thread, whose the index's connection is: a stream DuckDB would read in one of its own.
    for batch in _batches(decisions, shapes, schema):
        db.register("arriving", pa.Table.from_batches([batch]))
        db.execute("INSERT INTO decision_rows SELECT * FROM arriving")
        db.unregister("arriving")
    db.register("arriving", shapes.table())
    db.execute("CREATE TABLE shapes AS SELECT * FROM arriving")
    db.unregister("arriving")
    db.execute(f"CREATE TABLE events ({', '.join(f'{name} {kind}' for name, kind in EVENTS)})")
    told = [_event(row) for row in events]
    if told:
        table = pa.Table.from_pylist(told)
        db.register("arriving", table)
        casts = ", ".join(f"CAST({name} AS {kind})" for name, kind in EVENTS)
        db.execute(f"INSERT INTO events SELECT {casts} FROM arriving")
        db.unregister("arriving")


class _Shapes:
    """Shapes of rows by number."""

    def __init__(self) -> None:
        self._numbers = dict[tuple[str | None, ...], int]()
        self._known = dict[int, int]()  # by identity of traits: rows that are alike mostly have the same object
        self._kept = list[Mapping[str, str]]()
        self.strangers = set[int]()  # those whose digest is of the row

    def number(self, traits: Mapping[str, str]) -> int:
        if (found := self._known.get(id(traits))) is not None:
            return found
        stranger = bool(traits.get("packDigest")) and not traits.get("pack")
        shape = tuple(None if stranger and name == "packDigest" else traits.get(name, "") for name in SHAPE)
        found = self._numbers.setdefault(shape, len(self._numbers))
        if stranger:
            self.strangers.add(found)
        if len(self._kept) < BATCH:
            self._kept.append(traits)  # alive, so that no other has its identity
            self._known[id(traits)] = found
        return found

    def table(self) -> pyarrow.Table:
        import pyarrow as pa

        names = [_RENAMED.get(name, name) for name in SHAPE]
        rows = [{"shape": number, **dict(zip(names, shape, strict=True))} for shape, number in self._numbers.items()]
        return pa.Table.from_pylist(rows, pa.schema([("shape", pa.int32()), *((name, pa.string()) for name in names)]))


def _batches(rows: Iterable[Row], shapes: _Shapes, schema: pyarrow.Schema) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow as pa

    source = iter(rows)
    while batch := list(islice(source, BATCH)):
        numbers, data = [shapes.number(row.traits) for row in batch], [row.data for row in batch]
        columns = [
            [row.number for row in batch],
            [min(int.from_bytes(leaf[92:100], "big"), LAST_NS) for leaf in data],
            [int.from_bytes(leaf[6:8], "big") for leaf in data],
            numbers,
            [leaf[100:116].hex() for leaf in data],
            [leaf[72:92].hex() if number in shapes.strangers else None for number, leaf in zip(numbers, data, strict=True)],
        ]
        yield pa.RecordBatch.from_arrays(
            [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema
        )


def _event(row: Row) -> dict[str, Any]:
    """A row of `events` of a statement."""
    told = json.loads(row.data)
    predicate, subject = told["predicate"], told["subject"][0]
    pack, evidence = predicate.get("pack") or {}, predicate.get("evidence") or {}
    return {
        "log_index": row.number,
        "time": predicate["time"].rstrip("Z"),
        "event": predicate["kind"],
        "namespace": row.traits["namespace"],
        "subject": subject["name"],
        "subject_digest": subject["digest"]["sha256"],
        "pack": pack.get("name", ""),
        "version": pack.get("version", ""),
        "pack_digest": pack.get("digest", "").removeprefix("sha256:")[:40],
        "unreviewed": bool(evidence.get("unreviewed")),
        "approved_by": [str(name) for name in evidence.get("approvedBy", ())],
        "evidence": json.dumps(evidence),
        **{name: predicate.get(name, "") for name in ("point", "stage", "arm", "actor", "reason")},
        **{name: predicate.get(name) for name in ("step", "weight")},
    }


def columns(table: pyarrow.Table) -> list[Column]:
    return [Column(field.name, _kind(field.type), column.null_count > 0) for field, column in zip(table.schema, table.columns, strict=True)]


def _kind(found: Any) -> str:
    from pyarrow import types

    found = getattr(found, "storage_type", found)  # JSON is text
    kinds = ((types.is_integer, INTEGER), (types.is_timestamp, TIME), (types.is_string, TEXT), (types.is_boolean, BOOLEAN))
    return next((kind for is_so, kind in kinds if is_so(found)), str(found))


def plain(table: pyarrow.Table) -> list[list[Any]]:
    """Rows as JSON holds them: times as text."""
    return [
        [cell if isinstance(cell, str | int | float | bool | None) else _plain(cell) for cell in row.values()] for row in table.to_pylist()
    ]


def _plain(cell: Any) -> Any:
    if isinstance(cell, datetime):
        return cell.isoformat(timespec="microseconds") + "Z"
    if isinstance(cell, bytes):
        return cell.hex()
    return (
        [_plain(part) for part in cell]
        if isinstance(cell, list)
        else cell
        if isinstance(cell, str | int | float | bool | None)
        else str(cell)
    )


def save(table: pyarrow.Table, path: Path, form: str) -> None:
    """Into a file of this form (csv, jsonl, parquet), whole or not at all. Raises OSError."""
    with whole(path) as file:
        _save(table, file, form)


def _save(table: pyarrow.Table, path: Path, form: str) -> None:
    import pyarrow.parquet

    if form == "parquet":
        pyarrow.parquet.write_table(table, path, compression="zstd")
        return
    names = table.column_names
    rows = plain(table)
    with path.open("w", encoding="utf-8", newline="") as file:
        if form == "csv":
            csv.writer(file).writerows([cell(found) for found in row] for row in (names, *rows))
        else:
            file.writelines(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
