"""Bodies of formats/erasures.md."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from knhk.ports.recorded import Ranges
from knhk_verify.errors import Bad

MAX_BODY_BYTES = 16 << 20
_TAG = re.compile("[0-9a-f]{64}")
_TIME = re.compile("0|[1-9][0-9]{0,18}")


def members(body: bytes, *names: str) -> Mapping[str, Any]:
    """A JSON object with these members and no others. Raises Bad, which repeats nothing of it."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Bad("body", f"must be JSON: {type(error).__name__}") from None
    if not isinstance(found, dict) or set(found) != set(names):
        raise Bad("body", f"must be a JSON object of {', '.join(names)}")
    return found


def parse_targets(found: object) -> Ranges:
    """Raises Bad."""
    made, least = [], 0
    if not isinstance(found, list):
        raise Bad("targets", "must be a list of ranges")
    for row in found:
        if not (isinstance(row, list) and len(row) == 2 and all(type(each) is int for each in row) and least <= row[0] <= row[1] < 1 << 63):
            raise Bad("targets", "must be ranges [first, last], ascending")
        made.append((row[0], row[1]))
        least = row[1] + 1
    return tuple(made)


def parse_tag(found: object) -> bytes:
    """Raises Bad."""
    if not isinstance(found, str) or not _TAG.fullmatch(found):
        raise Bad("tag", "must be 64 hexadecimal digits")
    return bytes.fromhex(found)


def parse_tags(found: object) -> frozenset[bytes]:
    """Raises Bad."""
    if not isinstance(found, list):
        raise Bad("held", "must be a list of tags")
    return frozenset(map(parse_tag, found))


def parse_text(found: object, name: str) -> str:
    """Raises Bad."""
    if not isinstance(found, str):
        raise Bad(name, "must be a text")
    return found


def parse_before(found: object) -> int:
    """Raises Bad."""
    if not isinstance(found, str) or not _TIME.fullmatch(found):
        raise Bad("before", "must be nanoseconds since 1970, a decimal string")
    return int(found)


def body(**told: object) -> bytes:
    return json.dumps(told).encode()


def targets(ranges: Ranges) -> list[list[int]]:
    return [list(each) for each in ranges]


def tags(held: Collection[bytes]) -> list[str]:
    return sorted(tag.hex() for tag in held)
