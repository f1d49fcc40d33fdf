"""Entry point; see the package."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from knhk.adapters.certificate_files import MOUNTED, CertificateFiles
from knhk.model.faults import KnhkError
from knhk.receipts.server import application
from knhk.wiring.receipts import LogPlace, Options, serve

OF_LOG = (
    ("log-ca", "authority of the log's server"),
    ("log-certificate", "own certificate for the log"),
    ("log-key", "its private key"),
)


def main(argv: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m knhk.receipts", description="Serves decision receipts of a log through the Kubernetes API (receipts.knhk.dev)"
    )
    parser.add_argument("--address", default="0.0.0.0", help="IP address; default: all")
    parser.add_argument("--port", type=int, default=8446, help="TCP port; 0: a free one, which is printed (default: %(default)s)")
    parser.add_argument("--kubeconfig", type=Path, help="which cluster; default: the one that this pod runs in")
    parser.add_argument("--log", required=True, help="URL of the log, or its folder")
    parser.add_argument("--index", type=Path, required=True, help="file of the index; made from the log when it is missing")
    for name, file, doc in MOUNTED:
        parser.add_argument(f"--{name}", type=Path, default=file, help=f"{doc}, PEM; looked at every 5 s (default: %(default)s)")
    for name, doc in OF_LOG:
        parser.add_argument(f"--{name}", type=Path, help=f"{doc}, PEM; read anew every second")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    files = CertificateFiles(args.certificate, args.key, args.authority)
    log = LogPlace(args.log, args.log_ca, args.log_certificate, args.log_key)
    options = Options(args.address, args.port, args.kubeconfig, files, log, args.index)
    try:
        asyncio.run(serve(options, application, lambda address: print(address, flush=True)))
    except (KnhkError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
