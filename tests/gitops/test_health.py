"""Under Flux and Argo CD: what their own code makes of our objects as the control plane writes them. kstatus is what Flux reads; the health
script runs as Argo CD runs it. Their controllers are not run here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import InlineExecutor
from git_repo import Repo
from health_binary import health as build
from policy_house import REPOSITORY, House
from rollout_world import PACK, World, bundle, pack, point

from go_binaries import CannotBuild
from knhk.api import KINDS, to_document
from knhk.api.kinds.common import UNSEEN
from knhk.model.resource import Key, Resource

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
GITOPS = ROOT / "manifests" / "gitops"
PREFIX = "resource.customizations.health.knhk.dev_"
Tell = Callable[[dict[str, Any]], tuple[str, str, str]]


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    """Health scripts of Argo CD's configuration, by kind."""
    found = yaml.safe_load((GITOPS / "argocd-cm.yaml").read_text())["data"]
    assert all(name.startswith(PREFIX) for name in found)
    return {name.removeprefix(PREFIX): script for name, script in found.items()}


@pytest.fixture(scope="module")
def tell(scripts: dict[str, str]) -> Tell:
    """What Flux says, what Argo CD says, and in which words."""
    try:
        program = build(build=True)
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")

    def ask(document: dict[str, Any]) -> tuple[str, str, str]:
        given = json.dumps({"script": scripts[document["kind"]], "objects": {"it": document}})
        done = subprocess.run([str(program)], input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["it"]
        return found["flux"]["status"], found["argo"]["status"], found["argo"]["message"]

    return ask


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One of each kind, all worked on: 1.0.0 is live."""
    folder = tmp_path_factory.mktemp("health")
    repo = Repo(folder / "repo" / "erp" / "policies")
    repo.commit({"point.yaml": point(), "roles.yaml": bundle(), "pack.yaml": pack("1.0.0", bundles="{name: roles}")})
    house = House(repo, folder)
    house.follow()
    house.until_live()
    examples = ROOT / "manifests" / "examples"
    house.world.apply(*((examples / f"{name}.yaml").read_text() for name in ("invoice-schema", "finance-hooks")))
    flag = "{pack: orders, variants: {'on': true, 'off': false}, defaultVariant: 'on'}"
    house.world.apply(f"apiVersion: knhk.dev/v1alpha1\nkind: FeatureFlag\nmetadata: {{name: canary, namespace: erp}}\nspec: {flag}\n")
    spec = {"pack": "orders", "revision": house.world.get(PACK).status["live"]["digest"], "stage": "production", "approver": "local:kim"}
    house.world.store.create(Resource("Approval", "erp", "kim", spec))
    consent = (examples / "consent.yaml").read_text().replace("namespace: ats", "namespace: erp")
    house.world.apply(consent)
    house.world.run(60)
    house.world.settle()
    return house.world


def one_of(world: World, kind: str) -> dict[str, Any]:
    return to_document(world.store.list(kind).resources[0])


def test_every_kind_has_its_script(scripts: dict[str, str]) -> None:
    assert scripts.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_done_is_healthy_to_both(world: World, tell: Tell, kind: str) -> None:
    assert tell(one_of(world, kind))[:2] == ("Current", "Healthy"), one_of(world, kind)["status"]["conditions"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Receipt"])
def test_what_nobody_has_worked_on_is_in_progress(world: World, tell: Tell, kind: str) -> None:
    fresh = {**one_of(world, kind), "status": dict(UNSEEN)}
    assert tell(fresh) == ("InProgress", "Progressing", "the control plane has not seen it yet")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Receipt"])
def test_a_changed_spec_is_in_progress_until_it_is_seen(world: World, tell: Tell, kind: str) -> None:
    document = one_of(world, kind)
    document["metadata"] = {**document["metadata"], "generation": 99}
    assert tell(document)[:2] == ("InProgress", "Progressing")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_being_deleted_is_told_so(world: World, tell: Tell, kind: str) -> None:
    document = one_of(world, kind)
    document["metadata"] = {**document["metadata"], "deletionTimestamp": "2026-11-26T00:00:00Z", "finalizers": ["knhk.dev/receipts"]}
    assert tell(document)[:2] == ("Terminating", "Progressing")


def test_a_rollout_is_in_progress_until_it_is_live_and_failed_when_it_is_rolled_back(tell: Tell) -> None:
    world = World()
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    world.bad = frozenset({"1.1.0"})
    world.apply(pack("1.1.0", constraint="sh:minCount 2"))
    world.until_phase("Rolling")
    assert tell(to_document(world.get()))[:2] == ("InProgress", "Progressing")
    world.until_phase("RolledBack")
    flux, argo, words = tell(to_document(world.get()))
    assert (flux, argo, words.split(":")[0]) == ("Failed", "Degraded", "RolledBack")


def test_what_a_person_must_mend_is_failed(tell: Tell) -> None:
    world = World()
    world.apply(point(), pack("1.0.0", constraint="sh:minCount -1"))
    world.until_phase("Stalled")
    assert tell(to_document(world.get()))[:2] == ("Failed", "Degraded")


def test_a_repository_that_nobody_allowed_is_failed(tell: Tell, tmp_path: Path) -> None:
    house = House(Repo(tmp_path / "repo"), tmp_path, executor=InlineExecutor())
    house.trusts.repository(namespaces=frozenset())
    house.follow()
    house.world.run(6)
    assert tell(to_document(house.world.get(REPOSITORY)))[:2] == ("Failed", "Degraded")


def test_a_suspended_object_is_suspended_to_argo_and_in_progress_to_flux(tell: Tell) -> None:
    world = World()
    world.apply(f"{bundle()}  suspend: true\n")
    world.run(6)
    assert tell(to_document(world.get(Key("DataBundle", "erp", "roles"))))[:2] == ("InProgress", "Suspended")


def test_a_point_that_runs_something_else_is_degraded_to_argo(world: World, tell: Tell) -> None:
    world.runs = {"stable": "sha256:" + "00" * 32, "candidate": None, "data": None}
    key = Key("EnforcementPoint", "erp", "p1")
    world.until(lambda: world.ready(key)["reason"] == "Drifted")
    assert tell(to_document(world.get(key)))[:2] == ("InProgress", "Degraded")
    world.runs = None
    world.until(lambda: world.ready(key)["reason"] == "Running")


def test_the_examples_apply_what_a_controller_may() -> None:
    objects = {row["kind"]: row for row in yaml.safe_load_all((GITOPS / "flux.yaml").read_text())}
    flux, role = objects["Kustomization"]["spec"], objects["Role"]
    assert flux["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]
    allowed = {name for rule in role["rules"] if "create" in rule["verbs"] for name in rule["resources"]}
    ours = KINDS.keys() - {"Approval", "Consent", "Receipt", "PolicyRepository"}
    assert allowed == {KINDS[kind].plural for kind in ours}
    assert flux["wait"] is True
    project, application = (row["spec"] for row in yaml.safe_load_all((GITOPS / "argocd-application.yaml").read_text()))
    assert {(row["group"], row["kind"]) for row in project["namespaceResourceWhitelist"]} == {("knhk.dev", kind) for kind in ours}
    assert project["destinations"] == [application["destination"]]
