"""The shards of a replay as one: together they are the whole when each is there, and all saw the log with as many entries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from knhk.model.faults import Fault, Refused
from knhk.reconcilers.replaying import MAX_TOLD, Replayed

SUMS = ("replayed", "erased", "sealed", "different", "unrecorded", "entries")


@dataclass(frozen=True)
class Gathered:
    """`whole`: the sums, the root of the first shard, and the first differences; `missing`: shards that said nothing."""

    whole: Replayed
    shards: int
    missing: tuple[int, ...]

    @property
    def confirmed(self) -> bool:
        """Whether everything was decided again, and came out as it was."""
        return not (self.missing or self.whole.different or self.whole.unrecorded)


def gathered(tries: Iterable[Replayed]) -> Gathered:
    """Of several tries of a shard the one counts that confirmed most, as a Job takes an index for done when one of its pods was: no try
    can confirm what is not so. Raises Refused for shards that are not parts of one replay."""
    best = dict[int, Replayed]()
    counts, sizes = set[int](), set[int]()
    for one in tries:
        number, count = map(int, one.shard.split("/"))
        counts.add(count)
        sizes.add(one.size)
        known = best.get(number)
        best[number] = one if known is None or one.replayed > known.replayed else known
    faults = [
        Fault(where, ", ".join(map(str, sorted(found))), must)
        for where, found, must in (
            ("shard", counts, "must be parts of one replay, each I/N with the same N"),
            ("size", sizes, "must be the same in each: give --size, for the log grew meanwhile"),
        )
        if len(found) != 1
    ]
    if faults:
        raise Refused(faults)
    (count,), (size,) = counts, sizes
    whole = Replayed(size=size, shard="0/1")
    for number in sorted(best):
        for name in SUMS:
            setattr(whole, name, getattr(whole, name) + getattr(best[number], name))
        whole.root = whole.root or best[number].root
        whole.differences += best[number].differences[: MAX_TOLD - len(whole.differences)]
    return Gathered(whole, count, tuple(number for number in range(count) if number not in best))
