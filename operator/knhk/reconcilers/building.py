"""Building a pack: sources → plan → C → objects → image, with SBOM, provenance and signature beside it; and building it again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knhk.model.arrows import CText, GuardPlan, PackImage, PackSources, SharedObject, SignedPack
from knhk.model.canonical import sha256_hex
from knhk.model.faults import Corrupt, Fault, Refused, Stalled
from knhk.model.oci import PREDICATE, PROVENANCE_PREDICATE, SIGNATURE_PREDICATE, SIGNED, Artifact, Blob, Descriptor, digest_of
from knhk.packaging import materials, provenance, sbom, signed
from knhk.packaging.builds import Step
from knhk.packaging.image import bundle_image, pack_image, tag_of
from knhk.packaging.materials import Material
from knhk.ports.compiler import Compiler
from knhk.ports.notary import Notary
from knhk.ports.registry import Registry
from knhk.ports.signer import Signer
from knhk.reconcilers.lowering import plan_of, portable
from knhk_gen.emit import emit
from knhk_runtime.layout import children, parse_object
from knhk_runtime.packstore import PackStore
from knhk_runtime.signatures import verify_signature_of
from knhk_verify.errors import Bad
from knhk_verify.signed import Keys, verify_bundle


@dataclass(frozen=True)
class Made:
    """What follows from the sources and the compiler alone."""

    plan: GuardPlan
    objects: tuple[SharedObject, ...]
    image: Artifact
    materials: tuple[Material, ...]


def assemble(pack: PackSources, compiler: Compiler) -> Generator[Step, None, Made]:
    """The image of a pack, in memory; same sources and materials, same digest. Raises Refused with all faults, or as `compile`."""
    plan = plan_of(pack)
    yield Step("Compiled", f"{len(plan.document['guards'])} guards, plan {plan.digest[:16]}")
    text: CText = emit(plan)
    objects = compiler.compile(text)
    yield Step("Linked", ", ".join(f"{made.arch} {len(made.data)} bytes" for made in objects))
    image = pack_image(plan, objects)
    return Made(
        plan,
        objects,
        image,
        tuple(sorted((*materials.of_pack(portable(pack), plan), *compiler.materials()))),
    )


Prove = Callable[[Made], Mapping[str, Any]]
"""Compares what was made with its sources and says what it did, for the provenance. Raises Refuted when they differ."""


@dataclass(frozen=True)
class Data:
    """A data bundle that is to be published, by itself or with a pack."""

    namespace: str
    name: str
    data: bytes

    @property
    def image(self) -> Artifact:
        """The artifact, whose layer digest O carries."""
        return bundle_image(self.namespace, self.name, self.data)


def build(
    pack: PackSources,
    compiler: Compiler,
    registry: Registry,
    signer: Signer,
    prove: Prove,
    data: Data | None = None,
    generator: str = "",
) -> Generator[Step, None, SignedPack]:
    """Build, prove, then sign and publish in one commit, after `data`; repeating it gives the same digests. What is refuted, or not
    proven on one case at least, leaves nothing. `generator`: SHA-256 of the compiler's sources, for `known`. Raises Stalled and as
    `assemble`, `prove`, signer and `publish`."""
    made = yield from assemble(pack, compiler)
    proof = prove(made)
    if proof["cases"] < 1:
        raise Stalled("ProofUnfinished", f"{pack.namespace}/{pack.name}@{pack.version}: no case was compared, so nothing is published")
    pack = portable(pack)
    yield Step("Proven", f"{proof['cases']} of {proof['asked']} cases")
    if data is not None:
        yield Step("Data", publish_data(data, registry, signer).digest)
    yield Step("Built", made.image.digest)
    name = f"pack/{pack.namespace}/{pack.name}@{pack.version}"
    statement = provenance.statement(made.image, pack, made.materials, proof, generator)
    signature = signer.bundle("build", signed.signature_statement(made.image, name))
    referrers = (
        materials.kept(made.image, pack),
        sbom.attached(made.image, pack, made.materials),
        signed.attached(made.image, signer.bundle("build", statement), PROVENANCE_PREDICATE),
        signed.attached(made.image, signature, SIGNATURE_PREDICATE),
    )
    registry.publish((made.image, *referrers), tag_of(pack.namespace, pack.name, pack.version))
    keyid = signer.keyid("build")
    yield Step("Signed", f"by {keyid[:16]}")
    return SignedPack(
        PackImage(pack.name, pack.namespace, pack.version, made.image.digest, made.plan.digest),
        keyid,
        proof,
    )


def known(
    pack: PackSources, tools: Iterable[Material], registry: Registry, signer: Signer, generator: str, data: str | None
) -> SignedPack | None:
    """The pack as the registry has it, when it was made of the same sources by the same tools and generator, proven with the same data
    (SHA-256 of the bundle's file), and signed by the keys of `signer`. None when there is none such, or when what is there is damaged."""
    pack, name = portable(pack), f"{pack.namespace}/{pack.name}"
    mine = signer.keyid("build")
    keys = {mine: signer.public("build")}
    wanted = {(m.name, m.sha256) for m in (*_texts(pack), *tools)}

    def told_in(bundle: bytes, digest: str) -> SignedPack | None:
        """What a provenance says, when it is of this very pack."""
        told = provenance.read(verify_bundle(bundle, keys), name)
        (plan,) = (m.sha256 for m in told.materials if m.name == materials.PLAN)
        made_of = {(m.name, m.sha256) for m in told.materials if m.name != materials.PLAN}
        same = (told.subject, told.parameters, told.generator, made_of) == (digest, provenance.parameters(pack), generator, wanted)
        if not same or told.proof is None or told.proof.get("bundle") != data:
            return None
        return SignedPack(PackImage(pack.name, pack.namespace, pack.version, digest, plan), mine, told.proof)

    try:
        image = registry.tagged(tag_of(pack.namespace, pack.name, pack.version))
        digest = "" if image is None else digest_of(image)
        found, missing = None, {SIGNATURE_PREDICATE, PROVENANCE_PREDICATE}
        for told in registry.statements(digest) if digest else ():  # each is a question more: no more of them than it takes
            predicate = told.annotations.get(PREDICATE)
            if predicate not in missing or not _says_by(bundle := _statement(registry, told), mine):
                continue
            if predicate == SIGNATURE_PREDICATE:
                verify_signature_of(bundle, digest, keys)
                missing.remove(predicate)
            elif (found := told_in(bundle, digest)) is not None:
                missing.remove(predicate)
            if not missing:
                return found
    except (Corrupt, Bad, ValueError):
        pass  # it is built again, which mends it
    return None


def signers_of(digest: str, registry: Registry) -> frozenset[str]:
    """keyids by which the signatures of an image say that they are; nothing is verified. Raises as Registry."""
    found = (signed.told(bundle) for bundle in _statements(registry, registry.statements(digest), SIGNATURE_PREDICATE))
    return frozenset(told.hint for told in found if told is not None)


def _says_by(bundle: bytes, keyid: str) -> bool:
    """Whether a bundle says that it is by this key, or says nothing: not what others outside bear witness to."""
    found = signed.told(bundle)
    return found is None or found.hint == keyid


def notarise(digest: str, role: str, registry: Registry, signer: Signer, notary: Notary) -> None:
    """Puts beside an image, for each paper that our key of `role` signed, one to which others outside bear witness. What is there already
    is left, so that after a failure the rest is made. Raises as `notarised` and `publish`."""
    listed, subject = registry.referrers(digest, SIGNED), registry.manifest(digest)
    image = Artifact(Blob(str(parse_object(subject, digest)["mediaType"]), subject), "", ())
    keys = {signer.keyid(role): signer.public(role)}
    for predicate in (SIGNATURE_PREDICATE, PROVENANCE_PREDICATE):
        for bundle in signed.to_notarise(_statements(registry, listed, predicate), keys):
            registry.publish((signed.attached(image, notary.notarised(role, bundle), predicate),))


def _statements(registry: Registry, listed: Iterable[Descriptor], predicate: str) -> Iterator[bytes]:
    """sigstore bundles among what is listed; nothing about them is verified."""
    for told in listed:
        if told.annotations.get(PREDICATE) == predicate:
            yield _statement(registry, told)


def _statement(registry: Registry, told: Descriptor) -> bytes:
    """The bundle of a referrer."""
    manifest = parse_object(told.data or registry.manifest(told.digest), told.digest)
    (layer,) = (c for c in children(manifest, told.digest) if c.media_type == SIGNED)
    return registry.read(layer.digest)


def publish_data(data: Data, registry: Registry, signer: Signer) -> Artifact:
    """Sign a data bundle with the key of role data and publish it; returns the artifact."""
    image = data.image
    signature = signer.bundle("data", signed.signature_statement(image, f"data/{data.namespace}/{data.name}"))
    registry.publish((image, signed.attached(image, signature, SIGNATURE_PREDICATE)), f"{data.namespace}/{data.name}:data")
    return image


def rebuild(store: PackStore, digest: str, compiler: Compiler, keys: Keys, folder: Path | None) -> Generator[Step, None, str]:
    """Build the pack `digest` again from the materials that its signed provenance names; returns the digest that came out.

    The texts come from the registry or, when given, from `folder` (files named by their SHA-256). Raises Refused, naming each
    material that is missing or different, and Corrupt for altered bytes.
    """
    told = provenance_of(store, digest, keys)
    yield Step("Provenance", f"{len(told.materials)} materials, signed")
    pack = _sources(store, told, folder)
    _demand(
        told.materials,
        (
            *_texts(pack),
            *compiler.materials(),
            *(m for m in told.materials if m.name == materials.PLAN),
        ),
    )
    made = yield from assemble(pack, compiler)
    _demand(told.materials, made.materials)
    yield Step("Rebuilt", made.image.digest)
    return made.image.digest


def provenance_of(store: PackStore, digest: str, keys: Keys) -> provenance.Provenance:
    """The provenance of a pack image, signed by a key of role build and about this digest. Raises Refused and Corrupt."""
    faults = []
    for where, bundle in store.signed_statements(digest, PROVENANCE_PREDICATE):
        try:
            statement = verify_bundle(bundle, keys.of("build"), where)
        except Bad as error:
            faults.append(Fault(error.where, error.what, "must be a provenance signed by a key of role build"))
            continue
        told = provenance.read(statement, where)
        if told.subject == digest:
            return told
        faults.append(Fault(where, told.subject, f"must be about {digest}"))
    raise Refused(faults or [Fault(digest, "no provenance", "must have a provenance signed by a key of role build")])


def _sources(store: PackStore, told: provenance.Provenance, folder: Path | None) -> PackSources:
    faults: list[Fault] = []

    def text(material: Material) -> str:
        try:
            data = _from_folder(folder, material) if folder else store.layout.read(f"sha256:{material.sha256}")
            return data.decode()
        except Corrupt as error:
            faults.append(Fault(f"material {material.name}", error.where, error.what))
            return ""

    pack = told.sources(text)
    if faults:
        raise Refused(faults)
    return pack


def _from_folder(folder: Path, material: Material) -> bytes:
    path = folder / material.sha256
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise Corrupt(str(path), "is missing") from None
    if sha256_hex(data) != material.sha256:
        raise Corrupt(str(path), f"SHA-256 is {sha256_hex(data)}, must be {material.sha256}")
    return data


def _texts(pack: PackSources) -> tuple[Material, ...]:
    return tuple(Material(materials.SOURCE + s.name, sha256_hex(s.text.encode()), "") for s in pack.sources)


def _demand(wanted: tuple[Material, ...], found: tuple[Material, ...]) -> None:
    """Raise Refused unless exactly the wanted materials were found, naming each that differs."""
    lost = [
        Fault(f"material {m.name}", have or "missing", f"must have SHA-256 {m.sha256}") for m, have in materials.differences(wanted, found)
    ]
    names = {m.name for m in wanted}
    unnamed = [
        Fault(f"material {m.name}", m.sha256, "must be named by the provenance: the build uses it") for m in found if m.name not in names
    ]
    if lost or unnamed:
        raise Refused((*lost, *unnamed))
