"""A private sigstore: Fulcio with a log for its certificates, Rekor v2, a timestamp authority, and an issuer of OIDC tokens.

All but the issuer are the real servers, on loopback or another address of this machine, each over a folder of its own.
`Stack.trusted_root` is what verifiers are given.
"""

from __future__ import annotations

import base64
import fcntl
import json
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from types import MappingProxyType
from typing import Any

import jwt
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PASSWORD, HOST = "for tests", "127.0.0.1"
START = "2020-01-01T00:00:00Z"
READY_WITHIN_S, TRIES = 120.0, 5


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def pem(key: ec.EllipticCurvePrivateKey, password: str | None = None) -> bytes:
    how = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


# ---- certificates --------------------------------------------------------------------------------


def authority(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A root that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key, _certificate(name, key, key, name, ca=True)


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey, issuer: str, *, ca: bool
) -> x509.Certificate:
    def named(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tests"), x509.NameAttribute(NameOID.COMMON_NAME, common)])

    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(issuer)).public_key(key.public_key())
    made = (
        made.serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
    )
    made = made.add_extension(x509.BasicConstraints(ca=ca, path_length=1 if ca else None), critical=True)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    made = made.add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), critical=True)
    if not ca:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    return made.sign(issuer_key, SHA256())


# ---- who says who somebody is --------------------------------------------------------------------


@dataclass(frozen=True)
class Issuer:
    """Gives the tokens of Kubernetes service accounts, as an API server does."""

    url: str
    key: rsa.RSAPrivateKey

    def token(self, namespace: str = "knhk-system", account: str = "knhk-operator", audience: str = "sigstore", valid_s: int = 600) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": [audience],
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "iat": now - 5,
            "nbf": now - 5,
            "exp": now + valid_s,
            "kubernetes.io": {
                "namespace": namespace,
                "pod": {"name": "a-pod", "uid": "1"},
                "serviceaccount": {"name": account, "uid": "2"},
            },
        }
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": "k1"})


@contextmanager
def issuer() -> Iterator[Issuer]:
    key = rsa.generate_private_key(65537, 2048)
    row: dict[str, Any] = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "kid": "k1", "alg": "RS256", "use": "sig"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = f"http://{HOST}:{self.server.server_port}"  # type: ignore[attr-defined]
            discovery = {
                "issuer": url,
                "jwks_uri": f"{url}/keys",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
            body = json.dumps({"keys": [row]} if self.path == "/keys" else discovery).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Issuer(f"http://{HOST}:{server.server_port}", key)
        finally:
            server.shutdown()
            thread.join()


# ---- servers -------------------------------------------------------------------------------------


def _free_ports(count: int, host: str) -> tuple[int, ...]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket()) for _ in range(count)]
        for one in held:
            one.bind((host, 0))
        return tuple(one.getsockname()[1] for one in held)


@dataclass
class Server:
    """A process that serves."""

    argv: tuple[str, ...]
    url: str
    ready: str
    log: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> bool:
        """Whether it serves: false when it ended at once, as when somebody took its port."""
        for left in self.log.parent.glob("*.sock"):
            left.unlink()
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self.argv, stdout=out, stderr=out, env=dict(self.environment))
        deadline = time.monotonic() + READY_WITHIN_S
        while self.process.poll() is None:
            try:
                with urllib.request.urlopen(self.url + self.ready, timeout=5):
                    return True
            except OSError:
                assert time.monotonic() < deadline, f"{self.argv[0]} does not serve: {self.log.read_text()[-2000:]}"
                time.sleep(0.05)
        return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None


@contextmanager
def _served(
    folder: Path,
    ports: int,
    command: Callable[..., tuple[str, ...]],
    ready: str,
    host: str,
    more: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Server]:
    """`command` gets the ports; the first is the one that serves. `more`: of its environment."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {"HOME": str(folder), **more}
    for _ in range(TRIES):
        found = _free_ports(ports, host)
        server = Server(command(*map(str, found)), f"http://{host}:{found[0]}", ready, folder / "server.log", environment)
        if server.start():
            try:
                yield server
            finally:
                server.stop()
            return
    raise AssertionError(f"{server.argv[0]} ends at its start: {server.log.read_text()[-2000:]}")


@contextmanager
def rekor(program: Path, folder: Path, *more: str, host: str = HOST) -> Iterator[Server]:
    """Rekor v2 over a folder; `key.pem` signs its checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "key.pem").exists():
        (folder / "key.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))

    def command(http: str, grpc: str, metrics: str) -> tuple[str, ...]:
        where = ("--http-port", http, "--grpc-port", grpc, "--http-metrics-port", metrics, "--hostname", host)
        address = ("--http-address", host, "--grpc-address", host)
        storage = ("--storage-dir", str(folder / "tiles"), "--signer-filepath", str(folder / "key.pem"))
        return (str(program), "serve", *address, *where, *storage, *more)

    with _served(folder, 3, command, "/healthz", host) as server:
        yield server


@contextmanager
def _timestamps(program: Path, folder: Path, root: tuple[ec.EllipticCurvePrivateKey, x509.Certificate], host: str) -> Iterator[Server]:
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = _certificate("timestamps", key, root[0], "timestamp root", ca=False)
    (folder / "key.pem").write_bytes(pem(key, PASSWORD))
    (folder / "chain.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in (leaf, root[1])))

    def command(port: str) -> tuple[str, ...]:
        signer = ("--timestamp-signer", "file", "--file-signer-key-path", str(folder / "key.pem"), "--file-signer-passwd", PASSWORD)
        chain = ("--certificate-chain-path", str(folder / "chain.pem"), "--disable-ntp-monitoring")
        return (str(program), "serve", "--host", host, "--port", port, *signer, *chain)

    with _alone_on_this_machine(), _served(folder, 1, command, "/ping", host) as server:
        yield server


@contextmanager
def _alone_on_this_machine() -> Iterator[None]:
    """The timestamp server's metrics have a port that cannot be chosen, 2112 (timestamp-authority, pkg/server/prometheus.go): another
    run of these tests waits."""
    with (Path(tempfile.gettempdir()) / "knhk-tests-port-2112.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _ctlog(program: Path, folder: Path, roots: Path) -> Iterator[Server]:
    folder.mkdir()
    (folder / "key.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))

    def command(port: str) -> tuple[str, ...]:
        where = ("-listen", f"{HOST}:{port}", "-dir", str(folder))
        return (str(program), *where, "-key", str(folder / "key.pem"), "-roots", str(roots))

    with _served(folder, 1, command, "/ct/ct/v1/get-roots", HOST) as server:
        yield server


@contextmanager
def _fulcio(program: Path, folder: Path, believed: tuple[str, ...], ctlog: str, host: str, more: Mapping[str, str]) -> Iterator[Server]:
    """Its authority, key.pem and root.pem, is there already; `believed`: the issuers."""
    config = {"oidc-issuers": {url: {"issuer-url": url, "client-id": "sigstore", "type": "kubernetes"} for url in believed}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))

    def command(http: str, grpc: str, metrics: str) -> tuple[str, ...]:
        where = ("--host", host, "--port", http, "--grpc-host", HOST, "--grpc-port", grpc, "--metrics-port", metrics)
        ca = ("--ca", "fileca", "--fileca-cert", str(folder / "root.pem"), "--fileca-key", str(folder / "key.pem"))
        more = ("--fileca-key-passwd", PASSWORD, "--config-path", str(folder / "config.yaml"), "--ct-log-url", f"{ctlog}/ct")
        return (str(program), "serve", *where, *ca, *more, "--legacy-unix-domain-socket", str(folder / "legacy.sock"))

    with _served(folder, 3, command, "/healthz", host, more) as server:
        yield server


# ---- who verifies ---------------------------------------------------------------------------------


def cosign_accepts(cosign: Path, home: Path, root: Path, command: str, *arguments: str) -> bool:
    """Offline, with no flag that leaves anything out."""
    argv = [str(cosign), command, "--trusted-root", str(root), "--use-signed-timestamps", *arguments]
    environment = {"HOME": str(home), "HTTPS_PROXY": "http://127.0.0.1:1"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 or "Error" in done.stderr or "error" in done.stderr, done.stderr
    return done.returncode == 0


# ---- the whole of it -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Stack:
    """`trusted_root`: trusted_root.json, the file that verifiers are given."""

    rekor: Server
    timestamps: Server
    ctlog: Server
    fulcio: Server
    issuer: Issuer
    trusted_root: Path


def _public(path: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return spki(key)


def log_row(url: str, public: bytes, key_id: bytes, start: str = START, end: str | None = None) -> dict[str, Any]:
    """A log in a trusted root."""
    valid = {"start": start} | ({"end": end} if end else {})
    key = {"rawBytes": b64(public), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": valid}
    return {"baseUrl": url, "hashAlgorithm": "SHA2_256", "publicKey": key, "logId": {"keyId": b64(key_id)}}


def _ca_row(url: str, *chain: x509.Certificate) -> dict[str, Any]:
    certificates = [{"rawBytes": b64(one.public_bytes(Encoding.DER))} for one in chain]
    named = {"organization": "tests", "commonName": "tests"}
    return {"subject": named, "uri": url, "certChain": {"certificates": certificates}, "validFor": {"start": START}}


@contextmanager
def private_sigstore(
    programs: Mapping[str, Path],
    folder: Path,
    issuers: tuple[str, ...] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
    host: str = HOST,
) -> Iterator[Stack]:
    """All servers, on free ports; those that signers ask listen on `host`. Fulcio believes `issuers`, too, and reaches them by
    `environment`."""
    with ExitStack() as stack:
        enter = stack.enter_context
        ca_key, ca = authority("fulcio root")
        (folder / "fulcio").mkdir()
        (folder / "fulcio" / "key.pem").write_bytes(pem(ca_key, PASSWORD))
        (folder / "fulcio" / "root.pem").write_bytes(ca.public_bytes(Encoding.PEM))
        tsa_root = authority("timestamp root")
        told = enter(issuer())
        log = enter(rekor(programs["rekor"], folder / "rekor", "--checkpoint-interval", "200ms", "--batch-max-age", "50ms", host=host))
        times = enter(_timestamps(programs["timestamp"], folder / "timestamps", tsa_root, host))
        ctlog = enter(_ctlog(programs["ctlog"], folder / "ctlog", folder / "fulcio" / "root.pem"))
        fulcio = enter(_fulcio(programs["fulcio"], folder / "fulcio", (told.url, *issuers), ctlog.url, host, environment))
        rekor_key, ct_key = _public(folder / "rekor" / "key.pem"), _public(folder / "ctlog" / "key.pem")
        (tsa_leaf,) = x509.load_pem_x509_certificates((folder / "timestamps" / "chain.pem").read_bytes())[:1]
        document = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log_row(log.url, rekor_key, sha256(rekor_key).digest())],
            "certificateAuthorities": [_ca_row(fulcio.url, ca)],
            "ctlogs": [log_row(f"{ctlog.url}/ct", ct_key, sha256(ct_key).digest())],
            "timestampAuthorities": [_ca_row(times.url, tsa_leaf, tsa_root[1])],
        }
        trusted_root = folder / "trusted_root.json"
        trusted_root.write_text(json.dumps(document, indent=1))
        yield Stack(log, times, ctlog, fulcio, told, trusted_root)
