"""Receipts as objects of Kubernetes: tables, lists, discovery, OpenAPI.

`spec` is evidence (formats/receipt.md), `status` what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from knhk.lockchain.entries import Row
from knhk.receipts.kinds import API_VERSION, GROUP, KINDS, VERSION, Document, Kind, text

BASE = f"/apis/{API_VERSION}"
VERBS = ("get", "list", "watch")


def table(kind: Kind, rows: Iterable[Row], origin: str, include: str, around: Mapping[str, Any]) -> Document:
    """`include`: None, Metadata or Object, as a client asks (includeObject)."""
    return {
        "apiVersion": "meta.k8s.io/v1",
        "kind": "Table",
        "metadata": around,
        "columnDefinitions": [
            {"name": name, "type": type_, "format": "name" if name == "Name" else "", "description": told, "priority": priority}
            for name, type_, told, priority in kind.columns
        ],
        "rows": [{"cells": kind.cells(row), **_included(kind, row, origin, include)} for row in rows],
    }


def _included(kind: Kind, row: Row, origin: str, include: str) -> Document:
    if include == "None":
        return {}
    if include == "Object":
        return {"object": kind.document(row, origin)}
    return {"object": {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": kind.metadata(row, origin)}}


def listed(kind: Kind, rows: Iterable[Row], origin: str, around: Mapping[str, Any]) -> Document:
    items = [kind.document(row, origin) for row in rows]
    return {"apiVersion": API_VERSION, "kind": f"{kind.kind}List", "metadata": around, "items": items}


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
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": True,
            "kind": kind.kind,
            "verbs": list(VERBS),
            "shortNames": [kind.short],
            "categories": ["knhk"],
        }
        for kind in KINDS
    ],
}


def _model(kind: Kind) -> str:
    return f"dev.knhk.receipts.{VERSION}.{kind.kind}"


def _schemas(prefix: str) -> dict[str, Document]:
    return {name: schema for kind in KINDS for name, schema in _schemas_of(kind, prefix).items()}


def _schemas_of(kind: Kind, prefix: str) -> dict[str, Document]:
    named = {"group": GROUP, "version": VERSION, "kind": kind.kind}
    evidence = {"type": "object", "description": "The evidence, which anyone can verify offline.", "properties": kind.spec}
    item = {
        "type": "object",
        "description": kind.doc,
        "properties": {
            "apiVersion": text(API_VERSION),
            "kind": text(kind.kind),
            "metadata": {"type": "object", "description": kind.named},
            "spec": evidence,
            "status": {"type": "object", "description": "What the evidence says, in words.", "properties": kind.status},
        },
        "x-kubernetes-group-version-kind": [named],
    }
    many = {
        "type": "object",
        "description": f"{kind.kind}s, the newest first.",
        "properties": {
            "apiVersion": text(API_VERSION),
            "kind": text(f"{kind.kind}List"),
            "metadata": {"type": "object", "description": "resourceVersion: the size of the log; continue: where the next page begins."},
            "items": {"type": "array", "items": {"$ref": f"{prefix}{_model(kind)}"}},
        },
        "x-kubernetes-group-version-kind": [{**named, "kind": f"{kind.kind}List"}],
    }
    return {_model(kind): item, f"{_model(kind)}List": many}


_QUERY = (
    "fieldSelector",
    "labelSelector",
    "limit",
    "continue",
    "resourceVersion",
    "resourceVersionMatch",
    "watch",
    "allowWatchBookmarks",
    "timeoutSeconds",
)
_TYPES = {"limit": "integer", "timeoutSeconds": "integer", "watch": "boolean", "allowWatchBookmarks": "boolean"}


def _operations(prefix: str, *, swagger: bool) -> Document:
    """Path → its GET."""
    paths = {
        path: row
        for kind in KINDS
        for path, row in {
            f"{BASE}/{kind.plural}": (kind, "list", ()),
            f"{BASE}/namespaces/{{namespace}}/{kind.plural}": (kind, "list", ("namespace",)),
            f"{BASE}/namespaces/{{namespace}}/{kind.plural}/{{name}}": (kind, "get", ("namespace", "name")),
        }.items()
    }
    return {path: {"get": _operation(path, *row, prefix=prefix, swagger=swagger)} for path, row in paths.items()}


def _operation(path: str, kind: Kind, verb: str, names: tuple[str, ...], *, prefix: str, swagger: bool) -> Document:
    def parameter(name: str, place: str) -> Document:
        type_ = _TYPES.get(name, "string")
        typed = {"type": type_} if swagger else {"schema": {"type": type_}}
        return {"name": name, "in": place, "required": place == "path", **typed}

    found: Document = {"$ref": f"{prefix}{_model(kind)}{'List' if verb == 'list' else ''}"}
    answer: Document = (
        {"description": "OK", "schema": found} if swagger else {"description": "OK", "content": {"application/json": {"schema": found}}}
    )
    query = _QUERY if verb == "list" else ()
    return {
        "operationId": f"{verb}{'Namespaced' if names else ''}{kind.kind}{'' if names or verb == 'get' else 'ForAllNamespaces'}",
        "description": path,
        **({"produces": ["application/json"], "schemes": ["https"]} if swagger else {}),
        "parameters": [*(parameter(name, "path") for name in names), *(parameter(name, "query") for name in query)],
        "responses": {"200": answer},
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": {"group": GROUP, "version": VERSION, "kind": kind.kind},
    }


_INFO = {"title": "Receipts of Reflex Enterprise", "version": VERSION}
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
