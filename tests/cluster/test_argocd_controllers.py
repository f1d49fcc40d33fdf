"""Argo CD's own controllers keep our kinds as plain resources, out of a real Git server: an Application is Healthy when its packs are
ready, Degraded when one was rolled back; it heals drift, prunes, and does not fight with the operator."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.adapters.kube_documents import place

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "reconcilers"))
sys.path.append(str(Path(__file__).parents[1] / "foreign"))
sys.path.append(str(Path(__file__).parents[1] / "gitops"))
from argocd_controllers import Argo, running
from argocd_controllers_binary import CannotBuild, argocd_controllers, argocd_definitions
from control_plane import Cluster
from fleet_world import Operator, World, forks
from gitea_server import Gitea
from guarded_pods import there
from kept_policies import EXAMPLES, PACK, POINT, ROOT, WITHIN_S, Policies, looks, pack, phase, versions

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900)]
GITOPS = ROOT / "manifests" / "gitops"


@pytest.fixture(scope="module")
def argo(client: KubeClient, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Argo]:
    try:
        program, definitions = argocd_controllers(build=False), argocd_definitions()
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")
    folder = tmp_path_factory.mktemp("argocd")
    with running(program, definitions, GITOPS / "argocd-cm.yaml", client, cluster.kubeconfig, folder) as found:
        yield found


@pytest.fixture
def policies(gitea: Gitea, tmp_path: Path) -> Policies:
    return Policies(gitea, tmp_path, "bea", private=False)


@pytest.fixture
def world(clean: KubeClient, cluster: Cluster, argo: Argo, tmp_path: Path) -> Iterator[World]:
    """No operator runs yet."""
    found = World(tmp_path, cluster.kubeconfig, clean, forks())
    try:
        found.start()
        yield found
    finally:
        found.close()


def test_argo_cd_keeps_what_a_repository_holds(
    world: World, argo: Argo, policies: Policies, kubectl: Callable[..., str], tmp_path: Path
) -> None:
    commit = policies.push(**EXAMPLES, pack=pack("1.0.0"))
    (tmp_path / "argocd.yaml").write_text(
        (GITOPS / "argocd-application.yaml").read_text().replace("https://git.example.com/erp/policies.git", policies.url)
    )
    kubectl("apply", "--namespace=argocd", "-f", str(tmp_path / "argocd.yaml"))

    # Nobody works on what it applied: that must not look healthy.
    until(argo, ("Synced", "Progressing", commit))
    operator = world.operator()
    until(argo, ("Synced", "Healthy", commit))
    assert phase(world) == ("Live", "1.0.0")

    until(argo, ("Synced", "Healthy", moved(argo, policies, "1.0.1", 1)))
    assert phase(world) == ("Live", "1.0.1")

    world.agents.bad |= {"1.1.0"}
    until(argo, ("Synced", "Degraded", moved(argo, policies, "1.1.0", 2)))
    assert phase(world) == ("RolledBack", "1.1.0")
    mended = moved(argo, policies, "1.0.1", 1)
    until(argo, ("Synced", "Healthy", mended))
    assert phase(world) == ("Live", "1.0.1")

    # What a person edits is put back, and neither Argo CD nor the operator writes any more when all is as it should be.
    world.client.call("PATCH", place(PACK), {}, {"spec": {"version": "9.9.9"}}, MERGE)
    holds(argo, lambda: phase(world) == ("Live", "1.0.1"), "what was edited is put back")
    until(argo, ("Synced", "Healthy", mended))
    world.until_settled()
    holds(argo, lambda: rests(argo, world, operator), "neither of the two writes any more")

    commit = policies.push(pack=None)
    argo.refresh()
    holds(argo, lambda: there(world.client, place(PACK)) is None, "a pack that left the repository is pruned, and nothing holds it")
    assert there(world.client, place(POINT)) is not None
    world.check()


def moved(argo: Argo, policies: Policies, version: str, least: int) -> str:
    """Another version of the pack is merged, and Argo CD has looked; the commit."""
    commit = policies.push(pack=pack(version, least))
    argo.refresh()
    return commit


def rests(argo: Argo, world: World, operator: Operator) -> bool:
    """Whether nothing is written while both look at all of it."""
    before, turns = versions(world), looks(operator)
    argo.refresh()
    holds(argo, lambda: looks(operator) >= turns + 10, "the operator has looked")
    return versions(world) == before


def until(argo: Argo, stands: tuple[str, str, str]) -> None:
    holds(argo, lambda: argo.stands() == stands, f"{stands}")


def holds(argo: Argo, so: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not so():
        assert time.monotonic() < deadline_s, f"not so: {what}; {argo.application().get('status')}\n{argo.said()}"
        time.sleep(0.1)
