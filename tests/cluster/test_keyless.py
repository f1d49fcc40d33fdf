"""Keyless on a cluster: operator and builder sign by the tokens of their own service accounts, from a real API server, with one
sigstore.json for both; accepted by us, by sigstore-python and by cosign offline; with another account's token refused."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "sigstore"))
sys.path.insert(0, str(Path(__file__).parents[1] / "registry"))
from control_plane import ISSUER, Cluster
from guarded_pods import token_of
from issuer_proxy import DISCOVERY, way_to_the_issuer
from private_stack import Stack, cosign_accepts, private_sigstore
from registry_servers import debian_registry
from sigstore.errors import Error
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier, policy
from sigstore_binaries import built

from go_binaries import CannotBuild
from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.registry_oci import OciRegistry
from knhk.cli import main
from knhk.lockchain import PolicyEvent, statement
from knhk.model.faults import AlreadyExists, Stalled
from knhk.model.oci import PACK, PACK_SO, PROVENANCE_PREDICATE, SIGNATURE_PREDICATE, Blob
from knhk.packaging.image import layer, manifest
from knhk.packaging.materials import Material
from knhk.packaging.provenance import image_statement
from knhk.packaging.signed import attached, signature_statement
from knhk.reconcilers.building import notarise
from knhk.wiring.signing import SIGSTORE_FILE, notary_in, signer_in
from knhk_runtime.distribution import Repository
from knhk_verify.signed import POLICY_EVENT, canonical

# The timestamp server's port is one for this machine: the tests of tests/sigstore may have it for as long as they take.
pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(1800)]

NOW = datetime.now(UTC)
OWN = "knhk-system"
OPERATOR, BUILDER, OTHER = ACCOUNTS = ("knhk-operator", "knhk-builder", "default")
SUBJECT, PACK_NAME = "ab" * 32, "pack/erp/orders@1.0.0"
EVENT = statement(PolicyEvent("Promoted", (PACK_NAME, SUBJECT), "control-plane", f"{NOW:%Y-%m-%dT%H:%M:%SZ}"))
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"


def identity(account: str) -> str:
    """As Fulcio calls a service account."""
    return f"https://kubernetes.io/namespaces/{OWN}/serviceaccounts/{account}"


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    try:
        return built(build=False)
    except CannotBuild as error:
        pytest.skip(f"no cosign, no sigstore: {error}")


@pytest.fixture(scope="module")
def admin(cluster: Cluster) -> Iterator[KubeClient]:
    """The accounts are there, and whoever asks may read how their tokens are verified; afterwards what was made here is gone."""
    client, accounts = KubeClient(api_client(cluster.kubeconfig)), f"/api/v1/namespaces/{OWN}/serviceaccounts"
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OWN}}),
        *((accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}) for name in ACCOUNTS),
        (BINDINGS, DISCOVERY),
    ]
    made = []
    for path, document in wanted:
        with contextlib.suppress(AlreadyExists):
            client.call("POST", path, body=document)
            made.append(f"{path}/{document['metadata']['name']}")
    yield client
    for path in made[::-1]:
        if path.startswith((f"{accounts}/knhk-", BINDINGS)):  # the namespace and its own account stay, as after other tests
            client.call("DELETE", path)


@dataclass(frozen=True)
class Rig:
    """What the pods of operator and builder have mounted: a Secret of keys each, with the same sigstore.json, and a token."""

    operator: Path
    builder: Path
    stack: Stack
    cosign: Path
    admin: KubeClient

    def give(self, folder: Path, account: str) -> None:
        """As a kubelet projects it."""
        tokens = f"/api/v1/namespaces/{OWN}/serviceaccounts/{account}/token"
        (folder / "token").write_text(token_of(self.admin, None, audience="sigstore", tokens=tokens))

    def witnessed(self, folder: Path, role: str) -> bytes:
        notary = notary_in(folder)
        assert notary is not None
        with closing(notary):
            return notary.notarised(role, signer_in(folder).bundle(role, EVENT))

    def accepts(self, command: str, account: str, *more: str, issuer: str = ISSUER) -> bool:
        whom = ("--certificate-identity", identity(account), "--certificate-oidc-issuer", issuer)
        return cosign_accepts(self.cosign, self.operator.parent, self.stack.trusted_root, command, *whom, *more)

    def accepts_event(self, bundle: bytes, account: str, issuer: str = ISSUER) -> bool:
        path = self.operator.parent / "bundle.json"
        path.write_bytes(bundle)
        about = ("--bundle", str(path), "--type", POLICY_EVENT, "--digest", SUBJECT, "--digestAlg", "sha256")
        return self.accepts("verify-blob-attestation", account, *about, issuer=issuer)


@pytest.fixture(scope="module")
def stack(cluster: Cluster, admin: KubeClient, programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with way_to_the_issuer(cluster.server) as proxy:
        to_it = {"HTTPS_PROXY": proxy, "SSL_CERT_FILE": str(cluster.authority)}
        with private_sigstore(programs, tmp_path_factory.mktemp("sigstore"), (ISSUER,), to_it) as found:
            yield found


@pytest.fixture
def rig(stack: Stack, programs: dict[str, Path], admin: KubeClient, tmp_path: Path) -> Rig:
    keys = tmp_path / "keys"
    made = ["cluster", "keys", str(keys), "--origin", "knhk.dev/test"]
    assert main(made) == main(["keys", "trust", str(stack.trusted_root), "--folder", str(keys)]) == 0
    who = {"rollout": identity(OPERATOR), "build": identity(BUILDER), "data": identity(BUILDER)}
    tell(keys, stack, who)
    assert main(made) == 0
    mounts = {row["metadata"]["name"]: row["data"] for row in yaml.safe_load_all((keys / "secrets.yaml").read_text())}
    found = Rig(tmp_path / "operator", tmp_path / "builder", stack, programs["cosign"], admin)
    for folder, secret, account in ((found.operator, "knhk-keys-rollout", OPERATOR), (found.builder, "knhk-keys-build", BUILDER)):
        folder.mkdir()
        for name, data in mounts[secret].items():
            (folder / name).write_bytes(base64.b64decode(data))
            (folder / name).chmod(0o600)
        found.give(folder, account)
    return found


def tell(folder: Path, stack: Stack, who: object) -> None:
    servers = {"rekor": stack.rekor.url, "timestamp": f"{stack.timestamps.url}/api/v1/timestamp", "fulcio": stack.fulcio.url}
    (folder / SIGSTORE_FILE).write_text(json.dumps({**servers, "token": "token", "issuer": ISSUER, "identity": who}))


def test_a_receipt_is_signed_by_the_operator_s_account(rig: Rig) -> None:
    bundle = rig.witnessed(rig.operator, "rollout")
    verify = partial(Verifier(trusted_root=TrustedRoot.from_file(str(rig.stack.trusted_root))).verify_dsse, Bundle.from_json(bundle))
    assert verify(policy.Identity(identity=identity(OPERATOR), issuer=ISSUER))[1] == canonical(EVENT)
    assert rig.accepts_event(bundle, OPERATOR)
    for account, issuer in ((BUILDER, ISSUER), (OTHER, ISSUER), (OPERATOR, rig.stack.issuer.url)):
        assert not rig.accepts_event(bundle, account, issuer)
        with pytest.raises(Error):
            verify(policy.Identity(identity=identity(account), issuer=issuer))


def test_an_image_and_its_provenance_are_signed_by_the_builder_s_account(rig: Rig, tmp_path: Path) -> None:
    blob = Blob(PACK_SO, b"machine code")
    image = manifest(PACK, [layer(blob, "pack.so")], (blob,))
    provenance = image_statement(image, PACK_NAME, [Material("source", "cd" * 32, "urn:source", "")])
    papers = ((signature_statement(image, PACK_NAME), SIGNATURE_PREDICATE), (provenance, PROVENANCE_PREDICATE))
    signer, notary = signer_in(rig.builder), notary_in(rig.builder)
    assert notary is not None
    (tmp_path / "registry").mkdir()
    with debian_registry(tmp_path / "registry") as url, closing(Repository(f"{url}/shop/orders")) as repository, closing(notary):
        registry = OciRegistry(repository)
        registry.publish([image, *(attached(image, signer.bundle("build", told), kind) for told, kind in papers)], "1.0.0")
        notarise(image.digest, "build", registry, signer, notary)
        ref = ("--allow-http-registry", f"{url.removeprefix('http://')}/shop/orders@{image.digest}")
        for command in (("verify",), ("verify-attestation", "--type", "slsaprovenance1")):
            assert rig.accepts(command[0], BUILDER, *command[1:], *ref)
            assert not rig.accepts(command[0], OPERATOR, *command[1:], *ref)


@pytest.mark.parametrize("account", [BUILDER, OTHER])
def test_another_account_s_certificate_is_refused(rig: Rig, account: str) -> None:
    """By us before anything is told, and by who verifies, had we believed it."""
    rig.give(rig.operator, account)
    with pytest.raises(Stalled, match="certificate is refused"):
        rig.witnessed(rig.operator, "rollout")
    tell(rig.operator, rig.stack, identity(account))
    bundle = rig.witnessed(rig.operator, "rollout")
    assert rig.accepts_event(bundle, account)
    assert not rig.accepts_event(bundle, OPERATOR)


def test_tokens_for_others_and_roles_that_nobody_is_named_for_get_no_certificate(rig: Rig) -> None:
    tokens = f"/api/v1/namespaces/{OWN}/serviceaccounts/{OPERATOR}/token"
    (rig.operator / "token").write_text(token_of(rig.admin, None, tokens=tokens))  # meant for the exchange
    with pytest.raises(Stalled, match=f"{rig.stack.fulcio.url}.*400"):
        rig.witnessed(rig.operator, "rollout")
    rig.give(rig.operator, OPERATOR)
    tell(rig.operator, rig.stack, {"build": identity(BUILDER)})
    with pytest.raises(Stalled, match="says nobody for role rollout"):
        rig.witnessed(rig.operator, "rollout")
    for wrong in ({}, {"log": identity(OPERATOR)}, {"rollout": 1}, 7, None):
        tell(rig.operator, rig.stack, wrong)
        with pytest.raises(Stalled, match="identity: must be there"):
            notary_in(rig.operator)
