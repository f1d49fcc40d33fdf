"""Rows of a record as formats/delta.md has them, by the strict parsers: what is made a batch at a time is held against these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from knhk.model.delta import Row
from knhk_runtime.envelope import NOBODY, parse_envelope
from knhk_runtime.record import (
    LAST_NS,
    NO_ACTION,
    Record,
    entry_key,
    h_a,
    h_o,
    leaf_digest,
    parse_action,
    parse_observation,
)
from knhk_verify.leaf import CLASSES, KINDS, MODES, VERDICTS, parse_leaf

Index = Mapping[bytes, tuple[int, bytes]]  # idempotency key → index in the log, digest of the leaf there


def is_logged(leaf: bytes, index: Index) -> bool:
    """Whether the log has this very leaf."""
    at = index.get(entry_key(leaf))
    return at is not None and at[1] == leaf_digest(leaf)


def rows_of(source: str, segment: int, offset: int, record: Record, index: Index) -> Iterator[Row]:
    """A row for each leaf of a record of an outbox NAMESPACE.POINT~… Raises Bad."""
    plain = not record.erased and not record.sealed
    observed = h_o(record.salt, record.observation) if plain else b""
    seen = parse_observation(record.observation, "O") if plain else None
    tag = parse_envelope(record.observation, "O").tag if record.sealed else NOBODY
    attributes = dict(seen.attributes) if seen else {}
    for data, a in zip(record.leaves, record.actions, strict=True):
        leaf = parse_leaf(data)
        is_true = not plain or (leaf.h_o, leaf.h_a) == (observed, h_a(record.salt, a) if KINDS[leaf.kind] == "DECISION" else NO_ACTION)
        action = parse_action(a) if a and not record.erased else None
        yield Row(
            log_index=index[entry_key(data)][0] if is_true and is_logged(data, index) else None,
            receipt=leaf.receipt_id.hex(),
            time=leaf.time_ns // 1000,
            time_ns=min(leaf.time_ns, LAST_NS),
            kind=KINDS[leaf.kind],
            verdict=VERDICTS[leaf.verdict] if leaf.verdict else "",
            class_=CLASSES[leaf.klass] if leaf.klass else "",
            mode=MODES[leaf.mode],
            arm="candidate" if leaf.flags & 1 else "stable",
            stale=bool(leaf.flags & 2),
            cached=bool(leaf.flags & 4),
            brownout=bool(leaf.flags & 8),
            fail_open=bool(leaf.flags & 16),
            resumed=bool(leaf.flags & 32),
            pack=leaf.pack.hex() if any(leaf.pack) else "",
            point=source.partition("~")[0].replace(".", "/", 1),
            route=seen.route if seen else None,
            actor=attributes.get("sub") or attributes.get("peer"),
            key="" if record.erased else f"{record.cluster:016x}",
            bundle=_digest(seen.bundle) if seen else None,
            evaluator=_digest(seen.evaluator) if seen else None,
            guards=action.guards if action else None,
            failing=action.failing if action else None,
            leaf=data,
            salt=record.salt if plain else None,
            observation=None if record.erased else record.observation,
            action=None if record.erased or not a else a,
            sealed=record.sealed,
            subject=tag.hex() if tag != NOBODY else None,
            erased=record.erased,
            source=source,
            segment=segment,
            offset=offset,
        )


def folder_of(row: Row, regions: Sequence[str]) -> str:
    """Where a row belongs."""
    number = int.from_bytes(row.leaf[6:8], "big")
    region = regions[number] if number < len(regions) else f"region-{number}"
    return f"region={region}/{datetime.fromtimestamp(row.time_ns // 10**9, UTC):date=%Y-%m-%d/hour=%H}"


def _digest(found: bytes) -> str:
    return found.hex() if any(found) else ""
