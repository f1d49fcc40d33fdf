"""python -m knhk_verify LOG_DIR [--vkey VKEY] [--root ROOT_PUB] [-o json|text]: verify a log folder offline."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from knhk_verify.errors import Bad
from knhk_verify.log import Report, report_json, verify_log
from knhk_verify.note import unb64
from knhk_verify.signed import member, parse_json


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m knhk_verify",
        description="Recompute a log from its entries up and say what does not fit. Exit 0: all verifies; 1: something does not; 2: usage.",
        epilog="example: python -m knhk_verify ./log --vkey 'knhk.dev/local+0123abcd+AQ…' --root 'base64…' -o json",
    )
    parser.add_argument("log_dir", type=Path, help="folder with checkpoint and tile/")
    parser.add_argument("--vkey", help="trusted checkpoint key, name+hexid+base64 (default: that of meta.json: shows damage, not forgery)")
    parser.add_argument("--root", help="pinned root key of keys.json, base64 (default: root.pub in the folder, with the same limit)")
    parser.add_argument("-o", "--output", choices=("json", "text"), default="json" if not sys.stdout.isatty() else "text")
    return parser.parse_args(argv)


def _text(report: Report) -> str:
    lines = [f"size {report.size}  root {report.root}", f"receipts {report.receipts}  leaves {report.leaves}  events {report.events}"]
    lines += [f"note  {note['where']}: {note['what']}" for note in report.notes]
    lines += [f"BAD   {bad['where']}: {bad['what']}" for bad in report.bad]
    return "\n".join([*lines, "all verifies" if not report.bad else f"{len(report.bad)} things do not verify"])


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 all verifies, 1 something does not, 2 the arguments are wrong."""
    args = _arguments(argv)
    try:
        meta = args.log_dir / "meta.json"
        vkey = args.vkey or member(parse_json(meta.read_bytes(), "meta.json"), "vkey", str, "meta.json")
        report = verify_log(args.log_dir, vkey, unb64(args.root, "--root") if args.root else None)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}: give --vkey, or a folder with meta.json", file=sys.stderr)
        return 2
    except Bad as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(report_json(report), indent=1) if args.output == "json" else _text(report))
    return 1 if report.bad else 0


if __name__ == "__main__":
    sys.exit(main())
