"""Times as documents spell them: RFC 3339 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(ns: int) -> str:
    """UTC to the second, as signed documents carry it."""
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_ns(ns: int) -> str:
    """UTC with nanoseconds, as status carries it."""
    return f"{rfc3339(ns)[:-1]}.{ns % 1_000_000_000:09d}Z"


def from_rfc3339_ns(text: str) -> int:
    """Nanoseconds since 1970 of what `rfc3339_ns` wrote."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0")[:9])
