"""The subset of XPath that mappings of XML use: child elements by name, [n], a final @name or text(); `.` is the item itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from knhk_gen.jsonpath import MAX_STEPS, BadPath, Step

MUST: Final = "must be a path of name, prefix:name, *:name, *, name[n], @name and text() with / between, and no other XPath"
_NAME: Final = r"[A-Za-z_\u00c0-\uffff][\w.\u00b7-\uffff-]*"
_STEP: Final = re.compile(rf"(?P<at>@)?(?:(?P<prefix>{_NAME}|\*):)?(?P<local>{_NAME}|\*)(?:\[(?P<index>[1-9]\d{{0,6}})\])?")


def parse_xpath(text: str, namespaces: Mapping[str, str]) -> list[Step]:
    """Steps of a path; names without a prefix are in the default namespace `""`, attributes in none. Raises BadPath."""
    rest = text.strip()
    if rest in ("", "//"):
        raise BadPath(MUST)
    if rest in ("/", ".", "text()"):
        return []
    pieces = rest.removeprefix("/").split("/")
    if pieces[0] == ".":
        del pieces[0]
    if pieces and pieces[-1] == "text()":
        del pieces[-1]
    if len(pieces) > MAX_STEPS // 2:
        raise BadPath(f"must have at most {MAX_STEPS // 2} steps")
    steps = [_step(piece, namespaces) for piece in pieces]
    if any("attribute" in step for step in steps[:-1]):
        raise BadPath("must have nothing after an attribute")
    return steps


def _step(piece: str, namespaces: Mapping[str, str]) -> Step:
    match = _STEP.fullmatch(piece)
    if match is None:
        raise BadPath(MUST)
    prefix, local = match["prefix"], match["local"]
    if match["at"]:
        if local == "*" or prefix == "*" or match["index"]:
            raise BadPath("must name an attribute: @name or @prefix:name")
        return {"attribute": _name(prefix, local, namespaces, "")}
    step: dict[str, Any] = {"element": _name(prefix, local, namespaces, namespaces.get("", ""))}
    if match["index"]:
        if step["element"].startswith("*"):
            raise BadPath("must name the element that is counted: name[n] or prefix:name[n]")
        step["index"] = int(match["index"]) - 1
    return step


def _name(prefix: str | None, local: str, namespaces: Mapping[str, str], default: str) -> str:
    if prefix is None and local == "*":
        return "*"
    if prefix == "*":
        return f"* {local}" if local != "*" else "*"
    if prefix is not None and prefix != "xml" and prefix not in namespaces:
        raise BadPath(f"must have its prefix declared as a namespace; {prefix}: is unknown")
    if local == "*":
        raise BadPath(MUST)
    namespace = default if prefix is None else namespaces.get(prefix, "http://www.w3.org/XML/1998/namespace")
    return f"{namespace} {local}" if namespace else local
