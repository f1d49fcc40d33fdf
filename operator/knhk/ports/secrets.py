"""Secrets that resources name: what a person gave, not keys of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from knhk.model.faults import Stalled


class Secrets(Protocol):
    """Promises: a secret is read when it is needed and kept nowhere; its values are never part of an error, a status or a log."""

    def read(self, namespace: str, name: str) -> Mapping[str, bytes]:
        """Key → value. Raises Stalled when there is no such secret or it may not be read, Waiting when trying again may help."""
        ...


class NoSecrets:
    """There are none."""

    def read(self, namespace: str, name: str) -> Mapping[str, bytes]:
        """See the port."""
        raise Stalled("NoSecret", f"{namespace}/{name}: must be there, and this process knows no secrets")
