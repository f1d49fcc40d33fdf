"""Notary by the servers of a sigstore: Rekor v2, an RFC 3161 timestamp authority and, without keys of our own, Fulcio.

sigstore.json in a folder of keys says which (formats/signed.md). trusted_root.json beside it counts when keys.json names its digest.
Whoever signs, role key in a file, role key in a token, or a certificate for a moment, the rest is the same.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from rfc3161_client import TimestampRequestBuilder

from knhk.adapters.signer_roles import SIGNERS, Outside, RoleKey, keys_of
from knhk.adapters.sigstore_root import KEY_DETAILS, ROOT_FILE, TrustedRoot, demand_identity, entry_body, parse_trusted_root
from knhk.model.canonical import canonical
from knhk.model.faults import Stalled, Waiting
from knhk_verify.errors import Bad, demand
from knhk_verify.signed import BUNDLE, keyid, member, pae, parse_json, verify_bundle

ANSWERS_WITHIN_S, RETRY_S = 20.0, 5.0
MAX_ANSWER = 1 << 20
AT_ONCE = 4
_KEYLESS = ("fulcio", "token", "identity", "issuer")


@dataclass(frozen=True)
class Keyless:
    """Fulcio's address, the file of the OIDC token, and who the certificate must say that we are when a role signs, by whose word."""

    fulcio: str
    token: Path
    identity: Mapping[str, str]
    issuer: str


@dataclass(frozen=True)
class Settings:
    """sigstore.json: addresses of the servers, and a file with authorities of their TLS (None: the system's)."""

    rekor: str
    timestamp: str
    keyless: Keyless | None = None
    authorities: Path | None = None


def read_settings(path: Path) -> Settings:
    """Paths start beside the file. Raises Stalled."""
    where = str(path)
    try:
        said = parse_json(path.read_bytes(), where)
        rekor, timestamp = (_url(said, name, where) for name in ("rekor", "timestamp"))
        unknown = said.keys() - {"rekor", "timestamp", "ca", *_KEYLESS}
        demand(not unknown, where, f"has {', '.join(sorted(unknown))}: must have rekor, timestamp, ca, {', '.join(_KEYLESS)} only")
        authorities = path.parent / member(said, "ca", str, where) if "ca" in said else None
        if not said.keys() & set(_KEYLESS):
            return Settings(rekor, timestamp, None, authorities)
        token, issuer = (member(said, name, str, where) for name in ("token", "issuer"))
        keyless = Keyless(_url(said, "fulcio", where), path.parent / token, _identities(said, where), issuer)
        return Settings(rekor, timestamp, keyless, authorities)
    except OSError as error:
        raise Stalled("Sigstore", f"{where}: {error.strerror}: must name the servers of a sigstore") from error
    except Bad as error:
        raise Stalled("Sigstore", str(error)) from error


def _identities(said: Mapping[str, Any], where: str) -> Mapping[str, str]:
    """Role → who signs for it: one text is said for all. Raises Bad."""
    found: Any = said.get("identity")
    by_role = found if isinstance(found, dict) else dict.fromkeys(SIGNERS, found)
    fits = bool(by_role) and by_role.keys() <= set(SIGNERS) and all(isinstance(one, str) for one in by_role.values())
    demand(fits, f"{where} identity", f"must be there, a text, or a text for each of {', '.join(SIGNERS)}")
    return by_role


def _url(said: object, name: str, where: str) -> str:
    url: str = member(said, name, str, where)
    demand(url.startswith(("https://", "http://")), f"{where} {name}", f"{url!r}: must be an URL")
    return url.rstrip("/")


class Signature(NamedTuple):
    """Over the PAE, in DER: what names its key in a bundle, and the same in an entry of Rekor."""

    data: bytes
    material: Mapping[str, Any]
    verifier: Mapping[str, Any]


class _NoRedirect(HTTPRedirectHandler):
    """A token goes where it was meant to go."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class SigstoreNotary:
    """`knhk.ports.notary.Notary`. `key`: role → its P-256 key; `named`: what keys.json says now."""

    folder: Path
    settings: Settings
    key: Callable[[str], RoleKey | None]
    named: Callable[[], Outside]
    _asked: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(AT_ONCE, thread_name_prefix="notary"), repr=False)

    def ask(self, role: str, bundle: bytes) -> Future[bytes]:
        """See the port."""
        return self._asked.submit(self.notarised, role, bundle)

    def close(self) -> None:
        """What was asked and has not begun is not done."""
        self._asked.shutdown(wait=False, cancel_futures=True)

    def notarised(self, role: str, bundle: bytes) -> bytes:
        """See the port."""
        root = self.root()
        self._demand_ours(role, bundle)
        envelope = member(parse_json(bundle, "bundle"), "dsseEnvelope", dict, "bundle")
        payload, kind = base64.b64decode(envelope["payload"]), str(envelope["payloadType"])
        signature = (self._by_key if self.settings.keyless is None else self._by_certificate)(role, pae(kind, payload))
        digest = sha256(pae(kind, payload)).digest()
        timestamp, entry = self._timestamp(signature.data), self._entry(digest, signature)
        made = {
            "mediaType": BUNDLE,
            "verificationMaterial": {
                **signature.material,
                "tlogEntries": [entry],
                "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": _b64(timestamp)}]},
            },
            "dsseEnvelope": {**envelope, "signatures": [{"keyid": "", "sig": _b64(signature.data)}]},
        }
        try:
            at = root.time_of(timestamp, signature.data)
            root.demand_entry(entry, entry_body(digest, signature.data, signature.verifier), at)
        except Bad as error:
            raise Stalled("Sigstore", f"what {self.settings.rekor} and {self.settings.timestamp} answered is refused: {error}") from error
        if self.settings.keyless is not None:
            keyless = self.settings.keyless
            try:
                demand_identity(canonical(made), self.folder / ROOT_FILE, keyless.identity[role], keyless.issuer)
            except Bad as error:
                raise Stalled("Sigstore", f"{keyless.fulcio}: the certificate is refused: {error.what}") from error
        return canonical(made)

    def _demand_ours(self, role: str, bundle: bytes) -> None:
        """Raises Stalled for what no key of the role signed, now or before: who can write a Receipt or a registry is none of us."""
        named = keys_of(self.folder)
        keys = {} if named is None else {id_: key.public for id_, key in named.roles.get(role, {}).items()}
        try:
            verify_bundle(bundle, keys)
        except Bad as error:
            raise Stalled("Sigstore", f"is signed by no key of role {role}, and not to be signed by us: {error}") from error

    def root(self) -> TrustedRoot:
        """The trusted root that keys.json pins. Raises Stalled for another, older or altered one."""
        path, pinned = self.folder / ROOT_FILE, self.named().trusted_root
        try:
            root = parse_trusted_root(path.read_bytes(), str(path))
        except OSError as error:
            raise Stalled("TrustedRoot", f"{path}: {error.strerror}: run: knhk keys trust FILE") from error
        except Bad as error:
            raise Stalled("TrustedRoot", str(error)) from error
        if root.digest != pinned:
            told = f"must be {pinned}, as keys.json says" if pinned else "keys.json names none: run: knhk keys trust FILE"
            raise Stalled("TrustedRoot", f"{path}: SHA-256 {root.digest}: {told}")
        return root

    # ---- who signs ----

    def _by_key(self, role: str, data: bytes) -> Signature:
        key = self.key(role)
        if key is None:
            raise Stalled("Sigstore", f"{self.folder}: has no key of role {role} for sigstore: run: knhk keys trust FILE")
        verifier = {"keyDetails": KEY_DETAILS, "publicKey": {"rawBytes": _b64(key.public)}}
        return Signature(key.sign(data), {"publicKey": {"hint": keyid(key.public)}}, verifier)

    def _by_certificate(self, role: str, data: bytes) -> Signature:
        """By a key that is made for this signature and forgotten."""
        keyless = self.settings.keyless
        assert keyless is not None
        if role not in keyless.identity:
            raise Stalled("Sigstore", f"{self.folder}/sigstore.json identity: says nobody for role {role}")
        try:
            token = keyless.token.read_text().strip()
        except OSError as error:
            raise Waiting("Sigstore", f"{keyless.token}: {error.strerror}: must hold an OIDC token", RETRY_S) from error
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
        asked = {
            "credentials": {"oidcIdentityToken": token},
            "certificateSigningRequest": _b64(request.public_bytes(Encoding.PEM)),
        }
        answer = self._json(f"{keyless.fulcio}/api/v2/signingCert", asked)
        try:
            chain = answer["signedCertificateEmbeddedSct"]["chain"]["certificates"]
            der = x509.load_pem_x509_certificate(chain[0].encode()).public_bytes(Encoding.DER)
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise Stalled("Sigstore", f"{keyless.fulcio}: must answer with a certificate that a log has seen: has it a log?") from error
        certificate = {"rawBytes": _b64(der)}
        signature = key.sign(data, ec.ECDSA(SHA256()))
        return Signature(signature, {"certificate": certificate}, {"keyDetails": KEY_DETAILS, "x509Certificate": certificate})

    # ---- servers ----

    def _timestamp(self, signature: bytes) -> bytes:
        asked = TimestampRequestBuilder().data(signature).nonce(nonce=True).build().as_bytes()
        return self._post(self.settings.timestamp, asked, "application/timestamp-query")

    def _entry(self, digest: bytes, signature: Signature) -> dict[str, Any]:
        signed = {"content": _b64(signature.data), "verifier": signature.verifier}
        asked = {"hashedRekordRequestV002": {"digest": _b64(digest), "signature": signed}}
        return self._json(f"{self.settings.rekor}/api/v2/log/entries", asked)

    def _json(self, url: str, body: object) -> dict[str, Any]:
        data = self._post(url, json.dumps(body).encode(), "application/json")
        try:
            answer = parse_json(data, url, MAX_ANSWER)
            canonical(answer)  # as a part of our bundle
        except (Bad, ValueError, RecursionError) as error:
            raise Stalled("Sigstore", f"{url}: must answer with JSON of integers and Unicode text") from error
        if not isinstance(answer, dict):
            raise Stalled("Sigstore", f"{url}: must answer with an object")
        return answer

    def _believed(self) -> ssl.SSLContext:
        """Authorities of the servers' TLS."""
        path = self.settings.authorities
        try:
            return ssl.create_default_context(cafile=None if path is None else str(path))
        except OSError as error:
            raise Stalled("Sigstore", f"{path}: {error}: must hold authorities in PEM, as {self.folder}/sigstore.json says") from error

    def _post(self, url: str, body: bytes, kind: str) -> bytes:
        """What is not there, is busy or forbids is asked again: tokens and servers are renewed."""
        opener = build_opener(ProxyHandler({}), _NoRedirect(), HTTPSHandler(context=self._believed()))
        try:
            with opener.open(Request(url, body, {"Content-Type": kind}), timeout=ANSWERS_WITHIN_S) as answer:
                data: bytes = answer.read(MAX_ANSWER)
                return data
        except HTTPError as error:
            said = f"{url}: {error.code} {error.read(300).decode('utf-8', 'replace').strip()}"
            if error.code >= 500 or error.code in (401, 403, 408, 429):
                raise Waiting("Sigstore", said, RETRY_S) from error
            raise Stalled("Sigstore", said) from error
        except (OSError, http.client.HTTPException) as error:
            raise Waiting("Sigstore", f"{url}: does not answer: {error}", RETRY_S) from error


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
