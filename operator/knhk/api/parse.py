"""Text or JSON data → resources, with every fault at once; and resources → JSON data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from knhk.api import document
from knhk.api.check import Checker, excerpt, joined
from knhk.api.document import Node
from knhk.api.kinds import KINDS
from knhk.api.kinds.common import name
from knhk.api.rules import listed
from knhk.api.shape import NO_DEFAULT, Bool, Int, Kind, List, Map, Obj, Shape, Str
from knhk.model.faults import Fault, Refused
from knhk.model.resource import API_VERSION, Resource

DEFAULT_NAMESPACE = "default"
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
# Fields that an API server sets and that come along in `kubectl get -o yaml`: known, and left out.
_SERVER_SET = (
    "creationTimestamp",
    "generation",
    "managedFields",
    "selfLink",
    "uid",
    "finalizers",
    "ownerReferences",
)

METADATA = Obj(
    "Name, namespace, labels and annotations.",
    {
        "name": name("Name of the object."),
        "namespace": name("Namespace. Default: default."),
        "labels": Map("Labels.", Str("Value.", max=63), max=64, default={}),
        "annotations": Map("Annotations.", Str("Value.", max=262_144), max=64, default={}),
        "resourceVersion": Str("Version that was read, for optimistic writes.", max=64),
    },
    required=("name",),
)


def parse(text: str | bytes, path: str) -> list[Resource]:
    """Resources of a YAML file (any number of documents). Raises Refused with every fault of the file.

    `path` is what faults name. Defaults are filled in here and nowhere else.
    """
    nodes, faults = document.read(text, path)
    faults = list(faults)
    found: list[Resource] = []
    first: dict[str, int] = {}
    for node in nodes:
        checker = Checker(path)
        resource = _resource(checker, node)
        faults += checker.faults
        if resource is None:
            continue
        line = first.setdefault(str(resource.key), node.line)
        if line != node.line:
            faults.append(
                Fault(
                    f"{path}:{node.line}",
                    str(resource.key),
                    f"must be given once (first in line {line})",
                )
            )
        found.append(resource)
    if not nodes and not faults:
        faults.append(Fault(f"{path}:1", "nothing", "must hold at least one resource"))
    if faults:
        raise Refused(faults)
    return found


def from_document(value: Mapping[str, Any], where: str = "") -> Resource:
    """A resource from JSON data as an API server gives it, status and server-set metadata included.

    `where` precedes the field path in faults. Raises Refused with every fault.
    """
    checker = Checker(where)
    resource = _resource(checker, document.of_value(dict(value)))
    if checker.faults or resource is None:
        raise Refused(checker.faults)
    metadata = value.get("metadata", {})
    return Resource(
        kind=resource.kind,
        namespace=resource.namespace,
        name=resource.name,
        spec=resource.spec,
        status=dict(value.get("status") or {}),
        labels=resource.labels,
        annotations=resource.annotations,
        uid=str(metadata.get("uid", "")),
        resource_version=resource.resource_version,
        generation=int(metadata.get("generation", 0)),
        created=str(metadata.get("creationTimestamp", "")),
    )


def to_document(resource: Resource) -> dict[str, Any]:
    """JSON data of a resource, as `get -o yaml` shows it. Empty parts are left out."""
    metadata: dict[str, Any] = {"name": resource.name, "namespace": resource.namespace}
    optional = {
        "labels": dict(resource.labels),
        "annotations": dict(resource.annotations),
        "uid": resource.uid,
        "resourceVersion": resource.resource_version,
        "generation": resource.generation,
        "creationTimestamp": resource.created,
    }
    metadata.update({key: value for key, value in optional.items() if value})
    shown = {
        "apiVersion": API_VERSION,
        "kind": resource.kind,
        "metadata": metadata,
        "spec": dict(resource.spec),
    }
    return {**shown, "status": dict(resource.status)} if resource.status else shown


def check_status(kind: str, status: Mapping[str, Any]) -> tuple[Fault, ...]:
    """Faults of a status document: an API server would drop or refuse these fields."""
    checker = Checker("")
    checker.check(KINDS[kind].status, document.of_value(dict(status)), "status", defaults=False)
    return tuple(checker.faults)


def check_update(old: Resource, new: Resource) -> tuple[Fault, ...]:
    """Faults of a change, such as a new spec of something immutable."""
    faults = []
    for rule in KINDS[new.kind].spec.rules:
        if not rule.on_update:
            continue
        changed = [name for name in sorted({*old.spec, *new.spec}) if old.spec.get(name) != new.spec.get(name)]
        if changed := [name for name in changed if not rule.reads or name in rule.reads]:
            faults.append(Fault(f"{new.key} spec", f"a changed {', '.join(changed)}", rule.message))
    return tuple(faults)


def _resource(checker: Checker, node: Node) -> Resource | None:
    if node.kind != "object":
        checker.fault(node, "", excerpt(node), "must be an object with apiVersion, kind, metadata and spec")
        return None
    for field, (line, child) in node.value.items():
        if field not in _TOP:
            checker.fault(
                child,
                field,
                excerpt(child),
                f"must not be there: unknown field (known: {', '.join(_TOP)})",
                line,
            )
    kind = _kind(checker, node)
    metadata = _metadata(checker, node)
    if kind is None:
        return None
    spec = _part(checker, node, "spec", kind.spec)
    if checker.faults:
        return None
    return Resource(
        kind=kind.kind,
        namespace=metadata.get("namespace", DEFAULT_NAMESPACE),
        name=metadata["name"],
        spec=spec,
        labels=metadata["labels"],
        annotations=metadata["annotations"],
        resource_version=metadata.get("resourceVersion", ""),
        path=checker.path,
        lines=checker.lines,
    )


def _kind(checker: Checker, node: Node) -> Kind | None:
    _exactly(checker, node, "apiVersion", (API_VERSION,))
    found = _exactly(checker, node, "kind", tuple(KINDS))
    return KINDS.get(found or "")


def _exactly(checker: Checker, node: Node, field: str, known: tuple[str, ...]) -> str | None:
    _, child = node.value.get(field, (0, None))
    must = f"must be {listed(known)}"
    if child is None:
        checker.fault(node, field, "nothing", must)
        return None
    if child.value not in known or child.kind != "string":
        checker.fault(child, field, excerpt(child), must)
        return None
    return str(child.value)


def _metadata(checker: Checker, node: Node) -> dict[str, Any]:
    _, child = node.value.get("metadata", (0, None))
    if child is not None and child.kind == "object":
        kept = {k: v for k, v in child.value.items() if k not in _SERVER_SET}
        child = Node("object", kept, child.line)
    return _checked(checker, node, child, "metadata", METADATA)


def _part(checker: Checker, node: Node, field: str, shape: Obj) -> dict[str, Any]:
    _, child = node.value.get(field, (0, None))
    return _checked(checker, node, child, field, shape)


def _checked(checker: Checker, node: Node, child: Node | None, field: str, shape: Obj) -> dict[str, Any]:
    if child is None:
        checker.fault(node, field, "nothing", "must be given")
        return {}
    return checker.check(shape, child, field) or {}


def field_docs(shape: Shape, at: str = "spec") -> list[tuple[str, str, str]]:
    """Rows (field path, type and bounds, description) of a declared shape, for reference pages and `explain`."""
    rows = [(at, _type_text(shape), shape.doc)]
    if isinstance(shape, Obj):
        for field, child in shape.fields.items():
            rows += field_docs(child, joined(at, field))
    elif isinstance(shape, List):
        rows += field_docs(shape.item, f"{at}[]")
    elif isinstance(shape, Map):
        rows += field_docs(shape.value, f"{at}.*")
    return rows


def _type_text(shape: Shape) -> str:
    text = _bounds_text(shape)
    return text if shape.default is NO_DEFAULT or shape.default == {} else f"{text}, default {shape.default!r}"


def _bounds_text(shape: Shape) -> str:
    match shape:
        case Str():
            return f"string, {shape.min}–{shape.max} characters"
        case Int():
            return f"integer, {shape.min} … {shape.max}"
        case List():
            return f"list, {shape.min}–{shape.max} items"
        case Map():
            return f"map, at most {shape.max} entries"
        case Bool():
            return "boolean"
        case Obj():
            return "object"
