"""`knhk receipt verify NAME --kubeconfig`: a Receipt is read from the API server and verified here, with nothing of the cluster trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from control_plane import Cluster

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection
from knhk.cli import main

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]
VECTORS = json.loads((Path(__file__).parents[2] / "formats" / "vectors" / "receipt.json").read_bytes())
SPEC = next(json.loads(case["files"]["r.json"]) for case in VECTORS["cases"] if case["name"] == "event: spec of a Receipt")


@pytest.mark.parametrize(("change", "exit_code"), [({}, 0), ({"event": "RolledBack"}, 1)])
def test_a_receipt_of_the_cluster_is_verified_here(
    cluster: Cluster, clean: KubeClient, tmp_path: Path, capsys: Any, change: dict[str, str], exit_code: int
) -> None:
    receipt = {"apiVersion": "knhk.dev/v1alpha1", "kind": "Receipt", "metadata": {"name": "promoted-5", "namespace": "erp"}}
    clean.call("POST", collection("Receipt", "erp"), body=receipt | {"spec": SPEC | change})
    (tmp_path / "keys.json").write_text(VECTORS["keys.json"])
    trusted = [
        "--root",
        VECTORS["root_pub"],
        "--keys",
        str(tmp_path / "keys.json"),
        "--at",
        VECTORS["at"],
        "--home",
        str(tmp_path / "home"),
    ]
    code = main(["receipt", "verify", "erp/promoted-5", "--kubeconfig", str(cluster.kubeconfig), *trusted])
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert code == exit_code
    assert [step["ok"] for step in steps] == [True, True, True, True] if not change else not steps[-1]["ok"]
    assert main(["receipt", "verify", "erp/absent", "--kubeconfig", str(cluster.kubeconfig), *trusted]) == 1
