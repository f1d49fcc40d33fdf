"""Entry point; see the package."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from knhk.adapters.certificate_files import MOUNTED, CertificateFiles
from knhk.model.faults import KnhkError, Stalled
from knhk.reconcilers.archiving import COMMIT_BYTES
from knhk.reconcilers.compacting import Policy
from knhk.reconcilers.ledger import KEEP_S
from knhk.wiring.archive import Guest, Options, nobody, serve


def main(argv: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m knhk.archive", description="Writes what agents recorded, as Parquet segments, to a folder or an S3"
    )
    parser.add_argument("--log-dir", type=Path, required=True, help="the log's folder: observations/ below it is archived")
    parser.add_argument("--store", required=True, help="where segments go: a folder, or s3://BUCKET/PREFIX (credentials: AWS_*)")
    parser.add_argument("--published", help="the store of the log's tiles, when they are not in its folder; empty: they are")
    parser.add_argument("--state", type=Path, help="folder for what can be made again; default LOG_DIR/archive")
    parser.add_argument("--remove", action="store_true", help="remove copies of outboxes that are archived")
    parser.add_argument("--interval-s", type=float, default=60.0, help="a commit at the latest after so many seconds; default 60")
    parser.add_argument("--commit-bytes", type=int, default=COMMIT_BYTES, help="and when so many bytes wait; default %(default)s")
    parser.add_argument("--target-bytes", type=int, default=Policy.target_bytes, help="of a segment that is merged; default %(default)s")
    parser.add_argument("--keep-s", type=float, default=KEEP_S, help="merged segments stay aside so long; default %(default)s")
    parser.add_argument("--erasures", metavar="HOST:PORT", help="erase for who may, there (formats/erasures.md); default: for nobody")
    parser.add_argument("--exchange", metavar="URL", help="with --erasures: who says who may, signs and tells: https://HOST:PORT")
    for name, file, doc in MOUNTED:
        parser.add_argument(f"--{name}", type=Path, default=file, help=f"with --erasures: {doc}, PEM (default: %(default)s)")
    parser.add_argument("--health", help="HOST:PORT of /healthz, /readyz and /metrics; default: a free port of loopback")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    state = args.state or args.log_dir / "archive"
    options = Options(
        args.log_dir,
        args.store,
        state,
        args.remove,
        args.interval_s,
        args.health,
        args.commit_bytes,
        args.published or None,
        Policy(args.target_bytes),
        args.keep_s,
    )
    try:
        serve(options, stop, tell, _guest(args, options))
    except (KnhkError, OSError) as error:
        print(f"archive: {error}", file=sys.stderr)
        return 1
    return 0


def tell(line: str) -> None:
    print(f"archive: {line}", file=sys.stderr, flush=True)


def _guest(args: argparse.Namespace, options: Options) -> Guest:
    """Raises Stalled."""
    if not args.erasures:
        return nobody
    from knhk.wiring.erasing_beside import Erasures, erasures  # an archive that erases for nobody needs no server

    host, _, port = args.erasures.rpartition(":")
    if not host or not port.isdecimal() or not args.exchange:
        raise Stalled("NoAddress", f"--erasures {args.erasures}: must be HOST:PORT, with --exchange https://HOST:PORT")
    said = Erasures(host, int(port), CertificateFiles(args.certificate, args.key, args.authority), args.exchange)
    return partial(erasures, said, options, tell)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
