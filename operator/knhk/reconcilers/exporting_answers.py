"""Answers of SQL over receipts as events of OCSF: those whose columns are a receipt's, as the tables `decisions` and `events` have them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

from knhk.lockchain.entries import Row
from knhk.model.columns import BOOLEAN, INTEGER, TEXT, TIME, Column
from knhk.model.faults import Fault, Refused
from knhk.reconcilers import exporting

OF_A_DECISION: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(exporting.COLUMNS, TEXT),
        **dict.fromkeys(exporting.FLAG_COLUMNS.values(), BOOLEAN),
        "log_index": INTEGER,
        "time": TIME,
        "region": INTEGER,
    }
)
_WORDS = ("event", "namespace", "subject", "subject_digest", "pack", "version", "pack_digest")
_TOLD = ("point", "stage", "arm", "actor", "reason")
_MAYBE = ("step", "weight")
OF_AN_EVENT: Mapping[str, str] = MappingProxyType(
    {"log_index": INTEGER, "time": TIME, **dict.fromkeys((*_WORDS, *_TOLD, "evidence"), TEXT), **dict.fromkeys(_MAYBE, INTEGER)}
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def write_ocsf(path: Path, columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes rows as `exporting.write` does; how many. Raises Refused with every column that is missing or is another, and OSError."""
    named = {column.name for column in columns}
    wanted, shape = (OF_AN_EVENT, _event) if "event" in named else (OF_A_DECISION, _decision)
    if faults := _faults(columns, wanted):
        raise Refused(faults)
    return exporting.write_events(path, map(shape, rows))


def _faults(columns: Sequence[Column], wanted: Mapping[str, str]) -> list[Fault]:
    found = {column.name: column for column in columns}
    faults = list[Fault]()
    if missing := [name for name in wanted if name not in found]:
        what = "policy events (SELECT * FROM events)" if wanted is OF_AN_EVENT else "decisions (SELECT * FROM decisions)"
        faults.append(Fault("SQL", f"has no column {', '.join(missing)}", f"must have the columns of {what} for OCSF"))
    for name, kind in wanted.items():
        if name in found and found[name].kind != kind:
            faults.append(Fault("SQL", f"column {name} is {found[name].kind}", f"must be {kind} for OCSF, as the table has it"))
        elif name in found and found[name].nulls and name not in _MAYBE:
            faults.append(Fault("SQL", f"column {name} is NULL in some rows", "must be there in each row for OCSF"))
    return faults


def _decision(told: Mapping[str, Any]) -> dict[str, Any]:
    return exporting.decision_event(told, _milliseconds(told["time"]), {})


def _event(told: Mapping[str, Any]) -> dict[str, Any]:
    """By way of the statement that the columns were read from."""
    predicate = {
        "kind": told["event"],
        "time": f"{_utc(told['time']):%Y-%m-%dT%H:%M:%S.%f}Z",
        "evidence": json.loads(told["evidence"]),
        "actor": told["actor"],
        **{name: told[name] for name in (*_TOLD, *_MAYBE) if told[name] not in ("", None)},
    }
    traits = {
        "kind": "POLICY",
        "packDigest": told["pack_digest"],
        **{name: told[name] for name in ("event", "namespace", "pack", "version")},
    }
    subject = {"name": told["subject"], "digest": {"sha256": told["subject_digest"]}}
    return exporting.ocsf(Row(told["log_index"], traits, json.dumps({"predicate": predicate, "subject": [subject]}).encode()))


def _utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _milliseconds(time: datetime) -> int:
    return (_utc(time) - _EPOCH) // timedelta(milliseconds=1)
