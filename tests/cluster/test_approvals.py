"""Approvals and Consents on the real API server: only a person approves, and who records or approves does it in their own name."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from knhk.adapters.kube_client import KubeClient

sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
POLICIES = tuple(ROOT / "manifests" / "base" / "admission" / f"{kind}.yaml" for kind in ("approvals", "consents"))
EXAMPLE = (ROOT / "manifests" / "examples" / "approval.yaml").read_text()
CONSENT = (ROOT / "manifests" / "examples" / "consent.yaml").read_text().replace("namespace: ats", "namespace: erp")
OPERATOR = "system:serviceaccount:knhk-system:knhk-operator"
ADA, EVE = "ada@example.com", "eve@example.com"
GITOPS = (
    "system:serviceaccount:flux-system:kustomize-controller",
    "system:serviceaccount:argocd:argocd-application-controller",
    OPERATOR,
)
WITHIN_S = 240.0  # a policy counts, or counts no more, a moment after its binding came or went


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def kubectl(clean: KubeClient, cluster: Cluster, servers: dict[str, Path]) -> Iterator[Run]:
    """With the policy in force, until the test ends; everyone may create Approvals, so that only the policy refuses."""

    def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", "--namespace=erp", *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    def refused(text: str, *user: str) -> bool:
        return run("create", "--dry-run=server", *user, "-f", "-", text=text).returncode != 0

    files = [word for path in POLICIES for word in ("-f", str(path))]
    assert run("apply", *files).returncode == 0
    for name in (ADA, EVE, *GITOPS):
        rights = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": binding(name)},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
        }
        assert run("apply", "-f", "-", text=yaml.safe_dump(rights)).returncode == 0
    until(lambda: all(refused(text, f"--as={EVE}") for text in (EXAMPLE, CONSENT)))
    yield run
    assert run("delete", "clusterrolebinding", *(binding(name) for name in (ADA, EVE, *GITOPS))).returncode == 0
    assert run("delete", *files, "--wait").returncode == 0
    until(lambda: not any(refused(text.replace("name: ", "name: other-")) for text in (EXAMPLE, CONSENT)))


def binding(user: str) -> str:
    return f"approves-{user.replace(':', '-').replace('@', '-')}"


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline_s, "the policy is not as it should be"


def test_who_creates_an_approval_is_who_approves(kubectl: Run) -> None:
    other = kubectl("create", f"--as={EVE}", "-f", "-", text=EXAMPLE)
    assert (other.returncode, f"spec.approver must be {EVE}, the user who creates it" in other.stderr) == (1, True)
    own = kubectl("create", f"--as={ADA}", "-f", "-", text=EXAMPLE)
    assert own.returncode == 0, own.stderr


@pytest.mark.parametrize("name", GITOPS)
def test_a_controller_approves_nothing_not_even_in_its_own_name(kubectl: Run, name: str) -> None:
    for text in (EXAMPLE, EXAMPLE.replace(ADA, name)):
        refused = kubectl("create", f"--as={name}", "-f", "-", text=text)
        assert (refused.returncode, "must be created by a person" in refused.stderr) == (1, True), refused.stderr


MARKS = {
    "a Kustomization of Flux": "  labels: {kustomize.toolkit.fluxcd.io/name: policies}\n",
    "a HelmRelease of Flux": "  labels: {helm.toolkit.fluxcd.io/name: policies}\n",
    "Argo CD by label": "  labels: {argocd.argoproj.io/instance: policies}\n",
    "Argo CD by annotation": "  annotations: {argocd.argoproj.io/tracking-id: 'policies:knhk.dev/Approval:erp/a'}\n",
}


@pytest.mark.parametrize("what", MARKS)
def test_a_controller_that_acts_as_a_person_approves_nothing_either(kubectl: Run, what: str) -> None:
    """To another cluster, Flux and Argo CD may come with any user's credentials."""
    marked = EXAMPLE.replace("metadata:\n", f"metadata:\n{MARKS[what]}")
    refused = kubectl("create", f"--as={ADA}", "-f", "-", text=marked)
    assert (refused.returncode, "it carries the mark of Flux or Argo CD" in refused.stderr) == (1, True), refused.stderr


def test_an_approval_never_changes(kubectl: Run) -> None:
    assert kubectl("create", f"--as={ADA}", "-f", "-", text=EXAMPLE).returncode == 0
    changed = kubectl("replace", f"--as={ADA}", "-f", "-", text=EXAMPLE.replace("no new denial", "2 new denials"))
    assert (changed.returncode, "must not change: an Approval is immutable" in changed.stderr) == (1, True), changed.stderr


def test_who_writes_a_consent_is_who_records_it(kubectl: Run) -> None:
    other = kubectl("create", f"--as={EVE}", "-f", "-", text=CONSENT)
    assert (other.returncode, f"spec.actor must be {EVE}, the user who writes it" in other.stderr) == (1, True), other.stderr
    assert kubectl("create", f"--as={EVE}", "-f", "-", text=CONSENT.replace("local:ada", EVE)).returncode == 0
    withdrawn = '{"spec": {"state": "Withdrawn"}}'
    another = kubectl("patch", "consents.knhk.dev", f"--as={ADA}", consent_name(), "--type=merge", f"--patch={withdrawn}")
    assert (another.returncode, f"spec.actor must be {ADA}" in another.stderr) == (1, True), another.stderr


def test_the_operator_holds_what_persons_wrote_and_says_nothing_for_them(kubectl: Run) -> None:
    """It may patch Approvals and Consents for their finalizer alone: no spec, not even in its own name, and it makes none."""
    assert kubectl("create", f"--as={ADA}", "-f", "-", text=EXAMPLE).returncode == 0
    assert kubectl("create", f"--as={ADA}", "-f", "-", text=CONSENT.replace("local:ada", ADA)).returncode == 0
    approval = yaml.safe_load(EXAMPLE)["metadata"]["name"]
    other = {"state": "Withdrawn", "actor": OPERATOR}
    forged = (
        ("approvals.knhk.dev", approval, {"comment": "mine"}, "an Approval is immutable"),
        ("consents.knhk.dev", consent_name(), other, "says nothing for anybody"),
    )
    for kind, name, spec, why in forged:
        words = ("patch", kind, name, f"--as={OPERATOR}", "--type=merge")
        held = kubectl(*words, '--patch={"metadata": {"finalizers": ["knhk.dev/test"]}}')
        assert held.returncode == 0, held.stderr
        assert kubectl(*words, '--patch={"metadata": {"finalizers": null}}').returncode == 0
        refused = kubectl(*words, f"--patch={json.dumps({'spec': spec})}")
        assert (refused.returncode, why in refused.stderr) == (1, True), refused.stderr
    made = kubectl("create", f"--as={OPERATOR}", "-f", "-", text=CONSENT.replace("local:ada", OPERATOR).replace("Granted", "Withdrawn"))
    assert (made.returncode, "says nothing for anybody" in made.stderr) == (1, True), made.stderr


def consent_name() -> str:
    return str(yaml.safe_load(CONSENT)["metadata"]["name"])
