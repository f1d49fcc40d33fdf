"""Which predicates decisions touch, over all rings (formats/ring.md): sums of samples, for people and for the order of preloading."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from knhk_runtime.ring.entries import Ring

PARTS = ("stable", "bundle", "candidate")


@dataclass
class Heat:
    """Of each pack: sampled decisions, and triples by number of the predicate. `absent`: judgements whose pack was not resident."""

    absent: int = 0
    packs: dict[bytes, tuple[int, list[int]]] = field(default_factory=dict)

    def add(self, ring: Ring) -> None:
        """What a ring has counted; once for each ring, when it goes."""
        self.absent += ring.absent
        for pack, (samples, counts) in ring.heat().items():
            before, known = self.packs.get(pack, (0, [0] * len(counts)))
            self.packs[pack] = before + samples, [a + b for a, b in zip(known, counts, strict=True)]

    def with_rings(self, rings: Iterable[Ring]) -> Heat:
        """The sum with rings that still count."""
        made = Heat(self.absent, dict(self.packs))
        for ring in rings:
            made.add(ring)
        return made

    def named(self, pack: bytes, predicates: Sequence[str]) -> dict[str, int]:
        """Triples of each predicate that was touched, hottest first."""
        _, counts = self.packs.get(pack, (0, []))
        found = {name: n for name, n in zip(predicates, counts, strict=False) if n}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def preload(heat: Heat, stable: bytes, candidate: bytes, from_bundle: Collection[str], predicates: Sequence[str]) -> tuple[str, ...]:
    """Parts of a configuration, hottest first: a pack is touched by each of its decisions, the bundle by those with triples of its
    predicates (`from_bundle`; `predicates` are those of the stable pack). Equally hot ones in the order of PARTS."""
    asked = {name: heat.packs.get(pack, (0, []))[0] for name, pack in (("stable", stable), ("candidate", candidate))}
    touched: Mapping[str, int] = heat.named(stable, predicates)
    hits = sum(touched.get(name, 0) for name in from_bundle)
    score = {**asked, "bundle": min(asked["stable"], hits)}
    return tuple(sorted(PARTS, key=lambda part: (-score[part], PARTS.index(part))))
