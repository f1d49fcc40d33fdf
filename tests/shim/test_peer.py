"""Who calls is what the peer's certificate says, and nothing else: TLS at the listener, SPIFFE IDs as attribute `peer`."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from shim_native import build_pack
from shim_rig import Answer, Rig, token, wait_for
from shim_ring import all_records

from knhk.adapters.placement_processes import PointFolders, ProcessPlacement
from knhk.api import parse
from knhk.reconcilers.points import point_config

pytestmark = pytest.mark.server
CLERK, OTHER = "spiffe://erp.example/clerk", "spiffe://erp.example/director"


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


@dataclass
class Authority:
    """Signs certificates into files of its folder."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.key, self.name = (
            ec.generate_private_key(ec.SECP256R1()),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")]),
        )
        own = self._begin(self.name, self.key, timedelta(days=1)).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.file = self.folder / "ca.pem"
        signed = own.add_extension(usage, critical=True).sign(self.key, hashes.SHA256())
        self.file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def _begin(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, lasts: timedelta) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        return made.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=2)).not_valid_after(now + lasts)

    def sign(self, name: str, *alternatives: x509.GeneralName, lasts: timedelta = timedelta(hours=1)) -> tuple[str, str]:
        """Paths of certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._begin(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, lasts)
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True).add_extension(usage, critical=True)
        both = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        made = made.add_extension(x509.ExtendedKeyUsage(both), critical=False)
        if alternatives:
            made = made.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_bytes(made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(pem(key))
        return str(paths[0]), str(paths[1])


def uris(*values: str) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(value) for value in values]


class TlsRig(Rig):
    """An enforcement point that knows callers by their certificates, beside their tokens."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.authority, self.stranger = Authority(folder / "ca"), Authority(folder / "stranger")
        self.own = self.authority.sign("point", x509.IPAddress(ip_address("127.0.0.1")))

    @property
    def point(self) -> dict[str, Any]:
        made = super().point
        tls = {"certificate": self.own[0], "key": self.own[1], "clients": str(self.authority.file)}
        return {**made, "listen": {**made["listen"], "tls": tls}}

    def call(self, certificate: tuple[str, str] | None, **headers: str) -> Answer:
        context = ssl.create_default_context(cafile=str(self.authority.file))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        try:
            sent = {"authorization": f"Bearer {token()}", "content-type": "application/json", **headers}
            connection.request("POST", "/invoices", b"fine", sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.msg, answer.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsRig]:
    made = TlsRig(tmp_path_factory.mktemp("peer"))
    try:
        made.configure(stable=build_pack(made.packs), stickyAttribute="peer")
        yield made
    finally:
        made.close()


@pytest.fixture
def point(shared: TlsRig) -> TlsRig:
    shared.app.seen.clear()
    return shared


def test_the_spiffe_id_of_the_peer_is_an_attribute(point: TlsRig) -> None:
    answer = point.call(
        point.authority.sign("clerk", *uris(CLERK)), peer=OTHER, **{"x-peer": OTHER, "x-forwarded-client-cert": f"URI={OTHER}"}
    )
    assert answer.status == 200
    record = all_records(point.rings)[str(answer.receipt)]
    assert (record.o.attributes["peer"], record.o.attributes["sub"]) == (CLERK, "alice")
    assert record.cluster != 0, "it may be the sticky key"
    ((_, _, headers, _),) = point.app.seen
    assert OTHER not in str(headers)


@pytest.mark.parametrize(
    "names", [(CLERK, OTHER), (CLERK, "https://erp.example/x"), ("https://erp.example/x", CLERK)], ids=["two IDs", "ID first", "ID last"]
)
def test_a_certificate_of_several_names_is_nobody(point: TlsRig, names: tuple[str, ...]) -> None:
    answer = point.call(point.authority.sign("several", *uris(*names)))
    assert (answer.status, answer.reason) == (403, "peer")
    assert all_records(point.rings)[str(answer.receipt)].enforced.kind == "REFUSED"
    assert point.app.seen == []


def test_a_name_of_another_kind_beside_the_id_is_no_second_id(point: TlsRig) -> None:
    answer = point.call(point.authority.sign("dns", *uris(CLERK), x509.DNSName("erp.example")))
    assert all_records(point.rings)[str(answer.receipt)].o.attributes["peer"] == CLERK


STRANGERS = {
    "no certificate": lambda p: None,
    "another authority": lambda p: p.stranger.sign("clerk", *uris(CLERK)),
    "no ID": lambda p: p.authority.sign("bare"),
    "an ID that is none": lambda p: p.authority.sign("web", *uris("https://erp.example/clerk")),
    "an ID as a host name": lambda p: p.authority.sign("host", x509.DNSName("spiffe.erp.example")),
    "expired": lambda p: p.authority.sign("old", *uris(CLERK), lasts=-timedelta(days=1)),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_strangers_do_not_get_as_far_as_a_request(point: TlsRig, who: str) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        point.call(STRANGERS[who](point))
    assert point.app.seen == []


def test_plain_http_gets_nothing(point: TlsRig) -> None:
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        point.post(b"fine")
    assert point.app.seen == []


def test_without_authorities_for_callers_there_is_no_peer(tmp_path: Path) -> None:
    class OneSided(TlsRig):
        @property
        def point(self) -> dict[str, Any]:
            made = super().point
            made["listen"]["tls"].pop("clients")
            return made

    rig = OneSided(tmp_path)
    try:
        rig.configure(stable=build_pack(rig.packs))
        answer = wait_for("an answer", lambda: rig.call(None, **{"x-peer": OTHER}))
        assert answer.status == 200
        assert "peer" not in all_records(rig.rings)[str(answer.receipt)].o.attributes
    finally:
        rig.close()


def test_a_point_is_placed_with_its_certificates_and_its_agent_knows_the_attribute(tmp_path: Path) -> None:
    class Nobody:
        def ensure(self, command: object) -> None:
            pass

    path = Path(__file__).parents[2] / "manifests" / "examples" / "point-with-certificates.yaml"
    (resource,) = parse(path.read_bytes(), path.name)
    folders = PointFolders(**{name: tmp_path / name for name in PointFolders.__annotations__})
    placement = ProcessPlacement(cast(Any, Nobody()), lambda _: folders, tmp_path, tmp_path / "s.sock", tmp_path / "root.pub")
    bootstrap = json.loads(placement.bootstrap("erp/ledger", resource.spec))
    (chain,) = bootstrap["static_resources"]["listeners"][0]["filter_chains"]
    context = chain["transport_socket"]["typed_config"]
    assert context["require_client_certificate"] is True
    assert context["common_tls_context"]["validation_context"]["trusted_ca"] == {"filename": "/run/knhk/clients.pem"}
    config = json.loads(point_config(resource, ()))
    assert (config["attributes"], config["stickyAttribute"]) == ([{"name": "peer", "filterState": "knhk.peer"}], "peer")
