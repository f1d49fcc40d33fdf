"""Searches for inputs that break a parser's invariant, by libFuzzer with the coverage of our Python (atheris), and keeps the few that
together reach what all reach: ``python tests/fuzz/search.py [--seconds N] [--minimise] [PARSER …]``."""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from knhk_hot.fuzz import KEPT_MAX, Search, libfuzzer_options, search_of
from knhk_hot.toolchain import cache_root

HERE = Path(__file__).resolve().parent
OURS = ("knhk", "knhk_gen", "knhk_runtime", "knhk_verify")
OURS_AT = tuple(f"{os.sep}{name}{os.sep}" for name in OURS)
Arc = tuple[str, int, int]


def found(name: str) -> Path:
    """Folder of what searches found, outside the repository."""
    return cache_root() / "fuzz-found" / f"python-{name}"


def broken(name: str) -> Path:
    """Folder of inputs that broke something."""
    return cache_root() / "fuzz-broken" / f"python-{name}"


def begins(name: str) -> Iterator[bytes]:
    """Seeds and kept inputs."""
    from parsers import CORPUS, PARSERS

    yield from PARSERS[name].seeds()
    yield from _contents(CORPUS / name)


def _contents(folder: Path) -> Iterator[bytes]:
    return (path.read_bytes() for path in sorted(folder.iterdir())) if folder.is_dir() else iter(())


def digest(data: bytes) -> str:
    """The name of an input, as libFuzzer gives it."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def command(name: str, seconds: int, seed: int, artifacts: Path) -> list[str]:
    """A search in a process of its own; an input that breaks something is then a file in `artifacts`."""
    return [sys.executable, str(HERE / "search.py"), "--inside", str(artifacts), "--seconds", str(seconds), "--seed", str(seed), name]


def search(name: str, seconds: int, seed: int) -> Search:
    """Runs `command`. Raises CalledProcessError with the traceback; the input is then in the folder `broken`."""
    line = command(name, seconds, seed, broken(name))
    done = subprocess.run(line, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, line, done.stdout, done.stderr)
    return search_of(done.stderr)


def _inside(name: str, seconds: int, seed: int, artifacts: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=list(OURS), enable_loader_override=False):
        import parsers
    folder = found(name)
    for place in (folder, artifacts):
        place.mkdir(parents=True, exist_ok=True)
    for data in begins(name):
        (folder / digest(data)).write_bytes(data)
    atheris.Setup([sys.argv[0], *libfuzzer_options(seconds, seed, artifacts), str(folder)], lambda data: parsers.run(name, data))
    atheris.Fuzz()


# ---- the kept corpus ------------------------------------------------------------------------------------


class Arcs:
    """Which line followed which, in our code, while it is entered."""

    def __init__(self) -> None:
        self.seen: set[Arc] = set()

    def __enter__(self) -> Arcs:
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        if not any(part in file for part in OURS_AT):
            return None
        last = [-frame.f_code.co_firstlineno]

        def lines(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "line":
                self.seen.add((file, last[0], frame.f_lineno))
                last[0] = frame.f_lineno
            return lines

        return lines


def minimise(name: str) -> tuple[int, int]:
    """Makes the kept corpus of a parser anew: shortest first, each that reaches an arc that no shorter one did. Returns (inputs, arcs)."""
    from parsers import CORPUS, run

    seen: set[Arc] = set()
    kept: list[bytes] = []
    reached = {data for data in (*begins(name), *_contents(found(name))) if len(data) <= KEPT_MAX}
    for data in sorted(reached, key=lambda data: (len(data), data)):
        with Arcs() as arcs:
            run(name, data)
        if not arcs.seen <= seen:
            seen |= arcs.seen
            kept.append(data)
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if not path.name.startswith("was-"):  # inputs that once broke something stay
            path.unlink()
    for data in kept:
        (folder / digest(data)[:16]).write_bytes(data)
    return len(kept), len(seen)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzzes the parsers of the Python parts.")
    parser.add_argument("parsers", nargs="*", help="all when none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each parser")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer")
    parser.add_argument("--minimise", action="store_true", help="make the kept corpus anew from what searches found")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        _inside(options.parsers[0], options.seconds, options.seed, options.inside)
    from parsers import PARSERS

    failed = 0
    for name in options.parsers or PARSERS:
        if options.minimise:
            print("fuzz: {}: {} inputs kept, {} arcs".format(name, *minimise(name)), flush=True)
            continue
        try:
            print(f"fuzz: {name}: {search(name, options.seconds, options.seed)}", flush=True)
        except subprocess.CalledProcessError as error:
            failed += 1
            print(error.stderr[-4000:], file=sys.stderr)
            print(f"fuzz: {name} failed; its input is in {broken(name)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
