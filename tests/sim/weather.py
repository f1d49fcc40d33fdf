"""What a seed draws once: how much of everything goes wrong. Each seed leaves whole classes of faults out (swarm testing, Groce 2012), so
that one of them does not hide the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

PORTS = ("store", "log", "registry", "fleet", "placement", "compiler", "prover", "signer")


@dataclass(frozen=True)
class Weather:
    """Probabilities are of one call of a port, or of one step. `fails`: by port. `late`: of the writes that fail, those that come true
    afterwards. `death`, `meanwhile`: the operator ends, or everybody else goes on, in the middle of a call.
    `busy`: whether requests come. `mirrored`: operators read from memory."""

    points: int
    packs: int
    pods: int
    steps: int
    fails: Mapping[str, float]
    conflict: float
    late: float
    death: float
    meanwhile: float
    takeover: float
    gap: float
    delay: float
    people: float
    restarts: float
    silence: float
    uncovered: float
    jump: float
    bad: float
    busy: float
    mirrored: bool
    waves: bool = False  # whether steps are in waves of pods; never drawn: asked for by a focus
    scaling: float = 0.0  # how often a point gets fewer pods, or more, at each step; never drawn: asked for by a focus
    switches: float = 0.0  # whether people turn flags and approve, at each step; never drawn: asked for by a focus

    witnesses: float = 0.0  # how many of the Receipts that wait for somebody outside are answered, at each step; never drawn: a focus asks

    @classmethod
    def draw(cls, chance: Random) -> Weather:
        """One seed's weather."""

        def rate(*values: float) -> float:
            return chance.choice((0.0, 0.0, *values))

        fails = {
            "store": rate(0.002, 0.02, 0.08),
            "log": rate(0.02, 0.2),
            "registry": rate(0.01, 0.1),
            "fleet": rate(0.01, 0.05),
            "placement": rate(0.05, 0.3),
            "compiler": rate(0.05),
            "prover": rate(0.05, 0.3),
            "signer": rate(0.005),
        }
        return cls(
            points=chance.choice((1, 1, 2, 3)),
            packs=chance.choice((1, 1, 2)),
            pods=chance.choice((1, 1, 2, 3)),
            steps=chance.choice((30, 50, 70)),
            fails=fails,
            conflict=rate(0.01, 0.1),
            late=rate(0.1, 0.5),
            death=rate(0.001, 0.004, 0.02),
            meanwhile=rate(0.002, 0.01, 0.02),
            takeover=rate(0.05, 0.2),
            gap=rate(0.02, 0.2),
            delay=rate(0.2, 0.6),
            people=chance.choice((0.03, 0.1, 0.25)),
            restarts=rate(0.02, 0.1),
            silence=rate(0.1, 0.5),
            uncovered=rate(0.3, 0.8),
            jump=rate(0.01, 0.05),
            bad=chance.choice((0.2, 0.5)),
            busy=chance.choice((0.2, 0.8, 0.9)),
            mirrored=chance.random() < 0.5,
        )
