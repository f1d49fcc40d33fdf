"""Checks of pull requests: `knhk pack check --git` in a process of its own, without secrets, bounded in time, memory and what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from knhk.adapters.mirrors_git import GitMirrors
from knhk.ports.checks import Verdict
from knhk.ports.forge import CheckState
from knhk.ports.repository import Remote

WITHIN_S = 300.0
MEMORY_KIB = 4 << 20
FILE_BLOCKS = (512 << 20) >> 9
MAX_TEXT = 60_000
# `timeout` bounds it, too, when nobody is left who waits.
_LIMITED = (
    'ulimit -S -c 0 && ulimit -S -v "$0" && ulimit -S -f "$1" && limit="$2" && shift 2 && exec timeout -s KILL "$limit" nice -n 10 "$@"'
)
_PASSED, _FAULTS = 0, 1
_KEPT = ("PATH", "LANG", "LC_ALL", "KNHK_CACHE", "TZ")


@dataclass(frozen=True)
class ReviewProcess:
    """`mirrors` hold the commits; `home` is a folder for what the checks build."""

    mirrors: GitMirrors
    home: Path
    within_s: float = WITHIN_S
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set, compare=False)

    def check(self, remote: Remote, base: str, head: str, paths: Sequence[str]) -> Verdict:
        """From the common ancestor of both, as a pull request shows it."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        words = ["pack", "check", f"--git={base}...{head}", f"--repository={self.mirrors.place(remote)}", "-o", "markdown", "--", *paths]
        knhk = [sys.executable, "-P", "-m", "knhk.cli", *words]
        command = ["/bin/sh", "-c", _LIMITED, str(MEMORY_KIB), str(FILE_BLOCKS), f"{self.within_s:g}", *knhk]
        with tempfile.TemporaryFile(dir=self.home) as out, tempfile.TemporaryFile(dir=self.home) as err:
            code = self._run(command, out.fileno(), err.fileno())
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read(4 * MAX_TEXT).decode(errors="replace"))
        return _verdict(code, *texts, within_s=self.within_s)

    def _run(self, command: Sequence[str], out: int, err: int) -> int | None:
        """The exit code; None when it took too long, and was ended with all that it started."""
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment.setdefault("KNHK_CACHE", str(Path.home() / ".cache" / "knhk"))  # where the built parts of the product lie
        environment |= {"HOME": str(self.home), "KNHK_HOME": str(self.home / "none"), "TMPDIR": str(self.home)}
        devnull = subprocess.DEVNULL
        with subprocess.Popen(command, env=environment, stdin=devnull, stdout=out, stderr=err, start_new_session=True) as process:
            self._running.add(process)
            try:
                code = process.wait(self.within_s)
                return None if code == -signal.SIGKILL else code
            except subprocess.TimeoutExpired:
                return None
            finally:
                self._running.discard(process)
                _end(process)

    def close(self) -> None:
        """Ends the checks that run."""
        for process in tuple(self._running):
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _verdict(code: int | None, out: str, err: str, *, within_s: float) -> Verdict:
    """Red with the preview, or what kept it from being made."""
    if code in (_PASSED, _FAULTS) and out.strip():
        state = CheckState.SUCCESS if code == _PASSED else CheckState.FAILURE
        return Verdict(state, "policies pass" if code == _PASSED else "policies must be mended", out[:MAX_TEXT])
    if code == _FAULTS:
        return Verdict(CheckState.FAILURE, "the commit is refused", _quoted("Policy check: the commit is refused", err))
    if code is None:
        return Verdict(
            CheckState.FAILURE, "the check took too long", f"## Policy check: not done\n\nIt must be done within {within_s:g} s."
        )
    return Verdict(CheckState.ERROR, "the check could not be made", _quoted("Policy check: not done", err))


def _quoted(title: str, text: str) -> str:
    """An indented block, which nothing in it can leave."""
    lines = ["".join(c if c.isprintable() else " " for c in line)[:1000] for line in text.strip().splitlines()[-40:]]
    return "\n".join([f"## {title}", "", *(f"    {line}" for line in lines)])
