"""Entry point; see the package."""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
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


UNITS = {"": 1, "k": 1000, **{unit: 1000**power for power, unit in enumerate("MGTPE", 2)}}
UNITS |= {f"{unit}i": 1 << 10 * power for power, unit in enumerate("KMGTPE", 1)}


def _bytes(text: str) -> int:
    """Of a quantity of Kubernetes, as sizeLimit takes it. Raises ArgumentTypeError."""
    found = re.fullmatch(r"([0-9]{1,19}(?:\.[0-9]{1,18})?(?:[eE]\+?[0-9]{1,2})?)([A-Za-z]{0,2})", text)
    if found is None or found[2] not in UNITS or (size := int(float(found[1]) * UNITS[found[2]])) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of bytes, such as 32Gi")
    return size


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
    parser.add_argument(
        "--index-bound", type=_bytes, metavar="32Gi", help="room for it, that of its volume: what comes near it is warned of"
    )
    for name, file, doc in MOUNTED:
        parser.add_argument(f"--{name}", type=Path, default=file, help=f"{doc}, PEM; looked at every 5 s (default: %(default)s)")
    for name, doc in OF_LOG:
        parser.add_argument(f"--{name}", type=Path, help=f"{doc}, PEM; read anew every second")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    files = CertificateFiles(args.certificate, args.key, args.authority)
    log = LogPlace(args.log, args.log_ca, args.log_certificate, args.log_key)
    options = Options(args.address, args.port, args.kubeconfig, files, log, args.index, args.index_bound)
    try:
        asyncio.run(serve(options, application, lambda address: print(address, flush=True)))
    except (KnhkError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
