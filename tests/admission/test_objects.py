"""What a point says of an object, as an API server is told it; how a point is asked; and callers that are no API server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from knhk.adapters.certificates import new_authority, server_pair
from knhk.adapters.client_context import show
from knhk.adapters.placement_kube import service_name
from knhk.adapters.placement_objects import client_of
from knhk.adapters.point_client import PointClient, Told
from knhk.admission.metrics import Metrics
from knhk.admission.objects import Objects, answered, path_of
from knhk.admission.server import MAX_BODY_BYTES, application
from knhk.api.review import Review, allowed, read_review
from knhk.model.faults import NotFound, Waiting

ROOT = Path(__file__).parents[2]
RECEIPT = "ab" * 16
VIOLATION = {"guard": "g", "path": "k8s:memoryLimit", "value": "", "message": "a container must have a memory limit"}
JSON = {"content-type": "application/json"}


def body(payload: str = "good") -> bytes:
    return (ROOT / "examples" / "kubernetes" / "payloads" / f"{payload}.json").read_bytes()


def question() -> Review:
    return read_review(body())


def told(status: int, **problem: Any) -> Told:
    return Told(status, RECEIPT, json.dumps(problem).encode() if problem else b"")


def test_the_examples_pack_meets_its_expectations() -> None:
    command = [sys.executable, "-m", "knhk.cli", "pack", "test", "examples/kubernetes", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_admitted_passes_with_its_receipt() -> None:
    answer = answered(question(), told(200))["response"]
    assert answer == {"uid": question().uid, "allowed": True, "auditAnnotations": {"receipt": RECEIPT}}


def test_what_the_candidate_would_deny_passes_with_warnings() -> None:
    answer = answered(question(), told(200, pack="policy/p@1.1.0", violations=[VIOLATION] * 50))["response"]
    assert answer["allowed"]
    assert answer["warnings"][0] == "would be denied: k8s:memoryLimit: a container must have a memory limit"
    assert answer["warnings"][-1] == f"would be denied by policy/p@1.1.0, receipt {RECEIPT}"
    assert len(answer["warnings"]) < 20


def test_what_is_denied_is_told_with_every_violation_and_its_receipt() -> None:
    other = {**VIOLATION, "path": "k8s:image", "value": "busybox", "message": "must be named by digest"}
    answer = answered(question(), told(403, title="Denied by policy", pack="policy/p@1.0.0", violations=[VIOLATION, other]))["response"]
    assert answer["status"]["code"] == 403
    assert answer["status"]["message"].splitlines() == [
        "k8s:memoryLimit: : a container must have a memory limit",
        "k8s:image: busybox: must be named by digest",
        f"by policy/p@1.0.0, receipt {RECEIPT}",
    ]
    assert answer["auditAnnotations"] == {"receipt": RECEIPT, "pack": "policy/p@1.0.0"}


@pytest.mark.parametrize(
    "answer",
    [
        told(202, title="parked"),
        told(503, title="ring full"),
        told(500),
        told(403),
        told(302),
        Told(403, "", b"<html>"),
        Told(200, "", b""),
    ],
)
def test_what_is_no_verdict_is_no_answer(answer: Told) -> None:
    """A proxy's own 403 among them, and the 200 of whatever has the address now: a verdict has a problem document or a receipt."""
    with pytest.raises(Waiting, match="the point answered"):
        answered(question(), answer)


def test_a_point_is_asked_by_group_resource_operation_and_namespace() -> None:
    assert path_of(question()) == "/apps/deployments/CREATE/shop"
    hostile = Review("u", "", "Pod", "CREATE", "../x", "n", {}, {}, resource="pods/..?a=b")
    assert path_of(hostile) == "/core/pods%2F..%3Fa%3Db/CREATE/..%2Fx"


def test_a_service_is_named_so_that_an_api_server_finds_it_without_names() -> None:
    assert client_of("https://knhk-admission.knhk-system.svc", "a/b") == {
        "service": {"name": "knhk-admission", "namespace": "knhk-system", "port": 443, "path": "/objects/a/b"}
    }
    assert client_of("https://127.0.0.1:9443", "a/b") == {"url": "https://127.0.0.1:9443/objects/a/b"}


async def _asked(answers: list[web.Response | None], path: str = "/objects/policy/workloads") -> tuple[int, Mapping[str, Any], list[bytes]]:
    """HTTP status and answer of admission before a point that answers so; None: it closes the connection. And what the point saw."""
    seen: list[bytes] = []

    async def point(request: web.Request) -> web.StreamResponse:
        seen.append(await request.read())
        answer = answers.pop(0)
        if answer is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        return answer

    behind = web.Application()
    behind.router.add_post("/apps/deployments/CREATE/shop", point)
    authority = new_authority(datetime.now(UTC))
    shown, shows = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cadata=authority.certificate.decode())
    show(shown, server_pair(authority, [service_name("policy/workloads")], datetime.now(UTC), timedelta(days=1)))
    async with AsyncExitStack() as stack:
        server = TestServer(behind)
        stack.push_async_callback(server.close)
        await server.start_server(ssl=shown)
        places = {("policy", "workloads"): f"127.0.0.1:{server.port}"}

        def look(namespace: str, name: str) -> str:
            if (namespace, name) not in places:
                raise NotFound(f"EnforcementPoint {namespace}/{name}")
            return places[namespace, name]

        points = PointClient(look, lambda: shows)
        stack.push_async_callback(points.aclose)
        app = application({"/objects/{namespace}/{point}": Objects(points).judged}, lambda: "", Metrics())
        client = await stack.enter_async_context(TestClient(TestServer(app)))
        async with client.post(path, data=body(), headers=JSON) as response:
            text = await response.text()
            return response.status, json.loads(text) if response.status == 200 else {}, seen


def test_the_point_sees_the_question_as_it_came() -> None:
    status, answer, seen = asyncio.run(_asked([web.Response(headers={"knhk-receipt": RECEIPT})]))
    assert (status, answer["response"]["auditAnnotations"]) == (200, {"receipt": RECEIPT})
    assert seen == [body()]


def test_a_connection_that_the_point_closed_is_made_again_once() -> None:
    assert asyncio.run(_asked([None, web.Response(headers={"knhk-receipt": RECEIPT})]))[0] == 200
    assert asyncio.run(_asked([None, None]))[0] == 503


def test_a_point_that_is_not_there_is_no_answer() -> None:
    assert asyncio.run(_asked([], "/objects/policy/other"))[0] == 503


async def _hostile(sent: bytes, headers: Mapping[str, str]) -> int:
    async def judge(review: Review) -> Mapping[str, Any]:
        return allowed(review)

    app = application({"/validate": judge}, lambda: "", Metrics())
    async with TestClient(TestServer(app)) as client, client.post("/validate", data=io.BytesIO(sent), headers=headers) as response:
        return response.status


@pytest.mark.parametrize(
    ("sent", "headers", "status"),
    [
        (body(), {"content-type": "text/plain"}, 415),
        (b"[" * (4 << 20), JSON, 400),
        (b'{"a":' * 100_000, JSON, 400),
        (b" " * (MAX_BODY_BYTES + 1), JSON, 413),
        (body() + b" " * (2 << 20), JSON, 200),
        (b"\xff" * 100, JSON, 400),
    ],
    ids=["other type", "deep lists", "deep objects", "too large", "large", "no text"],
)
def test_hostile_questions_get_an_error_of_http(sent: bytes, headers: Mapping[str, str], status: int) -> None:
    assert asyncio.run(_hostile(sent, headers)) == status
