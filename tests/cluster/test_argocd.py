"""Argo CD's own engine keeps our kinds as plain resources: in sync whatever the operator writes; drift is seen and healed, what left the
repository is pruned."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.adapters.kube_documents import collection, place

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "foreign"))
from argocd_binary import CannotBuild, argocd_sync
from control_plane import Cluster
from operator_process import PACK, WITHIN_S, Operator, events, phase, seen

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
PACKS = ROOT / "examples" / "packs" / "invoice-controls"
FILES = (
    *(ROOT / "manifests" / "examples" / f"{name}.yaml" for name in ("invoice-schema", "finance-hooks", "invoice-canary")),
    PACKS / "finance-roles.yaml",
    PACKS / "1.0.0" / "pack.yaml",
)
Argo = Callable[[str], dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the repository holds."""
    made = tmp_path / "policies"
    made.mkdir()
    for file in FILES:
        shutil.copy(file, made / file.name)
    return made


@pytest.fixture
def argo(cluster: Cluster, folder: Path) -> Argo:
    try:
        program = argocd_sync(build=False)
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")

    def run(what: str) -> dict[str, Any]:
        done = subprocess.run([str(program), str(cluster.kubeconfig), str(folder), what], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def test_it_keeps_what_a_repository_holds(
    argo: Argo, folder: Path, clean: KubeClient, operator: Operator, kubectl: Callable[..., str]
) -> None:
    pack = place(PACK)
    first = argo("look")["outOfSync"]
    assert {"PolicyPack/invoice-controls", "SchemaVersion/invoice-1-1", "DataBundle/finance-roles"} <= set(first)
    assert argo("sync")["results"].keys() == set(first)
    assert argo("look")["outOfSync"] == []

    kubectl("wait", "--for=condition=Ready", "schemaversions,hookregistries,databundles", "--all", f"--timeout={WITHIN_S:.0f}s")
    generation = seen(clean, operator, pack, lambda found: phase(found) == "Signed" and "pending" not in found["status"])["metadata"][
        "generation"
    ]
    assert argo("look")["outOfSync"] == [], "status, finalizers and receipts of the operator must not look like drift"
    argo("sync")
    assert clean.call("GET", pack)["metadata"]["generation"] == generation

    clean.call("PATCH", pack, {}, {"spec": {"suspend": True}}, MERGE)
    assert argo("look")["outOfSync"] == []  # a field that the repository does not speak of is whoever's
    clean.call("PATCH", pack, {}, {"spec": {"suspend": None, "version": "9.9.9"}}, MERGE)
    assert argo("look")["outOfSync"] == ["PolicyPack/invoice-controls"]
    assert argo("sync")["results"]
    assert argo("look")["outOfSync"] == []
    assert clean.call("GET", pack)["spec"]["version"] == "1.0.0"

    shutil.copy(PACKS / "1.1.0" / "pack.yaml", folder / "pack.yaml")
    assert argo("look")["outOfSync"] == ["PolicyPack/invoice-controls"]
    assert argo("sync")["results"]
    assert argo("look")["outOfSync"] == []
    seen(clean, operator, pack, lambda found: phase(found) == "Signed" and found["status"]["revision"]["version"] == "1.1.0")

    (folder / "pack.yaml").unlink()
    assert argo("look")["outOfSync"] == ["PolicyPack/invoice-controls"]
    assert argo("sync")["results"]["PolicyPack/invoice-controls"] == "pruned"
    seen(clean, operator, collection("PolicyPack", "erp"), lambda found: found["items"] == [])
    assert events(clean.call("GET", collection("Receipt", "erp"))) >= {"Compiled", "Built", "Signed"}, "receipts outlive their pack"
