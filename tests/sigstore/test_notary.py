"""What a private sigstore bears witness to: keys in files, keys in a token and a pod's token, each accepted offline, by cosign without
`--insecure-ignore-tlog` and by sigstore-python where that can; and refused altered, of another key, identity or log."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from socket import socket
from typing import Any

import pytest
from notary_settings import ENTRY, NOW, TIMESTAMP, WHO, altered, settings
from private_stack import Stack, cosign_accepts
from registry_servers import debian_registry
from sigstore.errors import Error
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier, policy

from knhk.adapters.registry_oci import OciRegistry
from knhk.adapters.signer_roles import RoleSigner, pem_of, trust
from knhk.lockchain import PolicyEvent, statement
from knhk.model.faults import Stalled, Waiting
from knhk.model.oci import PACK, PACK_SO, PROVENANCE_PREDICATE, SIGNATURE_PREDICATE, Blob
from knhk.packaging.image import layer, manifest
from knhk.packaging.materials import Material
from knhk.packaging.provenance import image_statement
from knhk.packaging.signed import attached, signature_statement
from knhk.reconcilers.building import notarise
from knhk.wiring.signing import established, keys_in, notary_in
from knhk_runtime.distribution import Repository
from knhk_verify.errors import Bad
from knhk_verify.signed import POLICY_EVENT, canonical, keyid, verify_bundle
from soft_hsm import SoftHsm

SUBJECT = "ab" * 32
EVENT = statement(PolicyEvent("Promoted", ("pack/erp/orders@1.0.0", SUBJECT), "control-plane", f"{NOW:%Y-%m-%dT%H:%M:%SZ}"))

# Another run on this machine may have the timestamp server's port for as long as it takes it (private_stack.py).
pytestmark = [pytest.mark.server, pytest.mark.xdist_group("sigstore"), pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Rig:
    """A folder of keys with a notary, and cosign with nothing but a trusted root and whom to believe."""

    folder: Path
    signer: RoleSigner
    stack: Stack
    cosign: Path
    keyless: bool

    def notarised(self, role: str, told: dict[str, Any] = EVENT) -> bytes:
        notary = notary_in(self.folder)
        assert notary is not None
        with closing(notary):
            return notary.notarised(role, self.signer.bundle(role, told))

    def whom(self, role: str, identity: str = WHO) -> list[str]:
        if self.keyless:
            return ["--certificate-identity", identity, "--certificate-oidc-issuer", self.stack.issuer.url]
        path = self.folder / f"{role}.pub"
        path.write_bytes(pem_of(self.signer.outside_named().keys[role][0].public))
        return ["--key", str(path)]

    def accepts(self, command: str, whom: list[str], *more: str, root: Path | None = None) -> bool:
        return cosign_accepts(self.cosign, self.folder, root or self.stack.trusted_root, command, *whom, *more)

    def accepts_event(self, whom: list[str], bundle: bytes, root: Path | None = None) -> bool:
        path = self.folder / "bundle.json"
        path.write_bytes(bundle)
        about = ["--bundle", str(path), "--type", POLICY_EVENT, "--digest", SUBJECT, "--digestAlg", "sha256"]
        return self.accepts("verify-blob-attestation", whom, *about, root=root)


@pytest.fixture(params=["files", "token", "keyless"])
def rig(request: pytest.FixtureRequest, sigstore: Stack, cosign_program: Path, tmp_path: Path) -> Rig:
    folder = tmp_path / "keys"
    if request.param == "token":
        put: Callable[..., Path] = request.getfixturevalue("softhsm").put
        put(folder)
    signer = established(folder, "knhk.dev/test", NOW)
    keyless = request.param == "keyless"
    settings(sigstore, folder, keyless)
    trust(folder, keys_in(folder), sigstore.trusted_root.read_bytes(), "knhk.dev/test", NOW)
    return Rig(folder, signer, sigstore, cosign_program, keyless)


ALTERED = (
    ("dsseEnvelope", "payload"),
    ("dsseEnvelope", "signatures", 0, "sig"),
    TIMESTAMP,
    (*ENTRY, "inclusionProof", "hashes", 0),
)


def test_a_receipt_is_accepted_offline_and_altered_refused(rig: Rig, tmp_path: Path) -> None:
    before = rig.notarised("rollout")  # so that the next has a proof of more than nothing
    bundle = rig.notarised("rollout")
    assert rig.accepts_event(rig.whom("rollout"), before)
    assert rig.accepts_event(rig.whom("rollout"), bundle)
    assert json.loads(bundle)["dsseEnvelope"]["payload"] == base64.b64encode(canonical(EVENT)).decode()
    for path in ALTERED:
        assert not rig.accepts_event(rig.whom("rollout"), altered(bundle, *path)), path
    for name in ("tlogEntries", "timestampVerificationData"):
        without = json.loads(bundle)
        del without["verificationMaterial"][name]
        assert not rig.accepts_event(rig.whom("rollout"), canonical(without)), name
    mixed = json.loads(bundle)
    mixed["verificationMaterial"]["tlogEntries"] = json.loads(rig.notarised("rollout", {**EVENT, "subject": []}))["verificationMaterial"][
        "tlogEntries"
    ]
    assert not rig.accepts_event(rig.whom("rollout"), canonical(mixed))
    other = rig.whom("build") if not rig.keyless else rig.whom("", WHO + "-2")
    assert not rig.accepts_event(other, bundle)
    root = json.loads(rig.stack.trusted_root.read_text())
    root["tlogs"][0]["publicKey"]["validFor"] = {"start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z"}
    root["tlogs"][0]["publicKey"]["rawBytes"] = root["ctlogs"][0]["publicKey"]["rawBytes"]
    (tmp_path / "other.json").write_text(json.dumps(root))
    assert not rig.accepts_event(rig.whom("rollout"), bundle, tmp_path / "other.json")


def test_sigstore_python_accepts_what_a_certificate_signed(sigstore: Stack, cosign_program: Path, tmp_path: Path) -> None:
    signer = established(tmp_path, "knhk.dev/test", NOW)
    settings(sigstore, tmp_path, keyless=True)
    trust(tmp_path, keys_in(tmp_path), sigstore.trusted_root.read_bytes(), "knhk.dev/test", NOW)
    rig = Rig(tmp_path, signer, sigstore, cosign_program, keyless=True)
    bundle = rig.notarised("rollout")
    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(sigstore.trusted_root)))
    _, payload = verifier.verify_dsse(Bundle.from_json(bundle), policy.Identity(identity=WHO, issuer=sigstore.issuer.url))
    assert payload == canonical(EVENT)
    for identity, issuer in ((WHO + "-2", sigstore.issuer.url), (WHO, "https://issuer.example")):
        with pytest.raises(Error):
            verifier.verify_dsse(Bundle.from_json(bundle), policy.Identity(identity=identity, issuer=issuer))
    with pytest.raises(Error):
        verifier.verify_dsse(Bundle.from_json(altered(bundle, *TIMESTAMP)), policy.Identity(identity=WHO, issuer=sigstore.issuer.url))


def test_an_image_s_signature_and_provenance_get_witnesses_once(rig: Rig, tmp_path: Path) -> None:
    blob = Blob(PACK_SO, b"machine code")
    image = manifest(PACK, [layer(blob, "pack.so")], (blob,))
    provenance = image_statement(image, "pack/erp/orders@1.0.0", [Material("source", "cd" * 32, "urn:source", "")])
    papers = ((signature_statement(image, "pack/erp/orders@1.0.0"), SIGNATURE_PREDICATE), (provenance, PROVENANCE_PREDICATE))
    others = manifest(PACK, [], (), None, {"of": "others"})
    forged = altered(
        rig.signer.bundle("build", signature_statement(others, "pack/erp/orders@1.0.0")), "dsseEnvelope", "signatures", 0, "sig"
    )
    notary = notary_in(rig.folder)
    assert notary is not None
    (tmp_path / "registry").mkdir()
    with debian_registry(tmp_path / "registry") as url, closing(Repository(f"{url}/shop/orders")) as repository, closing(notary):
        registry = OciRegistry(repository)
        registry.publish([image, *(attached(image, rig.signer.bundle("build", told), kind) for told, kind in papers)], "1.0.0")
        registry.publish([attached(image, forged, SIGNATURE_PREDICATE)])  # by who can write the registry, under our key's name
        with pytest.raises(Stalled, match="signed by no key of role build"):
            notary.notarised("build", forged)
        ref = ["--allow-http-registry", f"{url.removeprefix('http://')}/shop/orders@{image.digest}"]
        assert not rig.accepts("verify", rig.whom("build"), *ref)
        notarise(image.digest, "build", registry, rig.signer, notary)
        listed = registry.referrers(image.digest)
        notarise(image.digest, "build", registry, rig.signer, notary)
        assert registry.referrers(image.digest) == listed
        assert len(listed) == 2 + 1 + 2  # nothing outside bears witness to what is forged
        assert rig.accepts("verify", rig.whom("build"), *ref)
        assert rig.accepts("verify-attestation", rig.whom("build"), "--type", "slsaprovenance1", *ref)
        other = rig.whom("data") if not rig.keyless else rig.whom("", WHO + "-2")
        assert not rig.accepts("verify", other, *ref)
        assert not rig.accepts("verify-attestation", other, "--type", "slsaprovenance1", *ref)


def test_what_comes_back_is_held_against_the_pinned_root_and_identity(rig: Rig) -> None:
    root = json.loads(rig.stack.trusted_root.read_text())
    root["tlogs"], older = [{**root["tlogs"][0], "baseUrl": "http://other.example"}], (rig.folder / "trusted_root.json").read_bytes()
    (rig.folder / "trusted_root.json").write_text(json.dumps(root))
    with pytest.raises(Stalled, match="as keys"):
        rig.notarised("rollout")
    trust(rig.folder, keys_in(rig.folder), json.dumps(root).encode(), "knhk.dev/test", NOW)
    with pytest.raises(Stalled, match="answered is refused"):
        rig.notarised("rollout")
    (rig.folder / "trusted_root.json").write_bytes(older)
    with pytest.raises(Stalled, match="as keys"):
        rig.notarised("rollout")
    trust(rig.folder, keys_in(rig.folder), older, "knhk.dev/test", NOW)
    rig.notarised("rollout")
    if rig.keyless:
        settings(rig.stack, rig.folder, True, identity=WHO + "-2")
        with pytest.raises(Stalled, match="certificate is refused"):
            rig.notarised("rollout")
        settings(rig.stack, rig.folder, True)
        (rig.folder / "token").write_text(rig.stack.issuer.token(audience="others"))
        with pytest.raises(Stalled, match="400"):
            rig.notarised("rollout")


def test_answers_and_files_of_a_wrong_form_are_told(sigstore: Stack, tmp_path: Path) -> None:
    """Else the Receipt would wait for ever, and all others with it."""
    signer = established(tmp_path, "knhk.dev/test", NOW)
    settings(sigstore, tmp_path, False)
    trust(tmp_path, keys_in(tmp_path), sigstore.trusted_root.read_bytes(), "knhk.dev/test", NOW)
    notary = notary_in(tmp_path)
    assert notary is not None
    with closing(notary):
        entry = json.loads(notary.notarised("rollout", signer.bundle("rollout", EVENT)))["verificationMaterial"]["tlogEntries"][0]
        body, root = base64.b64decode(entry["canonicalizedBody"]), notary.root()
        root.demand_entry(entry, body, datetime.now(UTC))
        for hashes in ([1], 5, [None], {"a": 1}):
            with pytest.raises(Bad, match="hashes"):
                root.demand_entry({**entry, "inclusionProof": {**entry["inclusionProof"], "hashes": hashes}}, body, datetime.now(UTC))
    (tmp_path / "empty.pem").write_text("")
    for name in ("nowhere.pem", "empty.pem"):
        settings(sigstore, tmp_path, False, ca=name)
        wrong = notary_in(tmp_path)
        assert wrong is not None
        with closing(wrong), pytest.raises(Stalled, match=f"{name}.*must hold authorities"):
            wrong.notarised("rollout", signer.bundle("rollout", EVENT))


def test_keys_for_sigstore_are_vouched_for_and_turn_with_their_role(softhsm: SoftHsm, sigstore: Stack, tmp_path: Path) -> None:
    from knhk.adapters.signer_roles import rotate

    for folder in (tmp_path / "files", softhsm.put(tmp_path / "token")):
        signer = established(folder, "knhk.dev/test", NOW)
        made = trust(folder, keys_in(folder), sigstore.trusted_root.read_bytes(), "knhk.dev/test", NOW)
        assert trust(folder, keys_in(folder), sigstore.trusted_root.read_bytes(), "knhk.dev/test", NOW) == made == signer.outside_named()
        first = signer.outside("build")
        assert first is not None
        rotate(folder, keys_in(folder), "build", "knhk.dev/test", NOW)
        second, named = signer.outside("build"), signer.outside_named()
        assert second is not None
        assert [(key.public, key.until is None) for key in named.keys["build"]] == [(second.public, True), (first.public, False)]
        assert named.keys["rollout"] == made.keys["rollout"]
        established(folder, "knhk.dev/test", NOW)
        assert signer.outside_named() == named
        assert keyid(second.public) != keyid(first.public)


def test_a_server_that_is_away_is_waited_for(rig: Rig) -> None:
    """Where each server was nobody answers, then it is back: its port is held meanwhile, so that no other test's server takes it."""
    with closing(socket()) as held:
        held.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{held.getsockname()[1]}"
        for name in ("rekor", "timestamp", *(["fulcio"] if rig.keyless else [])):
            settings(rig.stack, rig.folder, rig.keyless, **{name: nobody})
            with pytest.raises(Waiting, match=f"{nobody}.*does not answer"):
                rig.notarised("rollout")
    settings(rig.stack, rig.folder, rig.keyless)
    bundle = rig.notarised("rollout")
    assert rig.accepts_event(rig.whom("rollout"), bundle)
    assert verify_bundle(rig.signer.bundle("rollout", EVENT), {rig.signer.keyid("rollout"): rig.signer.public("rollout")})
