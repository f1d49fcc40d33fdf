"""The way between admission and a point that judges objects: a real Envoy with what a point's pods get, asked as admission asks it. Who is
not the point gives no answer, who is not admission gets none, and certificates and authorities change while both run."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from knhk.adapters.certificate_files import CertificateFiles, ClientFiles
from knhk.adapters.certificates import Pair, client_pair, new_authority, server_pair
from knhk.adapters.gateway_certificates import GatewayCertificates
from knhk.adapters.placement_kube import service_name
from knhk.adapters.placement_processes import PointFolders, ProcessPlacement, envoy_binary
from knhk.adapters.point_client import PointClient, Told
from knhk.adapters.serving_certificates import Authority, ServingCertificates, component_uri
from knhk.adapters.system import SystemClock
from knhk.model.faults import Waiting
from knhk_runtime.serving import Serving
from knhk_templates.envoy import ADMISSION, render_bootstrap
from loopback_ports import free_port

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]
NAMESPACE, NAME = "policy", "workloads"
POINT, PATH, DAY = f"{NAMESPACE}/{NAME}", "/apps/deployments/CREATE/shop", timedelta(days=1)
WITHIN_S = 120.0


def until(what: Callable[[], bool], named: str) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not what():
        assert time.monotonic() < deadline_s, named
        time.sleep(0.05)


def now() -> datetime:
    return datetime.now(UTC)


def gateway(authority: Pair, *names: str, at: datetime | None = None) -> Pair:
    return server_pair(authority, names or (service_name(POINT),), at or now(), DAY)


def component(authority: Pair, name: str = "knhk-admission", at: datetime | None = None) -> Pair:
    return client_pair(authority, component_uri(name), at or now(), DAY)


def bootstrap(folder: Path, port: int, serving: Serving) -> str:
    """As a point's pods get it, without the guard: nothing is judged here."""
    local = {"ecds": "/none", "agentSocket": "/none", "adminSocket": str(folder / "admin.sock"), "serving": serving.files}
    match = [{"name": "deployments", "method": "POST", "path": PATH, "action": "create"}]
    spec = {"name": POINT, "listen": {"address": "127.0.0.1", "port": port}, "match": match, "admission": {}, "local": local}
    document: dict[str, Any] = json.loads(render_bootstrap(spec))
    (chain,) = document["static_resources"]["listeners"][0]["filter_chains"]
    config = chain["filters"][0]["typed_config"]
    config["http_filters"] = [row for row in config["http_filters"] if row["name"] != "knhk"]
    return json.dumps(document)


@dataclass
class Way:
    """An Envoy, and admission's side of it: `folder` has what is mounted there."""

    folder: Path
    port: int
    serving: Serving
    authority: Pair

    def __post_init__(self) -> None:
        self.files = ClientFiles(CertificateFiles(*(self.folder / name for name in ("tls.crt", "tls.key", "ca.crt"))), logging.getLogger())

    def mount(self, shown: Pair, *authorities: Pair) -> None:
        """What the operator renewed, as the kubelet brings it."""
        trusted = b"".join(row.certificate for row in authorities or (self.authority,))
        for name, data in (("tls.key", shown.key), ("tls.crt", shown.certificate), ("ca.crt", trusted)):
            (self.folder / name).write_bytes(data)
        self.files.look()

    def client(self) -> PointClient:
        return PointClient(lambda *_: f"127.0.0.1:{self.port}", self.files)

    def ask(self, name: str = NAME) -> Told:
        """One question over a connection of its own. Raises Waiting."""

        async def asked() -> Told:
            client = self.client()
            try:
                return await client.ask(NAMESPACE, name, PATH, b"{}")
            finally:
                await client.aclose()

        return asyncio.run(asked())

    def answers(self) -> bool:
        try:
            return self.ask().status == 200
        except Waiting:
            return False

    def serial(self) -> int:
        """Of what Envoy shows to a new connection."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=30) as plain,
            self.files().wrap_socket(plain, server_hostname=service_name(POINT)) as tls,
        ):
            return int(str(tls.getpeercert()["serialNumber"]), 16)  # type: ignore[index]


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    folder = tmp_path_factory.mktemp("way")
    found = Way(folder, free_port(), Serving(folder / "serving"), new_authority(now()))
    restore(found)
    (folder / "envoy.json").write_text(bootstrap(folder, found.port, found.serving))
    with (folder / "envoy.log").open("wb") as log:
        command = [str(envoy_binary()), "-c", str(folder / "envoy.json"), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or found.answers(), "Envoy answers")
        assert process.poll() is None, (folder / "envoy.log").read_text()
        yield found
        assert process.poll() is None, "Envoy was never started anew"
    finally:
        process.kill()
        process.wait()


def restore(way: Way) -> None:
    shown = gateway(way.authority)
    way.serving.trust(way.authority.certificate)
    way.serving.show(shown.certificate, shown.key)
    way.mount(component(way.authority))


@pytest.fixture
def whole(way: Way) -> Iterator[Way]:
    """Both sides are as the operator makes them, before and after."""
    assert way.answers()
    yield way
    restore(way)
    until(way.answers, "both sides are whole again")


def test_admission_and_the_bootstrap_name_it_alike() -> None:
    assert component_uri("knhk-admission") == ADMISSION


STRANGERS: dict[str, Callable[[Way], Pair]] = {
    "another component": lambda way: component(way.authority, "knhk-operator"),
    "a pod of a point": lambda way: client_pair(way.authority, "spiffe://knhk.dev/ns/erp/point/orders/pod/one", now(), DAY),
    "a server": lambda way: server_pair(way.authority, ["knhk-admission.knhk-system.svc"], now(), DAY),
    "of another authority": lambda way: component(new_authority(now())),
    "of some time ago": lambda way: component(way.authority, at=now() - 2 * DAY),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_who_is_not_admission_is_not_answered(whole: Way, who: str) -> None:
    whole.mount(STRANGERS[who](whole))
    with pytest.raises(Waiting, match="does not answer"):
        whole.ask()


def test_without_a_certificate_nobody_is_answered_and_plain_http_is_none(whole: Way) -> None:
    bare = ssl.create_default_context(cadata=whole.authority.certificate.decode())
    assert not posted(whole, bare).startswith(b"HTTP")
    assert not posted(whole, None).startswith(b"HTTP")


def posted(way: Way, context: ssl.SSLContext | None) -> bytes:
    """The beginning of the answer to a question; nothing when the connection was ended."""
    question = f"POST {PATH} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{{}}".encode()
    with socket.create_connection(("127.0.0.1", way.port), timeout=30) as plain, suppress(ssl.SSLError, ConnectionError):
        ours = context.wrap_socket(plain, server_hostname=service_name(POINT)) if context else plain
        ours.sendall(question)
        return ours.recv(100)
    return b""


IMPOSTORS: dict[str, Callable[[Way], Pair]] = {
    "of another authority": lambda way: gateway(new_authority(now())),
    "another point": lambda way: gateway(way.authority, service_name("policy/other")),
    "the same name in another namespace": lambda way: gateway(way.authority, service_name("erp/workloads")),
    "of some time ago": lambda way: gateway(way.authority, at=now() - 2 * DAY),
    "a client": lambda way: component(way.authority),
}


@pytest.mark.parametrize("who", IMPOSTORS)
def test_who_is_not_the_point_cannot_admit(way: Way, who: str) -> None:
    """It answers 200 to everything, where the point is said to be."""
    shown = IMPOSTORS[who](way)
    with saying_yes(way, shown) as (impostor, heard):
        with pytest.raises(Waiting, match="does not answer"):
            impostor.ask()
        assert heard == []
    with saying_yes(way, gateway(way.authority)) as (itself, heard):
        assert itself.ask().status == 200
        assert heard, "the impostor would have been heard"


def test_plain_http_admits_nothing(way: Way) -> None:
    with saying_yes(way, None) as (impostor, heard), pytest.raises(Waiting, match="does not answer"):
        impostor.ask()
    assert not any(line.startswith(b"POST") for line in heard)


class saying_yes:
    """Whoever this certificate makes it, answering each question with 200; None: over plain HTTP."""

    def __init__(self, way: Way, shown: Pair | None) -> None:
        self._context: ssl.SSLContext | None = None
        if shown is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            path = way.folder / "impostor.pem"
            path.write_bytes(shown.certificate + shown.key)
            self._context.load_cert_chain(path)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._heard: list[bytes] = []
        self._way = Way(way.folder, self._listener.getsockname()[1], way.serving, way.authority)
        self._way.files.look()

    def __enter__(self) -> tuple[Way, list[bytes]]:
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self._way, self._heard

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) if self._context else plain as ours:
                    while not (asked := ours.recv(4096)).endswith(b"{}") and asked:
                        self._heard.append(asked)
                    if asked:
                        self._heard.append(asked)
                        ours.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nknhk-receipt: 00\r\n\r\n")
            except OSError:
                continue


def test_a_new_certificate_of_the_point_is_shown_without_a_restart(whole: Way) -> None:
    before, shown = whole.serial(), gateway(whole.authority)
    whole.serving.show(shown.certificate, shown.key)
    until(lambda: whole.serial() != before, "the new one is shown")
    assert whole.serial() == shown.read.serial_number
    assert whole.answers()


def test_where_points_are_processes_the_operator_keeps_what_is_shown(whole: Way) -> None:
    @dataclass
    class Certificates:
        """knhk.adapters.serving_certificates.ServingCertificates without an API server."""

        def authority(self) -> Authority:
            return Authority(whole.authority, (whole.authority.certificate,))

    old = gateway(whole.authority, at=now() - 0.6 * DAY)
    whole.serving.show(old.certificate, old.key)
    gateways = GatewayCertificates(cast(ServingCertificates, Certificates()), "knhk-system", SystemClock())
    gateways.keep(POINT, whole.serving)
    until(lambda: whole.serial() != old.read.serial_number, "the renewed one is shown")
    assert whole.answers()


def test_only_where_admission_asks_is_there_tls_by_itself(tmp_path: Path) -> None:
    """In an embedded home, and before an application, a point is as its spec says."""

    class Nobody:
        def ensure(self, command: object) -> None:
            pass

    def sockets(spec: dict[str, Any], serves: Callable[[str, Serving], None] | None) -> list[object]:
        folders = PointFolders(**{name: tmp_path / name for name in PointFolders.__annotations__})
        nobody, socket_path = cast(Any, Nobody()), tmp_path / "s.sock"
        placement = ProcessPlacement(nobody, lambda _: folders, tmp_path, socket_path, tmp_path / "root.pub", serves=serves)
        document = json.loads(placement.bootstrap(POINT, spec))
        return [chain.get("transport_socket") for row in document["static_resources"]["listeners"] for chain in row["filter_chains"]]

    match = [{"name": "deployments", "method": "POST", "path": PATH, "action": "create"}]
    plain = {"listen": {"address": "127.0.0.1", "port": 0}, "match": match}
    judge, guard = {**plain, "admission": {}}, {**plain, "upstream": {"host": "127.0.0.1", "port": 9}}
    assert sockets(judge, None) == sockets(guard, None) == sockets(guard, lambda *_: None) == [None]
    assert sockets(judge, lambda *_: None) != [None]


def test_authorities_follow_one_another_on_both_sides_and_the_former_counts_no_more(whole: Way) -> None:
    """The new one is trusted before it signs, the old one until it is taken out; at each step the point is asked."""
    following = new_authority(now())
    whole.serving.trust(whole.authority.certificate + following.certificate)
    whole.mount(component(whole.authority), whole.authority, following)
    assert whole.answers()
    shown = gateway(following)
    whole.serving.show(shown.certificate, shown.key)
    until(lambda: whole.serial() == shown.read.serial_number, "the next authority's is shown")
    assert whole.answers()
    whole.mount(component(following), whole.authority, following)
    until(whole.answers, "admission shows the next authority's")
    whole.serving.trust(following.certificate)
    whole.mount(component(whole.authority), following)
    until(lambda: not whole.answers(), "the former authority counts no more")
    whole.mount(component(following), following)
    assert whole.answers()


def test_one_client_goes_on_over_a_renewal_and_opens_new_connections_with_it(whole: Way) -> None:
    """Admission's process lives on: what is renewed is shown, and what it lost is used no more, kept connections included."""

    async def asked() -> list[str]:
        client, told = whole.client(), list[str]()
        try:
            for shown in (component(whole.authority), component(whole.authority), component(new_authority(now()))):
                whole.mount(shown)
                try:
                    told.append(str((await client.ask(NAMESPACE, NAME, PATH, b"{}")).status))
                except Waiting as waiting:
                    told.append(waiting.reason)
        finally:
            await client.aclose()
        return told

    assert asyncio.run(asked()) == ["200", "200", "PointUnreachable"]


def test_what_is_no_certificate_changes_nothing_and_without_any_nobody_is_asked(whole: Way, tmp_path: Path) -> None:
    (whole.folder / "tls.crt").write_text("no PEM")
    whole.files.look()
    assert whole.answers()
    bare = Way(tmp_path, whole.port, whole.serving, whole.authority)
    bare.files.look()
    with pytest.raises(Waiting, match=r"tls\.crt: must be a readable PEM file"):
        bare.ask()


def test_a_certificate_is_due_when_half_is_over_or_its_authority_went(tmp_path: Path) -> None:
    authority, serving = new_authority(now()), Serving(tmp_path / "serving")
    assert serving.is_due(authority.certificate, now()), "there is none"
    shown = gateway(authority)
    serving.show(shown.certificate, shown.key)
    assert not serving.is_due(new_authority(now()).certificate + authority.certificate, now())
    assert serving.is_due(authority.certificate, now() + 0.6 * DAY)
    assert serving.is_due(new_authority(now()).certificate, now())
    assert serving.is_due(b"no PEM", now())
    assert (tmp_path / "serving" / "identity.json").stat().st_mode & 0o777 == 0o600
