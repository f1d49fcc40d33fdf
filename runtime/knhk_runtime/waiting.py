"""How requests that wait for a slower tier lie in the agent's own files: as they are, or sealed."""

from __future__ import annotations

from hashlib import sha256
from typing import Protocol


class Boxes(Protocol):
    """Any thread. Methods raise OSError while nothing may be written in clear and no key can be had."""

    def close(self, data: bytes, time_ns: int) -> bytes:
        """What is written. `time_ns`: of the request."""
        ...

    def open(self, data: bytes, where: str) -> bytes | None:
        """What `close` was given, at once or after a restart; None when its key was destroyed meanwhile. Raises Corrupt."""
        ...

    def name(self, data: bytes) -> bytes:
        """32 bytes that are equal for equal data."""
        ...


class InClear:
    """At points without privacy."""

    def close(self, data: bytes, time_ns: int) -> bytes:
        return data

    def open(self, data: bytes, where: str) -> bytes | None:
        return data

    def name(self, data: bytes) -> bytes:
        return sha256(data).digest()
