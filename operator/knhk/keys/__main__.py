"""Entry point; see the package."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from knhk.adapters.certificate_files import MOUNTED, CertificateFiles
from knhk.keys.metrics import Metrics
from knhk.keys.server import KeyService
from knhk.model.faults import KnhkError
from knhk.wiring.key_service import Options, serve
from knhk_runtime.subject_keys import Quota

OF_POINT, OF_NAMESPACE = 1_000_000, 3_000_000  # 231 bytes each on the disk: a year of windows fits into 10 GiB


def _many(text: str) -> int:
    if (found := int(text)) < 1:
        raise ValueError
    return found


def main(argv: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m knhk.keys", description="Keeps the keys of subjects, for guards that seal and readers that open (formats/keys.md)"
    )
    parser.add_argument("--address", default="0.0.0.0", help="IP address; default: all")
    parser.add_argument("--port", type=int, default=8448, help="TCP port; 0: a free one, which is printed (default: %(default)s)")
    parser.add_argument("--kubeconfig", type=Path, help="which cluster; default: the one that this pod runs in")
    parser.add_argument("--store", type=Path, required=True, help="folder of the key stores, one for each namespace; of one process")
    parser.add_argument("--keys", type=Path, required=True, help="folder with subjects.key, or a token.json for a key in a PKCS#11 token")
    parser.add_argument("--health", help="HOST:PORT of /healthz, /readyz and /metrics; default: a free port of loopback")
    for of, most in (("point", OF_POINT), ("namespace", OF_NAMESPACE)):
        doc = f"how many keys may be made of a {of} for a window of 30 days, destroyed ones counted (default: %(default)s)"
        parser.add_argument(f"--keys-of-{of}", type=_many, default=most, metavar="N", help=doc)
    for name, file, doc in MOUNTED:
        parser.add_argument(f"--{name}", type=Path, default=file, help=f"{doc}, PEM; looked at every 5 s (default: %(default)s)")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    files = CertificateFiles(args.certificate, args.key, args.authority)
    quota = Quota(args.keys_of_point, args.keys_of_namespace)
    options = Options(args.address, args.port, args.kubeconfig, files, args.store, args.keys, args.health or "127.0.0.1:0", quota)
    try:
        asyncio.run(serve(options, Metrics, KeyService, lambda address: print(address, flush=True)))
    except (KnhkError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
