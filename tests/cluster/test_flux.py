"""Flux's own controllers keep our kinds as plain resources, out of a real Git server: a Kustomization is ready when its packs are, says so
when one of them is not, heals drift, prunes, and does not fight with the operator."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.adapters.kube_documents import collection, place

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "reconcilers"))
sys.path.append(str(Path(__file__).parents[1] / "foreign"))
sys.path.append(str(Path(__file__).parents[1] / "gitops"))
from control_plane import Cluster
from fleet_world import Operator, World, forks
from flux_binaries import CannotBuild, flux_definitions
from flux_binaries import flux as build_flux
from flux_controllers import Flux
from flux_controllers import running as running_flux
from gitea_server import Gitea
from guarded_pods import there
from kept_policies import EXAMPLES, PACK, POINT, ROOT, WITHIN_S, Policies, looks, pack, phase, versions

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900)]
PLAIN = (ROOT / "manifests" / "gitops" / "flux.yaml").read_text()
GIVEN_UP_S = 10  # how long Flux waits where nobody is there to wait for; on a full machine it is not done by then, and tries again


@pytest.fixture(scope="module")
def flux(client: KubeClient, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flux]:
    try:
        programs, definitions = build_flux(build=False), flux_definitions()
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")
    with running_flux(programs, definitions, client, cluster.kubeconfig, tmp_path_factory.mktemp("flux")) as found:
        yield found


@pytest.fixture
def world(clean: KubeClient, cluster: Cluster, flux: Flux, tmp_path: Path) -> Iterator[World]:
    """No operator runs yet."""
    found = World(tmp_path, cluster.kubeconfig, clean, forks())
    try:
        found.start()
        yield found
        flux.forget()
    finally:
        found.close()


@pytest.fixture
def policies(gitea: Gitea, tmp_path: Path) -> Policies:
    return Policies(gitea, tmp_path, "ann", private=True)


def test_flux_keeps_what_a_repository_holds(
    world: World, flux: Flux, policies: Policies, kubectl: Callable[..., str], tmp_path: Path
) -> None:
    commit = policies.push(**EXAMPLES, pack=pack("1.0.0"))
    given(flux, policies, kubectl, tmp_path)

    # Nobody works on what Flux applied: that must not look finished.
    assert says(flux, "PolicyPack/erp/invoice-controls status: 'InProgress'") == "False"

    operator = world.operator()
    flux.change(timeout="30m")
    ready(flux, world, commit, "1.0.0")

    ready(flux, world, moved(flux, policies, "1.0.1", 1), "1.0.1")

    world.agents.bad |= {"1.1.0"}
    bad = moved(flux, policies, "1.1.0", 2)
    until(flux, lambda: attempted(flux, bad) and "PolicyPack/erp/invoice-controls status: 'Failed'" in flux.is_ready()[1], "Flux says it")
    assert phase(world) == ("RolledBack", "1.1.0")
    ready(flux, world, moved(flux, policies, "1.0.1", 1), "1.0.1")

    # What a person edits is put back, and neither Flux nor the operator writes any more when all is as it should be.
    world.client.call("PATCH", place(PACK), {}, {"spec": {"version": "9.9.9"}}, MERGE)
    flux.reconcile()
    until(flux, lambda: phase(world) == ("Live", "1.0.1"), "what was edited is put back")
    until(flux, lambda: rests(flux, world, operator), "neither of the two writes any more")

    flux.fetch(policies.push(pack=None))
    until(flux, lambda: there(world.client, place(PACK)) is None, "a pack that left the repository is pruned, and nothing holds it")
    assert there(world.client, place(POINT)) is not None
    world.until_settled()
    receipts = world.client.call("GET", collection("Receipt", "erp"))["items"]
    told = {row["spec"]["event"] for row in receipts if row["spec"].get("pack") == PACK.name}
    assert told >= {"Compiled", "Built", "Signed", "Promoted", "RolledBack"}, "receipts outlive their pack"

    flux.forget()
    assert not any(
        world.client.call("GET", collection(kind, "erp"))["items"] for kind in ("EnforcementPoint", "DataBundle", "SchemaVersion")
    )
    world.check()


def given(flux: Flux, policies: Policies, kubectl: Callable[..., str], folder: Path) -> None:
    """What a user copies, with the address of this repository. Flux gives up soon, for nobody is there to wait for."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "policies-read", "namespace": "erp"},
        "stringData": {"username": policies.reader, "password": policies.token},
    }
    (folder / "secret.json").write_text(json.dumps(secret))
    (folder / "flux.yaml").write_text(
        PLAIN.replace("https://git.example.com/erp/policies.git", policies.url).replace("timeout: 30m", f"timeout: {GIVEN_UP_S}s")
    )
    kubectl("apply", "-f", str(folder / "secret.json"), "-f", str(folder / "flux.yaml"))


def moved(flux: Flux, policies: Policies, version: str, least: int) -> str:
    """Another version of the pack is merged, and Flux has it; the commit."""
    commit = policies.push(pack=pack(version, least))
    flux.fetch(commit)
    return commit


def ready(flux: Flux, world: World, commit: str, version: str) -> None:
    """Flux is content with this commit, and the pack was ready by then."""

    def content() -> bool:
        applied = flux.is_ready()[0] == "True" and flux.kustomization()["status"].get("lastAppliedRevision")  # written after its conditions
        return bool(applied == f"main@sha1:{commit}")

    until(flux, content, f"ready at {version}")
    found = world.get(PACK)
    assert phase(world) == ("Live", version)
    (pack_since,) = (row["lastTransitionTime"] for row in found.status["conditions"] if row["type"] == "Ready")
    (since,) = (row["lastTransitionTime"] for row in flux.kustomization()["status"]["conditions"] if row["type"] == "Ready")
    assert pack_since <= since


def says(flux: Flux, words: str) -> str:
    """Status of Ready when its message has these words; "True" when Flux is content before."""
    found = [("", "")]

    def told() -> bool:
        found.append(flux.is_ready())
        return found[-1][0] == "True" or words in found[-1][1]

    until(flux, told, words)
    return found[-1][0]


def attempted(flux: Flux, commit: str) -> bool:
    return bool(flux.kustomization()["status"].get("lastAttemptedRevision") == f"main@sha1:{commit}")


def rests(flux: Flux, world: World, operator: Operator) -> bool:
    """Whether nothing is written while both look at all of it."""
    before, turns = versions(world), looks(operator)
    flux.reconcile()
    until(flux, lambda: looks(operator) >= turns + 10, "the operator has looked")
    return versions(world) == before


def until(flux: Flux, holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline_s, f"not so: {what}; {flux.is_ready()}\n{flux.said()}"
        time.sleep(0.1)
