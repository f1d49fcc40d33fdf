"""Entry point; see the package."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from knhk.adapters.certificate_files import CertificateFiles
from knhk.builder.server import health, orders
from knhk.model.faults import KnhkError
from knhk.wiring.builder import Options, serve

CERTIFICATES = Path("/etc/knhk/serving")
OPERATOR = "spiffe://knhk.dev/component/knhk-operator"


def main(argv: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m knhk.builder", description="Reflex Enterprise's builder of packs and data bundles")
    parser.add_argument("--keys", type=Path, required=True, help="folder with build.key and data.key; nothing is made there")
    parser.add_argument("--registry", required=True, help="where packs go: https://HOST[:PORT]/REPOSITORY")
    parser.add_argument("--registry-auth", type=Path, help="docker config.json with credentials for it")
    parser.add_argument("--registry-ca", type=Path, help="authorities of the registry beside the system's, PEM")
    parser.add_argument("--scratch", type=Path, help="folder that may be written, when the rest may not: objects and caches")
    parser.add_argument("--workers", type=int, default=2, help="builds at the same time; default 2")
    parser.add_argument("--queue", type=int, default=256, help="orders that may wait; default 256")
    parser.add_argument("--seconds", type=float, default=180.0, help="what one build may take; default 180")
    parser.add_argument("--grace", type=float, default=3600.0, help="seconds until what no revision needs is taken away; default 3600")
    parser.add_argument("--address", default="0.0.0.0", help="IP address; default: all")
    parser.add_argument("--port", type=int, default=8444, help="TCP port; 0: a free one, which is printed")
    parser.add_argument("--health-port", type=int, default=8080, help="TCP port of /healthz, /readyz and /metrics; 0: a free one")
    parser.add_argument("--certificate", type=Path, default=CERTIFICATES / "tls.crt", help="certificate chain, PEM; looked at every 5 s")
    parser.add_argument("--key", type=Path, default=CERTIFICATES / "tls.key", help="its private key, PEM")
    parser.add_argument(
        "--authority", type=Path, default=CERTIFICATES / "ca.crt", help="the authorities that clients must show one of, PEM"
    )
    parser.add_argument("--client", action="append", help=f"URI in the certificate of who may order; default {OPERATOR}")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options = Options(
        keys=args.keys,
        registry=args.registry,
        auth=args.registry_auth,
        authorities=args.registry_ca,
        scratch=args.scratch,
        workers=args.workers,
        queue=args.queue,
        seconds=args.seconds,
        grace_s=args.grace,
        address=args.address,
        port=args.port,
        health_port=args.health_port,
        certificates=CertificateFiles(args.certificate, args.key, args.authority),
    )
    clients = args.client or [OPERATOR]
    try:
        asyncio.run(serve(options, lambda workers, retire: orders(workers, retire, clients), health, lambda line: print(line, flush=True)))
    except (KnhkError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
