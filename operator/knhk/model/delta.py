"""Rows of the Δ log (formats/delta.md)."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A row, its columns in their order; `class_` is the column `class`."""

    log_index: int | None
    receipt: str
    time: int  # microseconds since 1970, UTC
    time_ns: int
    kind: str
    verdict: str
    class_: str
    mode: str
    arm: str
    stale: bool
    cached: bool
    brownout: bool
    fail_open: bool
    resumed: bool
    pack: str
    point: str
    route: str | None
    actor: str | None
    key: str
    bundle: str | None
    evaluator: str | None
    guards: int | None
    failing: tuple[int, ...] | None
    leaf: bytes
    salt: bytes | None
    observation: bytes | None
    action: bytes | None
    sealed: bool
    subject: str | None
    erased: bool
    source: str
    segment: int
    offset: int
