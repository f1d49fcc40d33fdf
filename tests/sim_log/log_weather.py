"""What a seed of the log draws once: how much of everything goes wrong. Each seed leaves whole classes of faults out (swarm testing)."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Weather:
    """Probabilities are of one step of a disk, one call of the store, or one turn. `machines`: 0 for a log in its own folder.
    `late`: of the calls that fail, those that come true afterwards; `persists`: those that were done."""

    machines: int
    turns: int
    disk_fails: float
    store_fails: float
    persists: float
    late: float
    death: float
    power: float
    kills: float
    meanwhile: float
    burns: float
    sleeps: float
    silence: float
    big: float
    repeats: float

    @classmethod
    def draw(cls, chance: Random) -> Weather:
        """One seed's weather."""

        def rate(*values: float) -> float:
            return chance.choice((0.0, 0.0, *values))

        return cls(
            machines=chance.choice((0, 1, 2, 2, 3)),
            turns=chance.choice((20, 40, 60)),
            disk_fails=rate(0.005, 0.03),
            store_fails=rate(0.01, 0.1),
            persists=chance.choice((0.0, 0.5, 1.0)),
            late=rate(0.3, 0.8),
            death=rate(0.002, 0.01, 0.03),
            power=chance.choice((0.0, 0.5, 1.0)),
            kills=rate(0.02, 0.1),
            meanwhile=rate(0.02, 0.1, 0.2),
            burns=rate(0.01),
            sleeps=rate(0.02, 0.1),
            silence=rate(0.1, 0.3),
            big=chance.choice((0.02, 0.1)),
            repeats=rate(0.2),
        )
