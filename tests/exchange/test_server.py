"""The exchange's server as a pod meets it: who may ask what, and what becomes of too much."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
from agent_world import until
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from exchange_world import Answered, Callers, Served, SetClock, exchange, word
from kubernetes.client import ApiClient

from knhk.adapters.callers_kube import KubeAuthenticator
from knhk.adapters.exchange_server import AT_ONCE, MAX_BODY_BYTES, PER_SECOND
from knhk.adapters.gateway_certificates import GatewayCertificates
from knhk.adapters.kube_client import KubeClient
from knhk.adapters.pod_door import MEETING, MEETING_OF_ONE
from knhk.adapters.serving_certificates import ServingCertificates
from knhk.adapters.system import SystemClock
from knhk.model.faults import Refused
from knhk.ports.caller import Acquaintance, Caller
from knhk_runtime.buckets import Buckets
from knhk_runtime.courier.identity import Identity
from knhk_runtime.doors import Bounds

POINT, DESIRED = "erp/orders", "/v1/points/erp/orders/desired"
STATISTICS = "/v1/points/erp/orders/pods/one/statistics"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with exchange(tmp_path / "points") as found:
        found.callers.add(POINT, "one")
        found.callers.add("erp/invoices", "other")
        yield found


def publish(served: Served, document: bytes = b"document") -> None:
    served.fleet.publish_keys(POINT, b"keys")
    served.fleet.publish_config(POINT, b"point")
    served.fleet.publish_document(POINT, document)


def is_problem(answer: Answered, status: int, kind: str) -> bool:
    told = answer.document
    return (answer.status, answer.media, told["status"], told["type"]) == (
        status, "application/problem+json", status, f"https://knhk.dev/problems/exchange/{kind}",
    )  # fmt: skip


def test_a_pod_learns_who_it_is(served: Served) -> None:
    answer = served.ask("GET", "/v1/self", "token-one")
    assert answer.document == {"namespace": "erp", "point": "orders", "pod": "one", "uid": "uid-one"}


def test_what_is_published_is_handed_out_with_its_digests(served: Served) -> None:
    assert served.ask("GET", DESIRED, "token-one").status == 204
    publish(served)
    files = served.ask("GET", DESIRED, "token-one").document["files"]
    assert {name: base64.b64decode(row["data"]) for name, row in files.items()} == {
        "keys.json": b"keys", "point.json": b"point", "rollout.json": b"document",
    }  # fmt: skip
    assert files["keys.json"]["sha256"] == hashlib.sha256(b"keys").hexdigest()


def test_who_has_the_newest_waits_until_there_is_news(served: Served) -> None:
    publish(served)
    etag = served.ask("GET", DESIRED, "token-one").document["etag"]
    later = threading.Timer(0.5, publish, (served, b"newer"))
    later.start()
    answer = served.ask("GET", f"{DESIRED}?after={etag}", "token-one")
    later.join()
    assert base64.b64decode(answer.document["files"]["rollout.json"]["data"]) == b"newer"


@pytest.mark.parametrize("token", [None, "", "token-of-nobody"])
@pytest.mark.parametrize(("method", "target"), [("GET", "/v1/self"), ("GET", DESIRED), ("POST", STATISTICS)])
def test_who_is_nobody_gets_nothing(served: Served, token: str | None, method: str, target: str) -> None:
    publish(served)
    assert is_problem(served.ask(method, target, token, b"{}" if method == "POST" else None), 401, "unauthenticated")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/points/erp/invoices/desired"),
        ("GET", "/v1/points/hr/orders/desired"),
        ("POST", "/v1/points/erp/orders/pods/two/statistics"),
        ("POST", "/v1/points/erp/invoices/pods/one/certificate"),
        ("POST", "/v1/points/erp/invoices/pods/one/serving"),
        ("POST", "/v1/points/erp/orders/pods/two/serving"),
    ],
)
def test_a_pod_speaks_for_itself_and_its_point_alone(served: Served, method: str, target: str) -> None:
    assert is_problem(served.ask(method, target, "token-one", b"{}" if method == "POST" else None), 403, "another-point")


def test_what_a_pod_tells_is_heard(served: Served) -> None:
    assert served.ask("POST", STATISTICS, "token-one", json.dumps(word(drained=3)).encode()).status == 204
    told = served.fleet.statistics(POINT)
    assert told is not None
    assert (told.document["drained"], told.document["instances"]["live"]) == (3, 1)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"[" * 100_000, json.dumps(word(epoch=-1)).encode(), json.dumps(word(point="a/b")).encode()]
)
def test_what_is_no_word_is_refused_and_changes_nothing(served: Served, body: bytes) -> None:
    assert is_problem(served.ask("POST", STATISTICS, "token-one", body), 400, "malformed")
    assert served.fleet.statistics(POINT) is None


def test_too_much_is_refused(served: Served) -> None:
    assert is_problem(served.ask("POST", STATISTICS, "token-one", b" " * (MAX_BODY_BYTES + 1)), 413, "too-large")


def test_a_pod_that_asks_without_end_is_slowed_down_and_others_are_not(served: Served) -> None:
    answers = served.ask_until("/v1/self", "token-one", lambda answer: answer.status != 200)
    assert is_problem(answers[-1], 429, "too-many")
    assert len(answers) > AT_ONCE
    assert served.ask("GET", "/v1/self", "token-other").status == 200


def test_a_pod_may_ask_so_often_a_second() -> None:
    clock = SetClock()
    buckets = Buckets(clock.monotonic_ns, PER_SECOND, AT_ONCE)
    assert [buckets.take("one") for _ in range(int(AT_ONCE) + 1)] == [True] * int(AT_ONCE) + [False]
    clock.sleep(1)
    assert [buckets.take("one") for _ in range(int(PER_SECOND) + 1)] == [True] * int(PER_SECOND) + [False]


class AsOnACluster(Callers):
    """Nobody is known there, and the API server is never asked."""

    def remembered(self, token: str) -> Caller | Acquaintance:
        return KubeAuthenticator(KubeClient(ApiClient()), SystemClock()).remembered(token)


def test_a_token_that_is_no_text_is_nobodys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reaches the port may send one: it must not cost a stack trace in the log each time."""
    with exchange(tmp_path / "points", callers=AsOnACluster()) as served:
        assert is_problem(served.ask("GET", "/v1/self", "\xff.\xff.\xff"), 401, "unauthenticated")
    assert not caplog.records


def test_a_path_that_is_none_is_a_problem_too(served: Served) -> None:
    assert is_problem(served.ask("GET", "/v2"), 404, "not-found")
    assert served.ask("GET", "/health").status == 200


def test_a_pod_gets_a_certificate_that_names_it_and_nothing_that_it_asked_for(served: Served, tmp_path: Path) -> None:
    _, request = Identity(tmp_path / "token", tmp_path / "ca", tmp_path).request()
    answer = served.ask("POST", "/v1/points/erp/orders/pods/one/certificate", "token-one", request)
    found = x509.load_pem_x509_certificate(answer.document["certificate"].encode())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["spiffe://knhk.dev/ns/erp/point/orders/pod/one"]
    assert list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert is_problem(served.ask("POST", "/v1/points/erp/orders/pods/one/certificate", "token-one", b"no request"), 400, "malformed")


def test_a_pod_gets_what_its_envoy_shows_as_its_points_service_and_as_nothing_else(served: Served, tmp_path: Path) -> None:
    _, request = Identity(tmp_path / "token", tmp_path / "ca", tmp_path).request()
    answer = served.ask("POST", "/v1/points/erp/orders/pods/one/serving", "token-one", request)
    found = x509.load_pem_x509_certificate(answer.document["certificate"].encode())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["knhk-orders.erp.svc"]
    assert list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert is_problem(served.ask("POST", "/v1/points/erp/orders/pods/one/serving", "token-one", b"no request"), 400, "malformed")


def test_no_point_gets_a_name_of_our_own_services(tmp_path: Path) -> None:
    """A point `exchange` there would be `knhk-exchange.knhk-system.svc`."""
    _, request = Identity(tmp_path / "token", tmp_path / "ca", tmp_path).request()
    gateways = GatewayCertificates(cast(ServingCertificates, None), "knhk-system", SystemClock())
    with pytest.raises(Refused, match="must not be in knhk-system"):
        gateways.issue(request, "knhk-system/exchange")


def test_who_does_not_trust_our_authority_hears_nothing(served: Served) -> None:
    import http.client

    connection = http.client.HTTPSConnection("127.0.0.1", served.port, timeout=30, context=ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        connection.request("GET", "/v1/self", headers={"Authorization": "Bearer token-one"})


# ---- strangers ---------------------------------------------------------------------------------------


def test_made_up_tokens_keep_no_pod_that_is_known_from_its_answer(served: Served) -> None:
    """As many as one address may have wait for the API server; who is known does not wait behind them."""
    assert served.ask("GET", "/v1/self", "token-one").status == 200
    with ThreadPoolExecutor(MEETING_OF_ONE) as aside:
        waiting = [aside.submit(served.ask, "GET", "/v1/self", f"made-up-{n}") for n in range(MEETING_OF_ONE)]
        try:
            until(lambda: sum(token.startswith("made-up") for token in served.callers.asked) == MEETING, "all that may be asked are asked")
            assert served.ask("GET", "/v1/self", "token-one").status == 200
            answers = [served.ask("GET", "/v1/self", f"made-up-too-{n}") for n in range(20)]
        finally:
            served.callers.hangs.set()
        assert {answer.result().status for answer in waiting} == {401}
    assert {answer.status for answer in answers} <= {429, 503}
    assert not any(token.startswith("made-up-too") for token in served.callers.asked)


def connected(served: Served) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=served.authority.certificate.decode())
    made = context.wrap_socket(socket.create_connection(("127.0.0.1", served.port)), server_hostname="127.0.0.1")
    made.settimeout(60)
    return made


def test_who_does_not_say_what_he_wants_is_shown_the_door(tmp_path: Path) -> None:
    """A head that never ends, a request that never comes, and one after which no other comes, end by themselves."""
    with exchange(tmp_path / "points", bounds=Bounds(head_within_s=2.0, idle_s=2.0)) as served:
        served.callers.add(POINT, "one")
        slow, silent, kept = connected(served), connected(served), connected(served)
        for one, says in ((slow, b"GET /v1/self HTTP/1.1\r\nX-Slow: "), (kept, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")):
            with suppress(ConnectionError, ssl.SSLError):  # on a busy machine its time may be over before
                one.sendall(says)
        for one in (slow, silent, kept):
            with one, suppress(ConnectionError, ssl.SSLError):
                while one.recv(4096):
                    pass
        assert served.ask("GET", "/v1/self", "token-one").status == 200


def test_of_one_address_there_are_so_many_connections_at_once_and_no_more(tmp_path: Path) -> None:
    patient = Bounds(of_one=3, head_within_s=600.0, idle_s=600.0)
    with exchange(tmp_path / "points", bounds=patient) as served, connected(served), connected(served), connected(served) as third:
        third.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert third.recv(12) == b"HTTP/1.1 200"
        answer = b""
        with suppress(ConnectionError, ssl.SSLError), connected(served) as fourth:
            fourth.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = fourth.recv(1)
        assert answer == b""
