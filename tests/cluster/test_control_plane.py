"""The control plane is the pinned one, does what controllers do, is shared, and leaves nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.processes import Identity, identity

sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster, down, running, up
from server_binaries import version

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
HERE = Path(__file__).parent
CONTROLLED_WITHIN_S = 240.0
ENDED_WITHIN_S = 240.0
USER = """
import sys, time
sys.path.insert(0, {here!r})
from pathlib import Path
from control_plane import shared
with shared(Path({folder!r})):
    print("ready", flush=True)
    time.sleep(600)
"""


def processes(cluster: Cluster) -> list[Identity]:
    """The keeper and its servers."""
    servers = json.loads((cluster.folder / "ready.json").read_text())["servers"]
    found = [identity(pid) for pid in servers.values()]
    assert len(servers) == 4
    return [cluster.keeper, *(who for who in found if who is not None)]


def wait_for_end(left: list[Identity]) -> None:
    deadline_s = time.monotonic() + ENDED_WITHIN_S
    while left:
        assert time.monotonic() < deadline_s, f"still running: {left}"
        left = [who for who in left if identity(who.pid) == who]


def test_it_is_the_pinned_kubernetes_and_its_controllers_work(cluster: Cluster) -> None:
    client = KubeClient(api_client(cluster.kubeconfig))
    assert client.call("GET", "/version")["gitVersion"] == f"v{version()}"
    name = "controllers-work"
    client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    path = f"/api/v1/namespaces/{name}/serviceaccounts"
    deadline_s = time.monotonic() + CONTROLLED_WITHIN_S
    while not (found := client.call("GET", path)["items"]):
        assert time.monotonic() < deadline_s, "no controller made the namespace's service account"
        time.sleep(0.05)
    assert found[0]["metadata"]["name"] == "default"


def test_kubectl_talks_to_it(cluster: Cluster, servers: dict[str, Path]) -> None:
    command = [str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", "auth", "whoami", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "system:masters" in json.loads(done.stdout)["status"]["userInfo"]["groups"]


def test_it_ends_when_its_last_user_was_killed(servers: dict[str, Path], tmp_path: Path) -> None:
    program = USER.format(here=str(HERE), folder=str(tmp_path / "c"))
    user = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    assert user.stdout.readline() == "ready\n"
    cluster = running(tmp_path / "c")
    assert cluster is not None
    left = processes(cluster)
    user.send_signal(signal.SIGKILL)
    user.wait()
    user.stdout.close()
    wait_for_end(left)


def test_down_ends_all_that_up_started_and_removes_the_folder(servers: dict[str, Path], tmp_path: Path) -> None:
    cluster = up(tmp_path / "c")
    left = processes(cluster)
    assert up(tmp_path / "c") == cluster
    assert down(tmp_path / "c")
    assert not (tmp_path / "c").exists()
    wait_for_end(left)
    assert not down(tmp_path / "c")
