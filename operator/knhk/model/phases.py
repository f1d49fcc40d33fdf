"""The life of a revision as one table: MOVES[(phase, event)] -> phase. What is not in it is illegal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from knhk.model.faults import KnhkError


class Phase(StrEnum):
    """Where a revision of a PolicyPack stands."""

    PENDING = "Pending"  # the spec was read; sources are to be lowered
    COMPILED = "Compiled"  # a GuardPlan exists; machine code is to be built
    BUILT = "Built"  # an image exists; it is to be signed
    SIGNED = "Signed"  # agents would accept it; points are to be asked
    ROLLING = "Rolling"  # judged beside or instead of the stable pack
    LIVE = "Live"  # enforced everywhere it was meant for
    ROLLED_BACK = "RolledBack"  # the judge found it wrong
    ABORTED = "Aborted"  # a person or a deadline ended it
    STALLED = "Stalled"  # a person must edit something
    RETIRED = "Retired"  # a newer one took its place


class Event(StrEnum):
    """What happened to a revision; also the kind of its policy event (formats/signed.md)."""

    COMPILED = "Compiled"
    REFUSED = "Refused"
    BUILT = "Built"
    SIGNED = "Signed"
    ROLLOUT_STARTED = "RolloutStarted"
    STEP_ADVANCED = "StepAdvanced"
    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    ABORTED = "Aborted"
    STALLED = "Stalled"
    RESUMED = "Resumed"
    SUPERSEDED = "Superseded"
    EDITED = "Edited"


class Arm(StrEnum):
    """How a candidate runs at the points of a stage."""

    SHADOW = "Shadow"
    CANARY = "Canary"


@dataclass(frozen=True, order=True)
class Rolling:
    """Data of phase Rolling: `stage` is an index of the stages, `step` one of the canary steps (0 in shadow)."""

    stage: int = 0
    arm: Arm = Arm.SHADOW
    step: int = 0


class IllegalMove(KnhkError):
    """The event cannot happen in this phase; nothing was changed."""

    def __init__(self, phase: Phase, event: Event) -> None:
        self.phase = phase
        self.event = event
        legal = ", ".join(e.value for (p, e) in MOVES if p is phase) or "none"
        super().__init__(f"{event.value} must not happen in phase {phase.value} (legal there: {legal})")


_Table = dict[tuple[Phase, Event], Phase]

_FORWARD: _Table = {
    (Phase.PENDING, Event.COMPILED): Phase.COMPILED,
    (Phase.COMPILED, Event.BUILT): Phase.BUILT,
    (Phase.BUILT, Event.SIGNED): Phase.SIGNED,
    (Phase.SIGNED, Event.ROLLOUT_STARTED): Phase.ROLLING,
    (Phase.ROLLING, Event.STEP_ADVANCED): Phase.ROLLING,
    (Phase.ROLLING, Event.PROMOTED): Phase.LIVE,
}
_BACK: _Table = {
    (Phase.PENDING, Event.REFUSED): Phase.STALLED,
    (Phase.COMPILED, Event.REFUSED): Phase.STALLED,
    (Phase.ROLLING, Event.ROLLED_BACK): Phase.ROLLED_BACK,
    (Phase.STALLED, Event.ROLLED_BACK): Phase.ROLLED_BACK,
    (Phase.LIVE, Event.ROLLED_BACK): Phase.ROLLED_BACK,
    (Phase.STALLED, Event.RESUMED): Phase.ROLLING,
}
WORKING = (Phase.PENDING, Phase.COMPILED, Phase.BUILT, Phase.SIGNED, Phase.ROLLING)
_ENDING: _Table = {
    **{(phase, Event.ABORTED): Phase.ABORTED for phase in (*WORKING, Phase.STALLED)},
    **{(phase, Event.STALLED): Phase.STALLED for phase in WORKING},
    **{(phase, Event.SUPERSEDED): Phase.RETIRED for phase in Phase if phase is not Phase.RETIRED},
}
_EDIT: _Table = {(phase, Event.EDITED): Phase.PENDING for phase in Phase if phase not in (Phase.RETIRED, Phase.LIVE, Phase.ROLLING)}

MOVES: Mapping[tuple[Phase, Event], Phase] = MappingProxyType({**_FORWARD, **_BACK, **_ENDING, **_EDIT})

# Seconds that a phase may last; None: it rests until someone acts. Rolling takes its spec's deadlineSeconds per step.
DEADLINES_S: Mapping[Phase, float | None] = MappingProxyType(
    {
        Phase.PENDING: 60.0,
        Phase.COMPILED: 300.0,
        Phase.BUILT: 60.0,
        Phase.SIGNED: 60.0,
        Phase.ROLLING: 600.0,
        Phase.STALLED: 86_400.0,
        Phase.LIVE: None,
        Phase.ROLLED_BACK: None,
        Phase.ABORTED: None,
        Phase.RETIRED: None,
    }
)


def move(phase: Phase, event: Event) -> Phase:
    """The phase after `event`. Raises IllegalMove."""
    try:
        return MOVES[phase, event]
    except KeyError:
        raise IllegalMove(phase, event) from None
