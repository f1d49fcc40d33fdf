"""Receipts for other people's tools: CSV, JSON Lines, Parquet, and events of OCSF."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from knhk.lockchain.entries import Row
from knhk.model.csv_cells import cell
from knhk.model.selection import FLAGS
from knhk.model.times import rfc3339_ns
from knhk.reconcilers import exporting_events
from knhk_runtime.durable import whole

OCSF_VERSION = "1.7.0"
COLUMNS = (
    "log_index",
    "time",
    "receipt",
    "namespace",
    "kind",
    "verdict",
    "class",
    "mode",
    "arm",
    "pack",
    "version",
    "pack_digest",
    "region",
)
BATCH = 1 << 16
FLAG_COLUMNS = {flag: "fail_open" if flag == "failOpen" else flag for flag in FLAGS}


def record(row: Row) -> dict[str, Any]:
    """A decision as one flat record, columns as in SQL."""
    traits, leaf = row.traits, row.leaf
    told = {name: traits.get(name, "") for name in ("namespace", "kind", "verdict", "class", "mode", "arm", "pack", "version")}
    head = {"log_index": row.number, "time": rfc3339_ns(leaf.time_ns), "receipt": leaf.receipt_id.hex()}
    tail = {"pack_digest": leaf.pack.hex() if any(leaf.pack) else "", "region": leaf.region}
    return head | told | tail | {name: traits[flag] == "true" for flag, name in FLAG_COLUMNS.items()}


def ocsf(row: Row) -> dict[str, Any]:
    """An entry as an event: of a policy event see exporting_events, of a decision class API Activity (6003). A log names neither caller nor
    payload, so the actor is what it was authorized for and by which policy, and the source is the guard's ring; who has the Δ log can join
    the caller by `metadata.uid`."""
    if row.traits["kind"] == "POLICY":
        return exporting_events.event(row, OCSF_VERSION)
    leaf = row.leaf
    told = {**record(row), "pack_digest": row.traits["packDigest"]}
    return decision_event(told, leaf.time_ns // 10**6, {"hO": leaf.h_o.hex(), "hA": leaf.h_a.hex()})


def decision_event(told: Mapping[str, Any], time_ms: int, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Of a decision's columns, as SQL has them; `hashes`: what it commits to, where that is at hand."""
    admitted, flags = told["verdict"] == "ADMIT", [flag for flag, name in FLAG_COLUMNS.items() if told[name]]
    policy = {
        "name": told["pack"] or "none",
        "uid": told["pack_digest"] or "none",
        "version": told["version"],
        "group": {"name": told["namespace"]},
        "is_applied": told["mode"] == "ENFORCED",
    }
    product = {"name": "Reflex Enterprise", "vendor_name": "Reflex Enterprise", "feature": {"name": told["kind"]}}
    return {
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": 6003,
        "class_name": "API Activity",
        "activity_id": 99,
        "activity_name": "Decide",
        "type_uid": 600399,
        "type_name": "API Activity: Decide",
        "time": time_ms,
        "severity_id": 1 if admitted else 2,
        "severity": "Informational" if admitted else "Low",
        "status_id": 1 if admitted else 2,
        "status": "Success" if admitted else "Failure",
        "status_code": told["verdict"],
        "status_detail": ", ".join([told["kind"], told["mode"], told["arm"], *flags]),
        "actor": {"app_name": "guard", "authorizations": [{"decision": told["verdict"], "policy": policy}]},
        "api": {"operation": told["kind"], "service": {"name": f"{told['namespace']}/{told['pack']}", "version": told["version"]}},
        "src_endpoint": {"uid": told["receipt"][:16], "type_id": 99, "type": "Guard"},
        "metadata": {
            "version": OCSF_VERSION,
            "product": product,
            "uid": told["receipt"] + ("-candidate" if told["arm"] == "candidate" else ""),
            "correlation_uid": told["receipt"],
            "sequence": told["log_index"],
            "log_name": "knhk.dev/decisions",
        },
        "unmapped": {"class": told["class"], "region": told["region"], **hashes},
    }


def write(path: Path, form: str, rows: Iterable[Row]) -> int:
    """Writes the rows, as they come, into a file of this form; how many. Where reading them fails, the file is as it was. Raises OSError,
    and what reading raises."""
    with whole(path) as file:
        return WRITERS[form](file, rows)


def write_events(path: Path, events: Iterable[Mapping[str, Any]]) -> int:
    """The same of events of OCSF that are made already."""
    with whole(path) as file:
        return _write_lines(file, events)


def _lines(shape: Callable[[Row], Mapping[str, Any]]) -> Callable[[Path, Iterable[Row]], int]:
    return lambda path, rows: _write_lines(path, map(shape, rows))


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
            count += 1
    return count


def _csv(path: Path, rows: Iterable[Row]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, (*COLUMNS, *FLAG_COLUMNS.values()))
        writer.writeheader()
        for row in rows:
            writer.writerow({name: cell(value) for name, value in record(row).items()})
            count += 1
    return count


def _parquet(path: Path, rows: Iterable[Row]) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"log_index": pa.int64(), "region": pa.int32(), **dict.fromkeys(FLAG_COLUMNS.values(), pa.bool_())}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in (*COLUMNS, *FLAG_COLUMNS.values())])
    source, count = iter(rows), 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(islice(source, BATCH)):
            writer.write_table(pa.Table.from_pylist([record(row) for row in batch], schema))
            count += len(batch)
    return count


WRITERS: Mapping[str, Callable[[Path, Iterable[Row]], int]] = {
    "csv": _csv,
    "jsonl": _lines(record),
    "ocsf": _lines(ocsf),
    "parquet": _parquet,
}
