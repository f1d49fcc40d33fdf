"""A control plane that was lost is made anew in a real API server: with the statuses that its operator goes on from, once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import place
from knhk.model.resource import Key
from knhk.wiring import restore_cluster

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
sys.path.insert(0, str(Path(__file__).parents[1] / "gitops"))
sys.path.insert(0, str(Path(__file__).parents[1] / "reconcilers"))
sys.path.insert(0, str(Path(__file__).parents[1] / "restore"))
sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster
from restore_house import House, base, flag, moved_in
from rollout_world import PACK, pack

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
TARGETS = {"targets": "{point: p1}, {point: p2}", "bundles": "{name: roles}"}


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> House:
    """1.0.0 was live at two points, and 1.1.0 rolled back."""
    house = moved_in(tmp_path_factory.mktemp("lost") / "house")
    house.world.bad = frozenset({"1.1.0"})
    house.commit(*base(pack("1.1.0", constraint="sh:minCount 2", **TARGETS), flag("on")))
    house.until("RolledBack", "1.1.0")
    house.world.settle()
    house.lose()
    return house


def status(client: KubeClient, key: Key = PACK) -> dict[str, Any]:
    return dict(client.call("GET", place(key)).get("status", {}))


@pytest.mark.failure("API server", "act")
def test_objects_come_with_their_statuses_and_a_second_run_changes_nothing(clean: KubeClient, cluster: Cluster, lost: House) -> None:
    def run() -> Any:
        return restore_cluster.applied(Path(cluster.kubeconfig), lost.left(), lambda line: None)

    first = run()
    assert (len(first.made), first.there) == (5, [])
    found = status(clean)
    assert (found["live"]["version"], found["live"]["points"], found["revision"]["phase"]) == ("1.0.0", ["p1", "p2"], "RolledBack")
    assert [row["digest"] for row in found["denyList"]] == [lost.before["revision"]["digest"]]
    assert (found["revision"]["generation"], len(found["pending"])) == (1, 1)
    assert clean.call("GET", place(Key("FeatureFlag", "erp", "canary")))["spec"]["defaultVariant"] == "on"
    assert first.receipts == len([event for _, _, event in first.plan.verified.events])
    second = run()
    assert (second.made, len(second.there), second.receipts) == ([], 5, 0)
    assert status(clean) == found


def test_manifests_are_what_kubectl_takes(
    clean: KubeClient, cluster: Cluster, lost: House, servers: dict[str, Path], tmp_path: Path
) -> None:
    restore_cluster.written(tmp_path / "out", lost.left(), lambda line: None)
    for name in ("1-resources.yaml", "2-statuses.yaml", "3-receipts.yaml"):
        text = (tmp_path / "out" / name).read_text()
        words = text.partition("kubectl ")[2].partition(" -f ")[0].split()
        command = [str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", *words, "-f", str(tmp_path / "out" / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert list(yaml.safe_load_all(text))
    assert status(clean)["live"]["version"] == "1.0.0"
