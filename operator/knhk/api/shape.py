"""The language in which each kind is declared once; CRD schema, parser and documentation come from it.

Everything has a bound, so that an API server can price the CEL rules and no input can grow without end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

NO_DEFAULT: Any = object()


@dataclass(frozen=True)
class Rule:
    """A law over one value, in CEL for the API server and as a predicate for the parser.

    `message` says what the value must be. `reads` names the fields of an object that the law
    looks at (it is judged when these are well-formed; empty: all). `at` is where a person
    should look, below the value.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]
    reads: tuple[str, ...] = ()
    at: str = ""
    on_update: bool = False  # speaks of oldSelf: only a store can judge it


@dataclass(frozen=True)
class Str:
    """A string of at most `max` characters."""

    doc: str
    max: int
    min: int = 0
    rules: tuple[Rule, ...] = ()
    default: Any = NO_DEFAULT


@dataclass(frozen=True)
class Int:
    """An integer within bounds, both included."""

    doc: str
    min: int
    max: int
    rules: tuple[Rule, ...] = ()
    default: Any = NO_DEFAULT


@dataclass(frozen=True)
class Bool:
    """true or false."""

    doc: str
    default: Any = NO_DEFAULT
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class List:
    """A list; `key` makes it a map keyed by that field of its items (names are then unique)."""

    doc: str
    item: Shape
    max: int
    min: int = 0
    key: str = ""
    rules: tuple[Rule, ...] = ()
    default: Any = NO_DEFAULT


@dataclass(frozen=True)
class Map:
    """An object of at most `max` free names."""

    doc: str
    value: Shape
    max: int
    rules: tuple[Rule, ...] = ()
    default: Any = NO_DEFAULT


@dataclass(frozen=True)
class Obj:
    """An object of declared fields; others are refused. `later`: names that are known but not available
    yet, with what must be there instead."""

    doc: str
    fields: Mapping[str, Shape]
    required: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    default: Any = NO_DEFAULT
    later: Mapping[str, str] = field(default_factory=dict)


Shape = Str | Int | Bool | List | Map | Obj

JSON_TYPE: Mapping[type, str] = {
    Str: "string",
    Int: "integer",
    Bool: "boolean",
    List: "array",
    Map: "object",
    Obj: "object",
}


@dataclass(frozen=True)
class Kind:
    """One custom resource. `immutable` makes the spec equal to what it was. `awaited`: the control plane has to say something of each
    before it counts as finished."""

    kind: str
    plural: str
    short: tuple[str, ...]
    doc: str
    spec: Obj
    status: Obj
    columns: tuple[tuple[str, str, str, int], ...] = ()  # name, type, JSON path, priority
    rules: tuple[Rule, ...] = ()  # over the whole object: self.metadata.name
    awaited: bool = True

    @property
    def singular(self) -> str:
        """Lower-case name."""
        return self.kind.lower()
