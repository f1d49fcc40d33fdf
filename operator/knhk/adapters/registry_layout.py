"""Registry in a folder: an OCI image layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from knhk.model.oci import SIGNED, Descriptor
from knhk_runtime.layout import REF_NAME
from knhk_runtime.layout_writer import LayoutWriter


class LayoutRegistry(LayoutWriter):
    """knhk.ports.registry.Registry."""

    def read(self, digest: str) -> bytes:
        return self.layout.read(digest)

    def manifest(self, digest: str) -> bytes:
        return self.read(digest)

    def resolve(self, tag: str) -> str | None:
        return self.tags().get(tag)

    def tagged(self, tag: str) -> bytes | None:
        return None if (digest := self.resolve(tag)) is None else self.read(digest)

    def tags(self) -> Mapping[str, str]:
        named = {e.annotations[REF_NAME]: e.digest for e in self.layout.entries() if REF_NAME in e.annotations}
        return dict(sorted(named.items()))

    def listed(self) -> tuple[Descriptor, ...]:
        found = {e.digest: e for e in self.layout.entries()}
        return tuple(found[digest] for digest in sorted(found))

    def referrers(self, digest: str, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        return self.layout.referrers(digest, artifact_type)

    def statements(self, digest: str) -> Iterator[Descriptor]:
        return iter(self.referrers(digest, SIGNED))
