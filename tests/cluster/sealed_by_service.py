"""Requests about somebody, which a guard in a pod seals by keys of the key service in its pod; and who opens them from this machine."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from knhk_runtime.record import Record
from knhk_runtime.unsealing import Closed

HOST, PORT = "knhk-keys.knhk-system.svc", 8448
URL = f"https://{HOST}:{PORT}"
ANNA, BOB = "anna.planted@example.com", "bob.planted@example.com"
PRIVACY = {"subjects": [{"route": "submit", "pointer": "/who"}], "retentionDays": 30}


@contextlib.contextmanager
def resolved(host: str, address: str) -> Iterator[None]:
    """This machine asks no name server of the cluster."""
    ask: Any = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda name, *more, **also: ask(address if name == host else name, *more, **also))
        yield


def named_in(found: Record | Closed) -> str:
    """Whom an opened record names, or why it is closed."""
    if isinstance(found, Closed):
        return found.value
    return next((who for who in (ANNA, BOB) if who.encode() in found.observation), "nobody")
