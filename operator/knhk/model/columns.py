"""What columns of an answer to a question are."""

from __future__ import annotations

from dataclasses import dataclass

INTEGER, TIME, TEXT, BOOLEAN = "an integer", "a timestamp", "text", "a boolean"


@dataclass(frozen=True)
class Column:
    """`kind`: INTEGER, TIME, TEXT, BOOLEAN, or the name of what else it is; `nulls`: whether some rows have none."""

    name: str
    kind: str
    nulls: bool
