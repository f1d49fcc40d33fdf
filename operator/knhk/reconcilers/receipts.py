"""Receipts as a stranger reads them: entries of a log folder, with inclusion proofs recomputed from its tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knhk.lockchain.entries import Row
from knhk.model.times import rfc3339_ns
from knhk_runtime.record import Record, check_record, parse_observation, parse_record
from knhk_runtime.tlog.folder import log_records
from knhk_verify.leaf import CLASSES, KINDS, LEAF_SIZE, MODES, VERDICTS, parse_leaf
from knhk_verify.note import unb64
from knhk_verify.signed import parse_json

FLAGS = ("candidate", "stale", "cached", "brownout", "fail-open", "resumed")


@dataclass(frozen=True)
class Entry:
    """An entry of the log, its index and its bytes."""

    index: int
    data: bytes

    @property
    def is_leaf(self) -> bool:
        return len(self.data) == LEAF_SIZE and self.data[0] == 1


def describe(entry: Entry) -> dict[str, Any]:
    """What an entry says, in words."""
    if not entry.is_leaf:
        return {"index": entry.index, **_event(entry.data)}
    leaf = parse_leaf(entry.data, f"entry {entry.index}")
    return {
        "index": entry.index,
        "receipt": leaf.receipt_id.hex(),
        "kind": KINDS[leaf.kind],
        "verdict": VERDICTS[leaf.verdict],
        "class": CLASSES[leaf.klass],
        "mode": MODES[leaf.mode],
        "flags": [name for bit, name in enumerate(FLAGS) if leaf.flags >> bit & 1],
        "time": rfc3339_ns(leaf.time_ns),
        "pack": leaf.pack.hex() if any(leaf.pack) else "",
        "subject": "",
    }


def describe_row(row: Row) -> dict[str, Any]:
    """What a row of the index says, in words; of a decision with the pack's name too."""
    if row.traits["kind"] == "POLICY":
        return {"index": row.number, **_statement(row.data)}
    traits = row.traits
    subject = f"pack/{traits['namespace']}/{traits['pack']}@{traits['version']}" if traits["pack"] else ""
    return {**describe(Entry(row.number, row.data)), "subject": subject}


def actor_of(entry: Entry) -> str:
    """Who did what a policy event says; "" of a decision, whose leaf names nobody."""
    return "" if entry.is_leaf else str(parse_json(_payload(entry.data), "policy event")["predicate"].get("actor", ""))


def _event(data: bytes) -> dict[str, Any]:
    return _statement(_payload(data))


def _payload(data: bytes) -> bytes:
    return unb64(parse_json(data, "policy event")["dsseEnvelope"]["payload"], "payload")


def _statement(data: bytes) -> dict[str, Any]:
    statement = parse_json(data, "policy event")
    predicate, subjects = statement["predicate"], statement["subject"]
    return {
        "receipt": "",
        "kind": f"POLICY {predicate['kind']}",
        "verdict": "",
        "class": "",
        "mode": "",
        "flags": [],
        "time": str(predicate.get("time", "")),
        "pack": subjects[0]["digest"]["sha256"][:40] if subjects else "",
        "subject": subjects[0]["name"] if subjects else "",
    }


def records_of(log_dir: Path, entry: Entry) -> list[tuple[str, Record]]:
    """(place, record) of the observation segments that hold this very leaf, hashes checked. Raises Bad."""
    found = []
    for where, payload in log_records(log_dir):
        if entry.data in payload:
            record = parse_record(payload, where)
            check_record(record, where)
            found.append((where, record))
    return found


def observed(record: Record, where: str) -> Mapping[str, Any]:
    """Route, region, names of attributes and size of the body; never their values."""
    if record.erased or record.sealed:
        return {
            "where": where,
            "erased": record.erased,
            "sealed": record.sealed,
            "route": "",
            "region": "",
            "attributes": [],
            "body_bytes": 0,
        }
    seen = parse_observation(record.observation, where)
    return {
        "where": where,
        "erased": False,
        "sealed": False,
        "route": seen.route,
        "region": seen.region,
        "attributes": [name for name, _value in seen.attributes],
        "body_bytes": len(seen.body),
    }
