"""Child processes of the embedded home: started, watched, restarted with back-off, ended by their own id.

A child gets SIGTERM from the kernel when its supervisor dies (prctl PR_SET_PDEATHSIG), so that a killed control plane leaves nothing
running. The kernel ties this to the thread that started the child: call `ensure` and `tick` from one long-lived thread only.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1
FIRST_BACKOFF_S = 0.1
LAST_BACKOFF_S = 5.0
STEADY_AFTER_S = 10.0

_log = logging.getLogger("knhk.processes")
NOT_STARTED = 127  # as a shell says it

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def _dies_with(parent: int) -> Callable[[], None]:
    """What a child does before it becomes its program. A parent that died in between cannot signal any more: then it ends at once."""

    def prepare() -> None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(NOT_STARTED)

    return prepare


@dataclass(frozen=True)
class Command:
    """What to run: `argv`, additions to the environment, and the file that takes stdout and stderr. Of all children those with the
    highest `rank` are ended first."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    rank: int = 0


@dataclass
class _Child:
    command: Command
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    retry_at_s: float = 0.0
    backoff_s: float = FIRST_BACKOFF_S
    restarts: int = 0


@dataclass(frozen=True)
class Exit:
    """A child that ended without being asked to."""

    name: str
    returncode: int
    restarts: int


class Supervisor:
    """Keeps the children that `ensure` named alive until `stop`."""

    def __init__(self) -> None:
        self._children: dict[str, _Child] = {}

    def ensure(self, command: Command) -> None:
        """Starts `command`, or restarts it when it differs from what runs under its name. Idempotent."""
        child = self._children.get(command.name)
        if child is not None and child.command == command:
            return
        if child is not None:
            self.stop(command.name)
        self._children[command.name] = child = _Child(command)
        self._start(child)

    def tick(self) -> list[Exit]:
        """Reaps what ended and starts it again when its back-off is over. Call it often."""
        exits: list[Exit] = []
        now = time.monotonic()
        for child in self._children.values():
            if child.process is not None and (code := child.process.poll()) is not None:
                if now - child.started_s > STEADY_AFTER_S:
                    child.backoff_s = FIRST_BACKOFF_S
                child.process = None
                child.retry_at_s = now + child.backoff_s
                child.backoff_s = min(child.backoff_s * 2, LAST_BACKOFF_S)
                child.restarts += 1
                exits.append(Exit(child.command.name, code, child.restarts))
            if child.process is None and now >= child.retry_at_s:
                self._start(child)
                if child.process is None:
                    exits.append(Exit(child.command.name, NOT_STARTED, child.restarts))
        return exits

    def pids(self) -> dict[str, int]:
        """Name → process id of the children that run now."""
        return {name: child.process.pid for name, child in self._children.items() if child.process is not None}

    def stop(self, name: str, grace_s: float = 8.0) -> None:
        """SIGTERM, then SIGKILL after `grace_s` seconds. Unknown names are no error."""
        self._end([child for key, child in list(self._children.items()) if key == name], grace_s)
        self._children.pop(name, None)

    def stop_all(self, grace_s: float = 8.0) -> None:
        """Ends all children, rank by rank, those of one rank together."""
        for rank in sorted({child.command.rank for child in self._children.values()}, reverse=True):
            self._end([child for child in self._children.values() if child.command.rank == rank], grace_s)
        self._children.clear()

    def _start(self, child: _Child) -> None:
        """A program that cannot be started (missing, no memory, disk full) is tried again like one that ended."""
        try:
            self._spawn(child)
        except OSError as error:
            _log.warning("%s cannot be started: %s", child.command.name, error)
            child.retry_at_s = time.monotonic() + child.backoff_s
            child.backoff_s = min(child.backoff_s * 2, LAST_BACKOFF_S)
            child.restarts += 1

    def _spawn(self, child: _Child) -> None:
        command = child.command
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with command.log.open("ab") as log:
            child.process = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **command.env},
                preexec_fn=_dies_with(os.getpid()),
                close_fds=True,
            )
        child.started_s = time.monotonic()

    def _end(self, children: list[_Child], grace_s: float) -> None:
        running = [child.process for child in children if child.process is not None]
        for process in running:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + grace_s
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class Identity:
    """A process that cannot be mistaken for a later one with the same id: `started` is its start time in ticks since boot."""

    pid: int
    started: int


def identity(pid: int) -> Identity | None:
    """Who has this process id now; None when nobody, or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else Identity(pid, int(fields[19]))


def end_all(processes: Iterable[Identity], grace_s: float = 8.0) -> tuple[int, ...]:
    """Ends processes of an earlier life that still run: SIGTERM, then SIGKILL after `grace_s` seconds. Gives the ids of those that ran.
    A process id that somebody else has by now is left alone."""
    running = [process for process in processes if identity(process.pid) == process]
    found = tuple(process.pid for process in running)
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
        for process in running:
            _signal(process, number)
        deadline = time.monotonic() + wait_s
        while running and time.monotonic() < deadline:
            running = [process for process in running if identity(process.pid) == process]
            time.sleep(0.02)
    return found


def _signal(process: Identity, number: signal.Signals) -> None:
    """By pidfd, so that the id cannot change hands between the look and the signal."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if identity(process.pid) == process:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
