"""Our authority and what it signs, kept in Secrets of the real API server, under a clock that the test sets."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from knhk.adapters.certificates import AUTHORITY_DAYS, Pair, client_certificate, is_issued_by, read_certificate
from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.adapters.serving_certificates import OVERLAP, SERVER_LIFE, ServingCertificates
from knhk.model.faults import AlreadyExists, Corrupt, NotFound, Refused

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
NAMESPACE = "knhk-certificates"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"


@dataclass
class SetClock:
    at: datetime

    def now_ns(self) -> int:
        return int(self.at.timestamp() * 1e9)

    def monotonic_ns(self) -> int:
        return self.now_ns()

    def sleep(self, duration_s: float) -> None:
        self.at += timedelta(seconds=duration_s)


@pytest.fixture
def clock() -> SetClock:
    return SetClock(datetime.now(UTC))


@pytest.fixture
def certificates(clean: KubeClient, clock: SetClock) -> ServingCertificates:
    with contextlib.suppress(AlreadyExists):
        clean.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for row in clean.call("GET", SECRETS)["items"]:
        clean.call("DELETE", f"{SECRETS}/{row['metadata']['name']}")
    return ServingCertificates(clean, NAMESPACE, clock)


def shakes(server: Pair, trusted: bytes, name: str, folder: Path) -> bool:
    """Whether a client that trusts `trusted` and asks for `name` speaks with a server that shows `server`."""
    (folder / "server.pem").write_bytes(server.certificate + server.key)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "server.pem")
    asking = ssl.create_default_context(cadata=trusted.decode())
    left, right = socket.socketpair()

    def serve() -> None:
        try:
            serving.wrap_socket(left, server_side=True).close()
        except (ssl.SSLError, OSError):
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        asking.wrap_socket(right, server_hostname=name).close()
        return True
    except ssl.SSLError:
        return False
    finally:
        right.close()
        thread.join()


def test_a_server_is_trusted_by_the_names_of_its_service(certificates: ServingCertificates, tmp_path: Path) -> None:
    leaf, trusted = certificates.leaf("knhk-exchange", ["127.0.0.1"]), certificates.authority().bundle
    for name in (f"knhk-exchange.{NAMESPACE}.svc", f"knhk-exchange.{NAMESPACE}.svc.cluster.local", "127.0.0.1"):
        assert shakes(leaf, trusted, name, tmp_path), name
    assert not shakes(leaf, trusted, f"knhk-log.{NAMESPACE}.svc", tmp_path)
    assert certificates.leaf("knhk-exchange", ["127.0.0.1"]) == leaf


@pytest.mark.parametrize(("secret", "member"), [("knhk-ca", "ca.key"), ("knhk-log-tls", "tls.key")])
def test_a_secret_that_lacks_its_key_is_told(clean: KubeClient, certificates: ServingCertificates, secret: str, member: str) -> None:
    certificates.leaf("knhk-log")
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{secret}"
    clean.call("PATCH", path, body={"data": {member: None}}, media=MERGE)
    with pytest.raises(Corrupt, match=f"{member}.*delete the Secret"):
        certificates.leaf("knhk-log")
    clean.call("DELETE", path)
    certificates.leaf("knhk-log")


def test_a_name_that_is_new_gets_into_the_certificate(certificates: ServingCertificates, tmp_path: Path) -> None:
    certificates.leaf("knhk-exchange")
    leaf = certificates.leaf("knhk-exchange", ["exchange.example"])
    assert shakes(leaf, certificates.authority().bundle, "exchange.example", tmp_path)


def test_replicas_that_start_together_agree(clean: KubeClient, certificates: ServingCertificates, clock: SetClock) -> None:
    with ThreadPoolExecutor(8) as pool:
        leaves = list(pool.map(lambda _: ServingCertificates(clean, NAMESPACE, clock).leaf("knhk-admission"), range(8)))
    assert len(set(leaves)) == 1


def test_a_leaf_is_made_anew_at_half_of_its_life(certificates: ServingCertificates, clock: SetClock) -> None:
    leaf = certificates.leaf("knhk-log")
    clock.at += SERVER_LIFE / 2 - timedelta(hours=1)
    assert certificates.leaf("knhk-log") == leaf
    clock.at += timedelta(hours=2)
    renewed = certificates.leaf("knhk-log")
    assert renewed.read.not_valid_after_utc > leaf.read.not_valid_after_utc


def test_the_next_authority_is_trusted_before_it_signs_and_the_one_before_afterwards(
    certificates: ServingCertificates, clock: SetClock
) -> None:
    first = certificates.authority()
    clock.at += timedelta(days=AUTHORITY_DAYS / 2 + 1)
    overlapping = certificates.authority()
    assert overlapping.pair == first.pair
    assert len(overlapping.trusted) == 2
    leaf = certificates.leaf("knhk-log")
    clock.at += OVERLAP
    second = certificates.authority()
    assert second.pair != first.pair
    assert set(second.trusted) == set(overlapping.trusted)
    assert any(is_issued_by(leaf.read, read_certificate(pem)) for pem in second.trusted)
    assert is_issued_by(certificates.leaf("knhk-admission").read, second.pair.read)
    clock.at = first.pair.read.not_valid_after_utc + timedelta(days=1)
    assert first.pair.certificate not in certificates.authority().trusted


def test_a_lost_authority_is_made_anew_and_with_it_what_it_signed(
    clean: KubeClient, certificates: ServingCertificates, tmp_path: Path
) -> None:
    leaf = certificates.leaf("knhk-log")
    clean.call("DELETE", f"{SECRETS}/knhk-ca")
    renewed = certificates.leaf("knhk-log")
    assert renewed != leaf
    assert shakes(renewed, certificates.authority().bundle, f"knhk-log.{NAMESPACE}.svc", tmp_path)


def test_what_clients_trust_is_published_where_they_are(clean: KubeClient, certificates: ServingCertificates) -> None:
    certificates.publish_trust(b"cm9vdA==\n", "erp")
    found = clean.call("GET", "/api/v1/namespaces/erp/configmaps/knhk-trust")["data"]
    told = {"ca.crt": certificates.authority().bundle.decode(), "root.pub": "cm9vdA==\n"}
    assert found == told
    for registry_ca in (b"of the registry", b""):  # what it has no more is taken away
        certificates.publish_trust(b"cm9vdA==\n", "erp", registry_ca)
        found = clean.call("GET", "/api/v1/namespaces/erp/configmaps/knhk-trust")["data"]
        assert found == told | ({"registry.crt": registry_ca.decode()} if registry_ca else {})
    clean.call("DELETE", "/api/v1/namespaces/erp/configmaps/knhk-trust")


def test_a_client_certificate_is_no_servers_and_takes_only_the_key_from_its_request(
    certificates: ServingCertificates, clock: SetClock, tmp_path: Path
) -> None:
    client = certificates.client("knhk-operator")
    assert not shakes(client, certificates.authority().bundle, "knhk-operator", tmp_path)
    with pytest.raises(Refused, match="must be a certificate signing request"):
        client_certificate(
            certificates.authority().pair, b"-----BEGIN CERTIFICATE REQUEST-----\n", "spiffe://knhk.dev/x", clock.at, OVERLAP
        )


def test_secrets_hold_no_more_than_is_said(clean: KubeClient, certificates: ServingCertificates) -> None:
    certificates.leaf("knhk-log")
    with pytest.raises(NotFound):
        clean.call("GET", f"{SECRETS}/knhk-trust")
    data = clean.call("GET", f"{SECRETS}/knhk-log-tls")["data"]
    assert set(data) == {"tls.crt", "tls.key", "ca.crt", "names"}
    assert read_certificate(base64.b64decode(data["tls.crt"])).issuer == certificates.authority().pair.read.subject
