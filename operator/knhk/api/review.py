"""AdmissionReview (admission.k8s.io/v1): what an API server asks before it stores an object, and the answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knhk.model.faults import Fault, Refused

API_VERSION = "admission.k8s.io/v1"
INVALID, FORBIDDEN = (422, "Invalid"), (403, "Forbidden")
MAX_WARNING = 240  # an API server cuts longer ones
_SPELLED = ("name", "namespace", "labels", "annotations", "resourceVersion")  # of metadata, what a person spells


@dataclass(frozen=True)
class Review:
    """One question. `document` is the object as it would be stored, `before` as it is; each empty when there is none. `resource`: its
    plural name; `body`: the question as it came."""

    uid: str
    group: str
    kind: str
    operation: str
    namespace: str
    name: str
    document: Mapping[str, Any]
    before: Mapping[str, Any]
    user: str = ""
    resource: str = ""
    body: bytes = b""

    def spelled(self) -> dict[str, Any]:
        """The object without what only a server sets, and with the name that it will have, or a stand-in while that is generated."""
        found: Any = self.document.get("metadata")
        metadata = {field: found[field] for field in _SPELLED if field in found} if isinstance(found, dict) else {}
        if not metadata.get("name") and isinstance(found, dict) and found.get("generateName"):
            metadata["name"] = self.name or f"{found['generateName']}0"
        return {**{field: value for field, value in self.document.items() if field != "status"}, "metadata": metadata}


def read_review(body: bytes) -> Review:
    """Raises Refused for what is no AdmissionReview of this version."""
    try:
        document = json.loads(body)
        request = document["request"]
        kind = request["kind"]
        if document["apiVersion"] != API_VERSION:
            raise ValueError(document["apiVersion"])
        return Review(
            str(request["uid"]),
            str(kind["group"]),
            str(kind["kind"]),
            str(request["operation"]),
            str(request.get("namespace") or ""),
            str(request.get("name") or ""),
            request.get("object") or {},
            request.get("oldObject") or {},
            str((request.get("userInfo") or {}).get("username") or ""),
            str((request.get("resource") or {}).get("resource") or ""),
            body,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Refused([Fault("body", f"{type(error).__name__}: {error}"[:200], f"must be an AdmissionReview of {API_VERSION}")]) from error


def audited(answer: dict[str, Any], annotations: Mapping[str, str]) -> dict[str, Any]:
    """The answer, with what the API server's audit log is to say of it."""
    return {**answer, "response": {**answer["response"], "auditAnnotations": dict(annotations)}}


def allowed(review: Review, warnings: Sequence[str] = (), patch: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Yes, with a JSON patch (RFC 6902) if there is one."""
    response: dict[str, Any] = {"uid": review.uid, "allowed": True}
    if warnings:
        response["warnings"] = [line[:MAX_WARNING] for line in warnings]
    if patch:
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(list(patch)).encode()).decode()}
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}


def denied(review: Review, faults: Sequence[Fault], how: tuple[int, str] = INVALID) -> dict[str, Any]:
    """No, with all faults, one a line and as causes, as an API server tells its own."""
    causes = [
        {"reason": "FieldValueInvalid", "field": fault.where, "message": f"Invalid value: {json.dumps(fault.value)}: {fault.must}"}
        for fault in faults
    ]
    status = {
        "status": "Failure",
        "code": how[0],
        "reason": how[1],
        "message": "\n".join(map(str, faults)),
        "details": {"group": review.group, "kind": review.kind, "name": review.name, "causes": causes},
    }
    response = {"uid": review.uid, "allowed": False, "status": status}
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
