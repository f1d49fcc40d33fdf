"""cosign accepts what we sign, offline, with nothing but the public key of its role; and refuses it altered, or by another role's key."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from registry_servers import debian_registry

from knhk.adapters.registry_oci import OciRegistry
from knhk.adapters.signer_local import LocalSigner, establish
from knhk.lockchain import PolicyEvent, statement
from knhk.model.oci import PACK, PACK_SO, PROVENANCE_PREDICATE, SIGNATURE_PREDICATE, Artifact, Blob
from knhk.packaging.image import layer, manifest
from knhk.packaging.materials import Material
from knhk.packaging.provenance import image_statement
from knhk.packaging.signed import attached, signature_statement
from knhk_runtime.distribution import Repository
from knhk_verify.signed import POLICY_EVENT, canonical

NAME, SUBJECT = "pack/erp/orders@1.0.0", "ab" * 32
EVENT = PolicyEvent("Promoted", (NAME, SUBJECT), "control-plane", "2026-11-23T10:00:00Z", point="erp/orders")

pytestmark = pytest.mark.server


@dataclass(frozen=True)
class Cosign:
    """cosign without a network, a cache or an account: a home of its own, keys as PEM files."""

    program: Path
    home: Path
    signer: LocalSigner

    def __call__(self, command: str, role: str, *more: str) -> str | None:
        """Standard output of a verification by the key of `role`; None when it is refused, for its signature or its claims."""
        key = self.home / f"{role}.pub"
        pem = Ed25519PublicKey.from_public_bytes(self.signer.public(role)).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        key.write_bytes(pem)
        argv = [str(self.program), command, "--key", str(key), "--insecure-ignore-tlog", *more]
        done = subprocess.run(argv, env={"HOME": str(self.home)}, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            return done.stdout
        assert any(why in done.stderr for why in ("could not verify envelope", "digest", "no signatures", "no matching")), done.stderr
        return None


@pytest.fixture
def cosign(cosign_program: Path, tmp_path: Path) -> Cosign:
    return Cosign(cosign_program, tmp_path, establish(tmp_path / "keys", "knhk.dev/test", datetime.now(UTC)))


# ---- receipts of policy events ------------------------------------------------------------------


def _flipped(bundle: dict[str, Any], member: str) -> dict[str, Any]:
    envelope = bundle["dsseEnvelope"]
    place = envelope["signatures"][0] if member == "sig" else envelope
    data = bytearray(base64.b64decode(place[member]))
    data[-10] ^= 1
    place[member] = base64.b64encode(data).decode()
    return bundle


def test_a_receipt_s_bundle_is_an_attestation(cosign: Cosign) -> None:
    bundle, file = cosign.signer.bundle("rollout", statement(EVENT)), cosign.home / "bundle.json"

    def judge(role: str, data: bytes, digest: str = SUBJECT) -> str | None:
        file.write_bytes(data)
        about = ["--bundle", str(file), "--type", POLICY_EVENT, "--digest", digest, "--digestAlg", "sha256"]
        return cosign("verify-blob-attestation", role, *about)

    assert judge("rollout", bundle) is not None
    assert judge("build", bundle) is None
    assert judge("rollout", bundle, "cd" * 32) is None
    for member in ("payload", "sig"):
        assert judge("rollout", canonical(_flipped(json.loads(bundle), member))) is None


# ---- images --------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "registry").mkdir()
    with debian_registry(tmp_path / "registry") as url:
        yield url


def published(url: str, made: Callable[[Artifact], list[tuple[bytes, str]]]) -> str:
    """Reference of a new image with the given signed statements beside it."""
    blob = Blob(PACK_SO, b"machine code")
    image = manifest(PACK, [layer(blob, "pack.so")], (blob,))
    with closing(Repository(f"{url}/shop/orders")) as repository:
        OciRegistry(repository).publish([image, *(attached(image, *signed) for signed in made(image))], "1.0.0")
    return f"{url.removeprefix('http://')}/shop/orders@{image.digest}"


def _papers(signer: LocalSigner, image: Artifact) -> list[tuple[bytes, str]]:
    made = image_statement(image, NAME, [Material("source", "cd" * 32, "urn:source", "")])
    signature = signature_statement(image, NAME)
    return [(signer.bundle("build", signature), SIGNATURE_PREDICATE), (signer.bundle("build", made), PROVENANCE_PREDICATE)]


def test_an_image_is_signed_and_attested(cosign: Cosign, registry: str) -> None:
    ref = published(registry, lambda image: _papers(cosign.signer, image))
    verified = cosign("verify", "build", "--allow-http-registry", ref)
    assert verified is not None
    assert ref.partition("@")[2] in {found["critical"]["image"]["docker-manifest-digest"] for found in json.loads(verified)}
    attested = cosign("verify-attestation", "build", "--allow-http-registry", "--type", "slsaprovenance1", ref)
    assert attested is not None
    said = json.loads(base64.b64decode(json.loads(attested)["payload"]))
    assert (said["predicateType"], said["subject"][0]["name"]) == (PROVENANCE_PREDICATE, NAME)
    for command, more in (("verify", ()), ("verify-attestation", ("--type", "slsaprovenance1"))):
        assert cosign(command, "data", "--allow-http-registry", *more, ref) is None


def test_altered_papers_are_refused(cosign: Cosign, registry: str) -> None:
    def altered(image: Artifact) -> list[tuple[bytes, str]]:
        return [(canonical(_flipped(json.loads(bundle), "sig")), predicate) for bundle, predicate in _papers(cosign.signer, image)]

    ref = published(registry, altered)
    assert cosign("verify", "build", "--allow-http-registry", ref) is None
    assert cosign("verify-attestation", "build", "--allow-http-registry", "--type", "slsaprovenance1", ref) is None


def test_papers_of_another_image_are_refused(cosign: Cosign, registry: str) -> None:
    blob = Blob(PACK_SO, b"other code")
    other = manifest(PACK, [layer(blob, "pack.so")], (blob,))
    ref = published(registry, lambda image: _papers(cosign.signer, other))
    assert cosign("verify", "build", "--allow-http-registry", ref) is None
    assert cosign("verify-attestation", "build", "--allow-http-registry", "--type", "slsaprovenance1", ref) is None
