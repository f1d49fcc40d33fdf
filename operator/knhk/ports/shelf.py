"""Shelf: where what is published for a point lies until the next of its kind, across restarts of the control plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

KEYS, CONFIG, DOCUMENT, BOOTSTRAP = "keys.json", "point.json", "rollout.json", "envoy.json"


class Shelf(Protocol):
    """Promises of every adapter.

    `put` is atomic for a file and durable when it returns; equal bytes are not written again. Safe from any thread.
    Errors: Conflict when another writer came between (what lies there is read anew before the next `put`), Waiting, OSError as it comes.
    """

    def files(self, point: str) -> Mapping[str, bytes]:
        """What lies there for `point` ("NAMESPACE/NAME"), by name; empty for an unknown one."""
        ...

    def put(self, point: str, name: str, data: bytes) -> None:
        """Replace one file."""
        ...
