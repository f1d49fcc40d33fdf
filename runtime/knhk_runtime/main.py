"""knhk-agent: runs beside Envoy for one enforcement point."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_EXAMPLES = """
examples:
  knhk-agent --point-dir .knhk/points/erp.orders --registry .knhk/registry \\
             --sequencer-socket /run/user/1000/knhk/sequencer.sock --outbox .knhk/log/observations/erp.orders \\
             --ring-dir /dev/shm/knhk/erp.orders --root-pub .knhk/keys/root.pub
  knhk-agent … --exchange https://knhk-exchange.knhk-system.svc:8443 --log https://knhk-log.knhk-system.svc:8445 \\
             --pull https://REGISTRY --token-file /var/run/secrets/knhk/token \\
             --ca-file /etc/knhk/trust/ca.crt   in a pod, without --sequencer-socket
  knhk-agent … --once-check      verify what is desired, write nothing, say what and where is wrong

exit: 0 after SIGTERM or a check without faults, 1 when something must be mended first (said on stderr), 2 wrong arguments
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="knhk-agent", description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, text in (
        ("point-dir", "folder of the enforcement point: desired/, private/, state/, run/, stats.json"),
        ("registry", "OCI layout that holds packs and data bundles"),
        ("outbox", "folder for the segments of this agent"),
        ("ring-dir", "folder of the rings, in a tmpfs shared with Envoy"),
        ("root-pub", "file with the pinned root's public key, base64"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="PATH", help=text)
    parser.add_argument(
        "--socket", type=Path, metavar="PATH", help="Unix socket to serve parked requests on (default: POINT_DIR/run/agent.sock)"
    )
    parser.add_argument("--sequencer-socket", type=Path, metavar="PATH", help="Unix socket of the region's sequencer; or --log")
    parser.add_argument("--envoy-admin", type=Path, metavar="PATH", help="Unix socket of Envoy's admin interface, asked whether it listens")
    parser.add_argument("--exchange", metavar="URL", help="https://HOST:PORT of the operator's exchange: POINT_DIR/desired mirrors it")
    parser.add_argument("--log", metavar="URL", help="https://HOST:PORT of the region's sequencer, in place of its socket")
    parser.add_argument("--pull", metavar="URL", help="https://HOST[:PORT][/REPOSITORY] that --registry is filled from, by digest")
    parser.add_argument("--pull-auth", type=Path, metavar="PATH", help="docker config.json with the registry's credentials")
    parser.add_argument("--pull-ca", type=Path, metavar="PATH", help="authorities of the registry beside the system's (PEM); may rotate")
    parser.add_argument("--token-file", type=Path, metavar="PATH", help="service account token of audience exchange.knhk.dev; may rotate")
    parser.add_argument("--ca-file", type=Path, metavar="PATH", help="authorities that exchange and log are trusted by (PEM); may rotate")
    parser.add_argument(
        "--instance",
        metavar="UID",
        help="who this is among a point's instances, for waves: a pod's uid (default: of no wave)",
    )
    parser.add_argument("--subject-keys", type=Path, metavar="PATH", help="folder of the key store, for points with privacy")
    parser.add_argument("--store-key", type=Path, metavar="PATH", help="file with the key store's own key, 32 bytes, in memory only")
    parser.add_argument("--keys", metavar="URL", help="https://HOST:PORT of the key service, in place of a key store on this machine")
    parser.add_argument("--keys-token", type=Path, metavar="PATH", help="service account token of audience keys.knhk.dev; may rotate")
    parser.add_argument(
        "--serving",
        type=Path,
        metavar="PATH",
        help="folder in memory for what Envoy shows, by certificates of the exchange (default: who asks is not our own admission)",
    )
    parser.add_argument("--once-check", action="store_true", help="verify what is desired, print it as JSON and end")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: see --help."""
    arguments = vars(_parser().parse_args(argv))
    once_check = arguments.pop("once_check")
    from knhk.model.faults import KnhkError, Refused
    from knhk_runtime.wiring import Options, check_once, run

    given: dict[str, Any] = {
        name: value.absolute() if isinstance(value, Path) else value for name, value in arguments.items() if value is not None
    }
    options = Options(**given)
    try:
        if once_check:
            print(json.dumps(check_once(options)))
        else:
            run(options)
    except Refused as error:
        faults = [{"what": fault.value, "where": fault.where, "must": fault.must} for fault in error.faults]
        print(json.dumps({"event": "refused", "refused": faults}), file=sys.stderr)
        return 1
    except (KnhkError, OSError) as error:
        print(json.dumps({"event": "failed", "fault": str(error)}), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
