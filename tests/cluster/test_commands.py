"""The commands of the embedded home on a real API server: the same words, as the kubeconfig's user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.kube_client import KubeClient

sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
PACK = Path(__file__).parents[2] / "examples" / "packs" / "invoice-controls"
REVISION = "sha256:" + "ab" * 32


def knhk(home: Path, *words: str, code: int = 0) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "knhk.cli", "--home", str(home), *words, "-o", "json"], capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout) if code == 0 else done.stdout + done.stderr


def test_policies_are_applied_seen_approved_and_deleted_by_the_same_words(clean: KubeClient, cluster: Cluster, tmp_path: Path) -> None:
    there = ("--kubeconfig", str(cluster.kubeconfig))
    file = str(PACK / "1.0.0" / "pack.yaml")
    assert knhk(tmp_path, "apply", "-f", file, "--dry-run", *there)["resources"][0]["result"] == "would create"
    assert knhk(tmp_path, "get", "policypacks", *there)["items"] == []
    assert knhk(tmp_path, "apply", "-f", file, *there)["resources"][0]["result"] == "created"
    assert knhk(tmp_path, "apply", "-f", file, *there)["resources"][0]["result"] == "unchanged"
    assert "must be" in knhk(tmp_path, "apply", "-f", str(PACK / "faulty" / "pack.yaml"), *there, code=1)
    (found,) = knhk(tmp_path, "get", "policypacks", "-n", "erp", *there)["items"]
    name = f"erp/{found['metadata']['name']}"
    assert knhk(tmp_path, "describe", "policypack", name, *there)["resource"]["spec"]["version"] == "1.0.0"
    approved = knhk(tmp_path, "approve", name, "--stage", "production", "--revision", REVISION, *there)
    assert (approved["approver"], approved["unreviewed"]) == ("admin", False)
    (approval,) = knhk(tmp_path, "get", "approvals", *there)["items"]
    assert approval["spec"]["approver"] == "admin"
    assert knhk(tmp_path, "delete", "policypack", name, *there)["resources"][0]["result"] == "deleted"
    assert knhk(tmp_path, "get", "policypacks", *there)["items"] == []
    assert not any(tmp_path.iterdir())
