"""Values of arguments that several commands take: attributes, routes, times, bodies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from knhk.cli.framework import Argument, Usage

KUBECONFIG = Argument("--kubeconfig", help="in this cluster, as its user may, and in no home", kind=Path, metavar="FILE")


def text(given: str) -> str:
    """What is hashed, recorded or asked by, and so must be characters; names of files may be other bytes. Raises ValueError."""
    if any("\ud800" <= each <= "\udfff" for each in given):
        raise ValueError("must be text in the encoding of this locale (UTF-8)")
    return given


def many(text: str) -> int:
    """A whole number from 1 on. Raises ValueError."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 2**31):
        raise ValueError("must be a whole number from 1 on")
    return int(text)


def moment(text: str) -> str:
    """A time as documents hold it. Raises ValueError."""
    from knhk_verify.errors import Bad
    from knhk_verify.signed import parse_time

    try:
        parse_time(text, "")
    except Bad as bad:
        raise ValueError("must be a time like 2027-01-01T00:00:00Z") from bad
    return text


def pointer(text: str) -> str:
    """A JSON pointer. Raises ValueError."""
    if not re.fullmatch("(/([^~/]|~[01])*)*", text):
        raise ValueError("must be a JSON pointer (RFC 6901), such as /customer/email")
    return text


def attributes(given: Sequence[str]) -> Mapping[str, str]:
    """Verified attributes of NAME=VALUE. Raises Usage."""
    pairs = [item.partition("=") for item in given]
    for name, equals, _value in pairs:
        if not equals or not name:
            raise Usage(f"{name!r} must be NAME=VALUE, such as sub=alice", "--attr")
    names = [name for name, _equals, _value in pairs]
    if len(set(names)) != len(names):
        raise Usage("an attribute is given twice", "--attr")
    return {name: value for name, _equals, value in pairs}


def time_ns(given: str | None) -> int:
    """A decision time of RFC 3339; None is now. Raises Usage."""
    import time
    from datetime import UTC, datetime

    if given is None:
        return time.time_ns()
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or moment.year < 1970:
        raise Usage(f"{given!r} must be RFC 3339 with a zone, such as 2026-01-01T00:00:00Z", "--time")
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000


def route(given: str, names: Sequence[str]) -> str:
    """A route that the pack has. Raises Usage."""
    if given not in names:
        raise Usage(f"{given!r} must be a route of the pack: {', '.join(sorted(names))}", "--route")
    return given
