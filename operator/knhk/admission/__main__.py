"""Entry point; see the package."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from aiohttp import web

from knhk.adapters.certificate_files import CertificateFiles
from knhk.adapters.kube_webhooks import configurations
from knhk.adapters.lowering_process import BoundedLowering
from knhk.admission.judges import Kinds
from knhk.admission.metrics import Metrics
from knhk.admission.server import application
from knhk.model.faults import KnhkError
from knhk.wiring.admission import Options, serve

CERTIFICATES = Path("/etc/knhk/serving")


def main(argv: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m knhk.admission", description="Reflex Enterprise's admission webhooks")
    commands = parser.add_subparsers(dest="command", required=True)
    served = commands.add_parser("serve", help="answer an API server until SIGTERM")
    served.add_argument("--address", default="0.0.0.0", help="IP address; default: all")
    served.add_argument("--port", type=int, default=9443, help="TCP port; 0: a free one, which is printed")
    served.add_argument("--kubeconfig", type=Path, help="which cluster; default: the one that this pod runs in")
    served.add_argument("--certificate", type=Path, default=CERTIFICATES / "tls.crt", help="certificate chain, PEM; looked at every 5 s")
    served.add_argument("--key", type=Path, default=CERTIFICATES / "tls.key", help="its private key, PEM")
    served.add_argument("--authority", type=Path, default=CERTIFICATES / "ca.crt", help="the authorities that signed it, PEM")
    printed = commands.add_parser("manifests", help="print the webhook configurations, to be applied")
    printed.add_argument("--namespace", default="knhk-system", help="namespace of this process")
    printed.add_argument("--service", default="knhk-admission", help="its Service")
    printed.add_argument("--port", type=int, default=443, help="port of the Service")
    printed.add_argument("--url", help="instead of a Service: where it answers, https://HOST:PORT")
    args = parser.parse_args(argv)
    return _print(args) if args.command == "manifests" else _serve(args)


def _print(args: argparse.Namespace) -> int:
    service = {"namespace": args.namespace, "name": args.service, "port": args.port}
    client = {"url": args.url} if args.url else {"service": service}
    sys.stdout.write(yaml.safe_dump_all(configurations(client, args.namespace), sort_keys=False, width=140))
    return 0


def _serve(args: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options = Options(args.address, args.port, args.kubeconfig, CertificateFiles(args.certificate, args.key, args.authority))
    try:
        asyncio.run(serve(options, _application, lambda address: print(address, flush=True)))
    except (KnhkError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _application(lowering: BoundedLowering, ready: Callable[[], str]) -> web.Application:
    kinds = Kinds(lowering)
    return application({"/parse": kinds.parsed, "/validate": kinds.lowered}, ready, Metrics())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
