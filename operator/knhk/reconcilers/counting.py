"""What counts where only merged commits do: of an object that was changed by hand, what it said before."""

from __future__ import annotations

from knhk.api.conditions import ready_of
from knhk.model.faults import KnhkError, NotFound, Waiting
from knhk.model.resource import Key, Resource
from knhk.reconcilers.context import Ports, say, write_status
from knhk.reconcilers.provenance import still_said, unmerged

REASON = "NotMerged"
RESTS = ("DataBundle", "SchemaVersion", "HookRegistry")  # nothing is made of them until they are merged
LOOK_AGAIN_S = 0.5


def not_merged(ports: Ports, resource: Resource) -> str:
    """Why what a resource says may not count where only merged commits may, for people; empty when it may."""
    try:
        if not ports.namespaces.requires_merged_commit(resource.namespace):
            return ""
    except (Waiting, NotFound) as error:
        return str(error)
    why = unmerged(ports.store, ports.trusts, resource)
    return f"namespace {resource.namespace} takes only what a merged commit says: {why}; what it said before stays" if why else ""


def not_gone(ports: Ports, key: Key) -> str:
    """Why the deletion of an object does not count, for people; empty when it does: where only merged commits count, what one says is
    taken away by one. A namespace that is deleted takes everything along. While nobody can tell nothing goes."""
    try:
        if not ports.namespaces.requires_merged_commit(key.namespace) or ports.namespaces.is_leaving(key.namespace):
            return ""
        source = still_said(ports.store, ports.trusts, key)
    except KnhkError as error:
        return str(error)
    if source is None:
        return ""
    return f"it was deleted by hand, and commit {source.commit[:12]} of {source.repository} still says it; what it said before stays"


def is_resting(resource: Resource) -> bool:
    """Whether its status says that it does not count; what else the status says is of what it said before."""
    return bool(ready_of(resource.status).get("reason") == REASON)


def not_counted(ports: Ports, resource: Resource) -> str:
    """Why what an object says does not count yet, for people; empty when it does. What counted once, as it is, goes on counting: neither
    a label that is set later nor a row that an administrator takes away stops what runs. While nobody can tell, nothing new counts."""
    ready = ready_of(resource.status)
    if ready.get("observedGeneration") == resource.generation and not is_resting(resource):
        return ""
    return not_merged(ports, resource)


def rest(ports: Ports, resource: Resource, why: str, reason: str = REASON) -> float:
    """Tells that it does not count; what else its status says stays. Gives seconds until the next look."""
    if ready_of(resource.status).get("reason") != reason:
        say(ports, resource.key, reason, why, warning=True)
    kept = {name: value for name, value in resource.status.items() if name not in ("conditions", "observedGeneration")}
    write_status(ports, resource, kept, None, reason, why)
    return LOOK_AGAIN_S
