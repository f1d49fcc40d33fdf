"""Edits of XML bodies for generated cases, and a body that has every place of a mapping once. Pure."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from xml.etree.ElementTree import Element, ParseError, SubElement, fromstring, tostring

from knhk.model.expectations import EditError

_BETWEEN: Final = "\n"
_ILLEGAL: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Step = Mapping[str, Any]


def place(steps: Iterable[Step]) -> str:
    """Steps of a plan as one name: elements and a final attribute as ElementTree spells them."""
    return _BETWEEN.join(_name(step) for step in steps)


def _name(step: Step) -> str:
    space, _, local = str(step.get("element", step.get("attribute"))).rpartition(" ")
    name = f"{{{space}}}{local}" if space else local
    if "attribute" in step:
        return f"@{name}"
    return f"{name}[{step['index'] + 1}]" if "index" in step else name


def text_set(body: bytes, at: str, text: str) -> bytes:
    """The body with this text in the first element, or attribute, of a place. Raises EditError where there is none."""

    def change(parent: Element, name: str) -> None:
        if name.startswith("@"):
            parent.set(name[1:], text)
        else:
            _child(parent, name).text = text

    return _edited(body, at, change, text)


def removed(body: bytes, at: str) -> bytes:
    """The body without that element or attribute. Raises EditError where there is none."""

    def change(parent: Element, name: str) -> None:
        if not name.startswith("@"):
            parent.remove(_child(parent, name))
        elif parent.attrib.pop(name[1:], None) is None:
            raise EditError(f"no {name} there")

    return _edited(body, at, change)


def repeated(body: bytes, at: str, text: str) -> bytes:
    """The body with one more element of that place behind the first, with this text. Raises EditError."""

    def change(parent: Element, name: str) -> None:
        _again(parent, name).text = text

    return _edited(body, at, change, text)


def copied(body: bytes, at: str) -> bytes:
    """The body with the first element of that place twice. Raises EditError."""

    def change(parent: Element, name: str) -> None:
        _again(parent, name)

    return _edited(body, at, change)


def _again(parent: Element, name: str) -> Element:
    """A copy of a child behind it."""
    if name.startswith("@"):
        raise EditError("an attribute cannot be repeated")
    first = _child(parent, name)
    another = copy.deepcopy(first)
    parent.insert(list(parent).index(first) + 1, another)
    return another


def _edited(body: bytes, at: str, change: Callable[[Element, str], None], text: str = "") -> bytes:
    if _ILLEGAL.search(text):
        raise EditError("XML has no such character")
    root = Element("")
    root.append(_read(body))
    *above, last = at.split(_BETWEEN)
    parent = root
    for name in above:
        parent = _child(parent, name)
    change(parent, last)
    if len(root) != 1:
        raise EditError("a document has one root")
    return tostring(root[0])


def _read(body: bytes) -> Element:
    if b"<!DOCTYPE" in body:
        raise EditError("a document type declaration is not read")
    try:
        return fromstring(body)
    except (ParseError, ValueError) as error:
        raise EditError(f"the payload is no XML: {error}") from error


def _child(parent: Element, name: str) -> Element:
    found = parent.find(name)
    if found is None:
        raise EditError(f"no {name} there")
    return found


def grown(paths: Iterable[tuple[Sequence[Step], str]]) -> bytes:
    """A body that has each of these places once, with its text; places below another root than the first are left out."""
    root = Element("")
    for steps, text in paths:
        _grow(root, [_name(step) for step in steps], text)
    return tostring(root[0]) if len(root) else b""


def _grow(element: Element, names: Sequence[str], text: str) -> None:
    if not names:
        element.text = text
        return
    head, *rest = names
    if head.startswith("@"):
        element.set(head[1:], text)
        return
    name, _, index = head.removesuffix("]").partition("[") if head.endswith("]") else (head, "", "1")
    real = "any" if name == "*" else name.replace("{*}", "{urn:any}")
    if element.tag == "" and len(element) and element.find(name) is None:
        return
    while len(element.findall(name)) < int(index):
        SubElement(element, real)
    _grow(element.findall(name)[int(index) - 1], rest, text)


def smaller(body: bytes) -> Iterator[bytes]:
    """Bodies that are a step simpler: an element or an attribute less, or half of a text."""
    try:
        root = _read(body)
    except EditError:
        return
    for parent in root.iter():
        for child in list(parent):
            place_of = list(parent).index(child)
            parent.remove(child)
            yield tostring(root)
            parent.insert(place_of, child)
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            yield tostring(root)
            element.attrib[name] = value
        text = element.text or ""
        if len(text) > 1 and text.strip():
            element.text = text[: len(text) // 2]
            yield tostring(root)
            element.text = text
