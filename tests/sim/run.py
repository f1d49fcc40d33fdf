"""Plays seeds, on every core, until one breaks a law; or one seed again, with its trace.

    python tests/sim/run.py [--world WORLD] [--start S] [--seeds N] [--processes P] [--tail LINES]
    python tests/sim/run.py [--world WORLD] --seed S

A seed and a commit give the same run on every machine.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS / folder) for folder in ("sim", "sim_log", "sim_witness", "storage", "reconcilers", "store")]

AT_ONCE = 20
CONTROL_PLANE = "control-plane"
WORLDS = {CONTROL_PLANE: "simulation", "log": "log_simulation", "regions": "regions"}  # name → module with `play`


class Outcome(Protocol):
    """How one seed ended. `broken`: what is wrong, and `law`: the name of the law that says so; both empty when all hold."""

    @property
    def seed(self) -> int: ...
    @property
    def law(self) -> str: ...
    @property
    def broken(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def trace(self) -> tuple[str, ...]: ...


def played(seed: int, traced: bool = False, focus: Mapping[str, float] = MappingProxyType({}), world: str = CONTROL_PLANE) -> Outcome:
    """How a seed of a world ends."""
    outcome: Outcome = importlib.import_module(WORLDS[world]).play(seed, traced, focus)
    return outcome


def outcomes(seeds: Sequence[int], processes: int, focus: Mapping[str, float], world: str) -> Iterator[Outcome]:
    """How each seed ended, as they end."""
    one = partial(played, focus=dict(focus), world=world)
    if processes == 1:
        yield from map(one, seeds)
        return
    with get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(one, seeds, AT_ONCE)


def replayed(seed: int, tail: int, focus: Mapping[str, float] = MappingProxyType({}), world: str = CONTROL_PLANE) -> str:
    """The trace of a seed, its last lines, and how it ended."""
    outcome = played(seed, True, focus, world)
    shown = outcome.trace[-tail:] if tail else outcome.trace
    left = len(outcome.trace) - len(shown)
    head = [f"… {left} lines before (--tail 0 shows all)"] if left else []
    end = f"seed {seed}: {outcome.broken or 'every law holds'}" + (f" (law {outcome.law})" if outcome.law else "")
    which = "" if world == CONTROL_PLANE else f" --world {world}"
    again = f"again: .venv/bin/python tests/sim/run.py{which} --seed {seed}" + "".join(
        f" --focus {name}={rate}" for name, rate in focus.items()
    )
    return "\n".join([*head, "step time_s what", *shown, end, again])


def search(start: int, count: int, processes: int, tail: int, focus: Mapping[str, float], world: str) -> int:
    """Exit code: 0 when no seed breaks a law."""
    began, done, steps = time.monotonic(), 0, 0
    told = began
    for outcome in outcomes(range(start, start + count), processes, focus, world):
        done, steps = done + 1, steps + outcome.steps
        if outcome.law:
            print(replayed(outcome.seed, tail, focus, world))
            print(f"failing seed {outcome.seed}, after {done} seeds, by law {outcome.law}")
            return 1
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{done} of {count} seeds, {done / (told - began):.1f} seeds/s", flush=True)
    spent = time.monotonic() - began
    print(f"seeds {start} to {start + count - 1}: every law holds; {done / spent:.1f} seeds/s, {steps} steps, {spent:.1f} s")
    return 0


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="deterministic simulation of the control plane, of a log, or of regions")
    parser.add_argument("--world", choices=sorted(WORLDS), default=CONTROL_PLANE)
    parser.add_argument("--seed", type=int, help="play this seed alone and print its trace")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--focus", action="append", default=[], metavar="NAME=RATE", help="a member of the weather that the seed does not draw"
    )
    parser.add_argument("--tail", type=int, default=150, help="lines of the trace that are shown, 0 for all")
    args = parser.parse_args(argv)
    focus = {name: float(rate) for name, _, rate in (text.partition("=") for text in args.focus)}
    if args.seed is None:
        return search(args.start, args.seeds, args.processes, args.tail, focus, args.world)
    told = replayed(args.seed, args.tail, focus, args.world)
    print(told)
    return 0 if "every law holds" in told.splitlines()[-2] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
