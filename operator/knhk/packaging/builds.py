"""Orders to a builder and what comes of them, as values and as JSON data (formats/builder.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from knhk.model.arrows import PackImage, PackSources, SignedPack, Source
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Corrupt, Fault, KnhkError, Refused, Refuted, Stalled, Waiting
from knhk.model.resource import Resource


@dataclass(frozen=True)
class Step:
    """One finished step of a build and what it made."""

    name: str
    made: str


@dataclass(frozen=True)
class PackOrder:
    """A pack to be built, and the DataBundle that it is proven with. `urgent`: before others that wait."""

    pack: PackSources
    bundle: Resource | None = None
    urgent: bool = False


@dataclass(frozen=True)
class DataOrder:
    """A DataBundle to be made an artifact."""

    resource: Resource


Order = PackOrder | DataOrder


@dataclass(frozen=True)
class PublishedData:
    """A data bundle in the registry: digest of its artifact ("sha256:…"), and SHA-256 of its file (hexadecimal), as O carries it."""

    image: str
    digest: str


Result = SignedPack | PublishedData


def order_document(order: Order) -> dict[str, Any]:
    """All that a build follows from; what is urgent is not in it."""
    if isinstance(order, DataOrder):
        return {"kind": "data", "resource": _bundle(order.resource)}
    return {"kind": "pack", "pack": asdict(order.pack), "bundle": None if order.bundle is None else _bundle(order.bundle)}


def order_id(document: Mapping[str, Any]) -> str:
    """SHA-256 of an order: equal orders are one build."""
    return sha256_hex(canonical(document))


def read_order(document: Mapping[str, Any], urgent: bool = False) -> Order:
    """Raises Refused for what is no order."""
    try:
        if document["kind"] == "data":
            return DataOrder(_resource(document["resource"]))
        if document["kind"] != "pack":
            raise ValueError(f"kind is {document['kind']!r}")
        pack = dict(document["pack"])
        sources = tuple(Source(**source) for source in pack.pop("sources"))
        bundle = document["bundle"]
        return PackOrder(PackSources(sources=sources, **pack), None if bundle is None else _resource(bundle), urgent)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused([Fault("order", f"{type(error).__name__}: {error}"[:200], "must be an order as formats/builder.md says")]) from error


def result_document(result: Result) -> dict[str, Any]:
    if isinstance(result, PublishedData):
        return {"data": asdict(result)}
    return {"signed": {"image": asdict(result.image), "keyid": result.keyid, "proof": dict(result.proof)}}


def read_result(document: Mapping[str, Any]) -> Result:
    """The result, or raises the error that ended the build. Raises Corrupt for what is neither."""
    try:
        if "data" in document:
            return PublishedData(**document["data"])
        if "signed" in document:
            found = document["signed"]
            return SignedPack(PackImage(**found["image"]), found["keyid"], found["proof"])
        error = _error(document)
    except (KeyError, TypeError, ValueError) as wrong:
        raise Corrupt("the builder's answer", f"must be a result as formats/builder.md says: {wrong}") from wrong
    raise error


def error_document(error: Exception) -> dict[str, Any]:
    """An error with its retry decision; one that nobody raised on purpose is a bug, and said to be one."""
    match error:
        case Refused():
            faults = [[fault.where, fault.value, fault.must] for fault in error.faults]
            return {"refused": {"reason": error.reason, "faults": faults}}
        case Stalled():
            return {"stalled": [error.reason, str(error)]}
        case Waiting():
            return {"waiting": [error.reason, str(error), error.retry_after_s]}
        case OSError():
            return {"waiting": ["BuildFailed", f"{error}", 1.0]}
    return {"stalled": ["BuildFailed", f"{type(error).__name__}: {error}"[:2000]]}


def _error(document: Mapping[str, Any]) -> KnhkError:
    if "refused" in document:
        found = document["refused"]
        kind = Refuted if found["reason"] == Refuted.reason else Refused
        return kind(Fault(*fault) for fault in found["faults"])
    if "stalled" in document:
        reason, message = document["stalled"]
        return Stalled(reason, message)
    reason, message, after_s = document["waiting"]
    return Waiting(reason, message, float(after_s))


def _bundle(resource: Resource) -> dict[str, Any]:
    return {"kind": resource.kind, "namespace": resource.namespace, "name": resource.name, "spec": dict(resource.spec)}


def _resource(document: Mapping[str, Any]) -> Resource:
    if document["kind"] != "DataBundle":
        raise ValueError(f"resource is a {document['kind']!r}")
    return Resource("DataBundle", str(document["namespace"]), str(document["name"]), dict(document["spec"]))
