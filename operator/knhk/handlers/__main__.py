"""Entry point; see the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from knhk.handlers.seeing import watched
from knhk.model.faults import KnhkError
from knhk.model.keeping import FORM, keep_of
from knhk.model.regions import regions_of
from knhk.wiring.cluster import Elsewhere, Options, serve
from knhk.wiring.daemon import run_in_front
from knhk.wiring.home import find_home
from knhk.wiring.pods import ADMISSION, PodOptions
from knhk_templates.kubernetes.guard import Surroundings


def main(argv: Sequence[str]) -> int:
    """Runs until SIGTERM, SIGINT or SIGHUP; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m knhk.handlers", description="Reflex Enterprise's operator on a Kubernetes cluster")
    parser.add_argument("--home", help="folder of keys, log, registry and points; default: KNHK_HOME or .knhk")
    parser.add_argument("--kubeconfig", type=Path, help="which cluster; default: the one that this pod runs in")
    parser.add_argument("--health", default="", metavar="HOST:PORT", help="where to serve /healthz, /readyz and /metrics; default: nowhere")
    parser.add_argument("--lease", default="", metavar="NAMESPACE/NAME", help="lead while holding this Lease; default: alone")
    parser.add_argument(
        "--exchange", default="", metavar="HOST:PORT", help="serve agents of pods there; default: points are processes here"
    )
    parser.add_argument("--log", default="", metavar="URL", help="https://HOST:PORT of the sequencer; default: a child of this process")
    parser.add_argument("--namespace", default="knhk-system", help="of our components; default: %(default)s")
    parser.add_argument("--registry", help="where packs are: https://HOST[:PORT]/REPOSITORY; default: in the home")
    parser.add_argument("--registry-auth", type=Path, help="docker config.json with credentials for it")
    parser.add_argument("--registry-ca", type=Path, help="authorities of the registry beside the system's, PEM")
    parser.add_argument("--builder", help="who builds: https://HOST:PORT of knhk.builder; default: this process")
    parser.add_argument("--forges", type=Path, metavar="FILE", help="which repositories and forges are believed; default: HOME/forges.yaml")
    parser.add_argument("--keys", type=Path, help="folder with rollout.key, keys.json and root.pub; default: made in the home")
    parser.add_argument(
        "--exchange-address",
        default="",
        metavar="IP",
        help="with --exchange: this pod's address, to which alone Service knhk-exchange leads",
    )
    parser.add_argument(
        "--guard-image", default="", metavar="IMAGE", help="with --exchange: run points as pods of it (knhk-agent, by digest)"
    )
    for name in ("exchange", "registry", "log", "keys"):
        default = getattr(Surroundings, name)
        parser.add_argument(
            f"--guard-{name}", default=default, metavar="URL", help="what guards are told; the same as admission tells them"
        )
    parser.add_argument(
        "--admission", default=ADMISSION, metavar="URL", help="where an API server asks about objects; default: %(default)s"
    )
    parser.add_argument("--receipts-kept", default="", metavar="BOUNDS", help=f"how many Receipts stay: {FORM}")
    parser.add_argument("--regions", default="", metavar="NAMES", help="that points may be of, in the log's order, by commas; default: any")
    args = parser.parse_args(argv)
    around = Surroundings(args.guard_image, args.guard_exchange, args.guard_registry, args.guard_log, args.guard_keys)
    guard = around if args.guard_image else None
    pod_options = PodOptions(args.exchange, args.exchange_address, args.log, args.namespace, guard, args.registry_ca, args.admission)
    elsewhere = Elsewhere(args.registry, args.registry_auth, args.registry_ca, args.builder, args.keys)
    try:
        keep, regions = keep_of(args.receipts_kept), regions_of(args.regions)
        options = Options(args.kubeconfig, args.health, args.lease, pod_options, elsewhere, args.forges, keep, regions)
        run_in_front(find_home(args.home), partial(serve, options=options, watch=watched))
    except (KnhkError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
