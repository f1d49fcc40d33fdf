"""The demo on a cluster, from nothing: images, a cluster with a node, the story, and everything ended. `demo.py --out FILE`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import images
import node_machine as machine
from control_plane import NotStarted, down, up
from server_binaries import CannotBuild, binaries

from knhk.adapters.registry_layout import LayoutRegistry

ROOT = Path(__file__).parents[2]
FOLDER, LAYOUTS = ROOT / ".demo-cluster", ROOT / "build" / "images"
NAMES = ("operator", "builder", "agent")


def main(argv: list[str]) -> int:
    """The story's exit code; why there is no cluster goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-cluster.json"), help="summary (JSON)")
    args = parser.parse_args(argv)
    if why_not := machine.lacks():
        print(f"no pods can run on this machine: {why_not}", file=sys.stderr)
        return 1
    try:
        kubectl = binaries(build=True)["kubectl"]
        cluster = up(FOLDER / "cluster", node=True)
    except (NotStarted, CannotBuild) as error:
        print(error, file=sys.stderr)
        return 1
    try:
        if code := images.main(["build", "--out", str(LAYOUTS), "--push", cluster.registry]):
            return code
        pulled = [f"--{name}-image={machine.REGISTRY}/knhk-{name}@{_digest(f'knhk-{name}')}" for name in NAMES]
        told = [f"--kubectl={kubectl}", f"--kubeconfig={cluster.kubeconfig}", f"--registry={cluster.registry}/knhk", f"--out={args.out}"]
        story = [sys.executable, str(ROOT / "examples" / "order_to_cash" / "demo_cluster.py"), f"--home={FOLDER / 'story'}"]
        return subprocess.run([*story, *told, *pulled], check=False).returncode
    finally:
        down(FOLDER / "cluster")


def _digest(name: str) -> str | None:
    return LayoutRegistry(LAYOUTS / name).resolve(images.VERSION)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
