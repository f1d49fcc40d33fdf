"""Judge a node tree by its declared shape: every fault, and the plain value with defaults filled in."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from knhk.api.document import Node, plain_text, shown, to_value
from knhk.api.rules import least
from knhk.api.shape import JSON_TYPE, NO_DEFAULT, Bool, Int, List, Map, Obj, Rule, Shape, Str
from knhk.model.faults import Fault

_ARTICLE = {"integer": "an integer", "array": "a list", "object": "an object"}
_UNQUOTED = ("boolean", "integer", "number", "null")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


class Checker:
    """Collects faults of one file. `lines` maps field paths below the object to lines of the file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.faults: list[Fault] = []
        self.lines: dict[str, int] = {}

    def fault(self, node: Node, at: str, value: str, must: str, line: int = 0) -> None:
        """Record one fault: where (file:line and field path), value, what it must be."""
        at_line = line or node.line
        place = f"{self.path}:{at_line} {at}" if at_line else f"{self.path} {at}" if self.path else at
        self.faults.append(Fault(place.rstrip(), shown(value), must))

    def check(self, shape: Shape, node: Node, at: str, defaults: bool = True) -> Any:
        """The plain value. Where faults were recorded it is what could be read, for rules that do not look there."""
        self.lines[at] = node.text_line or node.line
        kind = JSON_TYPE[type(shape)]
        if node.kind != kind:
            self._wrong_type(kind, node, at)
            return None
        before = len(self.faults)
        value = self._by_shape(shape, node, at, defaults)
        if not isinstance(shape, Obj) and len(self.faults) == before:
            self._rules(shape.rules, node, value, at, frozenset())
        return value

    def _by_shape(self, shape: Shape, node: Node, at: str, defaults: bool) -> Any:
        match shape:
            case Str():
                return self._string(shape, node, at)
            case Int():
                return self._integer(shape, node, at)
            case Bool():
                return node.value
            case List():
                return self._list(shape, node, at, defaults)
            case Map():
                return self._map(shape, node, at, defaults)
            case Obj():
                return self._object(shape, node, at, defaults)

    def _wrong_type(self, kind: str, node: Node, at: str) -> None:
        article = _ARTICLE.get(kind, f"a {kind}")
        hint = " (put it in quotes)" if kind == "string" and node.kind in _UNQUOTED else ""
        self.fault(node, at, excerpt(node), f"must be {article}{hint}")

    def _string(self, shape: Str, node: Node, at: str) -> str:
        text: str = node.value
        if len(text) > shape.max:
            self.fault(node, at, f"{len(text)} characters", f"must be at most {shape.max} characters long")
        self._bounds(shape, node, at, text, json.dumps)
        if _NO_TEXT.search(text):
            self.fault(node, at, excerpt(node), "must be text without NUL and without surrogates")
        return text

    def _integer(self, shape: Int, node: Node, at: str) -> int:
        value: int = node.value
        self._bounds(shape, node, at, value, str)
        return value

    def _bounds(self, shape: Shape, node: Node, at: str, value: Any, as_text: Callable[[Any], str]) -> None:
        for rule in least(shape):
            if not rule.holds(value):
                self.fault(node, at, as_text(value), rule.message)

    def _list(self, shape: List, node: Node, at: str, defaults: bool) -> list[Any]:
        items: tuple[Node, ...] = node.value
        if len(items) > shape.max:
            self.fault(node, at, f"{len(items)} items", f"must have at most {shape.max} items")
            items = items[: shape.max]
        self._bounds(shape, node, at, items, lambda some: f"{len(some)} items")
        values = [self.check(shape.item, item, f"{at}[{i}]", defaults) for i, item in enumerate(items)]
        if shape.key:
            self._distinct(shape.key, items, values, at)
        return values

    def _distinct(self, key: str, items: tuple[Node, ...], values: list[Any], at: str) -> None:
        seen: dict[str, int] = {}
        for i, (item, value) in enumerate(zip(items, values, strict=True)):
            name = value.get(key) if isinstance(value, dict) else None
            if not isinstance(name, str):
                continue
            if name in seen:
                must = f"must be the only item with this {key} (item {seen[name]} has it too)"
                self.fault(item, f"{at}[{i}].{key}", name, must)
            seen.setdefault(name, i)

    def _map(self, shape: Map, node: Node, at: str, defaults: bool) -> dict[str, Any]:
        if len(node.value) > shape.max:
            self.fault(node, at, f"{len(node.value)} entries", f"must have at most {shape.max} entries")
            return {}
        return {name: self.check(shape.value, child, f"{at}.{name}", defaults) for name, (_, child) in node.value.items()}

    def _object(self, shape: Obj, node: Node, at: str, defaults: bool) -> dict[str, Any]:
        value: dict[str, Any] = {}
        bad: set[str] = set()
        for name, (line, child) in node.value.items():
            place = joined(at, name)
            before = len(self.faults)
            if name not in shape.fields:
                self.fault(child, place, excerpt(child), unknown(name, shape), line)
                continue
            value[name] = self.check(shape.fields[name], child, place, defaults)
            if len(self.faults) > before:
                bad.add(name)
        for name in shape.required:
            if name not in value:
                bad.add(name)
                if any(other in shape.later for other in node.value):
                    continue  # said already, with what must be there instead
                self.fault(node, joined(at, name), "nothing", "must be given")
        if defaults:
            fill(shape, value)
        self._rules(shape.rules, node, value, at, frozenset(bad))
        return value

    def _rules(self, rules: tuple[Rule, ...], node: Node, value: Any, at: str, bad: frozenset[str]) -> None:
        for rule in rules:
            if rule.on_update or bad & set(rule.reads or bad):
                continue
            if not rule.holds(value):
                where = joined(at, rule.at) if rule.at else at
                found = below(node, rule.at)
                self.fault(found, where, excerpt(found), rule.message)


def joined(at: str, name: str) -> str:
    """Field path of a member."""
    return f"{at}.{name}" if at else name


def below(node: Node, field: str) -> Node:
    """The node at a dotted path, or the nearest one above it that was written."""
    for name in field.split(".") if field else ():
        if node.kind != "object" or name not in node.value:
            return node
        node = node.value[name][1]
    return node


def unknown(name: str, shape: Obj) -> str:
    """What to do about a field that is not declared."""
    if name in shape.later:
        return shape.later[name]
    close = difflib.get_close_matches(name, shape.fields, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"must not be there: unknown field{hint} (known: {', '.join(shape.fields)})"


def excerpt(node: Node) -> str:
    """A short picture of a value for a message."""
    if node.kind in ("array", "object"):
        return shown(json.dumps(to_value(node), ensure_ascii=False)[:200])
    return shown(node.value if isinstance(node.value, str) else plain_text(node.value))


def fill(shape: Obj, value: dict[str, Any]) -> None:
    """Put defaults where fields are absent; an object that is absent is filled only when it declares a default."""
    for name, child in shape.fields.items():
        if name in value or child.default is NO_DEFAULT:
            continue
        value[name] = defaulted(child)


def completed(shape: Shape, value: Any, listed: bool = False) -> Any:
    """A value that an API server has judged, with the defaults in items of lists, which it is not told (crdgen)."""
    match shape:
        case List():
            return [completed(shape.item, item, listed=True) for item in value]
        case Map():
            return {name: completed(shape.value, child, listed) for name, child in value.items()}
        case Obj():
            found = {name: completed(shape.fields[name], child, listed) if name in shape.fields else child for name, child in value.items()}
            if listed:
                fill(shape, found)
            return found
        case _:
            return value


def defaulted(shape: Shape) -> Any:
    """A fresh copy of the default of a field."""
    default = shape.default
    if isinstance(shape, Obj) and isinstance(default, Mapping):
        value = dict(default)
        fill(shape, value)
        return value
    return [dict(item) if isinstance(item, Mapping) else item for item in default] if isinstance(default, tuple) else default
