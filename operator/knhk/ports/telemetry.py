"""Telemetry: how the control plane fares, told as it happens to whoever collects it."""

from __future__ import annotations

from typing import Literal, Protocol

Result = Literal["success", "error", "requeue", "requeue_after"]
"""As controller-runtime names them: done until something changes, failed, again at once, again later."""


class Telemetry(Protocol):
    """Never raises, never blocks; any thread. Times are seconds."""

    def turned(self, depth: int, late_s: float) -> None:
        """The loop turned: keys in the work queue, and how long the one that has waited longest is due."""
        ...

    def queued(self) -> None:
        """A key was put into the work queue."""
        ...

    def reconciled(self, kind: str, result: Result, waited_s: float, took_s: float) -> None:
        """An object was converged, after it was due for `waited_s`."""
        ...

    def built(self, outcome: str, took_s: float) -> None:
        """A build ended: "signed", or the reason why it did not."""
        ...

    def judged(self, outcome: str) -> None:
        """The judge gave a verdict that was acted on."""
        ...

    def moved(self, event: str) -> None:
        """A policy event is in the log."""
        ...

    def rolled_back(self, took_s: float) -> None:
        """The documents of a rollback were out `took_s` after it was decided."""
        ...

    def unwitnessed(self, receipts: int) -> None:
        """So many Receipts have nobody outside yet who bears witness to them, of those that are to have."""
        ...

    def left_unwitnessed(self) -> None:
        """A Receipt left by number or age, and nobody outside bears witness to it."""
        ...


class Silent:
    """Tells nobody."""

    def turned(self, depth: int, late_s: float) -> None: ...

    def queued(self) -> None: ...

    def reconciled(self, kind: str, result: Result, waited_s: float, took_s: float) -> None: ...

    def built(self, outcome: str, took_s: float) -> None: ...

    def judged(self, outcome: str) -> None: ...

    def moved(self, event: str) -> None: ...

    def rolled_back(self, took_s: float) -> None: ...

    def unwitnessed(self, receipts: int) -> None: ...

    def left_unwitnessed(self) -> None: ...
