"""A flag as it was declared, in flagd's words. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Points whose `var` stands in relation `op` to the values get `variant`."""

    var: str
    op: str
    values: tuple[str, ...]
    variant: str


@dataclass(frozen=True)
class Flag:
    """`variants`: whether a canary is enforced, by name of the variant. `pinned`: variant by point while the flag is suspended."""

    name: str
    enabled: bool
    variants: Mapping[str, bool]
    default: str
    targeting: tuple[Rule, ...] = ()
    pinned: Mapping[str, str] | None = None
