"""knhk-proxy: Envoy on a pod's own address, anew with a new bootstrap, drained before it ends; and a port that nobody else gets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from knhk.model.faults import Corrupt, Stalled
from knhk_runtime.proxy import envoy_binary, followed, held, placed

WITHIN_S = 240.0
POD = "127.0.0.77"  # all of 127/8 is this machine's: an address of its own, as a pod has one
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def bootstrap(run_dir: Path, port: int, text: str, upstream: int = 0) -> bytes:
    """Answers with `text`, or with what `upstream` (a port) answers; on another address than it will have."""
    answer = {"route": {"cluster": "app"}} if upstream else {"direct_response": {"status": 200, "body": {"inline_string": text}}}
    there = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream or 9}}}}
    cluster = {"name": "app", "type": "STATIC", "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [there]}]}}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "knhk",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, **answer}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    document = {
        "admin": {"address": {"pipe": {"path": str(run_dir / "envoy-admin.sock")}}},
        "static_resources": {
            "listeners": [{"name": "knhk", "address": address, "filter_chains": [{"filters": filters}]}],
            "clusters": [cluster],
        },
    }
    return json.dumps(document).encode()


class Pod:
    """Folders and the process, as the guard's template starts it."""

    def __init__(self, folder: Path) -> None:
        self.point, self.run = folder / "point", folder / "run"
        for made in (self.point / "desired", self.point / "private", self.run):
            made.mkdir(parents=True)
        self.port, self.app = free_port(), free_port()
        command = [sys.executable, "-m", "knhk_runtime.proxy", "run", f"--point-dir={self.point}", f"--run-dir={self.run}"]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, f"--address={POD}", f"--hold={self.app}", "--drain-seconds=1"], stderr=log, stdout=log
            )

    def envoy(self) -> int:
        """Its process id; IndexError when there is none."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def told(self, event: str) -> bool:
        return f'"event":"{event}"' in self.log.read_text().replace('": "', '":"')

    def is_free(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((POD, self.port)) != 0

    def desire(self, text: str, folder: str = "private", upstream: int = 0) -> None:
        """As the agent writes what it found signed; `folder` desired: as the courier writes what an exchange says."""
        file = self.point / folder / "envoy.json"
        file.with_suffix(".tmp").write_bytes(bootstrap(self.run, self.port, text, upstream))
        file.with_suffix(".tmp").rename(file)

    def configured(self) -> None:
        (self.point / "private" / "ecds.json").write_text("{}")

    def says(self, address: str = POD, within_s: float = 2) -> str:
        try:
            with _DIRECT.open(f"http://{address}:{self.port}/", timeout=within_s) as response:
                return str(response.read().decode())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return ""

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((POD, 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    found = Pod(tmp_path)
    yield found
    if found.process.poll() is None:
        assert found.end() == 0


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.server
def test_envoy_stands_on_the_pods_address_alone_and_follows_its_bootstrap(pod: Pod) -> None:
    pod.desire("one")
    pod.configured()
    until(lambda: pod.says() == "one")
    assert pod.says("127.0.0.1") == ""
    pod.desire("two")
    until(lambda: pod.says() == "two")
    assert pod.end() == 0
    assert pod.says() == ""


@pytest.mark.server
def test_nobody_shares_the_guards_port_not_even_its_own_user(pod: Pod) -> None:
    pod.desire("one")
    pod.configured()
    until(lambda: pod.says() == "one")
    for address in (POD, "0.0.0.0"):
        with socket.socket() as application:
            application.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            application.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with pytest.raises(OSError, match="in use"):
                application.bind((address, pod.port))


@pytest.mark.server
def test_before_the_agent_has_verified_anything_nobody_listens(pod: Pod) -> None:
    pod.desire("one")
    with socket.socket() as probe:
        until(lambda: taken(pod.app))  # the process runs
        assert probe.connect_ex((POD, pod.port)) != 0
    pod.configured()
    until(lambda: pod.says() == "one")


@pytest.mark.server
def test_it_starts_when_every_secret_that_it_follows_is_there(pod: Pod, tmp_path: Path) -> None:
    """Envoy ends by itself when a file that it follows is not there."""
    secret, file = tmp_path / "identity.json", pod.point / "private" / "envoy.json"
    pod.desire("one")
    document = json.loads(file.read_bytes())
    source = {"path_config_source": {"path": str(secret)}, "resource_api_version": "V3"}
    document["layered_runtime"] = {"layers": [{"name": "one", "rtds_layer": {"name": "one", "rtds_config": source}}]}
    document["node"] = {"id": "one", "cluster": "knhk"}
    assert list(followed(json.dumps(document).encode())) == [secret]
    file.with_suffix(".tmp").write_text(json.dumps(document))
    file.with_suffix(".tmp").rename(file)
    pod.configured()
    until(lambda: taken(pod.app))  # the process runs
    layer = {"@type": "type.googleapis.com/envoy.service.runtime.v3.Runtime", "name": "one", "layer": {}}
    secret.with_suffix(".tmp").write_text(json.dumps({"resources": [layer]}))
    secret.with_suffix(".tmp").rename(secret)
    until(lambda: pod.says() == "one")
    assert not pod.told("envoy ended")


@pytest.mark.server
def test_what_an_exchange_brings_is_no_bootstrap_until_the_agent_found_it_signed(pod: Pod) -> None:
    pod.desire("another", folder="desired")
    pod.configured()
    pod.desire("one")
    until(lambda: pod.says() == "one")
    pod.desire("yet another", folder="desired")
    pod.desire("two")
    until(lambda: pod.says() == "two")


@pytest.mark.server
def test_draining_ends_idle_connections_and_takes_no_new_ones(pod: Pod) -> None:
    pod.desire("one")
    pod.configured()
    until(lambda: pod.says() == "one")
    drain = [sys.executable, "-m", "knhk_runtime.proxy", "drain", f"--run-dir={pod.run}", "--drain-seconds=1"]
    assert subprocess.run(drain, check=False).returncode == 0
    until(lambda: pod.says() == "")
    assert pod.process.poll() is None


@pytest.mark.server
def test_an_envoy_that_dies_is_started_anew_and_nobody_gets_its_port_meanwhile(pod: Pod) -> None:
    pod.desire("one")
    pod.configured()
    until(lambda: pod.says() == "one" and pod.told("envoy listens"))
    os.kill(pod.process.pid, signal.SIGSTOP)  # between one Envoy and the next
    try:
        os.kill(pod.envoy(), signal.SIGKILL)
        until(lambda: pod.says() == "")
        assert taken(pod.port)
    finally:
        os.kill(pod.process.pid, signal.SIGCONT)
    until(lambda: pod.says() == "one")
    assert pod.process.poll() is None


@pytest.mark.server
def test_an_envoy_that_dies_again_and_again_ends_the_process(pod: Pod) -> None:
    """So that whoever started it sees it."""
    pod.desire("one")
    pod.configured()
    until(lambda: pod.says() == "one")

    def killed() -> bool:
        with suppress(IndexError, ProcessLookupError, FileNotFoundError):
            os.kill(pod.envoy(), signal.SIGKILL)
        return pod.process.poll() is not None

    until(killed)
    assert pod.process.poll() == 1


@pytest.mark.server
def test_a_new_bootstrap_lets_requests_in_flight_end(pod: Pod) -> None:
    """The Envoy that took a request answers it, before the next one stands in its place."""
    asked, answer = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            answer.wait(60)
            self.send_response(200)
            self.send_header("content-length", "4")
            self.end_headers()
            self.wfile.write(b"late")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        pod.desire("", upstream=server.server_port)
        pod.configured()
        until(lambda: not pod.is_free())
        with ThreadPoolExecutor(1) as aside:
            waiting = aside.submit(pod.says, within_s=60)
            assert asked.wait(60)
            pod.desire("two")
            until(lambda: pod.told("draining"))
            answer.set()
            assert waiting.result(60) == "late"
        until(lambda: pod.says() == "two")
    finally:
        answer.set()
        server.shutdown()
        serving.join()
        server.server_close()


def taken(port: int) -> bool:
    """Whether an application that listens on all addresses would fail."""
    with socket.socket() as application:
        application.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            application.bind(("0.0.0.0", port))
            application.listen()
        except OSError:
            return True
    return False


def test_a_held_port_keeps_an_application_off_all_addresses_and_lets_it_have_loopback() -> None:
    port = free_port()
    assert not taken(port)
    with closing(held(POD, port)):
        assert taken(port)
        with socket.create_server(("127.0.0.1", port)), socket.socket() as client:
            assert client.connect_ex((POD, port)) != 0
    with socket.create_server(("0.0.0.0", port)), pytest.raises(Stalled, match=r"must listen on 127\.0\.0\.1"):
        held(POD, port)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"static_resources":{"listeners":[{}]}}'])
def test_what_is_no_bootstrap_is_refused(text: bytes) -> None:
    with pytest.raises(Corrupt):
        placed(text, POD, "envoy.json")


def test_draining_without_an_envoy_is_no_error(tmp_path: Path) -> None:
    drain = [sys.executable, "-m", "knhk_runtime.proxy", "drain", f"--run-dir={tmp_path}", "--drain-seconds=1"]
    assert subprocess.run(drain, check=False, capture_output=True).returncode == 0
    assert envoy_binary().exists()
