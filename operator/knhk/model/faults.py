"""Faults in what a person wrote, and errors that carry the retry decision."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Fault:
    """One thing a person must mend: `where` (file:line or field path), the `value` found, and what it `must` be."""

    where: str
    value: str
    must: str

    def __str__(self) -> str:
        return f"{self.where}: {self.value}: {self.must}"


def reading_order(fault: Fault) -> tuple[object, ...]:
    """Sort key: as a person reads the file, so line 9 comes before line 10."""
    parts = re.split(r"([0-9]+)", fault.where)
    numbered = tuple((part.zfill(20) if part.isdigit() else part) for part in parts)
    return (numbered, fault.value, fault.must)


class KnhkError(Exception):
    """Root of the errors that Reflex Enterprise raises on purpose."""


class Refused(KnhkError):
    """Input is refused with all its faults at once; nothing was changed. `reason`: what conditions say."""

    reason = "Refused"

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(sorted(set(faults), key=reading_order))
        super().__init__("\n".join(str(fault) for fault in self.faults))


class Refuted(Refused):
    """A compiled pack does not decide as its sources say: a bug of the compiler, whatever the author does."""

    reason = "CompilerBug"


class Stalled(KnhkError):
    """A person must edit something; retrying alone does not help."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Waiting(KnhkError):
    """Not yet; try again after `retry_after_s` seconds."""

    def __init__(self, reason: str, message: str, retry_after_s: float) -> None:
        self.reason = reason
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Corrupt(KnhkError):
    """Bytes that must be whole are not: `where` says file and offset, `what` what was expected."""

    def __init__(self, where: str, what: str) -> None:
        self.where = where
        self.what = what
        super().__init__(f"{where}: {what}")


class NotFound(KnhkError):
    """There is no such object."""


class Conflict(KnhkError):
    """Somebody else wrote first: read again, decide again, write again."""


class AlreadyExists(Conflict):
    """An object of this kind, namespace and name is there already."""


class Deposed(KnhkError):
    """This process leads no longer: whatever it was about to do, another does."""


class Gap(KnhkError):
    """Changes since the asked revision are no longer kept: list again, then go on from there."""
