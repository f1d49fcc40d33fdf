"""Certificates and kubeconfigs of a test cluster: two authorities, a row for each certificate, one key for service accounts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

sys.path.insert(0, str(Path(__file__).parent))
import node_machine as machine

FIRST_SERVICE_IP = "10.96.0.1"
LIFE = timedelta(days=30)
SERVING_NAMES = (
    "127.0.0.1",
    machine.HOST,
    FIRST_SERVICE_IP,
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


@dataclass(frozen=True)
class Subject:
    """Who a certificate speaks for, which authority signs it, and what it serves (nothing: it is a client's)."""

    name: str
    groups: tuple[str, ...] = ()
    authority: str = "ca"
    serves: tuple[str, ...] = ()


SUBJECTS: Mapping[str, Subject] = {
    "serving": Subject("kube-apiserver", serves=SERVING_NAMES),
    "admin": Subject("admin", ("system:masters",)),
    "controller-manager": Subject("system:kube-controller-manager"),
    "scheduler": Subject("system:kube-scheduler"),
    "kubelet-client": Subject("kube-apiserver-kubelet-client", ("system:masters",)),
    "front-proxy-client": Subject("front-proxy-client", authority="front-proxy-ca"),
    "kubelet": Subject(f"system:node:{machine.NAME}", ("system:nodes",)),
    "kubelet-serving": Subject(f"system:node:{machine.NAME}", ("system:nodes",), serves=(machine.NAME, machine.ADDRESS)),
    "kube-proxy": Subject("system:kube-proxy"),
    "webhooks": Subject("kube-apiserver-webhooks"),
    "registry": Subject(machine.REGISTRY, serves=(machine.REGISTRY, machine.ADDRESS)),
}
_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def establish(folder: Path) -> None:
    """All keys and certificates of a cluster, into `folder`; private ones are readable by this user only."""
    folder.mkdir(mode=0o700)
    for authority in ("ca", "front-proxy-ca"):
        key = ec.generate_private_key(ec.SECP256R1())
        _write_key(folder / f"{authority}.key", key)
        name = _name(Subject(authority))
        _write_certificate(folder / f"{authority}.crt", _builder(name, name, key, ca=True).sign(key, hashes.SHA256()))
    for file, subject in SUBJECTS.items():
        issue(folder, file, subject)
    accounts = rsa.generate_private_key(65537, 2048)
    _write_key(folder / "accounts.key", accounts)
    public = accounts.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "accounts.pub").write_bytes(public)


def issue(folder: Path, file: str, subject: Subject) -> None:
    """`file`.key and `file`.crt for a subject, signed by its authority in `folder`."""
    authority = x509.load_pem_x509_certificate((folder / f"{subject.authority}.crt").read_bytes())
    signer = serialization.load_pem_private_key((folder / f"{subject.authority}.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if subject.serves else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _builder(_name(subject), authority.subject, key, ca=False).add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if subject.serves:
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(name) for name in subject.serves]), critical=False)
    _write_key(folder / f"{file}.key", key)
    _write_certificate(folder / f"{file}.crt", builder.sign(signer, hashes.SHA256()))


def kubeconfig(path: Path, folder: Path, file: str, server: str) -> Path:
    """A kubeconfig (JSON is YAML) for the certificate `file` of `folder`; returns its path."""
    client = {"client-certificate": str(folder / f"{file}.crt"), "client-key": str(folder / f"{file}.key")}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": str(folder / "ca.crt")}}],
        "users": [{"name": file, "user": client}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": file}}],
        "current-context": "test",
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def webhook_client(path: Path, folder: Path, file: str) -> Path:
    """An AdmissionConfiguration by which the API server shows the certificate `file` of `folder` to each webhook that asks for one."""
    shown = kubeconfig(path.with_suffix(".kubeconfig"), folder, file, "")
    document = json.loads(shown.read_text())
    document["users"][0]["name"] = "*"
    shown.write_text(json.dumps(document, indent=1) + "\n")
    said = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "WebhookAdmissionConfiguration", "kubeConfigFile": str(shown)}
    plugins = [{"name": f"{kind}AdmissionWebhook", "configuration": said} for kind in ("Mutating", "Validating")]
    path.write_text(json.dumps({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": plugins}) + "\n")
    return path


def _name(subject: Subject) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in subject.groups]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, subject.name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not ca,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_key(path: Path, key: _Key) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
