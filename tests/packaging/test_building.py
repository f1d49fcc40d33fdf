"""Building: one commit, same digest anywhere, and again from the materials that the provenance names, or not at all."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from knhk.adapters.registry_layout import LayoutRegistry
from knhk.model.arrows import PackSources, SignedPack, Source
from knhk.model.faults import Refused, Stalled
from knhk.model.oci import PREDICATE, PROVENANCE_PREDICATE, SIGNATURE_PREDICATE
from knhk.packaging import provenance, signed
from knhk.packaging.builds import PackOrder, Step
from knhk.reconcilers.building import assemble, build, known, provenance_of, rebuild
from knhk.reconcilers.lowering import portable
from knhk.reconcilers.workshop import Bench
from knhk_runtime.packstore import PackStore

T = TypeVar("T")
SHAPES = """@prefix sh: <http://www.w3.org/ns/shacl#> .
@prefix ex: <https://example.com/ns#> .
ex:OrderShape a sh:NodeShape ; sh:targetClass ex:Order ; sh:property [ sh:path ex:currency ; sh:minCount 1 ] .
"""
MAPPING = """prefixes: {ex: "https://example.com/ns#"}
maps:
  - id: order
    iterator: "$"
    subject: {template: "https://example.com/orders/{id}"}
    class: ex:Order
    properties: {ex:currency: currency}
"""


def finish(steps: Generator[Any, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            made: T = done.value
            return made


def proof(_made: Any) -> dict[str, Any]:
    """Of a prover that found no difference."""
    return {"cases": 1, "asked": 1}


def pack_at(path: str, first_line: int) -> PackSources:
    """The same pack as it would be read from `path`."""
    shapes = Source("shapes", "shapes", SHAPES, path, first_line=first_line)
    mapping = Source("order", "mapping", MAPPING, path, "application/yaml", first_line=first_line + 20)
    return PackSources("erp", "orders", "1.0.0", (shapes, mapping), {"orders": "order"})


@pytest.fixture
def built(tmp_path: Path, compiler: Any, signer: Any) -> SignedPack:
    return finish(build(pack_at("/one/pack.yaml", 9), compiler, LayoutRegistry(tmp_path / "registry"), signer, proof))


def test_the_same_pack_from_two_places_has_one_digest(built: SignedPack, tmp_path: Path, compiler: Any, signer: Any) -> None:
    other = finish(build(pack_at("elsewhere/p.yaml", 41), compiler, LayoutRegistry(tmp_path / "other"), signer, proof))
    assert other == built
    one, two = (LayoutRegistry(tmp_path / name) for name in ("registry", "other"))
    assert [d.digest for d in one.listed()] == [d.digest for d in two.listed()]


def test_a_proof_of_no_case_is_none_and_nothing_is_published(tmp_path: Path, compiler: Any, signer: Any) -> None:
    registry = LayoutRegistry(tmp_path / "registry")
    with pytest.raises(Stalled, match="no case was compared"):
        finish(build(pack_at("p", 1), compiler, registry, signer, lambda _made: {"cases": 0, "asked": 150}))
    assert list(registry.listed()) == []


def test_order_of_sources_does_not_matter(built: SignedPack, tmp_path: Path, compiler: Any, signer: Any) -> None:
    pack = pack_at("p", 1)
    turned = PackSources(pack.namespace, pack.name, pack.version, pack.sources[::-1], pack.routes)
    assert finish(build(turned, compiler, LayoutRegistry(tmp_path / "other"), signer, proof)) == built


def test_building_again_changes_nothing_on_disk(built: SignedPack, tmp_path: Path, compiler: Any, signer: Any) -> None:
    registry = tmp_path / "registry"
    before = {p: p.read_bytes() for p in registry.rglob("*") if p.is_file()}
    assert finish(build(pack_at("x", 1), compiler, LayoutRegistry(registry), signer, proof)) == built
    assert {p: p.read_bytes() for p in registry.rglob("*") if p.is_file()} == before
    assert LayoutRegistry(registry).collect_garbage() == ()


def test_a_rebuild_from_the_provenance_gives_the_digest_again(built: SignedPack, tmp_path: Path, compiler: Any, signer: Any) -> None:
    store = PackStore(tmp_path / "registry")
    assert finish(rebuild(store, built.image.digest, compiler, signer.keys(), None)) == built.image.digest


def test_a_rebuild_works_from_a_folder_of_materials(built: SignedPack, tmp_path: Path, compiler: Any, signer: Any) -> None:
    store, folder = PackStore(tmp_path / "registry"), tmp_path / "materials"
    told = provenance_of(store, built.image.digest, signer.keys())
    folder.mkdir()
    sources = [m for m in told.materials if m.name.startswith("source/")]
    for material in sources:
        (folder / material.sha256).write_bytes(store.layout.read(f"sha256:{material.sha256}"))
        store.layout.blob_path(f"sha256:{material.sha256}").unlink()
    assert finish(rebuild(store, built.image.digest, compiler, signer.keys(), folder)) == built.image.digest
    for material in sources:
        path = folder / material.sha256
        text = path.read_bytes()
        for damage in (None, text + b"# more\n"):
            path.unlink() if damage is None else path.write_bytes(damage)
            with pytest.raises(Refused) as caught:
                finish(rebuild(store, built.image.digest, compiler, signer.keys(), folder))
            assert [fault.where for fault in caught.value.faults] == [f"material {material.name}"]
        path.write_bytes(text)


def test_each_missing_material_ends_the_rebuild_and_is_named(built: SignedPack, tmp_path: Path, compiler: Any, signer: Any) -> None:
    store = PackStore(tmp_path / "registry")
    told = provenance_of(store, built.image.digest, signer.keys())
    assert {m.name for m in told.materials} == {"ziglang", "engine/decide.c", "plan", "source/order", "source/shapes", "yyjson"}
    for material in told.materials:
        if material.name == "plan":
            continue
        path = store.layout.blob_path(f"sha256:{material.sha256}")
        kept = path.read_bytes() if path.exists() else compiler.tools.pop(material.name)
        path.unlink(missing_ok=True)
        with pytest.raises(Refused) as caught:
            finish(rebuild(store, built.image.digest, compiler, signer.keys(), None))
        assert f"material {material.name}" in [fault.where for fault in caught.value.faults]
        if material.name.startswith("source/"):
            path.write_bytes(kept)
        else:
            compiler.tools[material.name] = kept


def test_another_tool_is_named_with_both_digests(built: SignedPack, tmp_path: Path, compiler: Any, signer: Any) -> None:
    compiler.tools["ziglang"] = b"another zig"
    with pytest.raises(Refused) as caught:
        finish(rebuild(PackStore(tmp_path / "registry"), built.image.digest, compiler, signer.keys(), None))
    (fault,) = caught.value.faults
    assert fault.where == "material ziglang"
    assert len(fault.value) == 64
    assert fault.must.startswith("must have SHA-256 ")


def test_a_tool_that_the_provenance_does_not_name_is_refused(built: SignedPack, tmp_path: Path, compiler: Any, signer: Any) -> None:
    compiler.tools["patch"] = b"sneaked in"
    with pytest.raises(Refused) as caught:
        finish(rebuild(PackStore(tmp_path / "registry"), built.image.digest, compiler, signer.keys(), None))
    assert [fault.where for fault in caught.value.faults] == ["material patch"]


def test_a_provenance_by_a_stranger_does_not_count(tmp_path: Path, compiler: Any, signer: Any, stranger: Any) -> None:
    made = finish(build(pack_at("p", 1), compiler, LayoutRegistry(tmp_path), stranger, proof))
    with pytest.raises(Refused) as caught:
        provenance_of(PackStore(tmp_path), made.image.digest, signer.keys())
    assert "role build" in caught.value.faults[0].must


def test_the_provenance_of_another_image_does_not_count(built: SignedPack, tmp_path: Path, compiler: Any, signer: Any) -> None:
    other = replace(pack_at("p", 1), version="2.0.0")
    made = finish(assemble(other, compiler))
    theirs = signer.bundle("build", provenance.statement(made.image, portable(other), made.materials))
    registry = LayoutRegistry(tmp_path / "bare")
    ours = finish(assemble(pack_at("p", 1), compiler)).image
    registry.publish([ours, signed.attached(ours, theirs, PROVENANCE_PREDICATE)])
    with pytest.raises(Refused) as caught:
        provenance_of(PackStore(tmp_path / "bare"), ours.digest, signer.keys())
    (fault,) = caught.value.faults
    assert (fault.value, fault.must) == (made.image.digest, f"must be about {ours.digest}")


def test_a_faulty_pack_publishes_nothing(tmp_path: Path, compiler: Any, signer: Any) -> None:
    pack = pack_at("pack.yaml", 9)
    wrong = PackSources(pack.namespace, pack.name, pack.version, pack.sources[:1], pack.routes)
    with pytest.raises(Refused):
        finish(build(wrong, compiler, LayoutRegistry(tmp_path / "registry"), signer, proof))
    assert not (tmp_path / "registry").exists()


class _Unused:
    """A compiler and prover of which nothing is asked but what tools they are."""

    def __init__(self, compiler: Any) -> None:
        self.materials = compiler.materials

    def compile(self, *_: Any) -> Any:
        raise AssertionError("what the registry has must not be compiled again")

    def prove(self, *_: Any) -> Any:
        raise AssertionError("what the registry has must not be proven again")


class _Proves:
    def prove(self, *_: Any) -> dict[str, Any]:
        return {"cases": 1, "asked": 1, "bundle": None}


def test_what_the_registry_has_is_not_built_again(tmp_path: Path, compiler: Any, signer: Any) -> None:
    registry, told = LayoutRegistry(tmp_path), list[Step]()
    order = PackOrder(pack_at("one/pack.yaml", 9))
    made = Bench(compiler, _Proves(), registry, signer, "g1").pack(order, told.append)
    assert [step.name for step in told] == ["Compiled", "Linked", "Proven", "Built", "Signed"]
    idle: Any = _Unused(compiler)
    again = Bench(idle, idle, registry, signer, "g1").pack(PackOrder(pack_at("elsewhere.yaml", 1)), told.append)
    assert again == made
    assert told[-1].name == "Known"


@pytest.mark.parametrize("change", ["sources", "generator", "tool", "signer", "damage", "signature"])
def test_what_was_made_of_other_things_or_is_damaged_is_built_again(
    tmp_path: Path, compiler: Any, signer: Any, stranger: Any, change: str
) -> None:
    registry, pack = LayoutRegistry(tmp_path), pack_at("p", 1)
    made = Bench(compiler, _Proves(), registry, signer, "g1").pack(PackOrder(pack), lambda _: None)
    changed = replace(pack.sources[0], text=pack.sources[0].text + "# more\n")
    pack = replace(pack, sources=(changed, *pack.sources[1:])) if change == "sources" else pack
    if change == "tool":
        compiler.tools["yyjson"] = b"another"
    if change == "damage":
        registry.layout.blob_path(made.image.digest).write_bytes(b"{}")
    if change == "signature":
        (found,) = (e for e in registry.referrers(made.image.digest) if e.annotations.get(PREDICATE) == SIGNATURE_PREDICATE)
        registry.remove(found.digest)
    tools, who = compiler.materials(), stranger if change == "signer" else signer
    assert known(pack, tools, registry, who, "g2" if change == "generator" else "g1", None) is None
    assert known(pack_at("p", 1), tools, registry, signer, "g1", "0" * 64) is None
