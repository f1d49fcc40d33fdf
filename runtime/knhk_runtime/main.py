"""knhk-agent: runs beside Envoy for one enforcement point."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

_EXAMPLES = """
examples:
  knhk-agent --point-dir .knhk/points/erp.orders --registry .knhk/registry \\
             --sequencer-socket /run/user/1000/knhk/sequencer.sock --outbox .knhk/log/observations/erp.orders \\
             --ring-dir /dev/shm/knhk/erp.orders --root-pub .knhk/keys/root.pub
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
        ("sequencer-socket", "Unix socket of the region's sequencer"),
        ("outbox", "folder for the segments of this agent"),
        ("ring-dir", "folder of the rings, in a tmpfs shared with Envoy"),
        ("root-pub", "file with the pinned root's public key, base64"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="PATH", help=text)
    parser.add_argument(
        "--socket", type=Path, metavar="PATH", help="Unix socket to serve parked requests on (default: POINT_DIR/run/agent.sock)"
    )
    parser.add_argument("--once-check", action="store_true", help="verify what is desired, print it as JSON and end")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: see --help."""
    arguments = vars(_parser().parse_args(argv))
    once_check = arguments.pop("once_check")
    from knhk.model.faults import KnhkError, Refused
    from knhk_runtime.wiring import Options, check_once, run

    options = Options(**{name: path.absolute() for name, path in arguments.items() if path is not None})
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
