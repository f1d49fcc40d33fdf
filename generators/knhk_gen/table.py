"""The committed classification tables (tables/*.tsv), read by feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

CLASSES: Final = ("R1", "W1", "C1")


@dataclass(frozen=True)
class Row:
    """One feature: its class, the condition for it, and what it falls to when that fails."""

    feature: str
    klass: str
    condition: str
    falls_to: str

    def may_fall_to(self, klass: str) -> bool:
        """True when the row itself allows this lower class."""
        return klass in self.falls_to


def _read(name: str) -> list[list[str]]:
    text = resources.files(__package__).joinpath("tables", name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()[1:] if line]


@cache
def shacl() -> Mapping[str, Row]:
    """Rows of shacl-classification.tsv by feature."""
    rows = (Row(r[0], r[2], r[3], r[4]) for r in _read("shacl-classification.tsv"))
    return MappingProxyType({row.feature: row for row in rows})


@cache
def ask() -> Mapping[str, Row]:
    """Rows of sparql-ask-classification.tsv by form."""
    rows = (Row(r[0], r[2], r[3], r[4]) for r in _read("sparql-ask-classification.tsv"))
    return MappingProxyType({row.feature: row for row in rows})


@cache
def limits() -> frozenset[tuple[str, str, str]]:
    """limits.tsv: (feature, reason, class) where this compiler stays below the row on purpose."""
    return frozenset((r[0], r[1], r[2]) for r in _read("limits.tsv"))


@cache
def kernel_cycles() -> Mapping[str, float]:
    """kernel-cost.tsv: cycles of one evaluation over a chunk, p99 of batch means, on the core that the table names."""
    return MappingProxyType({r[0]: float(r[1]) for r in _read("kernel-cost.tsv")})


class BelowTable(AssertionError):
    """A bug of the compiler: a guard got a lower class than its row, and no reason is recorded."""


def why(rows: Mapping[str, Row], feature: str, klass: str, reason: str = "") -> str:
    """The text of a guard's `why`: row, class and condition or reason. Raises BelowTable when
    the class is lower than the row says and neither row nor limits.tsv knows the reason."""
    row = rows[feature]
    lower = CLASSES.index(klass) > CLASSES.index(_base(row))
    if lower and not row.may_fall_to(klass) and (feature, reason, klass) not in limits():
        raise BelowTable(f"{feature}: {klass} for {reason or 'no reason'}, the table says {row.klass}")
    text = reason or (row.condition if row.condition != "-" else "no condition")
    return f"{feature}: {klass}, {text}"


def _base(row: Row) -> str:
    return row.klass if row.klass in CLASSES else "R1"
