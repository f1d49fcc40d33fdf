"""The git program, started so that neither the repository nor the user's own settings decide what runs.

Of a repository only its objects and references are read, by plumbing commands that know no filters, hooks or external programs. git
2.39 or newer.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from knhk.model.faults import Fault, Refused, Stalled

TIMEOUT_S = 60.0
MAX_OUTPUT = 96 << 20
MAX_WRITTEN = 512 << 20  # a file that git writes, such as the pack of a fetch
NO_PROTOCOL = "none"
_PART = 64 << 10

# `timeout` bounds it, too, when nobody is left who waits.
_LIMITED = 'ulimit -c 0 && ulimit -f "$0" && exec timeout -s KILL "$@"'
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.attributesFile": "/dev/null",
    "core.commitGraph": "false",
    "credential.helper": "",
    "diff.external": "",
    "gc.auto": "0",
    "gpg.program": "/bin/false",
    "gpg.x509.program": "/bin/false",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1000",  # bytes a second, for
    "http.lowSpeedTime": "20",  # seconds: a server that dribbles is given up
    "log.showSignature": "false",
    "maintenance.auto": "false",
    "safe.directory": "*",  # whoever owns the folder: nothing that its configuration names is started
    "submodule.recurse": "false",
    "transfer.fsckObjects": "true",
    "transfer.bundleURI": "false",
}


@dataclass(frozen=True)
class GitProgram:
    """git on one repository: `folder` is its git directory or a checkout. `protocols`: what a fetch may use; `settings`, which may be
    secret, and `ssh`, the command for ssh, are for a fetch, too."""

    folder: Path
    protocols: tuple[str, ...] = (NO_PROTOCOL,)
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    ssh: str = "/bin/false"

    def run(
        self,
        *words: str,
        given: bytes = b"",
        settings: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        allowed: Sequence[int] = (0,),
    ) -> subprocess.CompletedProcess[bytes]:
        """git with these words. `settings` are handed over in the environment, never in the command line: they may be secret. Raises
        Refused when it ends with a code that is not `allowed` (none: all are), takes too long, or says too much; Stalled without git."""
        command = ["/bin/sh", "-c", _LIMITED, str(MAX_WRITTEN >> 9), f"{timeout_s:g}", *_program(), "-C", str(self.folder), *words]
        environment = self._environment(settings or {})
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True) as process:
            try:
                out, err = _said(process, given, timeout_s)
            except (TimeoutError, _TooMuch) as error:
                os.killpg(process.pid, signal.SIGKILL)  # its helpers, too
                must = f"say at most {MAX_OUTPUT >> 20} MiB" if isinstance(error, _TooMuch) else f"be done within {timeout_s:g} s"
                raise Refused([Fault(str(self.folder), f"git {words[0]}", f"must {must}")]) from None
        done = subprocess.CompletedProcess(words, process.returncode, out, err)
        if allowed and done.returncode not in allowed:
            raise Refused([Fault(str(self.folder), f"git {words[0]}", f"must not fail: {said(done)}")])
        return done

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        pairs = {**_SETTINGS, **self.settings, **settings}
        numbered = {f"GIT_CONFIG_{kind}_{i}": pair[j] for i, pair in enumerate(pairs.items()) for j, kind in enumerate(("KEY", "VALUE"))}
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": "/nonexistent",
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_ALLOW_PROTOCOL": ":".join(self.protocols),
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "GIT_SSH_COMMAND": self.ssh,
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_CONFIG_COUNT": str(len(pairs)),
            **numbered,
        }


class _TooMuch(Exception):
    """It says more than MAX_OUTPUT: a tree of a few objects may name billions of files."""


def _said(process: subprocess.Popen[bytes], given: bytes, timeout_s: float) -> tuple[bytes, bytes]:
    """Output and complaints, as `communicate`, but never more of them in memory than the bound. Raises TimeoutError and _TooMuch."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    out, err, rest = bytearray(), bytearray(), memoryview(given)
    deadline_s = time.monotonic() + timeout_s
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdin, selectors.EVENT_WRITE)
        for pipe, found in ((process.stdout, out), (process.stderr, err)):
            ready.register(pipe, selectors.EVENT_READ, found)
        while ready.get_map():
            for key, _ in ready.select(_left_s(deadline_s)):
                if key.data is None:
                    rest = _written(key.fd, rest)
                    if not rest:
                        ready.unregister(process.stdin)
                        process.stdin.close()
                elif part := os.read(key.fd, _PART):
                    key.data.extend(part)
                    if len(key.data) > MAX_OUTPUT:
                        raise _TooMuch
                else:
                    ready.unregister(key.fileobj)
    try:
        process.wait(_left_s(deadline_s))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    return bytes(out), bytes(err)


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _written(fd: int, data: memoryview) -> memoryview:
    """What is still to be written; nothing when nobody reads."""
    try:
        return data[os.write(fd, data[:_PART]) :] if data else data
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]


@cache
def _program() -> tuple[str, ...]:
    found = shutil.which("git", path="/usr/local/bin:/usr/bin:/bin")
    if found is None:
        raise Stalled("NoGit", "git: must be installed (2.39 or newer)")
    return (found,)


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """The last line of what git complained about, for people."""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    told = lines[-1] if lines else f"exit code {done.returncode}"
    return "".join(c if c.isprintable() else " " for c in told)[:400]
