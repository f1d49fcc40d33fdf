"""YAML with positions: a tree of nodes that know their line. Bounded against hostile files.

Built from parser events, not by recursion over them, so that depth, size and alias expansion are
checked before they cost anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from knhk.model.faults import Fault

MAX_TEXT = 4 << 20
MAX_DEPTH = 32
MAX_NODES = 100_000
MAX_DOCUMENTS = 1_000

NodeKind = Literal["null", "boolean", "integer", "number", "string", "array", "object"]
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_TAGS: dict[str, NodeKind] = {
    "tag:yaml.org,2002:null": "null",
    "tag:yaml.org,2002:bool": "boolean",
    "tag:yaml.org,2002:int": "integer",
    "tag:yaml.org,2002:float": "number",
    "tag:yaml.org,2002:str": "string",
}
_TRUE = frozenset({"true", "yes", "on"})
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = yaml.resolver.Resolver()


@dataclass(frozen=True)
class Node:
    """`value`: str, int, bool, None, tuple of nodes, or dict of name → (line of the name, node).

    `line` is where the value begins, 0 when it never stood in a file; `text_line` is where the
    first character of a string's content stands (below the `|` of a block).
    """

    kind: NodeKind
    value: Any
    line: int = 0
    text_line: int = 0


class _Stop(Exception):
    """The rest of the file cannot be read."""


@dataclass
class _Open:
    """A collection that is being read."""

    kind: Literal["array", "object"]
    line: int
    anchor: str | None
    items: list[Node]
    names: dict[str, tuple[int, Node]]
    name: tuple[str, int] | None = None


class _Reader:
    """One pass over the events of a file; faults are collected, the first unreadable place stops it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.faults: list[Fault] = []
        self.nodes = 0
        self.anchors: dict[str, tuple[Node, int]] = {}

    def fault(self, line: int, value: str, must: str) -> None:
        self.faults.append(Fault(f"{self.path}:{line}", shown(value), must))

    def stop(self, line: int, value: str, must: str) -> _Stop:
        self.fault(line, value, must)
        return _Stop()

    def documents(self, text: str) -> Iterator[Node]:
        """The root node of each document that is not empty."""
        stack: list[_Open] = []
        for event in self._events(text):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                self.anchors.clear()
                continue
            if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                self._open(stack, event, line)
                continue
            done = self._node(stack, event, line)
            if done is None:
                continue
            if not stack:
                yield done
            else:
                self._put(stack[-1], done, line)

    def _events(self, text: str) -> Iterator[Any]:
        try:
            yield from yaml.parse(text, Loader=_LOADER)
        except yaml.MarkedYAMLError as err:
            mark = err.problem_mark or err.context_mark
            line = mark.line + 1 if mark is not None else 1
            raise self.stop(line, err.problem or "text", "must be well-formed YAML") from err
        except yaml.YAMLError as err:
            raise self.stop(1, str(err).splitlines()[0], "must be well-formed YAML") from err

    def _open(self, stack: list[_Open], event: Any, line: int) -> None:
        kind: Literal["array", "object"] = "object"
        if isinstance(event, yaml.SequenceStartEvent):
            kind = "array"
        if len(stack) >= MAX_DEPTH:
            raise self.stop(line, f"{len(stack) + 1} levels", f"must nest at most {MAX_DEPTH} levels deep")
        if stack and stack[-1].kind == "object" and stack[-1].name is None:
            raise self.stop(line, kind, "must have a plain string as the name of a field")
        if event.tag not in (None, "!") and not event.tag.endswith((":map", ":seq")):
            self.fault(line, event.tag, "must not carry a YAML tag")
        self._spend(line, 1)
        stack.append(_Open(kind, line, event.anchor, [], {}))

    def _node(self, stack: list[_Open], event: Any, line: int) -> Node | None:
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, line)
            self._spend(line, 1)
            self._anchor(event.anchor, node, 1)
            return node
        if isinstance(event, yaml.AliasEvent):
            found = self.anchors.get(event.anchor or "")
            if found is None:
                raise self.stop(line, f"*{event.anchor}", "must name an anchor that was closed before")
            self._spend(line, found[1])
            return found[0]
        if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            done = stack.pop()
            node = Node(done.kind, tuple(done.items) if done.kind == "array" else done.names, done.line)
            if done.anchor is not None:
                self._anchor(done.anchor, node, size(node))
            return node
        return None

    def _anchor(self, name: str | None, node: Node, cost: int) -> None:
        if name is not None:
            self.anchors[name] = (node, cost)

    def _spend(self, line: int, count: int) -> None:
        self.nodes += count
        if self.nodes > MAX_NODES:
            must = f"must have at most {MAX_NODES} values after aliases are written out"
            raise self.stop(line, f"{self.nodes} values", must)

    def _scalar(self, event: Any, line: int) -> Node:
        plain = event.style in (None, "")
        text = event.value
        text_line = line + 1 if event.style in ("|", ">") else line
        tag = event.tag
        if tag is None and plain:
            tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
        if tag not in (None, "!") and tag not in _TAGS and not event.implicit[0]:
            self.fault(line, tag, "must not carry a YAML tag")
        return typed(_TAGS.get(tag or "", "string"), text, line, text_line)

    def _put(self, parent: _Open, node: Node, line: int) -> None:
        if parent.kind == "array":
            parent.items.append(node)
            return
        if parent.name is None:
            parent.name = (self._name(node, line), line)
            return
        name, name_line = parent.name
        parent.name = None
        if name in parent.names:
            first = parent.names[name][0]
            self.fault(name_line, name, f"must not be given twice (first in line {first})")
            return
        parent.names[name] = (name_line, node)

    def _name(self, node: Node, line: int) -> str:
        if node.kind in ("array", "object"):
            raise self.stop(line, node.kind, "must have a plain string as the name of a field")
        return node.value if isinstance(node.value, str) else plain_text(node.value)


def plain_text(value: object) -> str:
    """A scalar as JSON spells it."""
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else str(value)


def typed(kind: NodeKind, text: str, line: int, text_line: int) -> Node:
    """A scalar node; numbers that are not plain decimal integers stay text of kind number."""
    if kind == "boolean":
        return Node(kind, text.lower() in _TRUE, line, text_line)
    if kind == "null":
        return Node(kind, None, line, text_line)
    if kind == "integer" and _INTEGER.match(text) and len(text) < 20:
        return Node(kind, int(text), line, text_line)
    return Node("number" if kind == "integer" else kind, text, line, text_line)


def size(node: Node) -> int:
    """Nodes below and with `node`."""
    total, todo = 0, [node]
    while todo:
        here = todo.pop()
        total += 1
        if total > MAX_NODES:
            break
        todo.extend(children(here))
    return total


def children(node: Node) -> list[Node]:
    """Direct parts of a collection."""
    if node.kind == "array":
        return list(node.value)
    return [child for _, child in node.value.values()] if node.kind == "object" else []


def shown(value: str) -> str:
    """A value for a message: one line, at most 80 characters, no control characters."""
    clean = "".join(c if c.isprintable() else "�" for c in value)
    return clean if len(clean) <= 80 else clean[:77] + "…"


def read(text: str | bytes, path: str) -> tuple[list[Node], list[Fault]]:
    """Documents of a YAML file and the faults of its spelling. Never raises for what is in the file."""
    reader = _Reader(path)
    found: list[Node] = []
    try:
        for node in reader.documents(_decoded(text, reader)):
            if node.kind == "null":
                continue
            if len(found) == MAX_DOCUMENTS:
                raise reader.stop(node.line, "documents", f"must have at most {MAX_DOCUMENTS} documents")
            found.append(node)
    except _Stop:
        pass
    return found, reader.faults


def _decoded(text: str | bytes, reader: _Reader) -> str:
    if len(text) > MAX_TEXT:
        raise reader.stop(1, f"{len(text)} bytes", f"must be at most {MAX_TEXT} bytes")
    if isinstance(text, str):
        return text
    try:
        return text.decode()
    except UnicodeDecodeError as err:
        line = text[: err.start].count(b"\n") + 1
        raise reader.stop(line, f"byte 0x{text[err.start]:02x}", "must be UTF-8") from err


def of_value(value: object) -> Node:
    """A node tree of plain JSON data, without lines. Floats become numbers, other types raise TypeError."""
    if value is None:
        return Node("null", None)
    if isinstance(value, bool):
        return Node("boolean", value)
    if isinstance(value, int):
        return Node("integer", value)
    if isinstance(value, float):
        return Node("number", repr(value))
    if isinstance(value, str):
        return Node("string", value)
    if isinstance(value, (list, tuple)):
        return Node("array", tuple(of_value(item) for item in value))
    if isinstance(value, dict):
        return Node("object", {str(k): (0, of_value(v)) for k, v in value.items()})
    raise TypeError(f"{type(value).__name__} is not JSON data")


def to_value(node: Node) -> Any:
    """Plain JSON data of a node tree."""
    if node.kind == "array":
        return [to_value(item) for item in node.value]
    if node.kind == "object":
        return {name: to_value(child) for name, (_, child) in node.value.items()}
    return node.value
