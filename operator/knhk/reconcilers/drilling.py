"""What a drill measures, from receipts alone: entries of logs, and what clients hold (ADR 57, docs/disaster-recovery.md)."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from knhk.model.canonical import canonical
from knhk_verify.errors import Bad
from knhk_verify.evidence import Step
from knhk_verify.leaf import LEAF_SIZE, parse_leaf
from knhk_verify.signed import member, parse_json
from knhk_verify.tree import leaf_hash

SOURCE_BYTES, NAME_BYTES = 8, 20
MET, MISSED = "met", "missed"
MAX_GIVEN_BYTES = 1 << 20


@dataclass(frozen=True)
class Given:
    """What a drill is measured from, beside the entries of the logs that are left (formats/drill.md). `struck_ns`: when the region was
    lost; `logs`: names of the others → origin of the log and how many of its entries count; `moved`: sources of those whose region was
    lost; `partitions`: sources of the ordered source; `policy`: name in leaves of the pack that was promoted after the strike; `held`:
    leaves that somebody holds as acknowledged."""

    struck: str
    struck_ns: int
    logs: Mapping[str, tuple[str, int]]
    moved: frozenset[bytes]
    partitions: tuple[bytes, ...]
    policy: bytes
    held: tuple[bytes, ...]

    def files(self) -> tuple[bytes, bytes]:
        """drill.json, and the leaves."""
        held = b"".join(self.held)
        document = {
            "acknowledged": sha256(held).hexdigest(),
            "logs": {name: {"origin": origin, "size": str(size)} for name, (origin, size) in self.logs.items()},
            "moved": sorted(source.hex() for source in self.moved),
            "partitions": [source.hex() for source in self.partitions],
            "policy": self.policy.hex(),
            "struck": self.struck,
            "struckNs": str(self.struck_ns),
        }
        return canonical(document), held


def parse_given(document: bytes, held: bytes, where: str) -> Given:
    """Raises Bad, also where these are not the leaves that the document names."""
    said = parse_json(document, where, MAX_GIVEN_BYTES)
    if sha256(held).hexdigest() != member(said, "acknowledged", str, where) or len(held) % LEAF_SIZE:
        raise Bad(f"{where} acknowledged", "is not the digest of the leaves that are there: one of them was altered")
    logs = member(said, "logs", dict, where)
    if bad := [name for name in logs if not re.fullmatch("[a-z0-9-]{1,63}", name)]:
        raise Bad(f"{where} logs", f"{bad[0]!r} is no name of a region")
    return Given(
        member(said, "struck", str, where),
        _number(said, "struckNs", where),
        {
            name: (member(row, "origin", str, f"{where} logs.{name}"), _number(row, "size", f"{where} logs.{name}"))
            for name, row in logs.items()
        },
        frozenset(_named(text, SOURCE_BYTES, f"{where} moved") for text in member(said, "moved", list, where)),
        tuple(_named(text, SOURCE_BYTES, f"{where} partitions") for text in member(said, "partitions", list, where)),
        _named(member(said, "policy", str, where), NAME_BYTES, f"{where} policy"),
        tuple(held[at : at + LEAF_SIZE] for at in range(0, len(held), LEAF_SIZE)),
    )


def _number(said: Any, name: str, where: str) -> int:
    text: str = member(said, name, str, where)
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise Bad(f"{where} {name}", "must be a whole number in decimal digits")
    return int(text)


def _named(text: Any, size: int, where: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except (TypeError, ValueError):
        found = b""
    if len(found) != size:
        raise Bad(where, f"must be {size} bytes in hexadecimal")
    return found


@dataclass(frozen=True)
class Placed:
    """An entry and where it stands. `time_ns`: of a leaf its own, of a policy event that of the leaf before it in its log."""

    time_ns: int
    origin: str
    index: int
    entry: bytes


def placed(origin: str, entries: Iterable[bytes]) -> Iterator[Placed]:
    """A log in its order Λ, with times that never go back, so that merging keeps that order."""
    now_ns = 0
    for index, entry in enumerate(entries):
        now_ns = max(now_ns, parse_leaf(entry).time_ns if len(entry) == LEAF_SIZE else 0)
        yield Placed(now_ns, origin, index, entry)


def merged(logs: Mapping[str, Iterable[bytes]]) -> Iterator[Placed]:
    """All logs in one order: by time, then origin, then index. The same logs give the same order everywhere, and each keeps its own."""
    return heapq.merge(*(placed(origin, logs[origin]) for origin in sorted(logs)), key=lambda each: (each.time_ns, each.origin, each.index))


def digest(order: Iterable[Placed]) -> str:
    """SHA-256 of an order, hexadecimal: a line `origin index leaf-hash` for each entry."""
    told = sha256()
    for each in order:
        told.update(f"{each.origin} {each.index} {leaf_hash(each.entry).hex()}\n".encode())
    return told.hexdigest()


@dataclass(frozen=True)
class Measured:
    """`rto_ns`: the longest time that a client of the lost region went without a receipt, around the strike. `rpo_ns`: how old the oldest
    acknowledged receipt that no surviving log has was at the strike; 0 when none is lost."""

    rto_ns: int
    rpo_ns: int
    acknowledged: int
    lost: int


def measured(held: Sequence[bytes], moved: frozenset[bytes], surviving: Iterable[bytes], struck_ns: int) -> Measured:
    """`held`: leaves that clients hold as acknowledged. `moved`: sources of those whose region was lost. `surviving`: entries of all logs
    that are left. Raises ValueError unless every moved client has a receipt of before the strike and one of after it."""
    there = {entry for entry in surviving if len(entry) == LEAF_SIZE}
    missing = [parse_leaf(leaf).time_ns for leaf in held if leaf not in there]
    times = {
        source: sorted(leaf.time_ns for leaf in map(parse_leaf, there) if leaf.receipt_id[:SOURCE_BYTES] == source) for source in moved
    }
    return Measured(
        max(_gap(source, sorted(times.get(source, ())), struck_ns) for source in moved),
        max(0, struck_ns - min(missing)) if missing else 0,
        len(held),
        len(missing),
    )


@dataclass(frozen=True)
class Dealt:
    """Of an ordered source, by the logs that are left: messages with a receipt, those missing before the last one, and those that were
    decided to two different leaves."""

    messages: int
    missing: int
    twice: int


def dealt(sources: Iterable[bytes], surviving: Iterable[bytes]) -> Dealt:
    """`sources`: first half of the receipt ids of each partition; the second half is the offset."""
    leaves: dict[bytes, set[bytes]] = {}
    for entry in surviving:
        if len(entry) == LEAF_SIZE:
            leaves.setdefault(parse_leaf(entry).receipt_id, set()).add(entry)
    messages, missing = 0, 0
    for source in sources:
        offsets = sorted(int.from_bytes(id_[SOURCE_BYTES:], "big") for id_ in leaves if id_[:SOURCE_BYTES] == source)
        messages += len(offsets)
        missing += offsets[-1] + 1 - len(offsets) if offsets else 0
    wanted = set(sources)
    return Dealt(messages, missing, sum(len(found) > 1 for id_, found in leaves.items() if id_[:SOURCE_BYTES] in wanted))


def first_under(pack: bytes, surviving: Iterable[bytes], since_ns: int) -> int | None:
    """How long after `since_ns` the first decision by this pack (its name in leaves) was made; None when none was."""
    found = (parse_leaf(entry) for entry in surviving if len(entry) == LEAF_SIZE)
    return min((leaf.time_ns - since_ns for leaf in found if leaf.pack == pack), default=None)


@dataclass(frozen=True)
class Figures:
    """`policy_ns`: from the strike to the first decision by the policy that was changed after it; `order`: digest of the merged order."""

    measured: Measured
    dealt: Dealt
    policy_ns: int
    order: str

    def told(self) -> dict[str, str]:
        """As the event DrillCompleted has them."""
        return {
            "rtoMs": str(ms(self.measured.rto_ns)),
            "rpoMs": str(ms(self.measured.rpo_ns)),
            "acknowledged": str(self.measured.acknowledged),
            "lost": str(self.measured.lost),
            "policyMs": str(ms(self.policy_ns)),
            "messages": str(self.dealt.messages),
            "messagesMissing": str(self.dealt.missing),
            "messagesTwice": str(self.dealt.twice),
            "merged": self.order,
        }


@dataclass(frozen=True)
class Goals:
    """The most that RTO and RPO of a drill are to be, in milliseconds."""

    rto_ms: int
    rpo_ms: int

    def told(self, found: Measured) -> dict[str, str]:
        """As the event DrillCompleted has them, and whether they were met."""
        return {
            "rtoGoalMs": str(self.rto_ms),
            "rtoGoal": MET if ms(found.rto_ns) <= self.rto_ms else MISSED,
            "rpoGoalMs": str(self.rpo_ms),
            "rpoGoal": MET if ms(found.rpo_ns) <= self.rpo_ms else MISSED,
        }


GOALS = ("rtoGoalMs", "rtoGoal", "rpoGoalMs", "rpoGoal")


def parse_goals(said: Any, where: str) -> Goals | None:
    """Those that an event states; None of a drill of before they were recorded. Raises Bad where it has some of their members."""
    if not any(name in said for name in GOALS):
        return None
    return Goals(_number(said, "rtoGoalMs", where), _number(said, "rpoGoalMs", where))


def again(said: Any, found: Figures, where: str) -> Iterator[Step]:
    """What an event says (`said`: its evidence) beside what its receipts give. Raises Bad."""
    goals = parse_goals(said, where)
    for name, value in (found.told() | (goals.told(found.measured) if goals else {})).items():
        same = said.get(name) == value
        yield Step(name, "none", same, value if same else f"is said to be {said.get(name)}: the receipts give {value}")
    if goals is None:
        yield Step(", ".join(GOALS), "none", None, "not judged: the event states no goals, as drills did before they were recorded")


def ms(ns: int) -> int:
    """Milliseconds, rounded up."""
    return -(-ns // 1_000_000)


def figures(given: Given, logs: Mapping[str, Sequence[bytes]]) -> Figures:
    """From entries of the logs, by name. Raises ValueError for a drill that was too short to measure."""
    by_origin = {given.logs[name][0]: entries[: given.logs[name][1]] for name, entries in logs.items()}
    entries = [entry for log in by_origin.values() for entry in log]
    policy_ns = first_under(given.policy, entries, given.struck_ns)
    if policy_ns is None:
        raise ValueError("nothing was decided by the changed policy: let the drill last longer")
    return Figures(
        measured(given.held, given.moved, entries, given.struck_ns), dealt(given.partitions, entries), policy_ns, digest(merged(by_origin))
    )


def _gap(source: bytes, times_ns: Sequence[int], struck_ns: int) -> int:
    """From the last receipt of before the strike to the first one that was decided after the next was acknowledged: the one that was on its
    way when the region went has its time of before."""
    before = [at for at in times_ns if at <= struck_ns]
    after = [at for at in times_ns if at > struck_ns]
    if not before or not after:
        raise ValueError(f"client {source.hex()} has no receipt {'after' if before else 'before'} the strike: let the drill last longer")
    return max(later - earlier for earlier, later in zip([before[-1], *after], after, strict=False))
