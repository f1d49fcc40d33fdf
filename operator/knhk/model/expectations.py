"""What a pack is expected to decide: cases beside the pack, and what `knhk pack test` demands of them (docs/pack-tests.md)."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TESTS_FILE = "tests.yaml"


@dataclass(frozen=True)
class Edits:
    """Changes of a payload: `set` (JSON Pointer, JSON text), `remove` and `copy` (of a list: its first item once more) for JSON, `replace`
    (old, new) for any text."""

    set: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()
    replace: tuple[tuple[str, str], ...] = ()
    copy: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One expectation. `edited` tells that the body is no file as it lies there; `failing` and `triples` (of A) None: not said;
    `places` maps fields ("" for the case, "route", "failing[0]") to file:line."""

    name: str
    places: Mapping[str, str]
    route: str
    body: bytes
    edited: bool
    attributes: Mapping[str, str]
    time_ns: int
    region: str
    verdict: str
    failing: tuple[str, ...] | None
    triples: tuple[str, ...] | None = None

    def place(self, field: str = "") -> str:
        """Where a field was written, else the case."""
        return self.places.get(field, self.places[""])


@dataclass(frozen=True)
class Expectations:
    """All cases of a pack. `coverage` and `mutation` are the least percentages that `pack test` accepts."""

    cases: tuple[Case, ...]
    coverage: int
    mutation: int


class Spelled(str):
    """A number of a JSON text, as it was written."""

    __slots__ = ()


class EditError(ValueError):
    """An edit does not fit the payload; the text says why."""


def edited(body: bytes, edits: Edits) -> bytes:
    """The body after its edits, numbers spelled as they were. Raises EditError."""
    for old, new in edits.replace:
        if body.count(old.encode()) != 1:
            raise EditError(f"{old!r} occurs {body.count(old.encode())} times in the payload, must occur once")
        body = body.replace(old.encode(), new.encode())
    if not edits.set and not edits.remove and not edits.copy:
        return body
    document = _read(body)
    for pointer in edits.copy:
        _copy(document, pointer)
    for pointer in edits.remove:
        _remove(document, pointer)
    for pointer, text in edits.set:
        document = _set(document, pointer, _read(text.encode()))
    return _written(document).encode()


def _read(text: bytes) -> Any:
    try:
        return json.loads(text, parse_float=Spelled, parse_int=Spelled)
    except ValueError as error:
        raise EditError(f"the payload is no JSON ({error}); `set` and `remove` need JSON, use `replace`") from error


def _written(value: Any) -> str:
    if isinstance(value, Spelled):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name, ensure_ascii=False)}:{_written(child)}" for name, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _steps(pointer: str) -> list[str]:
    """Reference tokens of a JSON Pointer (RFC 6901)."""
    if pointer and not pointer.startswith("/"):
        raise EditError(f"{pointer!r} must be a JSON Pointer, such as /doc/currency")
    if re.search(r"~(?![01])", pointer):
        raise EditError(f"{pointer!r} must write ~ as ~0 and / as ~1")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _parent(document: Any, pointer: str) -> tuple[Any, str]:
    *above, last = _steps(pointer)
    for step in above:
        document = _child(document, step, pointer)
    return document, last


def _child(value: Any, step: str, pointer: str) -> Any:
    if isinstance(value, dict) and step in value:
        return value[step]
    if isinstance(value, list):
        return value[_index(value, step, pointer)]
    raise EditError(f"{pointer!r} leads nowhere: the payload has no {step!r} there")


def _index(items: list[Any], step: str, pointer: str) -> int:
    if not step.isdigit() or int(step) >= len(items):
        raise EditError(f"{pointer!r} leads nowhere: {step!r} is no index of a list of {len(items)} items")
    return int(step)


def _remove(document: Any, pointer: str) -> None:
    if not pointer:
        raise EditError("the whole payload cannot be removed: give another `payload` or a `body`")
    parent, last = _parent(document, pointer)
    _child(parent, last, pointer)
    del parent[_index(parent, last, pointer) if isinstance(parent, list) else last]


def _copy(document: Any, pointer: str) -> None:
    items = document
    for step in _steps(pointer):
        items = _child(items, step, pointer)
    if not isinstance(items, list) or not items:
        raise EditError(f"{pointer!r} leads nowhere: it is no list with an item")
    items.append(copy.deepcopy(items[0]))


def _set(document: Any, pointer: str, value: Any) -> Any:
    if not pointer:
        return value
    parent, last = _parent(document, pointer)
    if isinstance(parent, list) and last == "-":
        parent.append(value)
    elif isinstance(parent, list):
        parent[_index(parent, last, pointer)] = value
    elif isinstance(parent, dict):
        parent[last] = value
    else:
        raise EditError(f"{pointer!r} leads nowhere: its parent is neither an object nor a list")
    return document
