"""Pack images: the same parts give the same digest, every bit is checked, only role build counts."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.registry_layout import LayoutRegistry
from knhk.model.arrows import GuardPlan, PackSources, SharedObject
from knhk.model.faults import Corrupt, Refused
from knhk.model.oci import PROVENANCE_PREDICATE, SBOM, SIGNATURE_PREDICATE, Artifact
from knhk.packaging import materials, provenance, sbom, signed
from knhk.packaging.image import bundle_image, pack_image
from knhk_runtime.elf import stated
from knhk_runtime.layout import MAX_MANIFEST_BYTES
from knhk_runtime.packstore import PackStore

Publish = Callable[[Path], Artifact]


@pytest.fixture
def publish(
    plan: GuardPlan,
    sources: PackSources,
    objects: tuple[SharedObject, ...],
    compiler: Any,
    signer: Any,
) -> Publish:
    """Puts the pack with all that belongs to it into a registry folder."""

    def put(folder: Path) -> Artifact:
        image = pack_image(plan, objects)
        found = (*materials.of_pack(sources, plan), *compiler.materials())
        told = signer.bundle("build", provenance.statement(image, sources, found))
        signature = signer.bundle("build", signed.signature_statement(image, "pack/erp/invoices@1.0.0"))
        beside = (
            materials.kept(image, sources),
            sbom.attached(image, sources, found),
            signed.attached(image, told, PROVENANCE_PREDICATE),
            signed.attached(image, signature, SIGNATURE_PREDICATE),
        )
        LayoutRegistry(folder).publish((image, *beside), "erp/invoices:1.0.0")
        return image

    return put


def test_two_folders_hold_the_same_bytes(publish: Publish, tmp_path: Path) -> None:
    publish(tmp_path / "a")
    publish(tmp_path / "b")
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / side).rglob("*") if p.is_file()} for side in "ab")
    assert a == b


def test_order_of_architectures_does_not_matter(plan: GuardPlan, objects: tuple[SharedObject, ...]) -> None:
    assert pack_image(plan, objects).digest == pack_image(plan, objects[::-1]).digest


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_a_signed_pack_comes_back_whole(publish: Publish, tmp_path: Path, plan: GuardPlan, objects: Any, signer: Any, arch: str) -> None:
    image = publish(tmp_path)
    fetched = PackStore(tmp_path).fetch_pack(image.digest, arch, signer.keys())
    assert fetched.so == {made.arch: made.data for made in objects}[arch]
    assert fetched.plan == plan.document
    assert fetched.index_digest == image.digest
    assert PackStore(tmp_path).find_pack(bytes.fromhex(image.digest[7:47])) == image.digest


def test_a_flipped_bit_in_any_blob_is_refused_with_what_and_where(publish: Publish, tmp_path: Path, signer: Any) -> None:
    image = publish(tmp_path)
    store, keys = PackStore(tmp_path), signer.keys()
    needed = _needed(tmp_path, image.digest)
    for path in sorted((tmp_path / "blobs" / "sha256").iterdir()):
        whole = path.read_bytes()
        for at in {0, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(Corrupt) as caught:
                LayoutRegistry(tmp_path).read(f"sha256:{path.name}")
            assert caught.value.where == str(path)
            assert f"must be sha256:{path.name}" in caught.value.what
            if path.name in needed:
                with pytest.raises(Corrupt) as caught:
                    store.fetch_pack(image.digest, "amd64", keys)
                assert caught.value.where == str(path)
        path.write_bytes(whole)
    assert store.fetch_pack(image.digest, "amd64", keys).index_digest == image.digest


def test_a_missing_blob_is_told(publish: Publish, tmp_path: Path, signer: Any) -> None:
    image = publish(tmp_path)
    for name in _needed(tmp_path, image.digest):
        path = tmp_path / "blobs" / "sha256" / name
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(Corrupt, match=f"{name}.*missing"):
            PackStore(tmp_path).fetch_pack(image.digest, "amd64", signer.keys())
        path.write_bytes(whole)


def test_an_unsigned_pack_is_refused(plan: GuardPlan, objects: Any, tmp_path: Path, signer: Any) -> None:
    image = pack_image(plan, objects)
    LayoutRegistry(tmp_path).publish([image])
    with pytest.raises(Refused) as caught:
        PackStore(tmp_path).fetch_pack(image.digest, "amd64", signer.keys())
    assert caught.value.faults[0].value == "no signature"
    assert "role build" in caught.value.faults[0].must


@pytest.mark.parametrize("role", ["data", "stranger"])
def test_only_a_key_of_role_build_signs_packs(plan: GuardPlan, objects: Any, tmp_path: Path, signer: Any, stranger: Any, role: str) -> None:
    image = pack_image(plan, objects)
    who = stranger if role == "stranger" else signer
    bundle = who.bundle(
        "build" if role == "stranger" else "data",
        signed.signature_statement(image, "pack/erp/invoices@1.0.0"),
    )
    LayoutRegistry(tmp_path).publish([image, signed.attached(image, bundle, SIGNATURE_PREDICATE)])
    with pytest.raises(Refused) as caught:
        PackStore(tmp_path).fetch_pack(image.digest, "amd64", signer.keys())
    assert "not a key allowed here" in caught.value.faults[0].value


def test_the_signature_of_another_pack_does_not_count(plan: GuardPlan, objects: Any, tmp_path: Path, signer: Any) -> None:
    image, other = pack_image(plan, objects), pack_image(plan, objects[:1])
    bundle = signer.bundle("build", signed.signature_statement(other, "pack/erp/invoices@1.0.0"))
    LayoutRegistry(tmp_path).publish([image, signed.attached(image, bundle, SIGNATURE_PREDICATE)])
    with pytest.raises(Refused) as caught:
        PackStore(tmp_path).fetch_pack(image.digest, "amd64", signer.keys())
    assert f"is not {image.digest}" in caught.value.faults[0].value


def test_an_object_that_states_another_plan_is_refused(plan: GuardPlan, objects: Any, tmp_path: Path, signer: Any) -> None:
    other = GuardPlan({**plan.document, "tool": "another"})
    image = pack_image(other, objects)
    bundle = signer.bundle("build", signed.signature_statement(image, "pack/erp/invoices@1.0.0"))
    LayoutRegistry(tmp_path).publish([image, signed.attached(image, bundle, SIGNATURE_PREDICATE)])
    with pytest.raises(Corrupt, match=f"plan digest is {plan.digest}, must be {other.digest}"):
        PackStore(tmp_path).fetch_pack(image.digest, "amd64", signer.keys())


def test_an_object_under_the_wrong_architecture_is_refused(plan: GuardPlan, objects: Any, tmp_path: Path, signer: Any) -> None:
    swapped = [SharedObject(b.arch, a.data) for a, b in zip(objects, objects[::-1], strict=True)]
    image = pack_image(plan, swapped)
    bundle = signer.bundle("build", signed.signature_statement(image, "pack/erp/invoices@1.0.0"))
    LayoutRegistry(tmp_path).publish([image, signed.attached(image, bundle, SIGNATURE_PREDICATE)])
    with pytest.raises(Corrupt, match="architecture is arm64, must be amd64"):
        PackStore(tmp_path).fetch_pack(image.digest, "amd64", signer.keys())


def test_an_architecture_that_was_not_built_is_told(publish: Publish, tmp_path: Path, signer: Any) -> None:
    image = publish(tmp_path)
    with pytest.raises(Refused, match="0 manifests for linux/riscv64"):
        PackStore(tmp_path).fetch_pack(image.digest, "riscv64", signer.keys())


def test_a_data_bundle_needs_a_key_of_role_data(tmp_path: Path, signer: Any) -> None:
    good, bad = (
        bundle_image("erp", "roles", b"KNHKBND2 good"),
        bundle_image("erp", "roles", b"KNHKBND2 bad"),
    )
    registry, store = LayoutRegistry(tmp_path), PackStore(tmp_path)
    for image, role in ((good, "data"), (bad, "build")):
        bundle = signer.bundle(role, signed.signature_statement(image, "data/erp/roles"))
        registry.publish([image, signed.attached(image, bundle, SIGNATURE_PREDICATE)])
    assert store.fetch_bundle(good.digest, signer.keys()) == b"KNHKBND2 good"
    assert store.find_bundle(bytes.fromhex(good.blobs[-1].digest[7:])) == good.digest
    with pytest.raises(Refused, match="not a key allowed here"):
        store.fetch_bundle(bad.digest, signer.keys())


def test_a_pack_is_no_data_bundle(publish: Publish, tmp_path: Path, signer: Any) -> None:
    with pytest.raises(Corrupt, match="mediaType"):
        PackStore(tmp_path).fetch_bundle(publish(tmp_path).digest, signer.keys())


def test_the_bill_of_materials_names_every_material(publish: Publish, tmp_path: Path) -> None:
    image = publish(tmp_path)
    registry = LayoutRegistry(tmp_path)
    (entry,) = registry.referrers(image.digest, SBOM)
    bom = json.loads(registry.read(json.loads(registry.read(entry.digest))["layers"][0]["digest"]))
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert bom["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": image.digest[7:]}]
    names = [component["name"] for component in bom["components"]]
    assert names == ["engine/decide.c", "plan", "source/shapes", "yyjson", "ziglang"]
    assert all(len(component["hashes"][0]["content"]) == 64 for component in bom["components"])


def test_provenance_leads_back_to_the_sources(plan: GuardPlan, sources: PackSources, objects: Any, compiler: Any) -> None:
    image = pack_image(plan, objects)
    found = tuple(sorted((*materials.of_pack(sources, plan), *compiler.materials())))
    told = provenance.read(provenance.statement(image, sources, found), "here")
    assert told.subject == image.digest
    assert told.materials == found
    assert told.sources(lambda material: "# shapes\n") == sources


def _needed(folder: Path, digest: str) -> set[str]:
    """Blobs that fetching amd64 must read: index, manifest, its layers, signatures."""
    registry = LayoutRegistry(folder)
    index = json.loads(registry.read(digest))
    (entry,) = [m for m in index["manifests"] if m["platform"]["architecture"] == "amd64"]
    names = {
        digest,
        entry["digest"],
        *(x["digest"] for x in json.loads(registry.read(entry["digest"]))["layers"]),
    }
    for found in registry.referrers(digest, "application/vnd.dev.sigstore.bundle.v0.3+json"):
        if found.annotations["dev.sigstore.bundle.predicateType"] == SIGNATURE_PREDICATE:
            names |= {found.digest, json.loads(registry.read(found.digest))["layers"][0]["digest"]}
    return {name[7:] for name in names}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        b"\x7fELF\x02\x01" + bytes(200),
        b"MZ" + bytes(500),
        b"\x7fELF\x02\x01" + b"\xff" * 4096,
    ],
)
def test_what_is_no_pack_is_told_as_such(data: bytes) -> None:
    with pytest.raises(Corrupt, match="must be a shared object of a pack"):
        stated(data, "x.so")


def test_a_second_table_of_symbols_is_not_read(objects: Any) -> None:
    """So an object cannot make its reader walk the same symbols 65,535 times."""
    data = bytearray(objects[0].data)
    sections, (size, count) = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<HH", data, 58)
    kinds = [struct.unpack_from("<I", data, sections + i * size + 4)[0] for i in range(count)]
    empty = struct.pack("<IIQQQQIIQQ", 0, 11, 0, 0, 0, 0, 0, 0, 0, 0)
    data[sections : sections + size] = empty  # in the place of the section before all
    assert kinds[0] == 0
    assert 11 in kinds
    with pytest.raises(Corrupt, match="no symbol"):
        stated(bytes(data), "x.so")


def test_a_manifest_that_no_registry_need_take_is_not_read(tmp_path: Path) -> None:
    data = b" " * (MAX_MANIFEST_BYTES - 1) + b"{}"
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    (tmp_path / "blobs" / "sha256" / digest).write_bytes(data)
    with pytest.raises(Corrupt, match=f"at most {MAX_MANIFEST_BYTES} bytes"):
        PackStore(tmp_path).fetch_pack(f"sha256:{digest}", "amd64", None)


def test_damaged_objects_never_crash_the_reader(objects: Any) -> None:
    """Whatever the bytes, the reader says what they state or that they are corrupt."""
    whole = objects[0].data
    for at in range(0, min(len(whole), 1024)):
        for damage in (0x00, 0xFF, 0x80):
            try:
                stated(whole[:at] + bytes([damage]) + whole[at + 1 :], "x.so")
            except Corrupt:
                continue
