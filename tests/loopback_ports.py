"""Ports of loopback for servers that must be told one before they start."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from itertools import cycle, islice

EACH = 120
_OWN = cycle(20_000 + os.getpid() % 100 * EACH + n for n in range(EACH))


def free_port() -> int:
    """One that is free now, below the range from which the kernel takes ports of its own choice. It is taken later, so each process has a
    block of them that none begun beside it looks at, and gives last what it gave before."""
    for port in islice(_OWN, EACH):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port on loopback")
