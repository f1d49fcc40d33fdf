"""What goes wrong in the cold tier."""

from __future__ import annotations

from knhk.model.faults import KnhkError


class ShapeError(KnhkError):
    """A shapes graph, query, pattern or expression that cannot be evaluated; found when it is loaded. `where` names shape or guard."""

    def __init__(self, where: str, what: str) -> None:
        self.where = where
        self.what = what
        super().__init__(f"{where}: {what}")


class Undecided(KnhkError):
    """The cold tier did not decide in time or could not; the request is parked, never admitted."""


class InputRefused(KnhkError):
    """The pack cannot judge this O at all (`code` is the pack ABI's negative status): the caller refuses the request."""

    def __init__(self, code: int, what: str) -> None:
        self.code = code
        super().__init__(what)
