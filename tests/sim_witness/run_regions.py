"""Plays seeds until one breaks a law; or one seed again, with its trace.

python tests/sim_witness/run_regions.py [--start S] [--seeds N] [--tail LINES]
python tests/sim_witness/run_regions.py --seed S
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from regions import play


def replayed(seed: int, tail: int = 150) -> str:
    """The trace of a seed, its last lines, and how it ended."""
    outcome = play(seed, True)
    end = f"seed {seed}: {outcome.broken or 'every law holds'}" + (f" (law {outcome.law})" if outcome.law else "")
    again = f"again: .venv/bin/python tests/sim_witness/run_regions.py --seed {seed}"
    return "\n".join([*(outcome.trace[-tail:] if tail else outcome.trace), end, again])


def main(argv: Sequence[str]) -> int:
    """Exit code: 0 when no seed breaks a law."""
    parser = argparse.ArgumentParser(description="deterministic simulation of logs, witnesses and regions")
    parser.add_argument("--seed", type=int, help="play this seed alone and print its trace")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--tail", type=int, default=150, help="lines of the trace that are shown, 0 for all")
    args = parser.parse_args(argv)
    if args.seed is not None:
        told = replayed(args.seed, args.tail)
        print(told)
        return 0 if "every law holds" in told.splitlines()[-2] else 1
    began = time.monotonic()
    for seed in range(args.start, args.start + args.seeds):
        outcome = play(seed)
        if outcome.law:
            print(replayed(seed, args.tail))
            print(f"failing seed {seed}, after {seed - args.start + 1} seeds, by law {outcome.law}")
            return 1
    spent = time.monotonic() - began
    print(f"seeds {args.start} to {args.start + args.seeds - 1}: every law holds; {args.seeds / spent:.1f} seeds/s, {spent:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
