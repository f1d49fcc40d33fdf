"""Entry point; see the package."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from aiohttp import web

from knhk.adapters.certificate_files import CertificateFiles
from knhk.admission.callers import Callers, networks
from knhk.admission.judges import Kinds, Pods
from knhk.admission.metrics import Metrics
from knhk.admission.objects import Objects
from knhk.admission.server import Doubt, Judge, application
from knhk.model.faults import KnhkError
from knhk.wiring.admission import Options, Parts, serve
from knhk_templates.kubernetes.guard import Surroundings

CERTIFICATES = Path("/etc/knhk/serving")  # Secret knhk-admission-tls, which the operator keeps renewed
TO_POINTS = Path("/etc/knhk/client")  # Secret knhk-admission-client, the same
FILES = (
    ("certificate", CERTIFICATES / "tls.crt", "certificate chain"),
    ("key", CERTIFICATES / "tls.key", "its private key"),
    ("authority", CERTIFICATES / "ca.crt", "the authorities that signed it"),
    ("point-certificate", TO_POINTS / "tls.crt", "certificate that points which judge objects are shown"),
    ("point-key", TO_POINTS / "tls.key", "its private key"),
    ("point-authority", TO_POINTS / "ca.crt", "the authorities that such points are trusted by"),
)


def main(argv: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m knhk.admission", description="Reflex Enterprise's admission webhooks")
    commands = parser.add_subparsers(dest="command", required=True)
    served = commands.add_parser("serve", help="answer an API server until SIGTERM")
    served.add_argument("--address", default="0.0.0.0", help="IP address; default: all")
    served.add_argument("--port", type=int, default=9443, help="TCP port; 0: a free one, which is printed")
    served.add_argument("--kubeconfig", type=Path, help="which cluster; default: the one that this pod runs in")
    for name, file, doc in FILES:
        served.add_argument(f"--{name}", type=Path, default=file, help=f"{doc}, PEM; looked at every 5 s (default: %(default)s)")
    for name in ("exchange", "registry", "log", "keys"):
        served.add_argument(f"--{name}", default=getattr(Surroundings, name), help=f"URL of the {name}, for agents in pods")
    served.add_argument(
        "--client-ca", type=Path, help="authorities, PEM: only who shows a certificate of theirs may ask; read at the start"
    )
    served.add_argument("--client-name", action="append", default=[], help="a common name that may; default: all; may be repeated")
    served.add_argument(
        "--client-networks", type=networks, default=(), help="CIDRs by commas: only who comes from there may ask; default: everywhere"
    )
    served.add_argument("--image", required=True, help="image of the guard (knhk-agent), by digest, as ConfigMap knhk-config names it")
    args = parser.parse_args(argv)
    if args.client_name and not args.client_ca:
        served.error("--client-name must come with --client-ca: without authorities nobody is asked for a certificate")
    return _serve(args)


def _serve(args: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    files = CertificateFiles(args.certificate, args.key, args.authority)
    around = Surroundings(args.image, args.exchange, args.registry, args.log, args.keys)
    callers = Callers(args.client_ca, frozenset(args.client_name), args.client_networks)
    to_points = CertificateFiles(args.point_certificate, args.point_key, args.point_authority)
    options = Options(args.address, args.port, args.kubeconfig, files, to_points, callers.ask)
    try:
        asyncio.run(
            serve(
                options,
                partial(_application, around, callers.doubt),
                lambda address: print(address, flush=True),
            )
        )
    except (KnhkError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _application(around: Surroundings, doubt: Doubt, parts: Parts) -> web.Application:
    kinds, pods, objects = Kinds(parts.lowering), Pods(parts.points, around), Objects(parts.point)
    judges: dict[str, Judge] = {
        "/parse": kinds.parsed,
        "/validate": kinds.lowered,
        "/mutate-pods": pods.injected,
        "/validate-pods": pods.validated,
        "/objects/{namespace}/{point}": objects.judged,
    }
    return application(judges, parts.unready, Metrics(), doubt=doubt)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
