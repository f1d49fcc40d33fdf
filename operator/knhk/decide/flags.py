"""Flags of a point, in the words of OpenFeature and flagd: state, variants, default, targeting. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from knhk.model.flags import Flag

Context = Mapping[str, str]
"""What is known of a point: targetingKey (NAMESPACE/NAME), point, namespace, region, mode."""


@dataclass(frozen=True)
class Evaluated:
    """What a flag says of a point. `reason` is OpenFeature's: STATIC, DEFAULT, TARGETING_MATCH or DISABLED (then there is no variant,
    and the canary is enforced as if there were no flag)."""

    variant: str
    enforced: bool
    reason: str


@dataclass(frozen=True)
class Switched:
    """All flags of a point together: the variants that its document carries, and why a canary is not enforced there (empty: it is)."""

    variants: Mapping[str, str]
    held: str = ""


_HOLDS: Mapping[str, Callable[[str, tuple[str, ...]], bool]] = {
    "==": lambda found, values: found in values,
    "in": lambda found, values: found in values,
    "!=": lambda found, values: found not in values,
    "starts_with": lambda found, values: found.startswith(values),
    "ends_with": lambda found, values: found.endswith(values),
}


def evaluate(flag: Flag, context: Context) -> Evaluated:
    """The variant of one flag for one point."""
    if not flag.enabled:
        return Evaluated("", True, "DISABLED")
    pinned = (flag.pinned or {}).get(context["point"], "")
    if pinned in flag.variants:
        return Evaluated(pinned, flag.variants[pinned], "STATIC")
    for rule in flag.targeting:
        if _HOLDS[rule.op](context[rule.var], rule.values):
            return Evaluated(rule.variant, flag.variants[rule.variant], "TARGETING_MATCH")
    return Evaluated(flag.default, flag.variants[flag.default], "DEFAULT" if flag.targeting else "STATIC")


def switched(flags: Iterable[Flag], context: Context) -> Switched:
    """All flags of one point; a canary is enforced only when each of them says so."""
    found = {flag.name: evaluate(flag, context) for flag in flags}
    variants = {name: one.variant for name, one in sorted(found.items()) if one.variant}
    held = [f"FeatureFlag {name} is {one.variant}" for name, one in sorted(found.items()) if not one.enforced]
    return Switched(variants, f"{', '.join(held)} at {context['targetingKey']}" if held else "")
