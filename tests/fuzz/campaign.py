"""One search over all harnesses of docs/fuzzing.md: ``python tests/fuzz/campaign.py [--minutes N] [--jobs N] [HARNESS …]``.

The minutes are wall time of the whole, builds included; each harness gets its share of what is left when its turn comes. A harness that
meets a crash, a time-out or too much memory ends, the others go on. Prints a table for docs/fuzzing.md; exit 1 when something was found
or a harness had no turn, with the folder that holds the input and the report."""

from __future__ import annotations

import argparse
import os
import platform
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import search
from parsers import PARSERS

from knhk_hot import fuzz
from knhk_hot.toolchain import cache_root

HERE = Path(__file__).resolve().parent
LONG = {
    "decide": 6,
    "batch": 6,
    "xml": 5,
    "host": 4,
    "ntriples": 3,
    "bundle": 2,
}  # shares of time; a parser of authors' texts has 2, the others 1
COMPILED = {"shapes", "abac", "ask", "construct", "mapping", "rml", "jsonld", "resources", "image"}
TABLES_SHARE = 6
PATIENCE_S = fuzz.INPUT_SECONDS + 10  # after its time: libFuzzer looks at the clock between inputs only
BROKEN = ("crash-", "timeout-", "oom-", "leak-")  # how libFuzzer names an input
Command = Callable[[int, int, Path], list[str]]
_running: set[int] = set()  # process groups


@dataclass(frozen=True)
class Harness:
    """`command` makes the command line of seconds, seed and the folder for what breaks something."""

    name: str
    share: int
    command: Command


@dataclass(frozen=True)
class Outcome:
    harness: Harness
    folder: Path
    counted: fuzz.Search | None  # None: it had no turn
    faults: tuple[str, ...]


def harnesses() -> list[Harness]:
    """All, those with the largest share first."""
    made = [Harness("tables", TABLES_SHARE, _tables)]
    made += [Harness(name, LONG.get(name, 1), _driver(name)) for name in fuzz.DRIVERS]
    made += [Harness(f"parser {name}", 2 if name in COMPILED else 1, _parser(name)) for name in PARSERS]
    return sorted(made, key=lambda harness: -harness.share)


def _tables(seconds: int, seed: int, place: Path) -> list[str]:
    return [sys.executable, str(HERE / "tables.py"), "--seconds", str(seconds), "--seed", str(seed), "--artifacts", str(place)]


def _driver(name: str) -> Command:
    return lambda seconds, seed, place: fuzz.command(name, seconds, seed, place)


def _parser(name: str) -> Command:
    return lambda seconds, seed, place: search.command(name, seconds, seed, place)


def run(harness: Harness, seconds: int, seed: int, folder: Path) -> Outcome:
    """One search; its report is in `folder`, what breaks something in a folder below."""
    place = folder / harness.name.replace(" ", "-")
    log, begun = place.with_suffix(".log"), time.monotonic()
    place.mkdir(parents=True)
    with log.open("wb") as said:
        try:
            status = _ended(harness.command(seconds, seed, place), place, said, seconds + PATIENCE_S)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # it could not be built or started: the others go on
            return Outcome(harness, place, None, (f"no start: {error}"[:200].replace("\n", " "),))
    text = log.read_text(errors="replace")
    counted = fuzz.Search.read(text) or fuzz.search_of(text)
    return Outcome(harness, place, replace(counted, seconds=round(time.monotonic() - begun)), _faults(place, status))


def _ended(line: list[str], place: Path, said: BinaryIO, seconds: float) -> int | None:
    """Exit status of a process group of its own; None when it had to be ended."""
    child = subprocess.Popen(line, cwd=place, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
    _running.add(child.pid)
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _running.discard(child.pid)
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _faults(place: Path, status: int | None) -> tuple[str, ...]:
    inputs = sorted(path.name for path in place.rglob("*") if path.name.startswith(BROKEN))
    kinds = tuple(name.partition("-")[0] for name in inputs)
    return kinds or (() if status == 0 else ("did not end",) if status is None else (f"exit {status}",))


class Campaign:
    """Hands out time: each harness its share of what all workers have left."""

    def __init__(self, todo: list[Harness], deadline: float, jobs: int, seed: int, folder: Path) -> None:
        self._todo, self._deadline, self._seed, self._folder = list(todo), deadline, seed, folder
        self._busy_until = dict.fromkeys(range(jobs), 0.0)
        self._lock = threading.Lock()
        self._total = len(todo)
        self._start_s = 2.0  # what a search takes beyond its time: imports, inputs that are run first
        self.outcomes: list[Outcome] = []

    def _next(self, worker: int) -> tuple[Harness, int] | None:
        """A harness and its seconds, which are 0 when the time is over."""
        with self._lock:
            if not self._todo:
                return None
            now = self._busy_until[worker] = time.monotonic()
            left = sum(max(0.0, self._deadline - max(now, until)) for until in self._busy_until.values())
            shares, harness = sum(harness.share for harness in self._todo), self._todo.pop(0)
            beyond = self._start_s * (len(self._todo) + 1)
            turn = min(max(0.0, left - beyond) * harness.share / shares + self._start_s, self._deadline - now)
            self._busy_until[worker] = now + turn
            return harness, max(1, int(turn - self._start_s)) if turn > 0 else 0

    def stop(self) -> None:
        """No harness begins any more, and those that run end now."""
        with self._lock:
            self._todo.clear()
        for group in list(_running):
            os.killpg(group, signal.SIGKILL)

    def _end(self, outcome: Outcome, asked: int) -> None:
        with self._lock:
            self.outcomes.append(outcome)
            if outcome.counted is not None:
                self._start_s += (max(0, outcome.counted.seconds - asked) - self._start_s) / 4
            minutes = max(0.0, self._deadline - time.monotonic()) / 60
            found = ", ".join(outcome.faults) or "nothing found"
            say(f"[{len(self.outcomes)}/{self._total}, {minutes:.1f} min left] {outcome.harness.name}: {outcome.counted or 0}: {found}")

    def work(self, worker: int) -> None:
        """Runs harnesses until none is left."""
        while (turn := self._next(worker)) is not None:
            harness, seconds = turn
            if seconds == 0:
                self._end(Outcome(harness, self._folder, None, ("no turn",)), 0)
                continue
            say(f"{harness.name}: {seconds} s")
            self._end(run(harness, seconds, self._seed, self._folder), seconds)


def say(text: str) -> None:
    print(f"fuzz: {text}", flush=True)


def table(outcomes: list[Outcome]) -> str:
    """Markdown, in the order in which the harnesses are named."""
    order = {harness.name: i for i, harness in enumerate(harnesses())}
    rows = ["| harness | runs | edges | features | inputs | seconds | found |", "|---|---|---|---|---|---|---|"]
    for outcome in sorted(outcomes, key=lambda outcome: order[outcome.harness.name]):
        c = outcome.counted or fuzz.Search(0, 0, 0, 0, 0)
        numbers = " | ".join(f"{n:,}" for n in (c.runs, c.edges, c.features, c.inputs, c.seconds))
        rows.append(f"| {outcome.harness.name} | {numbers} | {', '.join(outcome.faults) or '–'} |")
    runs, seconds = (sum(getattr(o.counted, field) for o in outcomes if o.counted) for field in ("runs", "seconds"))
    faults = sum(len(o.faults) for o in outcomes)
    return "\n".join([*rows, f"| **all** | {runs:,} | | | | {seconds:,} | {faults or '–'} |"])


def circumstances(begun: datetime, wall_s: float, jobs: int, seed: int) -> str:
    """The sentence before the table."""
    clang = subprocess.run([fuzz.compiler(fuzz.GUIDED), "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=HERE, capture_output=True, text=True, check=False).stdout
    model = next(iter(re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())), platform.machine())
    when = f"{begun:%Y-%m-%d, %H:%M} to {datetime.now(UTC):%H:%M} UTC: {wall_s / 60:.1f} minutes of wall time, builds included"
    where = f"{jobs} searches at a time on {model} with {os.cpu_count()} cores; {clang}"
    return f"{when}, {where}; seed {seed}; commit {commit}{', changed since' if changed else ''}."


def main() -> int:
    parser = argparse.ArgumentParser(description="Searches all harnesses for a total of wall time.")
    parser.add_argument("harnesses", nargs="*", help="all when none is named")
    parser.add_argument("--minutes", type=float, default=60, help="wall time of the whole")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="searches at a time")
    parser.add_argument("--seed", type=int, default=secrets.randbits(31), help="of libFuzzer")
    options = parser.parse_args()
    clock, begun = time.monotonic(), datetime.now(UTC)
    todo = [harness for harness in harnesses() if not options.harnesses or harness.name in options.harnesses]
    if not todo:
        parser.error(f"harnesses are {', '.join(harness.name for harness in harnesses())}")
    folder = cache_root() / "fuzz-campaigns" / f"{begun:%Y%m%dT%H%M%SZ}"
    folder.mkdir(parents=True)
    say(f"{len(todo)} harnesses, {options.minutes:g} minutes, seed {options.seed}, {folder}")
    try:
        for name in fuzz.DRIVERS:
            fuzz.build_driver(fuzz.GUIDED, name)
    except fuzz.NoSanitizer as error:
        say(str(error))
        return 1
    campaign = Campaign(todo, clock + 60 * options.minutes, options.jobs, options.seed, folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            list(pool.map(campaign.work, range(options.jobs)))
        except KeyboardInterrupt:
            campaign.stop()
            raise
    text = f"{circumstances(begun, time.monotonic() - clock, options.jobs, options.seed)}\n\n{table(campaign.outcomes)}\n"
    (folder / "table.md").write_text(text)
    print(f"\n{text}")
    broken = [outcome for outcome in campaign.outcomes if outcome.faults]
    for outcome in broken:
        say(f"{outcome.harness.name}: {', '.join(outcome.faults)}; see {outcome.folder}")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
