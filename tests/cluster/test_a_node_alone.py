"""A node leaves nothing on its machine, however it ends. First of its tier by name, while no other test has a node: a machine has one."""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.processes import Identity, end_all, identity

sys.path.insert(0, str(Path(__file__).parent))
import node_machine as machine
from control_plane import Cluster, down, up
from node_pods import Node, is_ready

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("node"), pytest.mark.timeout(600)]
ENDED_WITHIN_S = 240.0


@pytest.fixture
def before() -> list[Path]:
    """What is there of a node that none of this test's made: another that was killed with its keeper may leave empty mount points."""
    return machine.leftovers()


@pytest.fixture
def found(before: list[Path], servers: dict[str, Path], tmp_path: Path) -> Iterator[Cluster]:
    if why_not := machine.lacks():
        pytest.skip(f"not run: {why_not}")
    yield up(tmp_path / "c", node=True)
    down(tmp_path / "c")


def test_a_node_whose_keeper_is_killed_leaves_nothing(found: Cluster, before: list[Path], servers: dict[str, Path]) -> None:
    settings = {path: path.read_text() for path in Path("/proc/sys/vm").glob("overcommit_*")}
    run_a_pod(Node(found, KubeClient(api_client(found.kubeconfig)), servers["kubectl"]))
    inside = processes_of(found.keeper.pid)
    assert {"etcd", "kube-apiserver", "containerd", "kubelet", "kube-proxy", "pause"} <= {name for name, _ in inside}
    end_all([found.keeper], grace_s=0.0)
    wait_for_end([who for _, who in inside])
    with machine.LOCK.open("a") as lock:  # when the node has let go of its machine, or another cluster's after it
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [path for path in machine.leftovers() if path not in before] == []
        assert {path: path.read_text() for path in settings} == settings


def run_a_pod(node: Node) -> None:
    container = {"name": "pause", "image": machine.PAUSE}
    node.until(lambda: node.exists("/api/v1/namespaces/default/serviceaccounts/default"), "a service account")
    node.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": "p"}, "spec": {"containers": [container]}})
    node.pod("default", "p", is_ready)


def processes_of(first: int) -> list[tuple[str, Identity]]:
    """Name and identity of all processes below `first`."""
    found = []
    waiting = [first]
    while waiting:
        pid = waiting.pop()
        below = [Path(task, "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
        for child in (int(word) for words in below for word in words):
            who = identity(child)
            if who is not None:
                found.append((Path(f"/proc/{child}/comm").read_text().strip(), who))
                waiting.append(child)
    return found


def wait_for_end(left: list[Identity]) -> None:
    deadline_s = time.monotonic() + ENDED_WITHIN_S
    while left:
        assert time.monotonic() < deadline_s, f"still running: {left}"
        left = [who for who in left if identity(who.pid) == who]
        time.sleep(0.05)
