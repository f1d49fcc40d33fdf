"""One request through a real Envoy: what the client, the application and the ring see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_native import build_pack
from shim_rig import FOREIGN_KEY, Rig, pack_id, rig, token
from shim_ring import all_records

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("flow")) as made:
        made.configure(stable=build_pack(made.packs))
        yield made


@pytest.fixture
def point(shared: Rig) -> Rig:
    shared.app.seen.clear()
    return shared


def stable_of(point: Rig) -> Path:
    return build_pack(point.packs)


def test_admitted_request_reaches_the_application_with_its_receipt(point: Rig) -> None:
    answer = point.post(b'{"fine":1}')
    assert answer.status == 200
    record = all_records(point.rings)[str(answer.receipt)]
    assert point.app.receipts() == [answer.receipt]
    assert (record.o.route, record.o.body, record.o.region, record.region) == ("create", b'{"fine":1}', "local", 3)
    assert record.o.attributes == {"action": "create", "iss": "https://issuer.example", "sub": "alice"}
    leaf = record.enforced
    assert (leaf.kind, leaf.verdict, leaf.klass, leaf.flags, leaf.pack) == ("DECISION", "ADMIT", 1, 0, pack_id(stable_of(point)))
    assert leaf.a == b"KNA1\x01\x00\x00\x02\x00\x00\x00"
    assert record.cluster != 0
    assert record.time_ns == record.o.time_ns


def test_denied_request_is_explained_and_stays_out(point: Rig) -> None:
    answer = point.post(b'{"bad":1}')
    assert (answer.status, answer.reason) == (403, "denied")
    assert answer.problem["pack"] == "erp/invoice-controls@1.0.0"
    assert answer.problem["violations"][0]["rule"] == "sh:pattern"
    assert answer.problem["receipt"] == answer.receipt
    record = all_records(point.rings)[str(answer.receipt)]
    assert (record.enforced.kind, record.enforced.verdict) == ("DECISION", "DENY")
    assert point.app.seen == []


REFUSED = [
    ("unknown path", "POST", "/other", b"{}", {}, 403, "unmatched"),
    ("unknown method", "PUT", "/invoices", b"{}", {}, 403, "unmatched"),
    ("query on a route without one", "POST", "/invoices?role=boss", b"{}", {}, 403, "query"),
    ("content encoding", "POST", "/invoices", b"{}", {"content-encoding": "gzip"}, 415, "content-encoding"),
    ("identity is an encoding too", "POST", "/invoices", b"{}", {"content-encoding": "identity"}, 415, "content-encoding"),
    ("media type", "POST", "/invoices", b"{}", {"content-type": "text/xml"}, 415, "media-type"),
    ("other charset", "POST", "/invoices", b"{}", {"content-type": "application/json; charset=utf-16"}, 415, "media-type"),
    ("body where none is expected", "POST", "/payments", b"{}", {}, 400, "body"),
    ("malformed decision", "POST", "/invoices", b"{}", {"knhk-decision": "yes"}, 403, "decision-invalid"),
    ("control character in a capture", "GET", "/invoices/a%01b", None, {}, 400, "attribute"),
    ("parameter in a capture", "GET", "/invoices/1;v=2", None, {}, 400, "attribute"),
    ("capture that is not UTF-8", "GET", "/invoices/%ff", None, {}, 400, "attribute"),
    ("pack without this route", "POST", "/invoices", b"noroute", {}, 403, "unmatched"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "reason"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_refused_requests_leave_a_receipt_and_stay_out(
    point: Rig, method: str, path: str, body: bytes | None, headers: dict[str, str], status: int, reason: str
) -> None:
    answer = point.request(method, path, body, headers)
    assert (answer.status, answer.reason) == (status, reason)
    leaf = all_records(point.rings)[str(answer.receipt)].enforced
    assert (leaf.kind, leaf.verdict, leaf.a) == ("REFUSED", "DENY", b"")
    assert point.app.seen == []


@pytest.mark.parametrize("name", ["content-type", "knhk-decision"])
def test_repeated_headers_are_refused(point: Rig, name: str) -> None:
    value = {"content-type": "application/json", "knhk-decision": "0" * 32}[name]
    head = f"POST /invoices HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token()}\r\ncontent-length: 2\r\n"
    if name != "content-type":
        head += "content-type: application/json\r\n"
    got = point.raw(f"{head}{name}: {value}\r\n{name}: {value}\r\nconnection: close\r\n\r\n{{}}".encode(), b"}")
    assert b" 400 " in got.split(b"\r\n")[0]
    assert point.app.seen == []


def test_upgrades_and_tunnels_stay_out(point: Rig) -> None:
    auth = f"authorization: Bearer {token()}\r\n"
    websocket = f"GET /invoices/1 HTTP/1.1\r\nhost: x\r\n{auth}connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    tunnel = f"CONNECT example.com:80 HTTP/1.1\r\nhost: example.com:80\r\n{auth}\r\n"
    for request in (websocket, tunnel):
        status = int(point.raw(request.encode(), b"\r\n\r\n").split(b" ")[1])
        assert status in (403, 404), request
    assert point.app.seen == []


def test_captures_are_decoded_as_the_application_will(point: Rig) -> None:
    answer = point.request("GET", "/invoices/%41-%C3%A9")
    assert answer.status == 200
    assert all_records(point.rings)[str(answer.receipt)].o.attributes["path.id"] == "A-é"


def test_an_encoded_semicolon_begins_no_parameter(point: Rig) -> None:
    answer = point.request("GET", "/invoices/1%3Bv=2")
    assert answer.status == 200
    assert all_records(point.rings)[str(answer.receipt)].o.attributes["path.id"] == "1;v=2"


def test_a_declared_query_passes(point: Rig) -> None:
    assert point.request("GET", "/search?q=1").status == 200


def test_attributes_come_from_the_token_alone(point: Rig) -> None:
    forged = {
        "sub": "root",
        "x-sub": "root",
        "role": "boss",
        "x-role": "boss",
        "action": "pay",
        "knhk-receipt": "f" * 32,
        "knhk-role": "boss",
        "Knhk-Sub": "root",
    }
    answer = point.post(b"{}", headers=forged)
    assert answer.status == 200
    assert all_records(point.rings)[str(answer.receipt)].o.attributes == {
        "action": "create",
        "iss": "https://issuer.example",
        "sub": "alice",
    }
    seen = point.app.seen[0][2]
    assert [seen.get(name) for name in ("sub", "x-sub", "role", "x-role", "action", "knhk-role", "knhk-sub")] == [None] * 7
    assert seen.get_all("knhk-receipt") == [answer.receipt]
    assert answer.headers.get_all("knhk-receipt") == [answer.receipt]
    assert "authorization" not in seen


BY_ENVOY = {
    "underscore spelling": ("POST", "/invoices", b"{}", {"x_sub": "root"}, 400, ""),
    "escaped slash": ("GET", "/invoices/a%2fb", None, {}, 400, ""),
    "body longer than it may be, without a length": ("POST", "/invoices", iter([b"x" * (1 << 19)] * 3), {}, 413, "create"),
}


@pytest.mark.parametrize("what", BY_ENVOY)
def test_what_envoy_itself_refuses_leaves_a_receipt(point: Rig, what: str) -> None:
    method, path, body, headers, status, route = BY_ENVOY[what]
    answer = point.request(method, path, body, {"content-type": "application/json", **headers})
    assert answer.status == status
    record = all_records(point.rings)[str(answer.receipt)]
    assert (record.enforced.kind, record.enforced.verdict, record.o.route) == ("REFUSED", "DENY", route)
    assert point.app.seen == []


def test_claims_become_attributes(point: Rig) -> None:
    answer = point.post(b"{}", headers={"authorization": f"Bearer {token(role='clerk')}"}, auth=None)
    assert all_records(point.rings)[str(answer.receipt)].o.attributes["role"] == "clerk"


@pytest.mark.parametrize(
    "bearer",
    [None, "nonsense", token(key=FOREIGN_KEY), token(exp=1), token(aud="others"), token(iss="https://other.example")],
    ids=["none", "nonsense", "foreign key", "expired", "other audience", "other issuer"],
)
def test_without_a_valid_token_no_pack_is_asked(point: Rig, bearer: str | None) -> None:
    answer = point.post(b"{}", headers={} if bearer is None else {"authorization": f"Bearer {bearer}"}, auth=None)
    assert answer.status in (401, 403)
    record = all_records(point.rings)[str(answer.receipt)]
    assert (record.enforced.kind, record.enforced.verdict, record.enforced.pack) == ("REFUSED", "DENY", "0" * 40)
    assert (record.o.attributes, record.o.body, record.o.route) == ({}, b"", ""), "what nobody vouches for is not kept"
    assert point.app.seen == []


def test_a_token_in_the_query_does_not_count(point: Rig) -> None:
    assert point.request("GET", f"/search?access_token={token()}", auth=None).status == 401


def test_fault_of_the_pack_is_503_with_a_receipt(point: Rig) -> None:
    answer = point.post(b"fault")
    assert (answer.status, answer.reason) == (503, "fault")
    assert all_records(point.rings)[str(answer.receipt)].enforced.kind == "UNAVAILABLE"
    assert point.app.seen == []


def json_head() -> str:
    """The head of a POST up to what says how long the body is."""
    return f"POST /invoices HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token()}\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(("word", "status"), [(b"fine", 200), (b"bad!", 403)])
def test_chunked_bodies_are_judged_whole(point: Rig, word: bytes, status: int) -> None:
    head = f"{json_head()}transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % c for c in word) + b"0\r\n\r\n"
    got = point.raw(head.encode() + chunks, b"\r\n\r\n")
    assert int(got.split(b" ")[1]) == status
    assert point.app.bodies() == ([word] if status == 200 else [])


def test_pipelined_requests_are_judged_each(point: Rig) -> None:
    def one(body: bytes) -> bytes:
        return f"{json_head()}content-length: {len(body)}\r\n\r\n".encode() + body

    last = b"GET /none HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    got = point.raw(one(b"one") + one(b"bad") + one(b"two") + one(b"bad") + last, b"\0never")
    statuses = [int(part.split(b" ")[0]) for part in got.split(b"HTTP/1.1 ")[1:]]
    # Envoy may close a pipelined connection after an answer of its own; what it still serves is judged one by one.
    assert statuses[:2] == [200, 403]
    assert statuses == [200, 403, 200, 403, 401][: len(statuses)]
    assert point.app.bodies() == [b"one", b"two"][: statuses.count(200)]


def test_large_bodies(point: Rig) -> None:
    fits = point.post(b"x" * 600_000)
    assert fits.status == 200
    assert all_records(point.rings)[str(fits.receipt)].o.body == b"x" * 600_000
    declared = point.post(b"x" * (1 << 20) + b"x")
    assert (declared.status, declared.reason) == (413, "too-large")
    assert point.app.bodies() == [b"x" * 600_000]


def test_counters_are_labelled_by_revision(point: Rig) -> None:
    point.post(b"fine")
    text = json.dumps(point.counters())
    assert "knhk_admit" in text
    assert "erp/invoice-controls@1.0.0" in text
