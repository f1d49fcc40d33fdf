"""Registry: content by digest, tags, referrers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from knhk.model.oci import Artifact, Descriptor


class Registry(Protocol):
    """Promises of every adapter.

    Listed: what `listed` tells; an artifact that was published, or a referrer of one.
    Durability: what `publish` returned from is there after a crash. Before that, either all of its artifacts are listed or
    none is, when they are one artifact and referrers of it; a tag never names what is not listed. Where the artifact was listed before, its
    new referrers may come one by one, in their order. Blobs may be left over, and `collect_garbage` removes them. Repeating a call changes
    nothing.
    Concurrency: any thread, and any number of processes may publish at the same time; each sees the others' entries.
    Integrity: `read` never returns bytes that do not have the digest.
    Errors: Corrupt (which blob, the digest found and the digest wanted, or that it is missing), OSError as it comes; of a registry that is
    reached by network Waiting (away, busy: try again) and Stalled (address, credentials, rights: a person must act).
    """

    def publish(self, artifacts: Sequence[Artifact], tag: str | None = None) -> None:
        """Store artifacts, the first one under `tag` if given. A tag moves; what it named stays until `remove`."""
        ...

    def read(self, digest: str) -> bytes:
        """The bytes of a blob, manifest or index. Raises Corrupt when they are missing or differ from `digest`."""
        ...

    def manifest(self, digest: str) -> bytes:
        """As `read`, of what is known to be a manifest or index."""
        ...

    def resolve(self, tag: str) -> str | None:
        """The digest that `tag` names, or None."""
        ...

    def tagged(self, tag: str) -> bytes | None:
        """The manifest or index that `tag` names; its digest is that of these bytes. None when it names none."""
        ...

    def tags(self) -> Mapping[str, str]:
        """Tag → digest, in order of tag."""
        ...

    def listed(self) -> tuple[Descriptor, ...]:
        """Every artifact, referrers too, in order of digest."""
        ...

    def referrers(self, digest: str, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """Artifacts whose subject is `digest` (OCI 1.1), in order of digest; of one artifact type, if given."""
        ...

    def statements(self, digest: str) -> Iterator[Descriptor]:
        """Of the referrers the signed statements, each read when it is asked for; those come first that are likely signatures."""
        ...

    def remove(self, digest: str) -> None:
        """Take an artifact, its tags and its referrers off the list; absent is no error. Blobs go with `collect_garbage`."""
        ...

    def collect_garbage(self) -> tuple[str, ...]:
        """Delete what no listed artifact reaches; returns the digests. Raises Corrupt, and deletes nothing, when a listed manifest cannot
        be read. A registry with its own collector leaves the blobs of manifests that are gone to it."""
        ...
