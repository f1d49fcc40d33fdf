"""python -m knhk_verify --root ROOT EVIDENCE…: verify receipts, checkpoints, consistency proofs and audit bundles, offline."""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from knhk_verify.errors import Bad, demand
from knhk_verify.evidence import Evidence
from knhk_verify.note import COSIGNATURE, parse_vkey, unb64
from knhk_verify.signed import MAX_KEYS_BYTES, parse_time

FOLDERS = ("receipts", "checkpoints", "consistency")  # of an audit bundle


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_KEYS_BYTES + 1)  # one byte too many is refused


def main(argv: list[str] | None = None) -> int:
    """Exit status, see --help."""
    told = "Exit status: 0 all verifies; 1 something does not; 2 usage, or a file that cannot be read. Formats: formats/receipt.md."
    parser = argparse.ArgumentParser(prog="python -m knhk_verify", description="Verify evidence of a log, offline.", epilog=told)
    parser.add_argument("evidence", nargs="+", type=Path, help="receipt, checkpoint, consistency proof, or the folder of an audit bundle")
    parser.add_argument("--root", required=True, help="pinned root key, from a source that you trust: base64, or a file with it")
    parser.add_argument("--keys", type=Path, help="keys.json (default: the one in the folder of the first evidence)")
    parser.add_argument("--at", help="time at which keys must be valid, as 2027-01-01T00:00:00Z (default: now)")
    parser.add_argument("--witness", action="append", default=[], type=lambda text: parse_vkey(text, COSIGNATURE), help="a vkey to trust")
    parser.add_argument("--quorum", type=int, choices=range(1, 201), metavar="K", help="so many witnesses are enough (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per step")
    args = parser.parse_args(argv)
    try:
        root = _read(Path(args.root)).decode("ascii", "replace") if Path(args.root).exists() else args.root
        keys = _read(args.keys or (args.evidence[0] if args.evidence[0].is_dir() else args.evidence[0].parent) / "keys.json")
        now = parse_time(args.at, "--at") if args.at else datetime.now(UTC)
        evidence = Evidence(unb64(root.strip(), "--root"), keys, now, args.witness, args.quorum or len(args.witness))
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
        print(json.dumps(step._asdict()) if args.json else f"{'ok ' if step.ok else 'BAD'} {step.what} [{step.key}]: {step.detail}")
    return 0 if all(step.ok for step in evidence.steps) else 1


if __name__ == "__main__":
    sys.exit(main())
