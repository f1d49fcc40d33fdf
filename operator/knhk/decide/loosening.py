"""What a change takes away from what is live: receipts that survive less, doors that stay open. One table. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from knhk.model.canonical import canonical, sha256_hex
from knhk.model.rollout import Approvals, RolloutSpec

LEVELS: Final = ("ring", "disk", "log", "region")
DURABILITY, PRIVACY, APPROVALS = "receipts.durability", "privacy", "rollout.approvals"
MAX_TEXT = 96
SEALED, CLEAR = "sealed", "clear"


@dataclass(frozen=True)
class Loosened:
    """One field of a spec that promises less than it did: what was and what is."""

    field: str
    was: str | int
    to: str | int

    def __str__(self) -> str:
        return f"{self.field} is to be {self.to}, and was {self.was}"

    def document(self) -> dict[str, str | int]:
        """As events carry it."""
        return {"field": self.field, "was": self.was, "is": self.to}


def lower(level: str, than: str) -> bool:
    """Whether receipts of one durability survive less than those of the other."""
    return LEVELS.index(level) < LEVELS.index(than)


@dataclass(frozen=True)
class Asked:
    """Whom a version waits for at a point: `count` people of `approvers` (empty: of all), `not_author` among them. 0: for nobody."""

    count: int = 0
    not_author: bool = False
    approvers: frozenset[str] = frozenset()

    def __str__(self) -> str:
        of = f" of {', '.join(sorted(self.approvers))}" if self.approvers else ""
        return f"{self.count or 'nobody'}{of}{', not by an author' if self.not_author else ''}"

    def asks_less(self, than: Asked) -> bool:
        """Whether people whom the other waits for are asked no more, or others may stand in for them."""
        others = than.approvers and not (self.approvers and self.approvers <= than.approvers)
        return self.count < than.count or than.not_author > self.not_author or bool(others)

    def joined(self, other: Asked) -> Asked:
        """What meets both; of two lists of people who have too few in common, the other's."""
        count, both = max(self.count, other.count), self.approvers & other.approvers
        approvers = both if both and len(both) >= count else other.approvers or self.approvers
        return Asked(count, self.not_author or other.not_author, approvers)


ByPoint = Mapping[str, Asked]


def _asks_less(was: ByPoint, to: ByPoint) -> bool:
    """Points that are no targets any more ask nobody less: nothing comes there."""
    return any(to[point].asks_less(asked) for point, asked in was.items() if point in to)


def asking(spec: RolloutSpec, promised: ByPoint) -> RolloutSpec:
    """The rollout with each stage asking for no fewer than was promised at its points (NAMESPACE/NAME)."""
    stages = []
    for stage in spec.stages:
        wanted = stage.approvals
        asked = Asked() if wanted is None else Asked(wanted.count, wanted.not_author, wanted.approvers)
        for before in (promised[point] for point in stage.points if point in promised):
            asked = asked.joined(before)
        made = None if not asked.count else replace(wanted or Approvals(), **vars(asked))
        stages.append(replace(stage, approvals=made))
    return replace(spec, stages=tuple(stages))


def asked_by(spec: RolloutSpec) -> dict[str, Asked]:
    """Whom a rollout waits for at each of its points."""
    rows = ((point, stage.approvals) for stage in spec.stages for point in stage.points)
    return {point: Asked() if one is None else Asked(one.count, one.not_author, one.approvers) for point, one in rows}


LOOSER: Final[Mapping[str, Callable[[Any, Any], bool]]] = MappingProxyType(
    {
        DURABILITY: lambda was, to: lower(to, was),
        "failure": lambda was, to: (was, to) == ("Closed", "Open"),
        "maxUnwitnessedSeconds": lambda was, to: was != 0 and (to == 0 or to > was),  # 0: for ever
        PRIVACY: lambda was, to: (was, to) == (SEALED, CLEAR),
        APPROVALS: _asks_less,
    }
)


def loosened(was: Mapping[str, Any], to: Mapping[str, Any]) -> tuple[Loosened, ...]:
    """What of these promises is less now, by fields of the table; of what was not promised before nothing is."""
    return tuple(_row(name, was[name], to[name]) for name, is_looser in LOOSER.items() if name in was and is_looser(was[name], to[name]))


def _row(name: str, was: Any, to: Any) -> Loosened:
    if name != APPROVALS:
        return Loosened(name, was, to)
    less = [point for point in sorted(was) if _asks_less({point: was[point]}, to)]
    return Loosened(name, _told(was, less), _told(to, less))


def _told(asked: ByPoint, points: Iterable[str]) -> str:
    text = "; ".join(f"{point.partition('/')[2]}: {asked[point]}" for point in points)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def digest_of(of: str, uid: str, generation: int, rows: tuple[Loosened, ...]) -> str:
    """What people approve: these changes of this very spec, so that no word about another change, or another time, counts for it."""
    said = {"of": of, "uid": uid, "generation": generation, "changes": [row.document() for row in rows]}
    return f"sha256:{sha256_hex(canonical(said))}"
