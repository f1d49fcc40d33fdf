"""The subset of JSONPath (RFC 9535) that mappings use: $, .name, ['name'], [n], [*]."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

Step = dict[str, Any]

MUST: Final = "must be a path of $, .name, ['name'], [n] and [*] only"
_STEP: Final = re.compile(
    r"""\.(?P<name>[A-Za-z_\u0080-\uffff$][\w\u0080-\uffff$-]*)
      | \[(?P<index>0|[1-9]\d{0,6})\]
      | \[(?P<each>\*)\]
      | \['(?P<single>(?:[^'\\]|\\['\\])*)'\]
      | \["(?P<double>(?:[^"\\]|\\["\\])*)"\]""",
    re.VERBOSE | re.ASCII,
)
MAX_STEPS: Final = 32


class BadPath(ValueError):
    """A path outside the subset."""


def parse_path(text: str) -> list[Step]:
    """Steps of a path; a leading `$` may be left out before a plain name. Raises BadPath."""
    rest = text.strip()
    if not rest:
        raise BadPath(MUST)
    if rest.startswith("$") and (len(rest) == 1 or rest[1] in ".["):
        rest = rest[1:]
    elif not rest.startswith(("[", ".")):
        rest = "." + rest
    steps: list[Step] = []
    position = 0
    while position < len(rest):
        match = _STEP.match(rest, position)
        if match is None or len(steps) >= MAX_STEPS:
            raise BadPath(MUST)
        steps.append(_step(match))
        position = match.end()
    return steps


def _step(match: re.Match[str]) -> Step:
    if match["each"]:
        return {"each": True}
    if match["index"]:
        return {"index": int(match["index"])}
    quoted = match["single"] if match["single"] is not None else match["double"]
    return {"key": match["name"] or re.sub(r"\\(.)", r"\1", quoted or "")}


def parse_template(text: str, hole: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Parts of a template `text{path}text`, each hole read by `hole`; `\\{` and `\\}` stand for braces. Raises BadPath."""
    parts: list[dict[str, Any]] = []
    literal = ""
    i = 0
    while i < len(text):
        ch = text[i]
        if ch == "\\" and text[i + 1 : i + 2] in ("{", "}", "\\"):
            literal, i = literal + text[i + 1], i + 2
            continue
        if ch == "}":
            raise BadPath("must have its braces in pairs, as in https://example.com/{id}")
        if ch != "{":
            literal, i = literal + ch, i + 1
            continue
        end = text.find("}", i)
        if end < 0:
            raise BadPath("must have its braces in pairs, as in https://example.com/{id}")
        if literal:
            parts.append({"text": literal})
        parts.append(hole(text[i + 1 : end]))
        literal, i = "", end + 1
    if literal:
        parts.append({"text": literal})
    return parts


def starts_with(path: list[Step], prefix: list[Step]) -> bool:
    """True when `path` goes on below `prefix`."""
    return path[: len(prefix)] == prefix
