"""Each container's command line is one that its process takes, and what needs nobody else runs by it: two regions hold each other's logs by
nothing but manifests and settings."""

from __future__ import annotations

import http.client
import http.server
import json
import shutil
import signal
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from manifest_processes import Container, Installed, containers

from folder_served import served
from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.signer_local import LocalSigner
from knhk.lockchain.events import PolicyEvent, statement
from knhk_runtime.keyfile import load_private_key, raw_public
from knhk_runtime.tlog.notes import format_vkey
from knhk_verify.note import COSIGNATURE, Verifier

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
ORIGIN = "log.example.com/eu"
WITHIN_S = 240.0
ALONE = ("knhk-log/log", "knhk-log/archive", "knhk-witness/witness", "guard/knhk-agent")  # what needs no API server
# What others lack here first, once their command line was taken; a pod has its certificate where it looks for it by itself.
LACKS = {"knhk-builder/builder": "/etc/knhk/serving/tls.crt: must be a readable PEM file"}
COMMANDS = {"knhk-turning/turning": 3}  # of knhk: how it ends without its environment
TRUSTED = {"/etc/knhk/trust/root.pub": b"", "/var/run/secrets/knhk/token": b"token"}  # an agent's; empty: as the keys have it
ALL = {container.name: container for container in containers()}


@pytest.fixture
def installed() -> Iterator[Installed]:
    found = Installed()
    found.furnish(ORIGIN)
    yield found
    found.close()
    shutil.rmtree(found.root)


def witness_key(installed: Installed) -> Path:
    path = installed.place("/etc/knhk/keys/witness.key")
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return path


def until(holds: Callable[[], Any], installed: Installed, what: str) -> Any:
    end = time.monotonic() + WITHIN_S
    while not (found := holds()):
        assert time.monotonic() < end, (what, {path.name: path.read_text()[-1500:] for path in installed.root.glob("*.log")})
        time.sleep(0.05)
    return found


def answers(installed: Installed, container: Container) -> bool:
    """As the kubelet's probe sees it; an agent has none, and is there when its socket is."""
    if not container.probe:
        return installed.place("/run/knhk/agent.sock").exists()
    (kind, at), *_ = ((kind, at) for kind, at in container.probe.items() if kind in ("httpGet", "tcpSocket"))
    port = installed.port(container, container.ports[at["port"]])
    if kind == "tcpSocket":
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(
            f"{at.get('scheme', 'HTTP').lower()}://127.0.0.1:{port}{at['path']}", context=context, timeout=10
        ) as got:
            return bool(got.status == 200)
    except OSError:
        return False


@pytest.mark.parametrize("name", ALL)
def test_each_container_s_command_line_is_what_its_process_takes(installed: Installed, name: str) -> None:
    """Without a cluster a process says so and ends; a wrong flag, path or value ends it otherwise."""
    container = ALL[name]
    witness_key(installed)
    for file in ("watched", "roots"):
        installed.place(f"/etc/knhk/witness/{file}").write_text(installed.settings["knhk-witness"][file])
    for path, data in TRUSTED.items():
        installed.place(path).write_bytes(data or installed.place("/etc/knhk/keys/root.pub").read_bytes())
    if name == "knhk-log/archive":
        installed.start(ALL["knhk-log/log"])
        until(lambda: installed.place("/var/lib/knhk/log/meta.json").exists(), installed, "there is a log")
    process = installed.start(container)
    if name in ALONE:
        until(lambda: answers(installed, container) or process.poll() is not None, installed, "it is ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, installed.said(container).read_text()
        return
    code, said = process.wait(WITHIN_S), installed.said(container).read_text()
    assert (code, LACKS.get(name, "must lead to a cluster") in said) == (COMMANDS.get(name, 1), True), said


@pytest.mark.parametrize(("said", "told"), [("", ["local"]), ("local,eu", ["local", "eu"])])
def test_a_log_has_the_regions_of_the_settings_and_what_are_none_is_refused(installed: Installed, said: str, told: list[str]) -> None:
    log, operator = ALL["knhk-log/log"], ALL["knhk-operator/operator"]
    installed.settings["knhk-config"]["KNHK_REGIONS"] = said
    process = installed.start(log)
    until(lambda: answers(installed, log) or process.poll() is not None, installed, "the log serves")
    assert json.loads(installed.place("/var/lib/knhk/log/meta.json").read_text())["regions"] == told
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    installed.settings["knhk-config"]["KNHK_REGIONS"] = "EU"
    for container in (log, operator):
        assert installed.start(container).wait(WITHIN_S) == 1
        assert "regions: 'EU': must be other names, by commas" in installed.said(container).read_text()


# ---- two regions ---------------------------------------------------------------------------------


@contextmanager
def bucket(folder: Path) -> Iterator[str]:
    """A store that is served as it is, as a bucket before a CDN."""
    folder.mkdir(parents=True, exist_ok=True)
    with served(folder) as url:
        yield url


class ByPath(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)


def ask(installed: Installed, path: str) -> str:
    """What the log answers; nothing while it does not."""
    connection = ByPath(str(installed.place("/tmp/log.sock")), timeout=60)
    try:
        connection.request("GET", f"/{path}", headers={"host": "localhost"})
        return connection.getresponse().read().decode()
    except OSError:
        return ""
    finally:
        connection.close()


@pytest.mark.failure("region", "receipts")
def test_a_log_counts_what_the_witness_of_another_region_mirrors(installed: Installed) -> None:
    """By components witness, witnessed and published, and by what docs/witnesses.md has an overlay say."""
    eu, us, log, witness = installed, Installed(), ALL["knhk-log/log"], ALL["knhk-witness/witness"]
    us.furnish("log.example.com/us")
    name = "witness.example.com/us"
    public = raw_public(load_private_key(witness_key(us)))
    key = format_vkey(Verifier(name, public, COSIGNATURE))
    signer = LocalSigner(eu.place("/etc/knhk/keys/root.pub").parent)
    store = eu.place("/var/lib/knhk/store")
    try:
        with bucket(store) as url:
            us.settings["knhk-witness"] |= {"KNHK_WITNESS_NAME": name, "KNHK_WITNESS_MIRROR": "/var/lib/knhk/mirrors"}
            us.place("/etc/knhk/witness/watched").write_text(f"log {signer.vkey(ORIGIN)} {url}\nquorum none\n")
            us.place("/etc/knhk/witness/roots").write_text(f"{ORIGIN} {eu.place('/etc/knhk/keys/root.pub').read_text()}")
            us.start(witness)
            until(lambda: answers(us, witness), us, "the witness serves")
            address = f"https://localhost:{us.port(witness, 8447)}"
            policy = f"log {signer.vkey(ORIGIN)}\nwitness us {key} {address}\ngroup others 1 us\nquorum others\n"
            eu.place("/etc/knhk/witnesses/policy").write_text(policy)
            eu.place("/etc/knhk/witnesses/ca.crt").write_bytes(us.authority.certificate)
            eu.settings["knhk-config"] |= {
                "KNHK_WITNESSES": "/etc/knhk/witnesses/policy",
                "KNHK_WITNESS_CA": "/etc/knhk/witnesses/ca.crt",
                "KNHK_LOG_STORE": "/var/lib/knhk/store",
            }
            eu.start(log)
            until(lambda: '"ready": true' in ask(eu, "health"), eu, "the log serves")
            event = PolicyEvent("DrillCompleted", ("drill/one", "0" * 64), "local:tests", "2026-11-26T12:00:00Z")
            index = SequencerLog(eu.place("/tmp/log.sock")).append_event(signer.bundle("rollout", statement(event)))
            until(lambda: json.loads(ask(eu, "stages") or '{"regions": 0}')["regions"] > index, eu, "another region holds the event")
            mirrors = us.place("/var/lib/knhk/mirrors")
            (mirror,) = mirrors.iterdir()
            assert "keys.json" in {path.name for path in store.iterdir()}  # by which the witness would follow a key that turns
            assert (mirror / "checkpoint").read_text().startswith(f"{ORIGIN}\n{index + 1}\n")
            told = ask(eu, "metrics")
            assert f'knhk_log_entries{{stage="regions"}} {index + 1}' in told
            assert f'knhk_log_mirror_amiss{{witness="{name}"}} 0' in told
    finally:
        us.close()
        shutil.rmtree(us.root)
