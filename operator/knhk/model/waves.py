"""Waves of instances: in which pods of a point a candidate is enforced (formats/signed.md, "Waves"). Values only.

Every instance has a position for each salt, and a wave is all of them whose position is below a bound. So an instance decides by
itself, one that comes or goes moves no other, and a larger wave holds the smaller one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Final

POSITIONS: Final = 1 << 32
EVERYBODY: Final = 100  # percent
MOST: Final = 2  # times its share: what a wave may have before it is drawn anew
_DOMAIN = b"knhk-wave-v1\0"


def position(salt: str, instance: str) -> int:
    """0 … POSITIONS - 1. `salt`: as the rollout document has it, 32 hexadecimal digits; `instance`: a pod's uid."""
    return int.from_bytes(hashlib.sha256(_DOMAIN + bytes.fromhex(salt) + instance.encode()).digest()[:4], "big")


def is_in(salt: str, instance: str, below: int) -> bool:
    """Whether an instance belongs to a wave. One that does not know who it is belongs to none."""
    return instance != "" and position(salt, instance) < below


def size(percent: int, instances: int) -> int:
    """How many of so many instances a wave of `percent` has: rounded up, so that it is never empty where there is one."""
    return -(-percent * instances // EVERYBODY)


def fits(salt: str, instances: Collection[str], percent: int, below: int) -> bool:
    """Whether a wave with that bound has its share of these instances, and no more than `MOST` times as many: what comes and goes in
    between moves no bound."""
    inside = sum(is_in(salt, one, below) for one in instances)
    return size(percent, len(instances)) <= inside <= MOST * size(percent, len(instances))


def drawn(salt: str, instances: Collection[str], percent: int) -> int:
    """The bound below which `size` of these instances lie; while there are none, the share of all positions."""
    if not instances:
        return percent * POSITIONS // EVERYBODY
    return sorted(position(salt, one) for one in instances)[size(percent, len(instances)) - 1] + 1
