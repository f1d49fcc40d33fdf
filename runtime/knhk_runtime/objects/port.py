"""The port of an object store: bytes by key, conditional writes, and what each step promises."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_KEY_BYTES = 900  # S3 takes 1,024, prefix included
_SEGMENT = re.compile(r"[A-Za-z0-9_=~-][A-Za-z0-9_=~.-]{0,199}", re.ASCII)


@dataclass(frozen=True)
class Stored:
    """Bytes of an object, and its etag. Objects with the same bytes may have the same etag."""

    data: bytes
    etag: str


@dataclass(frozen=True)
class Listed:
    """An object in a listing; size in bytes."""

    key: str
    size: int


@dataclass(frozen=True)
class About:
    """Headers with which a store that serves HTTP itself gives an object out; a folder forgets them."""

    content_type: str = "application/octet-stream"
    cache_control: str = ""


PLAIN = About()


class ObjectStore(Protocol):
    """Objects come whole or not at all, and are durable and seen by every reader when a write returns. Any thread may call.

    A key is segments of letters, digits and `_=~.-` between single slashes, none of which begins with a dot or ends in `.tmp`; no key is
    the folder of another. Raises:
    - NotFound: there is no such object;
    - AlreadyExists, Conflict: the condition of a write does not hold. A write that was repeated below, after its answer was lost, may
      meet itself: who must know reads the object and compares;
    - Waiting: the store did not answer, or has no room. **A write may have been done**;
    - Stalled: it refuses us; a person must act;
    - ValueError: what is not a key."""

    @property
    def name(self) -> str:
        """Where it is, for people."""

    def get(self, key: str) -> Stored:
        """The whole object."""

    def get_all(self, keys: Iterable[str]) -> Iterator[bytes]:
        """Bytes of many, in this order; some are asked for before they are needed."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes (at least 1) from offset `start` on, or what there is of them."""

    def put(self, key: str, data: bytes, about: About = PLAIN) -> str:
        """Writes over what may be there; the new etag."""

    def put_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> None:
        """`put` for many, in no order. All are durable when it returns; when it raises, any of them may be."""

    def create(self, key: str, data: bytes, about: About = PLAIN) -> str:
        """Writes if there is no such object, of any number of writers one; else AlreadyExists."""

    def create_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> list[tuple[str, bytes]]:
        """`create` for many; those that were there already, and were left as they are. When it raises, any may have been written."""

    def swap(self, key: str, data: bytes, etag: str, about: About = PLAIN) -> str:
        """Writes if the object has this etag, of any number of writers one; else Conflict (also when it is gone)."""

    def list(self, folder: str = "") -> Iterator[Listed]:
        """What lies below a folder, or all, in order of keys. What comes or goes meanwhile may be told or not."""

    def delete(self, keys: Sequence[str]) -> None:
        """Removes objects; those that are not there are no error."""


def checked(key: str) -> str:
    """The key itself; raises ValueError for what is none."""
    if len(key) > MAX_KEY_BYTES or not all(_SEGMENT.fullmatch(part) and not part.endswith(".tmp") for part in key.split("/")):
        raise ValueError(f"{key!r}: must be a key of an object store")
    return key
