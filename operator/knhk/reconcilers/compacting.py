"""Which segments of an archive become one (formats/delta.md). A commit's share of an hour is small; a reader pays for each segment."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from knhk.reconcilers.delta import File

SMALL = 2  # a segment of at least the target's half is left as it is
WORTH = 4  # a segment is written again for a quarter of its bytes in others
_HOUR = re.compile(r"date=(\d{4}-\d{2}-\d{2})/hour=(\d{2})$")


@dataclass(frozen=True)
class Policy:
    """`target_bytes`: of a segment; `decoded_bytes`: most that a merge holds in memory; `settle_s`: from the end of an hour on, for what
    comes late; None: hours that are not over, too. `few`: so many segments are merged however little the small ones add to the greatest."""

    target_bytes: int = 32 << 20
    decoded_bytes: int = 192 << 20
    settle_s: float | None = 600.0
    few: int = 8


def chosen(files: Iterable[File], now_ns: int, policy: Policy) -> tuple[str, ...]:
    """Paths of segments of one partition that are to become one; none: nothing is to be merged now."""
    parts = defaultdict[str, list[File]](list)
    for file in files:
        if file.bytes * SMALL < policy.target_bytes and file.decoded * SMALL <= policy.decoded_bytes:
            parts[file.path.rpartition("/")[0]].append(file)
    groups = (_group(small, policy) for folder, small in sorted(parts.items()) if _settled(folder, now_ns, policy))
    return next((group for group in groups if group), ())


def _group(small: Iterable[File], policy: Policy) -> tuple[str, ...]:
    group, held, decoded = list[File](), 0, 0
    for file in sorted(small, key=lambda each: (each.bytes, each.path)):
        held, decoded = held + file.bytes, decoded + file.decoded
        if held > policy.target_bytes or decoded > policy.decoded_bytes:
            break
        group.append(file)
    while len(group) > 1 and len(group) < policy.few and WORTH * sum(file.bytes for file in group[:-1]) < group[-1].bytes:
        group.pop()
    return tuple(sorted(file.path for file in group)) if len(group) > 1 else ()


def _settled(folder: str, now_ns: int, policy: Policy) -> bool:
    found = _HOUR.search(folder)
    if policy.settle_s is None or found is None:
        return found is not None
    begin = datetime.fromisoformat(f"{found[1]}T{found[2]}:00:00").replace(tzinfo=UTC)
    return now_ns >= (begin.timestamp() + 3600 + policy.settle_s) * 1e9
