"""Installing, upgrading and uninstalling by manifests, on a control plane of its own: what was there stays, what was ours goes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster, shared

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
BASE = ROOT / "manifests" / "base"
PREVIOUS = Path(__file__).parent / "previous"
# Of kinds that the previous release knows.
EXAMPLES = [
    path
    for path in sorted((ROOT / "manifests" / "examples").glob("*.yaml"))
    if any(f"kind: {kind}\n" in path.read_text() for kind in ("PolicyPack", "DataBundle", "EnforcementPoint"))
]
# What the cluster's own controllers write at any time.
RESTLESS = {"events", "events.events.k8s.io", "leases.coordination.k8s.io", "endpointslices.discovery.k8s.io", "endpoints"}


@pytest.fixture(scope="module")
def own(servers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane that nothing of ours was ever on."""
    with shared(tmp_path_factory.mktemp("install") / "cluster") as found:
        yield found


class Kubectl:
    def __init__(self, program: Path, cluster: Cluster) -> None:
        self._head = [str(program), f"--kubeconfig={cluster.kubeconfig}"]

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run([*self._head, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def everything(self) -> set[str]:
        """Each object of each kind that can be listed."""
        kinds = sorted(set(self("api-resources", "--verbs=list", "-o", "name").split()) - RESTLESS)
        columns = "custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name"
        return set(self("get", ",".join(kinds), "-A", "--no-headers", "-o", columns).splitlines())


@pytest.fixture(scope="module")
def kubectl(own: Cluster, servers: dict[str, Path]) -> Kubectl:
    return Kubectl(servers["kubectl"], own)


def apply_base(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "-k", str(BASE))
    kubectl("wait", "--for=condition=Established", "crd", "-l", "app.kubernetes.io/part-of=knhk", "--timeout=60s")


def specs(kubectl: Kubectl, name: str) -> dict[str, dict[str, Any]]:
    rows = json.loads(kubectl("get", name, "-n", "erp", "-o", "json"))["items"]
    return {row["metadata"]["name"]: {**row["spec"], "generation": row["metadata"]["generation"]} for row in rows}


def holds(before: Any, after: Any) -> bool:
    """Whether all that was said is still said; defaults of newer fields may come."""
    if isinstance(before, dict) and isinstance(after, dict):
        return before.keys() <= after.keys() and all(holds(value, after[name]) for name, value in before.items())
    return bool(before == after)


def test_upgrade_from_the_previous_manifests_keeps_every_object_and_uninstalling_leaves_nothing(kubectl: Kubectl) -> None:
    before = kubectl.everything()
    kubectl("apply", "--server-side", "-k", str(PREVIOUS))
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    kubectl("create", "namespace", "erp")
    for example in EXAMPLES:
        kubectl("apply", "-f", str(example))
    kept = {name: specs(kubectl, name) for name in ("policypacks", "enforcementpoints")}
    apply_base(kubectl)
    for name, before_it in kept.items():
        assert before_it
        after = specs(kubectl, name)
        assert {key: holds(spec, after[key]) for key, spec in before_it.items()} == dict.fromkeys(after, True)
    for example in EXAMPLES:
        assert "unchanged" in kubectl("apply", "-f", str(example)) or "configured" in kubectl("apply", "-f", str(example))
    assert "serverside-applied" in kubectl("apply", "--server-side", "-k", str(BASE))
    kubectl("delete", "namespace", "erp", "--timeout=60s")
    kubectl("delete", "-k", str(BASE), "--timeout=120s")
    assert kubectl.everything() - before == set()


def test_the_two_overlays_are_accepted_by_the_server(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", str(BASE / "namespace.yaml"))
    for overlay in ("dev", "ha"):
        kubectl("apply", "--server-side", "--dry-run=server", "-k", str(ROOT / "manifests" / "overlays" / overlay))
    kubectl("delete", "-f", str(BASE / "namespace.yaml"), "--timeout=60s")
