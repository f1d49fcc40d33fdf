"""Child processes of the embedded home: started, watched, restarted with back-off, ended by their own id.

A child gets SIGTERM from the kernel when its supervisor dies (prctl PR_SET_PDEATHSIG), so that a killed control plane leaves nothing running.
The kernel ties this to the thread that started the child: call `ensure` and `tick` from one long-lived thread only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1
FIRST_BACKOFF_S = 0.1
LAST_BACKOFF_S = 5.0
STEADY_AFTER_S = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True)
class Command:
    """What to run: `argv`, complete environment, and the file that takes stdout and stderr."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)


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
        return exits

    def pids(self) -> dict[str, int]:
        """Name → process id of the children that run now."""
        return {name: child.process.pid for name, child in self._children.items() if child.process is not None}

    def stop(self, name: str, grace_s: float = 8.0) -> None:
        """SIGTERM, then SIGKILL after `grace_s` seconds. Unknown names are no error."""
        self._end([child for key, child in list(self._children.items()) if key == name], grace_s)
        self._children.pop(name, None)

    def stop_all(self, grace_s: float = 8.0) -> None:
        """Ends all children, the last started first."""
        for child in reversed(list(self._children.values())):
            self._end([child], grace_s)
        self._children.clear()

    def _start(self, child: _Child) -> None:
        command = child.command
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with command.log.open("ab") as log:
            child.process = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **command.env},
                preexec_fn=_die_with_parent,
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
