"""Admission: what a resource must be beyond its schema. Parses and lowers, never compiles to machine code (DESIGN §8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from knhk.api import Resource, to_sources
from knhk.model.faults import Fault, Refused
from knhk.reconcilers.hooks import index_of
from knhk.reconcilers.lowering import plan_of
from knhk.reconcilers.schemas import schema_of
from knhk_gen.bundle import build


def _pack(resource: Resource) -> None:
    plan_of(to_sources(resource))


def _bundle(resource: Resource) -> None:
    bundle_bytes(resource)


def bundle_bytes(resource: Resource) -> bytes:
    """The artifact (formats/bundle.md) of a DataBundle. Raises Refused with all faults."""
    from knhk_hot.perfect import place  # loads the native library, which only bundles need

    where = resource.path or f"{resource.key} spec.source.inline"
    line = resource.lines.get("spec.source.inline", 1)
    try:
        return build(resource.spec["source"]["inline"], where, resource.spec.get("callerTemplate", ""), place)
    except Refused as refused:
        raise Refused(_shifted(fault, where, line) for fault in refused.faults) from refused


def _shifted(fault: Fault, where: str, first_line: int) -> Fault:
    path, _, line = fault.where.rpartition(":")
    if path != where or not line.isdigit():
        return fault
    return Fault(f"{where}:{int(line) + first_line - 1}", fault.value, fault.must)


_CHECKS: Mapping[str, Callable[[Resource], object]] = {
    "PolicyPack": _pack,
    "DataBundle": _bundle,
    "SchemaVersion": schema_of,
    "HookRegistry": index_of,
}


def admit(resource: Resource) -> tuple[Fault, ...]:
    """All faults of a parsed resource; empty when it may be stored."""
    check = _CHECKS.get(resource.kind)
    if check is None:
        return ()
    try:
        check(resource)
    except Refused as refused:
        return refused.faults
    return ()
