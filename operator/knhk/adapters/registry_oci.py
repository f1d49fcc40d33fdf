"""Registry by the OCI distribution API (distribution-spec 1.1): any registry; without referrers API by fallback tags.

Everything lies in one repository, and every manifest has a tag made of its digest, so that no registry takes it for untagged and all of
them can be enumerated: `_listed-HEX` for artifacts, `_part-HEX` for what belongs to one (manifests below an index, referrers). Writing
`_listed-HEX` is the commit point; tags that people read come after it. See ADR 29.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from knhk.model.canonical import canonical
from knhk.model.faults import Corrupt, Stalled, Waiting
from knhk.model.oci import INDEX, MANIFEST, SIGNED, Artifact, Blob, Descriptor, digest_of
from knhk_runtime.distribution import MISSING, RETRY_AFTER_S, TRIES, Repository, described, fallback_tag
from knhk_runtime.layout import children, parse_object

LISTED, PART = "_listed-", "_part-"
GRACE_S = 3600.0
MAX_TAG = 128
MAX_EMBEDDED = 4096  # bytes of a manifest that a fallback list carries, so that it need not be asked for
_OURS = re.compile(r"_(listed|part)-([0-9a-f]{64})")
_FALLBACK = re.compile(r"sha256-[0-9a-f]{64}")
_PLAIN = re.compile(r"[^A-Za-z0-9.-]|^[.-]")
_ESCAPED = re.compile(r"_([0-9A-F]{2})")


@dataclass
class OciRegistry:
    """knhk.ports.registry.Registry. `grace_s`: how long a manifest must have been seen without an artifact before it is garbage: a
    publishing that goes on elsewhere brings the manifests first."""

    repository: Repository
    grace_s: float = GRACE_S
    _described: dict[str, Descriptor] = field(default_factory=dict)
    _below: dict[str, frozenset[str]] = field(default_factory=dict)
    _lost_since_s: dict[str, float] = field(default_factory=dict)

    def publish(self, artifacts: Sequence[Artifact], tag: str | None = None) -> None:
        for artifact in artifacts:
            for blob in artifact.blobs:
                self._store(blob)
        self._refer(artifact for artifact in artifacts if artifact.subject is not None)
        for artifact in artifacts:
            if artifact.subject is None:
                self._tag(LISTED, artifact.root)
        if tag is not None and self.resolve(tag) != artifacts[0].digest:
            self._put(_written(tag), artifacts[0].root)

    def read(self, digest: str) -> bytes:
        try:
            return self.repository.blob(digest)
        except Corrupt as corrupt:
            if corrupt.what != MISSING:
                raise
            return self.manifest(digest)

    def manifest(self, digest: str) -> bytes:
        return self.repository.manifest(digest)

    def resolve(self, tag: str) -> str | None:
        return self.repository.resolve(_written(tag))

    def tagged(self, tag: str) -> bytes | None:
        return self.repository.tagged(_written(tag))

    def tags(self) -> Mapping[str, str]:
        found = ((tag, self.repository.resolve(name)) for name, tag in self._named())
        return dict(sorted((tag, digest) for tag, digest in found if digest is not None))

    def listed(self) -> tuple[Descriptor, ...]:
        found = dict[str, Descriptor]()
        for digest in self._with(LISTED):
            found[digest] = self._describe(digest)
            found |= {told.digest: told for told, _ in self.repository.referrers(digest)}
        return tuple(found[digest] for digest in sorted(found))

    def referrers(self, digest: str, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        found = self.repository.referrers(digest)
        return tuple(replace(told, data=data) for told, data in found if artifact_type in (None, told.artifact_type))

    def statements(self, digest: str) -> Iterator[Descriptor]:
        return (replace(told, data=data) for told, data in self.repository.refer(digest) if told.artifact_type == SIGNED)

    def remove(self, digest: str) -> None:
        """The artifact itself comes last: what was cut off in the middle is still listed, without its signature, and removed next time."""
        for entry in self.repository.referring(digest):
            self._drop(entry.digest)
        index = self.repository.tagged(fallback_tag(digest))
        if index is not None:
            self._drop(digest_of(index))
        self._leave(digest)
        self._drop(digest)

    def collect_garbage(self) -> tuple[str, ...]:
        """Deletes manifests that no artifact reaches, seen so for `grace_s`; blobs are then the registry's own collector's."""
        reached = {child for digest in self._with(LISTED) for child in self._reached(digest)}
        lost, now_s = set(self._with(PART)) - reached, time.monotonic()
        self._lost_since_s = {digest: self._lost_since_s.get(digest, now_s) for digest in lost}
        due = tuple(sorted(d for d, since_s in self._lost_since_s.items() if now_s - since_s >= self.grace_s))
        for digest in due:
            self._drop(digest)
        return due

    # ---- writing -------------------------------------------------------------------------------

    def _store(self, blob: Blob) -> None:
        if blob.media_type in (INDEX, MANIFEST):
            self._tag(PART, blob)
        elif self.repository.request("HEAD", f"blobs/{blob.digest}", expect=(200, 404)).status == 404:
            self._upload(blob)

    def _upload(self, blob: Blob) -> None:
        """In one piece; after a failure from the beginning, as half an upload cannot be trusted."""
        for left in reversed(range(self.repository.tries)):
            begun = self.repository.request("POST", "blobs/uploads/", expect=(202,))
            place = begun.headers.get("location", "")
            place += f"{'&' if '?' in place else '?'}digest={blob.digest}"
            try:
                self.repository.request("PUT", place, body=blob.data, media="application/octet-stream", expect=(201,), tries=1)
                return
            except Waiting:
                if left == 0:
                    raise

    def _tag(self, kind: str, blob: Blob) -> None:
        """A manifest under the tag that its digest makes."""
        name = kind + blob.digest.removeprefix("sha256:")
        if self.repository.resolve(name) != blob.digest:
            self._put(name, blob)

    def _put(self, reference: str, blob: Blob) -> bool:
        """Whether the registry lists it with its subject by itself."""
        answer = self.repository.request("PUT", f"manifests/{reference}", body=blob.data, media=blob.media_type, expect=(201,))
        told = answer.headers.get("docker-content-digest", blob.digest)
        if told != blob.digest:
            raise Corrupt(self.repository.at("manifests", reference), f"was stored as {told}, must be {blob.digest}")
        return "oci-subject" in answer.headers

    def _refer(self, artifacts: Iterable[Artifact]) -> None:
        """Referrers in their order, then the fallback lists of those that the registry does not list itself."""
        unlisted = dict[str, list[Artifact]]()
        for artifact in artifacts:
            name = PART + artifact.digest.removeprefix("sha256:")
            if not self._put(name, artifact.root):
                unlisted.setdefault(str(artifact.subject), []).append(artifact)
        for subject, mine in unlisted.items():
            self._list_by_tag(subject, {a.digest: _entry(a) for a in mine})

    def _list_by_tag(self, subject: str, mine: Mapping[str, Mapping[str, Any]]) -> None:
        """Adds to the fallback list of a subject; looks again afterwards, as somebody else may have written meanwhile."""
        for _ in range(TRIES):
            before = self._fallback(subject)
            if mine.keys() <= before.keys():
                return
            self._put_fallback(subject, {**before, **mine})
        raise Waiting("RegistryBusy", f"{self.repository.at('manifests', fallback_tag(subject))}: others write it too", RETRY_AFTER_S)

    def _leave(self, digest: str) -> None:
        """Takes a referrer off the fallback list of its subject."""
        try:
            document = parse_object(self.repository.manifest(digest), digest)
        except Corrupt:
            return
        subject = document.get("subject")
        if isinstance(subject, dict) and digest in (before := self._fallback(str(subject["digest"]))):
            self._put_fallback(str(subject["digest"]), {name: entry for name, entry in before.items() if name != digest})

    def _fallback(self, subject: str) -> dict[str, Mapping[str, Any]]:
        data = self.repository.tagged(fallback_tag(subject))
        entries = [] if data is None else parse_object(data, fallback_tag(subject)).get("manifests", [])
        return {entry["digest"]: entry for entry in entries}

    def _put_fallback(self, subject: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
        manifests = [dict(entries[digest]) for digest in sorted(entries)]
        index = Blob(INDEX, canonical({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))
        self._put(fallback_tag(subject), index)

    # ---- deleting ------------------------------------------------------------------------------

    def _drop(self, digest: str) -> None:
        """A manifest and its tags: some registries delete them with it, others one by one."""
        answer = self.repository.request("DELETE", f"manifests/{digest}", expect=(200, 202, 404, 405))
        if answer.status == 405:
            must = "must allow deletion (docker-registry: storage.delete.enabled)"
            raise Stalled("RegistryRefused", f"{self.repository.url}: {must}")
        hexadecimal = digest.removeprefix("sha256:")
        left = [name for name in (LISTED + hexadecimal, PART + hexadecimal) if self.repository.resolve(name) is not None]
        if left:
            named = [name for name, _ in self._named() if self.repository.resolve(name) == digest]
            for name in (*named, *left):
                self.repository.request("DELETE", f"manifests/{name}", expect=(200, 202, 404))
        self._described.pop(digest, None)
        self._below.pop(digest, None)

    def _reached(self, digest: str) -> Iterator[str]:
        if digest not in self._below:
            document = parse_object(self.repository.manifest(digest), self.repository.at("manifests", digest))
            self._below[digest] = frozenset(c.digest for c in children(document, digest) if c.media_type in (INDEX, MANIFEST))
        yield from self._below[digest]
        yield from (entry.digest for entry in self.repository.referring(digest))

    # ---- listing -------------------------------------------------------------------------------

    def _with(self, kind: str) -> list[str]:
        found = (_OURS.fullmatch(name) for name in self.repository.tags())
        return [f"sha256:{match[2]}" for match in found if match and match[0].startswith(kind)]

    def _named(self) -> list[tuple[str, str]]:
        """(tag in the registry, tag of the port) of those that people read."""
        names = [n for n in self.repository.tags() if not _OURS.fullmatch(n) and not _FALLBACK.fullmatch(n)]
        return [(name, _ESCAPED.sub(lambda m: chr(int(m[1], 16)), name)) for name in names]

    def _describe(self, digest: str) -> Descriptor:
        if digest not in self._described:
            data, where = self.repository.manifest(digest), self.repository.at("manifests", digest)
            self._described[digest] = described(parse_object(data, where), data, where)
        return self._described[digest]


def _entry(artifact: Artifact) -> dict[str, Any]:
    more: dict[str, Any] = {"artifactType": artifact.artifact_type}
    if artifact.annotations:
        more["annotations"] = dict(artifact.annotations)
    if len(artifact.root.data) <= MAX_EMBEDDED:
        more["data"] = base64.b64encode(artifact.root.data).decode()
    return artifact.root.descriptor(**more)


def _written(tag: str) -> str:
    """A tag as registries take it: `erp/orders:1.0.0` is `erp_2Forders_3A1.0.0`."""
    written = _PLAIN.sub(lambda m: "".join(f"_{byte:02X}" for byte in m[0].encode()), tag)
    if len(written) > MAX_TAG:
        raise Stalled(
            "TagTooLong", f"{tag}: namespace, name and version together must be shorter: its tag must have at most {MAX_TAG} characters"
        )
    return written
