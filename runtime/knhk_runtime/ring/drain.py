"""The thread that empties all rings of a folder: durable first, then the tail moves."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from knhk.model.faults import Corrupt
from knhk_runtime.log import log
from knhk_runtime.outbox.records import Entries
from knhk_runtime.ring.bell import Bell
from knhk_runtime.ring.entries import Drained, Ring, RingRecord, entries_of
from knhk_runtime.ring.heat import Heat

BATCH_BYTES, MOST_BATCH_BYTES = 1 << 20, 4 << 20  # of a ring: a quarter of it, within these
IDLE_S = 0.005  # between looks, while records come and for AWAKE_S after the last
AWAKE_S = 0.05
SLEEP_S = 0.25  # at most, while all rings are empty and their producers ring
LOOK_EVERY_S = 0.05
STORAGE_PAUSE_S = 0.5
_NAME = re.compile(r"[0-9a-f]{16}-[0-9]+-[0-9]+\.ring")
Opener = Callable[[Path], Ring]
Commit = Callable[[Entries, Drained], None]
SetAside = Callable[[Sequence[RingRecord]], None]


def batch_bytes(capacity: int) -> int:
    """How much of a ring is made durable at once: on a slow disk one sync serves what came meanwhile, and the producer has the rest."""
    return min(max(capacity // 4, BATCH_BYTES), MOST_BATCH_BYTES)


@dataclass
class _Open:
    """`batch`: drained, and not yet durable in full; of it, what was to be set aside is when `aside`."""

    ring: Ring
    path: Path
    full: int = 0
    batch: Drained | None = None
    aside: bool = False


@dataclass
class Totals:
    """Since start: records refused because a ring was full, and faults of rings (file → what)."""

    gone_full: int = 0
    gone_heat: Heat = field(default_factory=Heat)
    faults: dict[str, str] = field(default_factory=dict)


class DrainLoop:
    """Owns the consumer's end of each ring. `commit` makes entries durable and counts them, `set_aside` what a lower tier must judge first;
    OSError from either keeps the tail, and the batch is tried again."""

    def __init__(self, folder: Path, opener: Opener, commit: Commit, set_aside: SetAside) -> None:
        self._folder = folder
        self._open_ring = opener
        self._commit = commit
        self._set_aside = set_aside
        self._rings: dict[str, _Open] = {}
        self._broken: set[tuple[str, int]] = set()
        self._end = threading.Event()
        self._awake_until_s, self._is_rung = 0.0, False
        self._next_look_s = 0.0
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)
        self.storage_fault = ""  # why the last batch could not be written; the ring keeps it and it is tried again
        self.on_ring: Callable[[bytes], None] = lambda source: None  # told of each ring as soon as it is seen
        self.on_drained: Callable[[bytes, int], None] = lambda source, tail: None  # told of each tail that moved
        self.on_gone: Callable[[bytes], None] = lambda source: None  # and of each ring that was removed
        self.unwitnessed = False  # what producers are told
        self.totals = Totals()
        self.heat = Heat()  # as of the last look at the folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._bell = Bell(folder)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends after everything that is in the rings now is durable, unless storage fails. What comes later waits for the next process."""
        self._end.set()
        self.hurry()
        self._thread.join()
        for opened in self._rings.values():
            opened.ring.close()
        self._bell.close()

    def hurry(self) -> None:
        """Looks into the rings at once: somebody waits for what is there. From any thread."""
        self._bell.ring()

    @property
    def ring_full(self) -> int:
        """Requests refused for want of room, over all rings seen."""
        return self.totals.gone_full + sum(opened.full for opened in list(self._rings.values()))

    def _see_heat(self) -> None:
        self.heat = self.totals.gone_heat.with_rings(opened.ring for opened in self._rings.values())

    def _run(self) -> None:
        while not self._end.is_set():
            if not self._round():
                self._pause()
        self._look(time.monotonic(), at_once=True)
        owed = [(opened, opened.ring.head) for opened in self._rings.values()]
        while any(self._owes(*row) for row in owed) and not self.storage_fault:
            self._round()
        if not self.storage_fault:
            self._round()  # rings that nobody uses any more go

    def _owes(self, opened: _Open, head: int) -> bool:
        """Whether a ring that is still open has records below `head`."""
        return self._rings.get(opened.path.name) is opened and opened.ring.tail < head

    def _pause(self) -> None:
        if self.storage_fault:
            self._end.wait(STORAGE_PAUSE_S)
        elif self._bell.wait(SLEEP_S if time.monotonic() >= self._awake_until_s and self._is_quiet() else IDLE_S):
            self._is_rung = True

    def _is_quiet(self) -> bool:
        """Whether it may sleep. Who rang may have made a ring that no look has seen yet."""
        if self._is_rung:
            self._is_rung = False
            self._look(time.monotonic(), at_once=True)
        return all(opened.ring.sleep() for opened in self._rings.values())

    def _round(self) -> bool:
        """Every ring once; True when something was drained."""
        looked = self._look(time.monotonic())
        moved = False
        for name, opened in list(self._rings.items()):
            try:
                moved |= self._drain(opened, looked)
            except OSError as error:
                if str(error) != self.storage_fault:
                    log("storage", fault=str(error))
                self.storage_fault = str(error)
                return False
            except (Corrupt, ValueError) as error:
                self._give_up(name, opened, error)
        return moved

    def _drain(self, opened: _Open, looked: bool) -> bool:
        """One batch. An idle ring whose producer closed it or is gone (it holds a shared lock as long as it lives) is removed."""
        over = opened.ring.closed or (looked and _is_unlocked(opened.path))
        tail = opened.ring.tail
        drained = opened.batch = opened.batch or opened.ring.drain(batch_bytes(opened.ring.capacity))
        opened.full = opened.ring.full
        self._keep(opened, drained)
        moved = drained.new_tail != tail  # a batch may hold padding alone
        if moved:
            self.storage_fault = ""
            self._awake_until_s = time.monotonic() + AWAKE_S
        opened.ring.commit(drained.new_tail)
        if moved:
            self.on_drained(opened.ring.source, drained.new_tail)
        opened.ring.beat(self.unwitnessed)
        if over and not moved:
            self._remove(opened)
        return moved

    def _keep(self, opened: _Open, drained: Drained) -> None:
        """Makes a batch durable, each part of it once however often the other fails."""
        if drained.parked and not opened.aside:
            self._set_aside(drained.parked)
            opened.aside = True
        if drained.frames:
            self._commit(entries_of(drained), drained)
        opened.batch, opened.aside = None, False

    def _remove(self, opened: _Open) -> None:
        """Drained after its producer had ended: nothing can follow."""
        self.totals.gone_full += opened.full
        self.totals.gone_heat.add(opened.ring)
        self.on_gone(opened.ring.source)
        del self._rings[opened.path.name]
        opened.ring.close()
        opened.path.unlink(missing_ok=True)
        log("ring gone", path=opened.path.name)

    def _give_up(self, name: str, opened: _Open, error: Exception) -> None:
        log("ring corrupt", path=str(opened.path), fault=str(error))
        self.totals.faults[str(opened.path)] = str(error)
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile: nothing to open again
            self._broken.add((name, opened.path.stat().st_ino))
        del self._rings[name]
        opened.ring.close()

    def _look(self, now_s: float, at_once: bool = False) -> bool:
        """Opens rings that appeared; False when it is not time to look."""
        if now_s < self._next_look_s and not at_once:
            return False
        self._next_look_s = now_s + LOOK_EVERY_S
        self._see_heat()
        for path in self._folder.iterdir():
            if path.name in self._rings or not _NAME.fullmatch(path.name):
                continue
            try:
                if (path.name, path.stat().st_ino) in self._broken:
                    continue
                self._rings[path.name] = _Open(self._open_ring(path), path)
                log("ring", path=path.name)
                self.on_ring(self._rings[path.name].ring.source)
            except FileNotFoundError:
                continue
            except (Corrupt, ValueError, OSError) as error:
                log("ring corrupt", path=str(path), fault=str(error))
                self.totals.faults[str(path)] = str(error)
                with contextlib.suppress(FileNotFoundError):
                    self._broken.add((path.name, path.stat().st_ino))
        return True


def _is_unlocked(path: Path) -> bool:
    """Whether no producer holds the file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
