"""Bodies of formats/erasures.md."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from knhk.model.ranges import Ranges
from knhk.ports.recorded import Copy, Told
from knhk_runtime.record import Record
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


def parse_texts(found: object, name: str) -> tuple[str, ...]:
    """Raises Bad."""
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise Bad(name, "must be a list of texts")
    return tuple(found)


def parse_after(found: object) -> int:
    """Raises Bad."""
    if type(found) is not int or not -1 <= found < 1 << 53:
        raise Bad("after", "must be the index of an entry, or -1")
    return found


def copy_row(copy: Copy) -> dict[str, Any]:
    record = copy.record
    return {
        **{"index": copy.index, "entry": _b64(copy.entry), "where": copy.where, "proof": copy.proof, "sealed": record.sealed},
        **{"cluster": str(record.cluster), "salt": _b64(record.salt), "observation": _b64(record.observation)},
        **{"leaves": [_b64(leaf) for leaf in record.leaves], "actions": [_b64(action) for action in record.actions]},
    }


def parse_copy(row: Mapping[str, Any]) -> Copy:
    """Raises Bad."""
    try:
        leaves, actions = (tuple(map(_bytes, row[name])) for name in ("leaves", "actions"))
        salt, observation = _bytes(row["salt"]), _bytes(row["observation"])
        record = Record(False, int(row["cluster"]), salt, leaves, observation, actions, row["sealed"] is True)
        return Copy(int(row["index"]), _bytes(row["entry"]), str(row["where"]), record, str(row["proof"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Bad("records", f"must be rows of records: {type(error).__name__}") from error


def told_row(told: Told) -> dict[str, Any]:
    return {"index": told.index, "entry": told.entry.decode(), "proof": told.proof}


def parse_told(row: Mapping[str, Any]) -> Told:
    """Raises Bad."""
    try:
        return Told(int(row["index"]), str(row["entry"]).encode(), str(row["proof"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Bad("events", f"must be rows of events: {type(error).__name__}") from error


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
