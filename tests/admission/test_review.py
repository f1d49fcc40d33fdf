"""What an API server asks, and the answers it gets, as data and over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from knhk.adapters.kube_client import faults
from knhk.admission.judges import parser_faults
from knhk.admission.metrics import Metrics
from knhk.admission.server import application
from knhk.api.review import Review, allowed, denied, read_review
from knhk.model.faults import Fault, Refused, Waiting

JSON = {"content-type": "application/json"}
FAULTS = (Fault("spec.version", '1 "x"', "must be a semantic version"), Fault("spec.sources", "nothing", "must be given"))


def asked(document: Mapping[str, Any], operation: str = "CREATE") -> bytes:
    kind = {"group": "knhk.dev", "version": "v1alpha1", "kind": "PolicyPack"}
    request = {"uid": "u-1", "kind": kind, "operation": operation, "namespace": "erp", "object": document, "oldObject": None}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"null", b'{"apiVersion":"admission.k8s.io/v1","request":7}', b"[" * 100_000, asked({}).replace(b'v1"', b'v2"', 1)],
)
def test_what_is_no_review_is_refused(body: bytes) -> None:
    with pytest.raises(Refused, match="must be an AdmissionReview"):
        read_review(body)


def test_a_denial_carries_every_fault_as_kubectl_and_our_client_read_them() -> None:
    answer = denied(read_review(asked({})), FAULTS)["response"]
    assert answer["uid"] == "u-1"
    assert faults(answer["status"]) == FAULTS
    assert answer["status"]["message"].splitlines() == [str(fault) for fault in FAULTS]


def test_a_patch_is_base64_of_json() -> None:
    answer = allowed(read_review(asked({})), ("w" * 1000,), [{"op": "add", "path": "/a", "value": 1}])["response"]
    assert json.loads(base64.b64decode(answer["patch"])) == [{"op": "add", "path": "/a", "value": 1}]
    assert all(len(line) <= 256 for line in answer["warnings"])


def test_server_set_fields_and_generated_names_are_no_faults() -> None:
    metadata = {
        "generateName": "orders-",
        "namespace": "erp",
        "uid": "x",
        "managedFields": [{}],
        "deletionTimestamp": "now",
        "selfLink": "",
    }
    spec = {"version": "1.0.0", "source": {"inline": ""}}
    document = {"apiVersion": "knhk.dev/v1alpha1", "kind": "DataBundle", "metadata": metadata, "spec": spec, "status": {"x": 1}}
    found = parser_faults(read_review(asked(document)).spelled())
    assert all(fault.where.startswith("spec") for fault in found), found


async def _post(judge: Any, bodies: list[bytes]) -> tuple[list[tuple[int, str]], str, tuple[int, int]]:
    state = {"why": "cold"}
    app = application({"/validate": judge}, lambda: state["why"], Metrics())
    async with TestClient(TestServer(app)) as client:
        answers = []
        for body in bodies:
            async with client.post("/validate", data=body, headers=JSON) as response:
                answers.append((response.status, await response.text()))
        cold = (await client.get("/readyz")).status
        state["why"] = ""
        ready = (await client.get("/readyz")).status
        return answers, await (await client.get("/metrics")).text(), (cold, ready)


def test_the_server_answers_and_counts() -> None:
    """What is no answer is an error of HTTP, so that the configuration's failurePolicy decides."""

    async def judge(review: Review) -> Mapping[str, Any]:
        if review.document.get("away"):
            raise Waiting("ApiServerUnreachable", "the API server does not answer", 1.0)
        return denied(review, FAULTS) if review.document.get("bad") else allowed(review)

    bodies = [asked({}), asked({"bad": 1}), b"{", asked({"away": 1})]
    answers, metrics, readiness = asyncio.run(_post(judge, bodies))
    assert [status for status, _ in answers] == [200, 200, 400, 503]
    assert [json.loads(text)["response"]["allowed"] for status, text in answers if status == 200] == [True, False]
    for verdict in ("allowed", "denied", "malformed", "failed"):
        assert f'knhk_admission_verdicts_total{{webhook="validate",verdict="{verdict}"}} 1' in metrics
    assert 'controller_runtime_webhook_requests_in_flight{webhook="validate"} 0' in metrics
    assert readiness == (503, 200)
