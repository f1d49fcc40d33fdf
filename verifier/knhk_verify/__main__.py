"""python -m knhk_verify --root ROOT EVIDENCE…: verify receipts, checkpoints, consistency proofs and audit bundles, offline."""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from knhk_verify.errors import Bad, demand
from knhk_verify.evidence import Evidence
from knhk_verify.note import unb64
from knhk_verify.signed import MAX_BYTES, parse_time

FOLDERS = ("receipts", "checkpoints", "consistency")  # of an audit bundle
HELP = "Exit status: 0 all verifies; 1 something does not; 2 usage, or a file that cannot be read. Formats: formats/receipt.md."


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m knhk_verify", description="Verify evidence of a log, offline.", epilog=HELP)
    parser.add_argument("evidence", nargs="+", type=Path, help="receipt, checkpoint, consistency proof, or the folder of an audit bundle")
    parser.add_argument("--root", required=True, help="pinned root key, from a source that you trust: base64, or a file with it")
    parser.add_argument("--keys", type=Path, help="keys.json (default: the one in the folder of the first evidence)")
    parser.add_argument("--at", help="time at which keys must be valid, as 2027-01-01T00:00:00Z (default: now)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per step")
    return parser.parse_args(argv)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)  # one byte too many is refused


def main(argv: list[str] | None = None) -> int:
    """Exit status, see HELP."""
    args = _arguments(argv)
    first: Path = args.evidence[0]
    try:
        root = _read(Path(args.root)).decode("ascii", "replace") if Path(args.root).exists() else args.root
        keys = _read(args.keys or (first if first.is_dir() else first.parent) / "keys.json")
        evidence = Evidence(unb64(root.strip(), "--root"), keys, parse_time(args.at, "--at") if args.at else datetime.now(UTC))
        for given in args.evidence:
            files = [path for name in FOLDERS for path in sorted((given / name).glob("*"))] if given.is_dir() else [given]
            demand(bool(files), str(given), f"holds no evidence: must have files in {', '.join(FOLDERS)}")
            for path in files:
                evidence.add(_read(path), str(path))
    except (OSError, Bad) as error:
        print(error, file=sys.stderr)
        return 2
    evidence.together()
    for step in evidence.steps:
        print(json.dumps(vars(step)) if args.json else f"{'ok ' if step.ok else 'BAD'} {step.what} [{step.key}]: {step.detail}")
    return 0 if all(step.ok for step in evidence.steps) else 1


if __name__ == "__main__":
    sys.exit(main())
