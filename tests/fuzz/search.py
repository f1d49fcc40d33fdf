"""Searches for inputs that break a parser's invariant, by libFuzzer with the coverage of our Python (atheris), and keeps the few that
together reach what all reach: ``python tests/fuzz/search.py [--seconds N] [--minimise] [PARSER …]``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from knhk_hot.fuzz import INPUT_SECONDS, KEPT_MAX, MEMORY_MIB, Search, search_of
from knhk_hot.toolchain import cache_root

HERE = Path(__file__).resolve().parent
OURS = ("knhk", "knhk_gen", "knhk_runtime", "knhk_verify")
OURS_AT = tuple(f"{os.sep}{name}{os.sep}" for name in OURS)
EVERY_BYTES = 1 << 16
Arc = tuple[str, int, int]


def found(name: str) -> Path:
    """Folder of what searches found, outside the repository."""
    return cache_root() / "fuzz-found" / f"python-{name}"


def inputs(name: str) -> Iterator[bytes]:
    """Seeds, kept inputs and found ones."""
    from parsers import CORPUS, PARSERS

    yield from PARSERS[name].seeds()
    for folder in (CORPUS / name, found(name)):
        if folder.is_dir():
            yield from (path.read_bytes() for path in sorted(folder.iterdir()))


def search(name: str, seconds: int, seed: int) -> Search:
    """One search in a process of its own. Raises CalledProcessError with the traceback; the input is then beside the folder `found`."""
    command = [sys.executable, str(HERE / "search.py"), "--inside", name, "--seconds", str(seconds), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return search_of(done.stderr)


def _inside(name: str, seconds: int, seed: int) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=list(OURS), enable_loader_override=False):
        import parsers
    folder = found(name)
    folder.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(inputs(name)):
        (folder / f"seed-{i:04}").write_bytes(data)
    options = [f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={EVERY_BYTES}", f"-timeout={INPUT_SECONDS}", "-reload=0"]
    options += [f"-rss_limit_mb={MEMORY_MIB}", f"-artifact_prefix={folder.parent}/{name}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(folder)], lambda data: parsers.run(name, data))
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
    import hashlib

    from parsers import CORPUS, run

    seen: set[Arc] = set()
    kept: list[bytes] = []
    for data in sorted({data for data in inputs(name) if len(data) <= KEPT_MAX}, key=lambda data: (len(data), data)):
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
        (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()[:16]).write_bytes(data)
    return len(kept), len(seen)


def main() -> int:
    from parsers import PARSERS

    parser = argparse.ArgumentParser(description="Fuzzes the parsers of the Python parts.")
    parser.add_argument("parsers", nargs="*", help="all when none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each parser")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer")
    parser.add_argument("--minimise", action="store_true", help="make the kept corpus anew from what searches found")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    failed = 0
    for name in options.parsers or PARSERS:
        if options.minimise:
            print("fuzz: {}: {} inputs kept, {} arcs".format(name, *minimise(name)), flush=True)
            continue
        try:
            s = search(name, options.seconds, options.seed)
            print(f"fuzz: {name}: {s.runs} runs in {s.seconds} s, {s.edges} edges, {s.features} features, {s.inputs} inputs", flush=True)
        except subprocess.CalledProcessError as error:
            failed += 1
            print(error.stderr[-4000:], file=sys.stderr)
            print(f"fuzz: {name} failed; its input is in {found(name).parent}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    if "--inside" in sys.argv:
        at = sys.argv.index("--inside")
        _inside(sys.argv[at + 1], int(sys.argv[at + 3]), int(sys.argv[at + 5]))
    raise SystemExit(main())
