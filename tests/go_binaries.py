"""Programs that tests run, built once from the pinned Go modules of a folder.

They lie in `$KNHK_CACHE/NAME/KEY` or `~/.cache/knhk/NAME/KEY`; KEY is a digest of go.mod, go.sum, programs of our own
in the folder, the flags and the Go version, so that nothing is built twice and nothing old is run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TELL_EVERY_S = 15.0
# auto: a Go that is too old for go.mod fetches the right toolchain through the module proxy.
_GO = {"GOTOOLCHAIN": "auto", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off"}


class CannotBuild(Exception):
    """Why the programs cannot be had on this machine, in words for people."""


@dataclass(frozen=True)
class GoProject:
    """`folder` holds go.mod and go.sum; `packages` maps names of programs to import paths. `tells` begins every line of progress, and
    `about` says what is built, and how long it takes."""

    name: str
    folder: Path
    packages: Mapping[str, str]
    flags: tuple[str, ...]
    cgo: bool
    tells: str
    about: str

    def built(self, names: Iterable[str], *, build: bool) -> dict[str, Path]:
        """Name → executable. Builds what is missing, telling progress on stderr, or raises CannotBuild when `build` is false."""
        names = tuple(names)
        folder = self.cache_folder()
        absent = [name for name in names if not (folder / name).exists()]
        if absent and not build:
            raise CannotBuild(f"not built yet: {', '.join(absent)}; run: make test")
        if absent:
            self._build_all(folder, absent)
        return {name: folder / name for name in names}

    def cache_folder(self) -> Path:
        """Where the programs of these pins and this Go lie."""
        base = os.environ.get("KNHK_CACHE")
        files = (self.folder / "go.mod", self.folder / "go.sum", *sorted(self.folder.glob("*.go")))
        pins = (file.read_bytes() for file in files)
        key = hashlib.sha256()
        for part in (*pins, " ".join(self.flags).encode(), self._go_version().encode()):
            key.update(len(part).to_bytes(8, "big") + part)
        return (Path(base) if base else Path.home() / ".cache" / "knhk") / self.name / key.hexdigest()[:16]

    def module_folder(self, module: str) -> Path:
        """Where the sources of a pinned module lie; fetched if they are not there."""
        self._go("mod", "download", module)
        return Path(self._go("list", "-m", "-f", "{{.Dir}}", module).strip())

    def _go(self, *words: str) -> str:
        done = subprocess.run(["go", *words], cwd=self.folder, env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotBuild(f"go: {done.stderr.strip()[-500:]}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **_GO, "CGO_ENABLED": "1" if self.cgo else "0"}

    def _go_version(self) -> str:
        if shutil.which("go") is None:
            raise CannotBuild("the go command is absent: install Go 1.21 or newer")
        return self._go("env", "GOVERSION").strip()

    def _build_all(self, folder: Path, names: list[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / ".lock"):
            left = [name for name in names if not (folder / name).exists()]
            if left:
                self._tell(f"building {', '.join(left)} of {self.about}, once, into {folder}")
            for name in left:
                self._build(folder, name)

    def _build(self, folder: Path, name: str) -> None:
        """One program, under a temporary name until it is whole."""
        temporary = folder / f".{name}.{os.getpid()}"
        command = ["go", "build", "-v", *self.flags, "-o", str(temporary), self.packages[name]]
        start_s = time.monotonic()
        said: list[str] = []
        done = threading.Event()
        teller = threading.Thread(target=self._tell_progress, args=(name, said, done, start_s), daemon=True)
        with subprocess.Popen(command, cwd=self.folder, env=self._environment(), stderr=subprocess.PIPE, text=True) as process:
            teller.start()
            assert process.stderr is not None
            for line in process.stderr:
                said.append(line)
            code = process.wait()
        done.set()
        teller.join()
        if code != 0:
            temporary.unlink(missing_ok=True)
            raise CannotBuild(f"go build {self.packages[name]} ended with {code}:\n{''.join(said[-20:])}")
        temporary.rename(folder / name)
        self._tell(f"{name}: built in {time.monotonic() - start_s:.0f} s, {(folder / name).stat().st_size >> 20} MiB")

    def _tell_progress(self, name: str, said: list[str], done: threading.Event, start_s: float) -> None:
        while not done.wait(TELL_EVERY_S):
            self._tell(f"{name}: {time.monotonic() - start_s:.0f} s, {len(said)} packages compiled")

    def _tell(self, line: str) -> None:
        print(f"{self.tells}: {line}", file=sys.stderr, flush=True)


def pinned(folder: Path, module: str) -> str:
    """The version of a module in the go.mod of a folder. Raises CannotBuild."""
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", (folder / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise CannotBuild(f"go.mod must name {module}")
    return found[1]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One builder at a time, whatever process it is in; the others find everything there."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
