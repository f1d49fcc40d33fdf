"""Prover: compiled packs against their sources, before anything of them is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from knhk.model.arrows import GuardPlan, PackSources, SharedObject
from knhk.model.resource import Resource


@dataclass(frozen=True)
class Budget:
    """What one proof may cost: cases, and seconds, from when the sources are read, after which it ends with those that it has; a least
    of cases is always compared."""

    cases: int
    seconds: float
    seed: int = 1


class Prover(Protocol):
    """Promises of every adapter.

    The object of this machine's architecture is loaded and asked in a process of its own, whose time is bounded: a pack that crashes
    or does not end takes nothing else with it. Same arguments and budget, same outcome, unless time ends first.
    Concurrency: may be called from several threads. Errors: Refuted when tables and sources differ, or the pack ends its process; Waiting
    when its process was ended from without, for time or memory, the first times; Stalled when that stays so, or no proof can be made.
    """

    def prove(self, pack: PackSources, plan: GuardPlan, objects: tuple[SharedObject, ...], bundle: Resource | None) -> Mapping[str, Any]:
        """What the proof did, for the provenance (formats/pack.md). `bundle`: the DataBundle that the pack reads, when there is one."""
        ...
