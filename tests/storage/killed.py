"""Kills sequencers by SIGKILL at random moments, again and again on one folder and one store, and says what came of it (JSON).

    python tests/storage/killed.py FOLDER ADDRESS KILLS SEED

Each child opens the log, as a sequencer does after a kill, and then appends and integrates as fast as it can, a thread each. It tells what
is acknowledged through a pipe, and what it is in the middle of through shared memory."""

from __future__ import annotations

import json
import mmap
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from acknowledging import acknowledged, append_for_ever
from machines import KEY, Machine, leaves
from published_log import read

from knhk_runtime.objects.opening import open_store
from knhk_runtime.record import entry_key
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.tlog.fsck import fsck

PHASES = ("opening", "append", "flush", "tile", "checkpoint", "collect")
STEPS = {
    "write": "append",
    "sync": "flush",
    "create_all": "tile",
    "swap checkpoint": "checkpoint",
    "delete": "collect",
    "unlink": "collect",
}
LONGEST_S = 0.03


class Told:
    """What it wraps, telling in which phase it is."""

    def __init__(self, inner: Any, shared: mmap.mmap) -> None:
        self._inner, self._shared = inner, shared

    def __getattr__(self, name: str) -> Any:
        step = getattr(self._inner, name)
        if not callable(step):
            return step

        def run(*arguments: Any) -> Any:
            phase = STEPS.get(name) or STEPS.get(f"{name} {arguments[0] if arguments else ''}")
            if phase:
                self._shared[0] = PHASES.index(phase)
            return step(*arguments)

        return run


def child(folder: Path, address: str, first: int, pipe: int, shared: mmap.mmap, chance: random.Random) -> None:
    """Until it is killed."""
    shared[0] = 0
    machine = Machine(folder, Told(open_store(address), shared), time.monotonic, Told(Disk(), shared))
    log, lease = machine.start()
    append_for_ever(machine, log, lease, first, (1, 1, 2, 5, 9, 40), pipe, chance)


def killed(folder: Path, address: str, first: int, chance: random.Random, shared: mmap.mmap) -> tuple[dict[int, int], str]:
    """(number → index of what one child acknowledged, the phase in which it was killed)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            child(folder, address, first, writing, shared, chance)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(3)
    os.close(writing)
    deadline, data = time.monotonic() + chance.uniform(0, LONGEST_S), bytearray()
    if chance.random() < 0.8:  # else it may be killed while it opens the log
        select.select([reading], [], [], 20)
        deadline = time.monotonic() + chance.uniform(0, LONGEST_S)
    while (left_s := deadline - time.monotonic()) > 0:
        if select.select([reading], [], [], left_s)[0]:
            data += os.read(reading, 1 << 16)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    while part := os.read(reading, 1 << 16):
        data += part
    os.close(reading)
    if os.WIFEXITED(status):
        raise SystemExit(f"a child ended by itself with {os.WEXITSTATUS(status)}")
    return acknowledged(bytes(data)), PHASES[shared[0]]


def main(argv: list[str]) -> None:
    folder, address, kills, chance = Path(argv[0]), argv[1], int(argv[2]), random.Random(int(argv[3]))
    shared = mmap.mmap(-1, 1)
    acked, phases, first = dict[int, int](), Counter[str](), 0
    for _ in range(kills):
        found, phase = killed(folder, address, first, chance, shared)
        for number, index in found.items():
            if acked.setdefault(number, index) != index:
                raise SystemExit(f"receipt {number} was acknowledged with index {acked[number]}, and then with {index}")
        phases[phase] += 1
        first = max(acked, default=-1) + 1
    machine = Machine(folder, open_store(address), time.monotonic, Disk())
    log, _ = machine.start()
    log.integrate()
    size, _, entries = read(open_store(address))
    keys = [entry_key(entry) for entry in entries]
    at = dict(zip(keys, range(size), strict=True))
    lost = [number for number, index in acked.items() if at.get(entry_key(leaves(number, number + 1)[0])) != index]
    bad = [f"{found.where}: {found.what}" for found in fsck(open_store(address), KEY.verifier).bad]
    print(
        json.dumps({"kills": kills, "acked": len(acked), "size": size, "twice": size - len(at), "lost": lost, "bad": bad, "phases": phases})
    )


if __name__ == "__main__":
    main(sys.argv[1:])
