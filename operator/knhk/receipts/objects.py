"""Decision receipts as objects of Kubernetes: documents, tables, discovery, OpenAPI.

`spec` is evidence (formats/receipt.md), `status` what it says."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from knhk.lockchain.entries import Row
from knhk.model.selection import FLAGS, TRAITS, labels
from knhk.model.times import rfc3339_ns
from knhk_verify.note import b64

GROUP, VERSION, KIND, PLURAL = "receipts.knhk.dev", "v1alpha1", "DecisionReceipt", "decisionreceipts"
API_VERSION = f"{GROUP}/{VERSION}"
BASE = f"/apis/{API_VERSION}"
HOMELESS = "knhk-system"  # where receipts are whose namespace nothing in the log tells
VERBS = ("get", "list")
Document = dict[str, Any]
# Title, type, what it says, and whether only `-o wide` shows it (1).
COLUMNS = (
    ("Name", "string", "Receipt id; that of a candidate's judgement ends in -candidate.", 0),
    ("Verdict", "string", "ADMIT, DENY, or none.", 0),
    ("Pack", "string", "Pack that judged, and its version.", 0),
    ("Kind", "string", "DECISION, PARK, UNAVAILABLE or REFUSED.", 0),
    ("Class", "string", "R1, W1, C1 or none.", 0),
    ("Mode", "string", "ENFORCED, or OBSERVED: judged beside.", 0),
    ("Time", "string", "When it was decided, by the clock of the enforcement point.", 0),
    ("Arm", "string", "stable or candidate.", 1),
    ("Flags", "string", "stale, cached, brownout, failOpen, resumed.", 1),
    ("Index", "integer", "Index in the log.", 1),
)
_STATUS = {
    "kind": "DECISION, PARK (202 was answered), UNAVAILABLE (503), or REFUSED (no pack judged).",
    "verdict": "ADMIT, DENY, or none.",
    "class": "R1, W1, C1, or none: which tier decided.",
    "mode": "ENFORCED, or OBSERVED: judged beside, not enforced.",
    "arm": "stable or candidate.",
    "pack": "Name of the pack that judged; none when no pack did.",
    "version": "Its version.",
    "packDigest": "First 20 bytes of the SHA-256 of its image index, hexadecimal.",
    "region": "Number of the region in the log's configuration.",
    "time": "When it was decided, RFC 3339 in UTC, nanoseconds, by the clock of the enforcement point.",
}
_SPEC = {
    "leaf": "The log entry, 118 bytes, base64.",
    "receipt": "Receipt id, 32 hexadecimal digits, as in the header knhk-receipt of the answer.",
    "proof": "Inclusion proof, c2sp.org/tlog-proof text. Lists leave it out: get the object to have it.",
    "checkpoint": "The signed checkpoint that the proof leads to.",
}


def document(row: Row, origin: str) -> Document:
    """The object, without proof."""
    leaf, traits = row.leaf, row.traits
    said = {name: traits[name] for name in ("kind", "verdict", "class", "mode", "arm", "pack", "version") if traits[name]}
    said |= {"packDigest": leaf.pack.hex()} if any(leaf.pack) else {}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": metadata(row, origin),
        "spec": {"leaf": b64(row.data), "receipt": leaf.receipt_id.hex(), "logIndex": row.number},
        "status": {
            **said,
            "region": leaf.region,
            "time": rfc3339_ns(leaf.time_ns),
            "flags": [flag for flag in FLAGS if traits[flag] == "true"],
        },
    }


def metadata(row: Row, origin: str) -> Document:
    """Version: the size of the log with which it came; it never changes."""
    return {
        "name": row.name,
        "namespace": row.traits["namespace"] or HOMELESS,
        "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{origin}/{row.number}")),
        "resourceVersion": str(row.number + 1),
        "creationTimestamp": rfc3339_ns(row.leaf.time_ns)[:19] + "Z",
        "labels": labels(row.traits),
    }


def cells(row: Row) -> list[str | int]:
    traits = row.traits
    pack = f"{traits['pack']}@{traits['version']}" if traits["pack"] else row.leaf.pack.hex()[:12] if traits["packDigest"] else ""
    flags = ",".join(flag for flag in FLAGS if traits[flag] == "true")
    middle = [traits[name] for name in ("kind", "class", "mode")]
    return [row.name, traits["verdict"], pack, *middle, rfc3339_ns(row.leaf.time_ns)[:23] + "Z", traits["arm"], flags, row.number]


def table(rows: Iterable[Row], origin: str, include: str, around: Mapping[str, Any]) -> Document:
    """`include`: None, Metadata or Object, as a client asks (includeObject)."""
    return {
        "apiVersion": "meta.k8s.io/v1",
        "kind": "Table",
        "metadata": around,
        "columnDefinitions": [
            {"name": name, "type": kind, "format": "name" if name == "Name" else "", "description": told, "priority": priority}
            for name, kind, told, priority in COLUMNS
        ],
        "rows": [{"cells": cells(row), **_included(row, origin, include)} for row in rows],
    }


def _included(row: Row, origin: str, include: str) -> Document:
    if include == "None":
        return {}
    if include == "Object":
        return {"object": document(row, origin)}
    return {"object": {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata(row, origin)}}


def listed(rows: Iterable[Row], origin: str, around: Mapping[str, Any]) -> Document:
    return {"apiVersion": API_VERSION, "kind": f"{KIND}List", "metadata": around, "items": [document(row, origin) for row in rows]}


def status(code: int, reason: str, message: str, **details: Any) -> Document:
    told = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code}
    return told | ({"details": details} if details else {})


# ---- what there is ---------------------------------------------------------------------------------

_VERSION = {"groupVersion": API_VERSION, "version": VERSION}
API_GROUP = {"kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [_VERSION], "preferredVersion": _VERSION}
API_GROUPS = {"kind": "APIGroupList", "apiVersion": "v1", "groups": [API_GROUP]}
API_RESOURCES = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": API_VERSION,
    "resources": [
        {
            "name": PLURAL,
            "singularName": "decisionreceipt",
            "namespaced": True,
            "kind": KIND,
            "verbs": list(VERBS),
            "shortNames": ["drcpt"],
            "categories": ["knhk"],
        }
    ],
}
_MODEL = f"dev.knhk.receipts.{VERSION}.{KIND}"


def _text(told: str) -> Document:
    return {"type": "string", "description": told}


def _schemas(prefix: str) -> dict[str, Document]:
    number = {"type": "integer", "format": "int64", "description": "Index in the log."}
    flags = {
        "type": "array",
        "items": {"type": "string"},
        "description": "Of stale, cached, brownout, failOpen, resumed those that are set.",
    }
    region = {"type": "integer", "format": "int32", "description": _STATUS["region"]}
    spec = {name: _text(told) for name, told in _SPEC.items()} | {"logIndex": number}
    said = {name: _text(told) for name, told in _STATUS.items()} | {"region": region, "flags": flags}
    kind = {"group": GROUP, "version": VERSION, "kind": KIND}
    item = {
        "type": "object",
        "description": "A decision, proven by a log. Nobody writes it here: the log does. Fields that select: metadata.name, "
        f"metadata.namespace, receipt, {', '.join(TRAITS)}; the same but name, namespace and receipt are labels.",
        "properties": {
            "apiVersion": _text("receipts.knhk.dev/v1alpha1"),
            "kind": _text(KIND),
            "metadata": {"type": "object", "description": "Name: the receipt id. Namespace: that of the pack."},
            "spec": {"type": "object", "description": "The evidence, which anyone can verify offline.", "properties": spec},
            "status": {"type": "object", "description": "What the evidence says, in words.", "properties": said},
        },
        "x-kubernetes-group-version-kind": [kind],
    }
    many = {
        "type": "object",
        "description": "Decision receipts, the newest first.",
        "properties": {
            "apiVersion": _text("receipts.knhk.dev/v1alpha1"),
            "kind": _text(f"{KIND}List"),
            "metadata": {"type": "object", "description": "resourceVersion: the size of the log; continue: where the next page begins."},
            "items": {"type": "array", "items": {"$ref": f"{prefix}{_MODEL}"}},
        },
        "x-kubernetes-group-version-kind": [{**kind, "kind": f"{KIND}List"}],
    }
    return {_MODEL: item, f"{_MODEL}List": many}


_QUERY = ("fieldSelector", "labelSelector", "limit", "continue", "resourceVersion", "resourceVersionMatch")


def _operations(prefix: str, *, swagger: bool) -> Document:
    """Path → its GET."""
    paths = {
        f"{BASE}/{PLURAL}": ("list", f"{_MODEL}List", ()),
        f"{BASE}/namespaces/{{namespace}}/{PLURAL}": ("list", f"{_MODEL}List", ("namespace",)),
        f"{BASE}/namespaces/{{namespace}}/{PLURAL}/{{name}}": ("get", _MODEL, ("namespace", "name")),
    }
    return {path: {"get": _operation(path, *row, prefix=prefix, swagger=swagger)} for path, row in paths.items()}


def _operation(path: str, verb: str, model: str, names: tuple[str, ...], *, prefix: str, swagger: bool) -> Document:
    def parameter(name: str, place: str) -> Document:
        kind = "integer" if name == "limit" else "string"
        typed = {"type": kind} if swagger else {"schema": {"type": kind}}
        return {"name": name, "in": place, "required": place == "path", **typed}

    found: Document = {"$ref": f"{prefix}{model}"}
    answer: Document = (
        {"description": "OK", "schema": found} if swagger else {"description": "OK", "content": {"application/json": {"schema": found}}}
    )
    query = _QUERY if verb == "list" else ()
    return {
        "operationId": f"{verb}{'Namespaced' if names else ''}{KIND}{'' if names or verb == 'get' else 'ForAllNamespaces'}",
        "description": path,
        **({"produces": ["application/json"], "schemes": ["https"]} if swagger else {}),
        "parameters": [*(parameter(name, "path") for name in names), *(parameter(name, "query") for name in query)],
        "responses": {"200": answer},
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": {"group": GROUP, "version": VERSION, "kind": KIND},
    }


_INFO = {"title": "Decision receipts of Reflex Enterprise", "version": VERSION}
OPENAPI_V3_PATHS = {"paths": {BASE[1:]: {"serverRelativeURL": f"/openapi/v3{BASE}"}}}
OPENAPI_V3 = {
    "openapi": "3.0.0",
    "info": _INFO,
    "paths": _operations("#/components/schemas/", swagger=False),
    "components": {"schemas": _schemas("#/components/schemas/")},
}
OPENAPI_V2 = {
    "swagger": "2.0",
    "info": _INFO,
    "paths": _operations("#/definitions/", swagger=True),
    "definitions": _schemas("#/definitions/"),
}
