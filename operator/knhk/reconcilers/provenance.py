"""Which commit a resource in the store comes from, by what the control plane itself wrote down: annotations prove nothing, for whoever
writes a resource writes them too."""

from __future__ import annotations

from collections.abc import Iterator

from knhk.api import said
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.commits import Source, source_of_document
from knhk.model.faults import Stalled
from knhk.model.resource import Resource
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
    trust = _believed(trusts)[0]
    found = list(_sources(store, resource))
    return next((source for source in found if not trust.doubt(source)), found[0] if found else None)


def authors_of(store: Store, trusts: Trusts, pack: Resource) -> Authors:
    """Who is behind the revision that a pack works on, by what administrators say now; nobody for one that was applied by hand."""
    source = source_of(store, trusts, pack)
    if source is None and (told := pack.status["revision"].get("source")) is not None:
        source = source_of_document(told)
    return Authors() if source is None else _believed(trusts)[0].authors(source)


def authors_of_spec(store: Store, trusts: Trusts, resource: Resource) -> Authors:
    """Who is behind what a resource says now; nobody is known of what was applied by hand."""
    source = source_of(store, trusts, resource)
    return Authors() if source is None else _believed(trusts)[0].authors(source)


def unmerged(store: Store, trusts: Trusts, resource: Resource) -> str:
    """Why what a resource says does not count as merged, for people; empty when it does."""
    trust, why = _believed(trusts)
    doubts = [why or trust.doubt(source) for source in _sources(store, resource)]
    return "" if "" in doubts else doubts[0] if doubts else "it was applied by hand"


def _believed(trusts: Trusts) -> tuple[Trust, str]:
    """What administrators said; nothing, and why, when it cannot be understood."""
    try:
        return trusts.read(), ""
    except Stalled as stalled:
        return Trust(), str(stalled)


def _sources(store: Store, resource: Resource) -> Iterator[Source]:
    digest = spec_digest(resource)
    name = {"kind": resource.kind, "namespace": resource.namespace, "name": resource.name}
    for repository in store.list("PolicyRepository").resources:
        if not may_write(repository, resource.namespace):
            continue
        for row in repository.status.get("applied", ()):
            if row.get("digest") == digest and name.items() <= row.items():
                yield _behind(repository, row["commit"])
                break


def _behind(repository: Resource, commit: str) -> Source:
    rows = repository.status.get("commits", ())
    known = next((row for row in rows if row["commit"] == commit), None)
    return Source(f"{repository.namespace}/{repository.name}", commit) if known is None else source_of_document(known)
