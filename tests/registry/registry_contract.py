"""What every Registry promises. An adapter's test module makes a subclass with a `registry` fixture."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from knhk.model.faults import Corrupt
from knhk.model.oci import INDEX, SIGNED, Artifact, Blob
from knhk.packaging.image import layer, manifest
from knhk.ports.registry import Registry

BILL, NOTE = "application/vnd.bill", "application/vnd.note"


def artifact(text: bytes, subject: Artifact | None = None, kind: str = "application/vnd.test") -> Artifact:
    blob = Blob("text/plain", text)
    return manifest(kind, [layer(blob, "file")], (blob,), subject, {"says": text.decode()})


def image(*texts: bytes) -> Artifact:
    """An index over one manifest for each text."""
    below = [artifact(text) for text in texts]
    document = b'{"schemaVersion":2,"mediaType":"%s","artifactType":"application/vnd.test","manifests":[%s]}'
    rows = b",".join(b'{"mediaType":"%s","digest":"%s","size":%d}' % _named(part) for part in below)
    blobs = tuple(blob for part in below for blob in (*part.blobs, part.root))
    return Artifact(Blob(INDEX, document % (INDEX.encode(), rows)), "application/vnd.test", blobs)


def _named(part: Artifact) -> tuple[bytes, bytes, int]:
    return part.root.media_type.encode(), part.digest.encode(), len(part.root.data)


def digests(registry: Registry) -> set[str]:
    return {told.digest for told in registry.listed()}


class RegistryContract:
    """Promises of knhk.ports.registry."""

    def test_an_empty_one_lists_nothing(self, registry: Registry) -> None:
        assert (registry.listed(), dict(registry.tags()), registry.resolve("erp/one:1")) == ((), {}, None)
        assert registry.referrers(artifact(b"one").digest) == ()

    def test_what_is_published_is_listed_and_every_byte_can_be_read(self, registry: Registry) -> None:
        made = image(b"amd64", b"arm64")
        registry.publish([made], "erp/one:1.0.0+a_b")
        assert registry.resolve("erp/one:1.0.0+a_b") == made.digest
        assert registry.tags() == {"erp/one:1.0.0+a_b": made.digest}
        (told,) = registry.listed()
        assert (told.digest, told.media_type, told.size, told.artifact_type) == (
            made.digest,
            INDEX,
            len(made.root.data),
            made.artifact_type,
        )
        for blob in (*made.blobs, made.root):
            assert registry.read(blob.digest) == blob.data

    def test_publishing_twice_changes_nothing(self, registry: Registry) -> None:
        one = artifact(b"one")
        for _ in range(2):
            registry.publish([one, artifact(b"about one", one)], "erp/one:1")
            assert len(registry.listed()) == 2
            assert registry.tags() == {"erp/one:1": one.digest}

    def test_a_tag_moves_and_what_it_named_stays(self, registry: Registry) -> None:
        old, new = artifact(b"old"), artifact(b"new")
        registry.publish([old], "erp/one:1")
        registry.publish([new], "erp/one:1")
        assert registry.tags() == {"erp/one:1": new.digest}
        assert digests(registry) == {old.digest, new.digest}
        assert registry.collect_garbage() == ()
        assert registry.read(old.digest) == old.root.data

    def test_what_refers_is_told_with_its_manifest_or_read_by_its_digest(self, registry: Registry) -> None:
        one = artifact(b"one")
        bill = artifact(b"bill", one, BILL)
        registry.publish([one, bill])
        assert registry.manifest(one.digest) == one.root.data
        (found,) = registry.referrers(one.digest)
        assert bill.root.data == registry.manifest(found.digest)
        assert found.data in (b"", bill.root.data)
        with pytest.raises(Corrupt, match="missing"):
            registry.manifest("sha256:" + "0" * 64)

    def test_what_a_tag_names_is_told_with_its_bytes(self, registry: Registry) -> None:
        registry.publish([one := image(b"one")], "erp/one:1")
        assert registry.tagged("erp/one:1") == one.root.data
        assert registry.tagged("erp/two:1") is None

    def test_signed_statements_are_told_apart_from_other_referrers(self, registry: Registry) -> None:
        one = artifact(b"one")
        statements = [artifact(text, one, SIGNED) for text in (b"signature", b"provenance")]
        registry.publish([one, artifact(b"bill", one, BILL), *statements])
        assert {told.digest for told in registry.statements(one.digest)} == {made.digest for made in statements}
        assert list(registry.statements(statements[0].digest)) == []

    def test_referrers_are_found_by_subject_and_type(self, registry: Registry) -> None:
        one, two = artifact(b"one"), artifact(b"two")
        bill, note = artifact(b"bill", one, BILL), artifact(b"note", one, NOTE)
        registry.publish([one, bill, note])
        registry.publish([two, artifact(b"bill", two, BILL)])
        assert {d.digest for d in registry.referrers(one.digest)} == {bill.digest, note.digest}
        (found,) = registry.referrers(one.digest, BILL)
        assert (found.digest, found.artifact_type, found.annotations["says"]) == (bill.digest, BILL, "bill")

    def test_a_referrer_may_come_later_and_joins_those_before(self, registry: Registry) -> None:
        one = artifact(b"one")
        bill, note = artifact(b"bill", one, BILL), artifact(b"note", one, NOTE)
        registry.publish([one, bill])
        registry.publish([note])
        assert digests(registry) == {one.digest, bill.digest, note.digest}

    def test_removing_takes_tags_and_referrers_along_and_nothing_else(self, registry: Registry) -> None:
        one, two = image(b"one"), image(b"two")
        registry.publish([one, artifact(b"about one", one)], "erp/one:1")
        registry.publish([two, artifact(b"about two", two)], "erp/two:1")
        registry.remove(one.digest)
        registry.remove(one.digest)
        assert registry.tags() == {"erp/two:1": two.digest}
        assert one.digest not in digests(registry)
        assert registry.referrers(one.digest) == ()
        assert len(registry.referrers(two.digest)) == 1

    def test_garbage_is_what_no_artifact_reaches(self, registry: Registry) -> None:
        one, two = image(b"one", b"both"), image(b"two", b"both")
        registry.publish([one], "erp/one:1")
        registry.publish([two], "erp/two:1")
        registry.remove(one.digest)
        assert registry.collect_garbage()
        for gone in (one.digest, artifact(b"one").digest):
            with pytest.raises(Corrupt, match="missing"):
                registry.read(gone)
        for blob in (*two.blobs, two.root):
            assert registry.read(blob.digest) == blob.data

    def test_what_was_removed_can_be_published_again(self, registry: Registry) -> None:
        one = image(b"one")
        about = artifact(b"about one", one)
        registry.publish([one, about], "erp/one:1")
        registry.remove(one.digest)
        registry.collect_garbage()
        registry.publish([one, about], "erp/one:1")
        assert registry.resolve("erp/one:1") == one.digest
        assert [d.digest for d in registry.referrers(one.digest)] == [about.digest]
        for blob in (*one.blobs, one.root, *about.blobs, about.root):
            assert registry.read(blob.digest) == blob.data

    def test_many_writers_lose_nothing(self, registry: Registry) -> None:
        made = {f"w{n}:{i}": artifact(f"{n} {i}".encode()) for n in range(3) for i in range(4)}
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda tag: registry.publish([made[tag], artifact(b"about", made[tag])], tag), made))
        assert registry.tags() == {tag: found.digest for tag, found in sorted(made.items())}
        assert len(registry.listed()) == 24

    @pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../index.json", "sha256:" + "A" * 64, "md5:" + "0" * 64])
    def test_only_well_formed_digests_are_looked_for(self, registry: Registry, digest: str) -> None:
        with pytest.raises(Corrupt, match="64 hexadecimal digits"):
            registry.read(digest)

    def test_what_is_missing_is_told(self, registry: Registry) -> None:
        with pytest.raises(Corrupt, match="missing"):
            registry.read("sha256:" + "0" * 64)
