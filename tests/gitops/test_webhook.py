"""Signed webhooks: what is signed asks for a look, everything else changes nothing and learns nothing."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
from collections.abc import Iterator, Mapping

import pytest
from memory import MemoryStore

from knhk.adapters.webhook_server import MAX_BODY, Hooks, serving
from knhk.api import parse
from knhk.model.faults import Stalled
from knhk.model.resource import Key

REPOSITORY = Key("PolicyRepository", "erp", "policies")
TOKEN = b"a token"
BODY = b'{"ref": "refs/heads/main"}'


class Secrets:
    def read(self, namespace: str, name: str) -> Mapping[str, bytes]:
        if (namespace, name) != ("erp", "hook"):
            raise Stalled("NoSecret", "must be there")
        return {"token": TOKEN + b"\n"}


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    head = "apiVersion: knhk.dev/v1alpha1\nkind: PolicyRepository\nmetadata: {{name: {}, namespace: erp}}\nspec: {{url: file:///x{}}}\n"
    hook = ", webhook: {secretRef: {name: hook}}"
    for name, rest in (("policies", hook), ("silent", ""), ("lost", hook.replace("hook}", "other}"))):
        made.apply(parse(head.format(name, rest), "x.yaml")[0])
    return made


@pytest.fixture
def port(store: MemoryStore) -> Iterator[int]:
    times = iter(f"2026-11-26T00:00:{second:02}Z" for second in range(60))
    with serving(Hooks(store, Secrets(), lambda: next(times)), "127.0.0.1", 0) as found:
        yield found


def sign(body: bytes = BODY, token: bytes = TOKEN) -> str:
    return hmac.new(token, body, hashlib.sha256).hexdigest()


def post(port: int, headers: Mapping[str, str], path: str = "/hooks/erp/policies", body: bytes = BODY, method: str = "POST") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, dict(headers))
        return connection.getresponse().status
    finally:
        connection.close()


def asked(store: MemoryStore, name: str = "policies") -> str:
    return store.get(Key("PolicyRepository", "erp", name)).annotations.get("knhk.dev/requestedAt", "")


def test_gitea_and_github_are_understood(store: MemoryStore, port: int) -> None:
    assert post(port, {"X-Gitea-Signature": sign()}) == 202
    first = asked(store)
    assert post(port, {"X-Hub-Signature-256": f"sha256={sign()}"}) == 202
    assert "" != first != asked(store)


def test_the_same_request_again_asks_for_one_more_look_and_nothing_else(store: MemoryStore, port: int) -> None:
    post(port, {"X-Gitea-Signature": sign()})
    before = store.get(REPOSITORY)
    post(port, {"X-Gitea-Signature": sign()})
    after = store.get(REPOSITORY)
    assert (after.spec, after.status, after.labels) == (before.spec, before.status, before.labels)


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({}, "/hooks/erp/policies"),
        ({"X-Gitea-Signature": ""}, "/hooks/erp/policies"),
        ({"X-Gitea-Signature": sign(b"other")}, "/hooks/erp/policies"),
        ({"X-Gitea-Signature": sign(token=b"")}, "/hooks/erp/policies"),
        ({"X-Gitea-Signature": "ä" * 64}, "/hooks/erp/policies"),
        ({"X-Gitea-Signature": sign()}, "/hooks/erp/silent"),
        ({"X-Gitea-Signature": sign()}, "/hooks/erp/lost"),
        ({"X-Gitea-Signature": sign()}, "/hooks/erp/nowhere"),
    ],
)
def test_what_is_not_signed_by_the_token_is_refused_alike(store: MemoryStore, port: int, headers: dict[str, str], path: str) -> None:
    encoded = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    assert post(port, encoded, path) == 401
    assert asked(store) == ""


def test_other_paths_and_methods_are_nothing(store: MemoryStore, port: int) -> None:
    signed = {"X-Gitea-Signature": sign()}
    assert post(port, signed, "/hooks/erp/policies/../policies") == 404
    assert post(port, signed, "/") == 404
    assert post(port, signed, method="GET") == 501
    assert asked(store) == ""


def test_a_body_without_end_is_not_read(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 10) as line:
        line.sendall(f"POST /hooks/erp/policies HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n".encode())
        assert line.recv(64).startswith(b"HTTP/1.0 413")
    with socket.create_connection(("127.0.0.1", port), 10) as line:
        line.sendall(b"POST /hooks/erp/policies HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert line.recv(64).startswith(b"HTTP/1.0 413")
