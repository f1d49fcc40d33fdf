"""Which commit a resource in the store comes from, by what the control plane itself wrote down: annotations prove nothing, for whoever
writes a resource writes them too."""

from __future__ import annotations

from collections.abc import Iterator

from knhk.api import said
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.commits import Source, source_of_document
from knhk.model.faults import Stalled
from knhk.model.resource import Key, Resource
from knhk.model.trust import Authors, Trust
from knhk.ports.store import Store
from knhk.ports.trust import Trusts

SYSTEM = "knhk-system"  # a PolicyRepository of this namespace may write to all


def spec_digest(resource: Resource) -> str:
    """SHA-256 of what a resource says, hexadecimal."""
    return sha256_hex(canonical(said(resource)))


def may_write(repository: Resource, namespace: str) -> bool:
    """Whether a PolicyRepository may write to a namespace: to its own, as whoever made it may; one of the system to all."""
    return repository.namespace in (namespace, SYSTEM)


def source_of(store: Store, trusts: Trusts, resource: Resource) -> Source | None:
    """The commit that brought the resource exactly as it is, a merged one if there is one; None for what was applied by hand, or changed
    since."""
    trust = believed(trusts)[0]
    found = list(_sources(store, resource))
    return next((source for source in found if not trust.doubt(source)), found[0] if found else None)


def authors_of(store: Store, trusts: Trusts, pack: Resource) -> Authors:
    """Who is behind the revision that a pack works on, by what administrators say now; nobody for one that was applied by hand."""
    source = source_of(store, trusts, pack)
    if source is None and (told := pack.status["revision"].get("source")) is not None:
        source = source_of_document(told)
    return Authors() if source is None else believed(trusts)[0].authors(source)


def authors_of_spec(store: Store, trusts: Trusts, resource: Resource) -> Authors:
    """Who is behind what a resource says now; nobody is known of what was applied by hand."""
    source = source_of(store, trusts, resource)
    return Authors() if source is None else believed(trusts)[0].authors(source)


def unmerged(store: Store, trusts: Trusts, resource: Resource) -> str:
    """Why what a resource says does not count as merged, for people; empty when it does."""
    trust, why = believed(trusts)
    doubts = [why or trust.doubt(source) for source in _sources(store, resource)]
    return "" if "" in doubts else doubts[0] if doubts else "it was applied by hand"


def believed(trusts: Trusts) -> tuple[Trust, str]:
    """What administrators said; nothing, and why, when it cannot be understood."""
    try:
        return trusts.read(), ""
    except Stalled as stalled:
        return Trust(), str(stalled)


def still_said(store: Store, trusts: Trusts, key: Key) -> Source | None:
    """The merged commit that says an object, as the PolicyRepository noted it, whether the object is there or not; None when none does."""
    trust = believed(trusts)[0]
    return next((source for source, _ in _noted(store, key) if not trust.doubt(source)), None)


def _sources(store: Store, resource: Resource) -> Iterator[Source]:
    digest = spec_digest(resource)
    return (source for source, noted in _noted(store, resource.key) if noted == digest)


def _noted(store: Store, key: Key) -> Iterator[tuple[Source, str]]:
    """What each PolicyRepository that may has noted of an object: the commit that says it, and the digest of what that says."""
    name = {"kind": key.kind, "namespace": key.namespace, "name": key.name}
    for repository in store.list("PolicyRepository").resources:
        if not may_write(repository, key.namespace):
            continue
        for row in repository.status.get("applied", ()):
            if name.items() <= row.items():
                yield behind(repository, row["commit"]), row.get("digest", "")
                break


def behind(repository: Resource, commit: str) -> Source:
    """What a PolicyRepository noted of a commit."""
    rows = repository.status.get("commits", ())
    known = next((row for row in rows if row["commit"] == commit), None)
    return Source(f"{repository.namespace}/{repository.name}", commit) if known is None else source_of_document(known)
