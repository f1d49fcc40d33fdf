"""Recorded: where what was recorded about people lies, in outboxes and archives, beside a log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from knhk.model.ranges import Ranges
from knhk_runtime.record import Record

RANGES_MOST = 16_384  # of one answer


@dataclass(frozen=True)
class Found:
    """`targets`: entries; `unsearched`: points, NAMESPACE/NAME, of which records lie in clear that no rule of privacy says the subjects of:
    nobody's name was looked for in those."""

    targets: Ranges
    unsearched: tuple[str, ...] = ()


class Recorded(Protocol):
    """Promises of every adapter. Everything may be repeated; what is erased is found no more. One caller at a time.
    Errors: Waiting for what is to be tried again, Stalled, Corrupt, and as ObjectStore does."""

    def of_subject(self, tag: bytes, subject: str) -> Found:
        """Entries whose records are about a subject. `subject`: its text, empty where only the tag is known: then what was recorded in
        clear may be missing."""
        ...

    def older(self, point: str, before_ns: int, held: Collection[bytes], after: int) -> Ranges:
        """The first RANGES_MOST ranges, after an index, of entries whose records a point made before a time, but for those of tags that are
        held."""
        ...

    def free(self, targets: Ranges, held: Collection[bytes]) -> Ranges:
        """Those of these entries whose records are of no tag that is held."""
        ...

    def digest(self, targets: Ranges) -> str:
        """`leafHashes` of these entries (formats/envelope.md)."""
        ...

    def rewrite(self, targets: Ranges) -> tuple[int, int]:
        """(records of outboxes, rows of the archive) of these entries that lost what was recorded."""
        ...


@dataclass(frozen=True)
class Copy:
    """A decision's record as it is kept, sealed or in clear; `entry`: its leaf; `proof`: as tlog-proof."""

    index: int
    entry: bytes
    where: str
    record: Record
    proof: str


@dataclass(frozen=True)
class Told:
    """A policy event; `proof` is empty where it is not about the subject."""

    index: int
    entry: bytes
    proof: str


class SubjectPages(Protocol):
    """All about one subject of a namespace, page by page, in the order of the log as it was under `note`, a checkpoint; each page begins
    after an index and says whether another follows. May be repeated. Errors: Bad for a checkpoint that is none of this log, Corrupt,
    and as ObjectStore does."""

    def records(self, tag: bytes, subject: str, pointers: tuple[str, ...], note: str, after: int) -> tuple[list[Copy], bool]:
        """Records that are not erased: sealed ones by the tag; in clear those that have the subject's text, empty for none, as an
        attribute, in the body at a JSON pointer, or where their point's rule of privacy looks. Of other namespaces none."""
        ...

    def events(self, tag: bytes, digests: Collection[str], note: str, after: int) -> tuple[list[Told], bool, bool]:
        """Events about the subject in this namespace, and those of packs (the first 40 hexadecimal digits) and data (all 64)
        that are named. The last: whether consents of this namespace, of whomever, were passed over."""
        ...
