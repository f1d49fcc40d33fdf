"""From a real registry into a layout that the agent's reader takes: signed pack and bundle, by digest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_servers import debian_registry

from knhk.adapters.registry_oci import OciRegistry
from knhk.model.arrows import SharedObject
from knhk.model.faults import Refused
from knhk.model.oci import ARCHES, SIGNATURE_PREDICATE
from knhk.packaging import signed
from knhk.packaging.image import pack_image
from knhk.reconcilers.building import Data, publish_data
from knhk_runtime.distribution import Repository
from knhk_runtime.packstore import PackStore, architecture
from knhk_runtime.pull import pull

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with debian_registry(tmp_path_factory.mktemp("docker-registry")) as found:
        yield f"{found}/knhk/packs"


@pytest.fixture
def registry(url: str) -> Iterator[OciRegistry]:
    repository = Repository(url)
    yield OciRegistry(repository)
    repository.close()


def test_a_built_pack_is_pulled_with_its_signature_and_accepted(
    url: str, registry: OciRegistry, tmp_path: Path, signer: Any, plan: Any, objects: tuple[SharedObject, ...]
) -> None:
    image = pack_image(plan, objects)
    signature = signer.bundle("build", signed.signature_statement(image, "pack/erp/invoices@1.0.0"))
    registry.publish((image, signed.attached(image, signature, SIGNATURE_PREDICATE)), "erp/invoices:1.0.0")
    pull(url, image.digest, tmp_path, auth=None, tls=None)
    fetched = PackStore(tmp_path).fetch_pack(image.digest, architecture(), signer.keys())
    assert fetched.so == next(made.data for made in objects if made.arch == architecture())
    (other,) = set(ARCHES) - {architecture()}
    absent = next(made for made in objects if made.arch == other)
    assert absent.data not in [path.read_bytes() for path in (tmp_path / "blobs" / "sha256").iterdir()]


def test_a_bundle_is_pulled_and_one_without_signature_is_not_believed(url: str, registry: OciRegistry, tmp_path: Path, signer: Any) -> None:
    data = Data("erp", "roles", b"bundle bytes")
    image = publish_data(data, registry, signer)
    pull(url, image.digest, tmp_path / "layout", auth=None, tls=None)
    assert PackStore(tmp_path / "layout").fetch_bundle(image.digest, signer.keys()) == data.data
    bare = Data("erp", "roles", b"unsigned").image
    registry.publish([bare])
    pull(url, bare.digest, tmp_path / "layout", auth=None, tls=None)
    with pytest.raises(Refused, match="no signature"):
        PackStore(tmp_path / "layout").fetch_bundle(bare.digest, signer.keys())


def test_an_image_without_this_architecture_is_refused(url: str, registry: OciRegistry, tmp_path: Path, plan: Any, objects: Any) -> None:
    foreign = pack_image(plan, [made for made in objects if made.arch != architecture()])
    registry.publish([foreign])
    with pytest.raises(Refused, match=f"0 manifests for linux/{architecture()}"):
        pull(url, foreign.digest, tmp_path, auth=None, tls=None)
    assert PackStore(tmp_path).layout.entries() == ()
