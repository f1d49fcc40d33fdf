"""`make bench`: runs the benches one after the other, prints their tables, writes bench/results/latest.json, latest.md and latest.svg."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.figures import Figures
from bench.machine import describe
from bench.plot import draw

RESULTS = Path(__file__).parent / "results"
BENCHES = {
    "kernels": ("guards", "the six kernels, packs of 64 and 1,024 guards"),
    "verdict": ("verdict", "JSON to verdict, beside OPA, Cedar, msgspec and others"),
    "dictionary": ("dictionary", "look-ups by perfect hash at 4,096 and a million keys, beside open addressing"),
    "memory": ("memory", "pages with prefault, mlock and neither; streams with non-temporal loads"),
    "leaf": ("leaf", "drain, leaf and hashes beside the decision"),
    "durable": ("durable", "receipts per second from ring to acknowledged append"),
    "rekor": ("rekor", "our sequencer beside Rekor v2's posix server"),
    "shim": ("shim", "Envoy plain and guarded, in pairs"),
    "durability": ("durability", "what a request waits for its receipt at each level of durability"),
    "shapes": ("shapes", "rows of the SHACL classification table: guards by the tables, the rest by the tier below"),
    "compile": ("compiling", "packs to both architectures, edit to first decision"),
    "sealing": ("sealing", "sealing O for its subject, opening it again"),
    "agent": ("agent", "memory, starts, CPU without traffic, verifier, replay"),
}
EPILOG = """examples:
  make bench                                    everything, about five minutes
  make bench BENCH_ARGS='--only verdict'        one bench; repeat --only for more
  .venv/bin/python -m bench --quick -o json     small sizes, JSON on stdout

exit: 0 when all benches ran, whatever their figures; 1 when one failed (said on stderr); 2 wrong arguments"""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    named = "; ".join(f"{name}: {what}" for name, (_, what) in BENCHES.items())
    parser.add_argument("--only", action="append", choices=BENCHES, metavar="NAME", help=named)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, figures mean little")
    parser.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="what goes to stdout (default: text)")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="where latest.json, latest.md and latest.svg go (default: bench/results)",
    )
    return parser.parse_args(argv)


def _run(name: str, quick: bool) -> Figures | None:
    """The figures of a bench, or None after its fault was told."""
    begun = time.monotonic()
    print(f"bench: {name} …", file=sys.stderr, flush=True)
    try:
        figures: Figures = importlib.import_module(f"bench.{BENCHES[name][0]}").run(quick)
    except Exception as error:
        print(f"bench: {name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return None
    print(f"bench: {name} took {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return figures


def text(head: dict[str, Any], tables: Sequence[Figures]) -> str:
    """The run as Markdown: machine and command, then a table for each bench."""
    lines = [f"- {name}: {value}" for name, value in head.items()]
    return "\n".join(["# Figures", "", *lines, "", *(table.markdown() for table in tables)])


def _draw(folder: Path, head: dict[str, Any], tables: Sequence[Figures]) -> None:
    try:
        draw(tables, f"{head['date']}, {head['processor']}: {head['command']}", folder / "latest.svg")
    except ImportError as error:
        print(f"bench: no plot: {error} (`make bench` installs it)", file=sys.stderr)


def _write(folder: Path, document: dict[str, Any], page: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    (folder / "latest.md").write_text(page)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: see --help."""
    args = _arguments(argv)
    names = args.only or list(BENCHES)
    given = [word for name in args.only or () for word in ("--only", name)] + (["--quick"] if args.quick else [])
    head = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "command": shlex.join(["python", "-m", "bench", *given]), **describe()}
    found = {name: _run(name, args.quick) for name in names}
    tables = [table for table in found.values() if table is not None]
    document = {"run": head, "benches": [table.document() for table in tables]}
    page = text(head, tables)
    _write(args.results, document, page)
    _draw(args.results, head, tables)
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n" if args.output == "json" else page)
    return 0 if len(tables) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
