"""What the kill runs share: a sequencer that appends and publishes until it dies, and tells through a pipe what is acknowledged."""

from __future__ import annotations

import os
import random
import struct
import threading
from collections.abc import Sequence
from typing import NoReturn

from machines import Machine, leaves

from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.lease import Lease

_ACK = struct.Struct(">IQ")  # number of a receipt, its index


def append_for_ever(
    machine: Machine, log: Log, lease: Lease, first: int, sizes: Sequence[int], pipe: int, chance: random.Random
) -> NoReturn:
    """From receipt `first` on, in batches of one of `sizes`; another thread integrates."""

    def integrate() -> None:
        while True:
            log.integrate()
            lease.renew()

    threading.Thread(target=integrate, daemon=True).start()
    while True:
        again = chance.randint(0, min(3, first))  # what was perhaps not acknowledged is sent again
        count = again + chance.choice(sizes)
        for number, index in enumerate(machine.append(log, leaves(first - again, first - again + count)), first - again):
            os.write(pipe, _ACK.pack(number, index))
        first += count - again


def acknowledged(data: bytes) -> dict[int, int]:
    """Number → index of what came through the pipe; what was cut off was not told."""
    return dict(_ACK.iter_unpack(data[: len(data) // _ACK.size * _ACK.size]))
