"""`make bench-cluster`: how long nobody acts when the leader of two operators ends.

python -m bench.cluster_failover [--kills 5] [--ends 3] [--out FILE]

A real API server and log, a leader and a warm standby of one Lease (tests/cluster/fleet_world.py: the operator's process, with a
compiler that costs nothing). The leader gets SIGKILL, or SIGTERM; at once a pack is edited. The time runs from the signal to when the
standby's first write, that it begins the edited pack, can be read from the API server. Then the next standby starts, and is waited for.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reconcilers"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
from control_plane import owned
from definitions import install
from fleet_world import World, forks
from rollout_world import pack, point

from knhk.adapters.kube_client import KubeClient, api_client

GOAL_S = 15.0
LOOK_S = 0.01
ENDS_WITHIN_S = 60.0


def begun(world: World, version: str) -> bool:
    """Whether somebody has begun this version."""
    return bool(world.get().status.get("revision", {}).get("version") == version)


def one(world: World, operators: list[Any], number: signal.Signals, version: str) -> float:
    """Seconds without anybody who acts."""
    (leader,) = (operator for operator in operators if operator.leads())
    begun_s = time.monotonic()
    leader.signal(number)
    if (code := leader.ended(ENDS_WITHIN_S)) is None:
        raise TimeoutError(f"the leader did not end within {ENDS_WITHIN_S:g} s of {number.name}")
    if number is signal.SIGTERM and code != 0:
        raise RuntimeError(f"the leader must end with 0 when it is told to, not with {code}")
    world.apply(pack(version))
    while not begun(world, version):
        if time.monotonic() - begun_s > 4 * GOAL_S:
            raise TimeoutError(world.describe())
        time.sleep(LOOK_S)
    taken_s = time.monotonic() - begun_s
    operators.remove(leader)
    operators.append(warm(world))
    return taken_s


def warm(world: World) -> Any:
    """Another operator, ready."""
    made = world.operator(lease=True)
    world.until(lambda: made.get("readyz")[0] == 200, "it is warm")
    return made


def measure(world: World, kills: int, ends: int) -> dict[str, Any]:
    operators = [warm(world)]
    world.until(operators[0].leads, "the first leads")
    operators.append(warm(world))
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live", "1.0.0")
    versions = (f"1.0.{n}" for n in count(1))
    found: dict[str, Any] = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "goal_s": GOAL_S}
    for number, times in ((signal.SIGKILL, kills), (signal.SIGTERM, ends)):
        spent = [round(one(world, operators, number, next(versions)), 2) for _ in range(times)]
        found[number.name] = {"median_s": statistics.median(spent), "worst_s": max(spent), "all_s": spent}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--ends", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, owned(Path(name) / "cluster") as cluster:
        client = KubeClient(api_client(cluster.kubeconfig))
        install(client)
        client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "erp"}})
        (folder := Path(name) / "world").mkdir()
        world = World(folder, cluster.kubeconfig, client, forks())
        world.start()
        try:
            text = json.dumps(measure(world, args.kills, args.ends), indent=1)
        finally:
            world.close()
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
