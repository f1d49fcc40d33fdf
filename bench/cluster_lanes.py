"""How long a rollback takes while 200 new packs are built at once: `python -m bench.cluster_lanes [--packs 200]`.

A real API server and log, agents that judge as they are told, and a compiler and prover that cost nothing (tests/cluster/fleet_world.py):
what is measured is who waits for whom in the controller, not how long a build takes. A candidate is good until the packs are there;
then its agents count denials. The time runs from the verdict, which the status has, to the document that an agent reads.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reconcilers"))
from control_plane import Cluster, owned
from definitions import install
from fleet_world import World, forks
from rollout_world import pack, payload, point

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.model.resource import Key
from knhk.model.times import from_rfc3339_ns

NAMESPACE: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "erp"}}
LOOK_S = 0.005


def measure(world: World, client: KubeClient, count: int) -> dict[str, float | int]:
    """The figures of one rollback."""
    client.call("POST", "/api/v1/namespaces", body=NAMESPACE)
    world.start()
    world.operator()
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live", "1.0.0")
    slow = pack("1.1.0", constraint="sh:minCount 2").replace("minPairs: 20", "minPairs: 100000")
    world.apply(slow)
    world.until(lambda: "arm" in world.get().status.get("revision", {}), "it rolls")
    begun_s = time.monotonic()
    for n in range(count):
        world.apply(pack("1.0.0", name=f"new-{n:03}", targets=f"{{point: none-{n}}}"))
    waiting = sum(not signed(world, n) for n in range(count))
    world.agents.bad = frozenset({"1.1.0"})
    document = world.folder / "points" / "erp.p1" / "desired" / "rollout.json"
    while payload(document.read_bytes())["candidate"] is not None:
        time.sleep(LOOK_S)
    out_ns = time.time_ns()
    world.until_phase("RolledBack", "1.1.0")
    judged_ns = from_rfc3339_ns(world.get().status["revision"]["judged"])
    for n in range(count):
        world.until(partial(signed, world, n), f"pack {n} is built")
    built_s = time.monotonic() - begun_s
    return {
        "packs": count,
        "not_built_at_the_verdict": waiting,
        "rollback_s": round((out_ns - judged_ns) / 1e9, 3),
        "all_built_s": round(built_s, 1),
    }


def signed(world: World, n: int) -> bool:
    """Whether a new pack is built."""
    return bool(world.get(Key("PolicyPack", "erp", f"new-{n:03}")).status.get("revision", {}).get("phase") == "Signed")


def main(argv: list[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=int, default=200)
    parser.add_argument("--out", type=Path, help="file for the figures, JSON; default: standard output alone")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, owned(Path(folder) / "cluster") as cluster:
        text = json.dumps(rolled_back(cluster, Path(folder) / "world", args.packs), indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 0


def rolled_back(cluster: Cluster, folder: Path, count: int) -> dict[str, float | int]:
    """One world, and its end."""
    client = KubeClient(api_client(cluster.kubeconfig))
    install(client)
    folder.mkdir()
    world = World(folder, cluster.kubeconfig, client, forks())
    try:
        return measure(world, client, count)
    finally:
        world.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
