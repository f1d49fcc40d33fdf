"""A real Kubernetes for developers and tests: `cluster.py build | up FOLDER | down FOLDER | keep FOLDER`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import node_machine as machine
from control_plane import NotStarted, down, keep, up
from server_binaries import CannotBuild, binaries


def main(argv: list[str]) -> int:
    """The exit code; why there is no cluster goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build or find the servers")
    build.add_argument("--quiet", action="store_true", help="do not tell where they are")
    for name, text in (("up", "start it and wait until it is ready"), ("down", "end it and remove its folder"), ("keep", "run it here")):
        command = commands.add_parser(name, help=text)
        command.add_argument("folder", type=Path)
        if name == "keep":
            command.add_argument("--until-unused", action="store_true", help="end when nobody holds a lock on FOLDER/users")
            command.add_argument("--node", action="store_true", help="with a node, on which pods run")
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except (NotStarted, CannotBuild) as error:
        print(error, file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    if args.command == "build":
        for name, path in binaries(build=True).items():
            if not args.quiet:
                print(f"{name}: {path}")
    elif args.command == "up":
        binaries(build=True)
        if why_not := machine.lacks():
            print(f"no pods will run: {why_not}")
        cluster = up(args.folder.resolve(), node=not why_not)
        if cluster.node:
            print(f"pods pull {machine.REGISTRY}/NAME:TAG from what you push to {cluster.registry}")
        print(f"ready after {cluster.started_s} s; export KUBECONFIG={cluster.kubeconfig}")
    elif args.command == "down":
        print("ended" if down(args.folder.resolve()) else "nothing ran")
    else:
        keep(args.folder.resolve(), until_unused=args.until_unused, node=args.node)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
