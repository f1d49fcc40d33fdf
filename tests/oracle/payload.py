"""Payloads: strict JSON with numbers kept as written."""

from __future__ import annotations

import json
from typing import Any

Json = Any


class Number(str):
    """A JSON number as written."""

    __slots__ = ()


class Malformed(ValueError):
    """The body is no JSON that guard 0 lets through."""


def _members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a member is repeated")
    return found


def _no(name: str) -> Json:
    raise Malformed(f"{name} is no JSON")


def read(body: bytes) -> Json:
    """Reads a body. Raises Malformed."""
    try:
        return json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_members,
            parse_int=Number,
            parse_float=Number,
            parse_constant=_no,
        )
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from error
