"""Placement: where an enforcement point runs, and that it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Placed:
    """Where clients reach a point (host:port), and a line for each instance that does not run as it should."""

    address: str
    trouble: tuple[str, ...] = ()


class Placement(Protocol):
    """Promises of every adapter.

    `ensure` is idempotent and returns at once; what runs is made to fit `spec` without dropping connections where the change allows
    it. `remove` ends everything that `ensure` started for the point, and nothing else; an unknown point is no error.
    `bootstrap` gives equal bytes for an equal spec, starts nothing, and is cheap to ask again: its digest is signed into the rollout
    document, and Envoy is started from what the agent found so signed. `ensure` does not hand it over: the fleet does.
    Errors: Waiting when trying again may help, Stalled when a person must act (port in use, file missing).
    """

    def bootstrap(self, point: str, spec: Mapping[str, Any]) -> bytes:
        """Envoy's bootstrap (envoy.json) of the point; empty where there is no Envoy of ours."""
        ...

    def ensure(self, point: str, spec: Mapping[str, Any]) -> Placed:
        """Let the point ("NAMESPACE/NAME") run as its EnforcementPoint's `spec` says."""
        ...

    def remove(self, point: str) -> None:
        """End the point."""
        ...

    def placed(self) -> frozenset[str]:
        """Points that `ensure` started and `remove` did not end."""
        ...
