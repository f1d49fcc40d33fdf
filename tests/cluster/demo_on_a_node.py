"""The demo on a cluster, from nothing: images, a cluster with a node, the story, and everything ended. `demo_on_a_node.py --out FILE`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import images
import node_machine as machine
from control_plane import Cluster, NotStarted, down, up
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
        pulled = {name: f"{machine.REGISTRY}/knhk-{name}@{_digest(f'knhk-{name}')}" for name in NAMES}
        return subprocess.run(story(cluster, kubectl, pulled, FOLDER / "story", args.out), check=False).returncode
    finally:
        down(FOLDER / "cluster")


def story(cluster: Cluster, kubectl: Path, pulled: dict[str, str], home: Path, out: Path) -> list[str]:
    """The command that plays it on a cluster that is there. `pulled`: the images by the names of NAMES, as pods call them."""
    told = [f"--kubectl={kubectl}", f"--kubeconfig={cluster.kubeconfig}", f"--registry={cluster.registry}/knhk", f"--out={out}"]
    program = [sys.executable, str(ROOT / "examples" / "order_to_cash" / "demo_cluster.py"), f"--home={home}"]
    return [*program, *told, *(f"--{name}-image={image}" for name, image in pulled.items())]


def _digest(name: str) -> str | None:
    return LayoutRegistry(LAYOUTS / name).resolve(images.VERSION)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
