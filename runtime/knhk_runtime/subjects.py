"""Whose data an observation is (formats/envelope.md, `privacy` of point.json)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knhk_runtime.record import Observation

MAX_SUBJECT_BYTES = 1024
MAX_RETENTION_DAYS = 36_500
_ATTRIBUTE = re.compile(r"[a-z0-9_.-]{1,63}")
_POINTER = re.compile(r"(/([^/~]|~[01])*){1,32}", re.DOTALL)
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Rule:
    """Where the subject is found, on one route (empty: on any): in an attribute, or by a JSON pointer in the body."""

    route: str
    attribute: str = ""
    pointer: str = ""


@dataclass(frozen=True)
class Privacy:
    """`privacy` of a point; `retention_days` 0: no end."""

    subjects: tuple[Rule, ...]
    retention_days: int = 0

    def subject_of(self, seen: Observation) -> str:
        """The subject's text; empty when no rule finds one."""
        body = _Body(seen.body)
        for rule in self.subjects:
            if rule.route not in ("", seen.route):
                continue
            found = dict(seen.attributes).get(rule.attribute, "") if rule.attribute else body.text(rule.pointer)
            if 0 < len(found.encode("utf-8", "surrogatepass")) <= MAX_SUBJECT_BYTES and _is_text(found):
                return found
        return ""


def parse_privacy(document: object) -> Privacy | None:
    """None for what is no `privacy`."""
    if not isinstance(document, Mapping) or set(document) != {"subjects", "retentionDays"}:
        return None
    rules, days = document["subjects"], document["retentionDays"]
    if not isinstance(rules, list) or not 1 <= len(rules) <= 16 or not all(map(_is_rule, rules)):
        return None
    if isinstance(days, bool) or not isinstance(days, int) or not 0 <= days <= MAX_RETENTION_DAYS:
        return None
    return Privacy(tuple(Rule(**rule) for rule in rules), days)


def restored_privacy(told: Mapping[str, Any] | None) -> Privacy | None:
    """Of its plain data (dataclasses.asdict)."""
    return None if told is None else Privacy(tuple(Rule(**rule) for rule in told["subjects"]), told["retention_days"])


def _is_rule(rule: object) -> bool:
    if not isinstance(rule, Mapping) or not isinstance(rule.get("route"), str):
        return False
    if set(rule) == {"route", "attribute"}:
        return isinstance(rule["attribute"], str) and _ATTRIBUTE.fullmatch(rule["attribute"]) is not None
    return set(rule) == {"route", "pointer"} and isinstance(rule["pointer"], str) and is_pointer(rule["pointer"])


def is_pointer(text: str) -> bool:
    """Whether this is an RFC 6901 pointer below the root, of at most 32 steps."""
    return _POINTER.fullmatch(text) is not None


def _is_text(found: str) -> bool:
    try:
        found.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON may escape
        return False
    return True


class _Body:
    """A body, parsed when the first pointer asks."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parsed: Sequence[Any] | None = None

    def text(self, pointer: str) -> str:
        """The string or integer that a pointer leads to; empty when there is none."""
        if self._parsed is None:
            try:
                self._parsed = (json.loads(self._data),)
            except (ValueError, RecursionError):
                self._parsed = ()
        if not self._parsed:
            return ""
        found = self._parsed[0]
        for step in pointer.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict):
                found = found.get(name)
            elif isinstance(found, list) and _INDEX.fullmatch(name) and int(name) < len(found):
                found = found[int(name)]
            else:
                return ""
        if isinstance(found, str):
            return found
        return str(found) if isinstance(found, int) and not isinstance(found, bool) else ""
