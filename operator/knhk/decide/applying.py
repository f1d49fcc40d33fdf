"""What a commit asks of the store: apply, prune, and what is left alone because somebody else wrote it. Values in, values out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from knhk.model.resource import Key

# Data and schemas before what reads them; taken away in the opposite order.
ORDER = ("SchemaVersion", "DataBundle", "HookRegistry", "EnforcementPoint", "FeatureFlag", "PolicyPack")


@dataclass(frozen=True)
class Wanted:
    """A resource as the commit has it: SHA-256 of its spec, and the commit that brought it so."""

    digest: str
    commit: str


@dataclass(frozen=True)
class Present:
    """A resource as the store has it. `owner`: the PolicyRepository that applied it, empty for a person; `commit`: which commit it was;
    `applied`: the digest that the owner gave it, empty when it never wrote it."""

    digest: str
    owner: str = ""
    commit: str = ""
    applied: str = ""


@dataclass(frozen=True)
class Plan:
    """`apply` and `prune` in order; `conflicts`: why each is left as it is; `held`: those whose commit is denied."""

    apply: tuple[Key, ...]
    prune: tuple[Key, ...]
    conflicts: Mapping[Key, str]
    held: Mapping[Key, str]


def plan(
    owner: str,
    wanted: Mapping[Key, Wanted],
    present: Mapping[Key, Present],
    denied: Collection[str],
    stays: Callable[[Key], str] = lambda key: "",
) -> Plan:
    """`present`: what the store has of `wanted`, and all that belongs to the owner. Only what it made is changed or pruned, and only
    while nobody else changed it. What is denied, and what conflicts, stays as it is. `stays`: why an object is not pruned all the same;
    empty when it may be."""
    conflicts: dict[Key, str] = {}
    held: dict[Key, str] = {}
    apply: list[Key] = []
    for key, want in wanted.items():
        have = present.get(key)
        why = "" if have is None else _foreign(owner, have, want.digest)
        if want.commit in denied:
            held[key] = want.commit
        elif why:
            conflicts[key] = why
        elif have is None or (have.digest, have.commit, have.owner) != (want.digest, want.commit, owner):
            apply.append(key)
    prune: list[Key] = []
    for key in present.keys() - wanted.keys():
        have = present[key]
        if have.owner == owner and have.applied != have.digest:
            conflicts[key] = "it is not in the repository, and not as it was applied: delete it, or take the label away"
        elif have.owner == owner and (why := stays(key)):
            conflicts[key] = why
        elif have.owner == owner:
            prune.append(key)
    return Plan(tuple(sorted(apply, key=_place)), tuple(sorted(prune, key=_place, reverse=True)), conflicts, held)


def _foreign(owner: str, have: Present, wanted: str) -> str:
    """Why an object must not be touched; empty when it may be. One that carries the owner's label and was never applied is handed over."""
    if not have.owner:
        return f"it was applied by hand: delete it, or label it for {owner} to hand it over"
    if have.owner != owner:
        return f"it belongs to {have.owner}"
    if have.applied and have.digest not in (have.applied, wanted):
        return "it was changed by hand: change it back, or delete it, and it is applied again"
    return ""


def _place(key: Key) -> tuple[int, Key]:
    return (ORDER.index(key.kind), key)
