"""One repository of an OCI registry over HTTP (distribution-spec 1.1). Standard library only.

What comes is bounded in bytes and time, and checked against its digest while it is read; what is large goes to a file meanwhile. `abort`
ends from another thread what waits for an answer. What fails for a moment is tried again, a few
times; then Waiting. Stalled: a person must change credentials, rights or the address. Corrupt: the registry gave other bytes, or has none.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode, urljoin, urlsplit

from knhk.model.faults import Corrupt, KnhkError, Stalled, Waiting
from knhk.model.oci import DIGEST, INDEX, MANIFEST, PREDICATE, SIGNATURE_PREDICATE, SIGNED, Descriptor
from knhk_runtime.layout import MAX_BLOB_BYTES, MAX_MANIFEST_BYTES, children, descriptor, parse_object

DEFAULT_REPOSITORY = "knhk/packs"
TRIES = 3
PAUSE_S = 0.2
RETRY_AFTER_S = 2.0
CONNECTS_WITHIN_S = 5.0
PATIENCE_S = 20.0
LEAST_BYTES_PER_S = 64 << 10
MAX_REFERRERS, MAX_PAGES, MAX_REDIRECTS, MAX_ERROR_BYTES = 256, 1024, 4, 64 << 10
TOKEN_LIVES_S = 60.0
REFERRERS_ASKED_EVERY_S = 60.0  # of a registry that has no referrers API: it may have been upgraded
MISSING = "is missing"
BUSY = (408, 425, 429, 500, 502, 503, 504)
MOVED = (301, 302, 303, 307, 308)
_PART = 64 << 10
_CHALLENGE = re.compile(r'([A-Za-z_]+)="([^"]*)"')
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_SCOPES = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}


@dataclass(frozen=True)
class Answer:
    """What a registry answered; names of headers are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Origin:
    """Who is spoken to."""

    tls: bool
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


class _Room:
    """Where an answer goes that was asked for, `most` bytes at most: into memory, or into a file, from its beginning at each try."""

    def __init__(self, most: int, file: BinaryIO | None = None) -> None:
        self.most, self._file = most, file
        self.begin()

    def begin(self) -> None:
        self._memory, self._hash, self.size = bytearray(), hashlib.sha256(), 0
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()

    def take(self, part: bytes) -> None:
        self.size += len(part)
        self._hash.update(part)
        if self._file is None:
            self._memory += part
        else:
            self._file.write(part)

    @property
    def body(self) -> bytes:
        """Of what came into memory."""
        return bytes(self._memory)

    @property
    def digest(self) -> str:
        """Of all that came."""
        return f"sha256:{self._hash.hexdigest()}"


class _Https(http.client.HTTPSConnection):
    """As its base, but that `sock` is there while hands are shaken, so that another thread can shut it."""

    def __init__(self, origin: Origin, trust: ssl.SSLContext) -> None:
        super().__init__(origin.host, origin.port, timeout=CONNECTS_WITHIN_S, context=trust)
        self._trust = trust

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        tls = self._trust.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = tls
        tls.do_handshake()


@dataclass(frozen=True)
class _Known:
    header: str
    until_s: float


@dataclass
class Repository:
    """`url`: `https://HOST[:PORT][/REPOSITORY]`, or http. `auth`: a docker config.json, `tls`: authorities beside the system's (PEM); both
    are read anew when they are needed, so that what was rotated counts, and say nothing while they are not there: a Secret may be mounted
    before it is made. `patience_s`: how long an answer may keep silent, or dribble;
    `tries`: of each request.

    Any thread. Connections are kept and used again."""

    url: str
    auth: Path | None = None
    tls: Path | None = None
    patience_s: float = PATIENCE_S
    tries: int = TRIES
    origin: Origin = field(init=False)
    name: str = field(init=False)
    _idle: list[tuple[Origin, http.client.HTTPConnection]] = field(default_factory=list)
    _known: dict[str, _Known] = field(default_factory=dict)
    _busy: set[http.client.HTTPConnection] = field(default_factory=set)
    _aborted: str = ""
    _by_tag_until_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.origin = _origin(self.url)
        self.name = urlsplit(self.url).path.strip("/") or DEFAULT_REPOSITORY
        if not _NAME.fullmatch(self.name):
            raise Stalled("RegistryUrl", f"{self.url}: its path must be the name of a repository, as knhk/packs")
        if self.auth is not None and self.auth.exists():
            self._must_be_private()

    def close(self) -> None:
        """Ends idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def abort(self, why: str) -> None:
        """From any thread: requests under way end at once, and no other begins; each raises Waiting."""
        with self._lock:
            self._aborted, busy = self._aborted or why, list(self._busy)
        for connection in busy:
            _shut(connection)

    @contextmanager
    def _watched(self, connection: http.client.HTTPConnection) -> Iterator[None]:
        """While `abort` may end it."""
        with self._lock:
            self._busy.add(connection)
        try:
            self._go_on()
            yield
        finally:
            with self._lock:
                self._busy.discard(connection)

    def _go_on(self) -> None:
        if self._aborted:
            raise Waiting("RegistryAborted", f"{self.url}: {self._aborted}", RETRY_AFTER_S)

    # ---- reading -------------------------------------------------------------------------------

    def manifest(self, digest: str) -> bytes:
        """The manifest or index with this digest. Raises Corrupt."""
        return self._read("manifests", digest, MAX_MANIFEST_BYTES)

    def blob(self, digest: str, most: int = MAX_BLOB_BYTES) -> bytes:
        """The blob with this digest, `most` bytes at most. Raises Corrupt."""
        return self._read("blobs", digest, most)

    def sized(self, wanted: Descriptor) -> bytes:
        """What a descriptor names: manifest, index or blob, of its size. Raises Corrupt."""
        kind, bound = ("manifests", MAX_MANIFEST_BYTES) if wanted.media_type in (INDEX, MANIFEST) else ("blobs", MAX_BLOB_BYTES)
        data = self._read(kind, wanted.digest, min(wanted.size, bound))
        if len(data) != wanted.size:
            raise Corrupt(self.at(kind, wanted.digest), f"has {len(data)} bytes, must have {wanted.size}")
        return data

    def fetch(self, wanted: Descriptor, into: BinaryIO) -> None:
        """The blob that a descriptor names, of its size and digest, into a file. Raises Corrupt."""
        self._well_formed(wanted.digest)
        where, room = self.at("blobs", wanted.digest), _Room(min(wanted.size, MAX_BLOB_BYTES), into)
        if self._asked("GET", f"blobs/{wanted.digest}", room, expect=(200, 404)).status == 404:
            raise Corrupt(where, MISSING)
        if room.size != wanted.size:
            raise Corrupt(where, f"has {room.size} bytes, must have {wanted.size}")
        if room.digest != wanted.digest:
            raise Corrupt(where, f"digest is {room.digest}, must be {wanted.digest}")

    def resolve(self, tag: str) -> str | None:
        """The digest that a tag names now."""
        answer = self.request("HEAD", f"manifests/{tag}", expect=(200, 404))
        if answer.status == 404:
            return None
        told = answer.headers.get("docker-content-digest", "")
        return told if DIGEST.fullmatch(told) else _digest(self.request("GET", f"manifests/{tag}", most=MAX_MANIFEST_BYTES).body)

    def tagged(self, tag: str) -> bytes | None:
        """The manifest that a tag names now, whatever it is: nobody says which digest it must have."""
        answer = self.request("GET", f"manifests/{tag}", expect=(200, 404), most=MAX_MANIFEST_BYTES)
        return answer.body if answer.status == 200 else None

    def tags(self) -> Iterator[str]:
        """All tags, in the registry's order."""
        for page in self._pages("tags/list"):
            found = page.get("tags") or []
            if not isinstance(found, list) or not all(isinstance(tag, str) for tag in found):
                raise Corrupt(self.at("tags", "list"), "tags must be a list of texts")
            yield from found

    def referrers(self, digest: str) -> tuple[tuple[Descriptor, bytes], ...]:
        """Manifests whose subject is `digest`, each with its bytes and what it says of itself, in order of digest; by the referrers API,
        or by the fallback tag where the registry has none. What a list says is not believed: each manifest is read, and who is none of
        `digest` is left out: whoever may push could else keep an image from being pulled. For the same reason signatures by what the
        list says come first, and what is beyond MAX_REFERRERS is not read."""
        return tuple(sorted(self.refer(digest), key=lambda found: found[0].digest))

    def refer(self, digest: str) -> Iterator[tuple[Descriptor, bytes]]:
        """As `referrers`, each read when it is asked for: signatures first, then other signed statements, by what the list says."""
        listed = {entry.digest: entry for entry in self.referring(digest)}
        first = sorted(listed.values(), key=lambda entry: (not _says_signature(entry), entry.artifact_type != SIGNED, entry.digest))
        read = (self._refers(entry, digest) for entry in first[:MAX_REFERRERS])
        yield from (told for told in read if told is not None)

    def _refers(self, entry: Descriptor, subject: str) -> tuple[Descriptor, bytes] | None:
        """A manifest that refers to `subject`; None for one that is missing, is no manifest, or refers to something else."""
        try:
            data = entry.data or self.manifest(entry.digest)
            where = self.at("manifests", entry.digest)
            document = parse_object(data, where)
            named = document.get("subject")
            return (described(document, data, where), data) if isinstance(named, dict) and named.get("digest") == subject else None
        except Corrupt:
            return None

    def referring(self, digest: str) -> tuple[Descriptor, ...]:
        """The list of referrers as the registry tells it."""
        self._well_formed(digest)
        pages = [] if time.monotonic() < self._by_tag_until_s else list(self._pages(f"referrers/{digest}", absent=True))
        if not pages:
            tag = fallback_tag(digest)
            data = self.tagged(tag)
            pages = [] if data is None else [parse_object(data, self.at("manifests", tag))]
        where = self.at("referrers", digest)
        return tuple(entry for page in pages for entry in children({"manifests": page.get("manifests") or []}, where))

    def _pages(self, target: str, absent: bool = False) -> Iterator[dict[str, Any]]:
        """JSON documents, page after page. `absent`: none when the registry has no such API, which is remembered for a while."""
        at: str | None = f"/v2/{self.name}/{target}"
        for _ in range(MAX_PAGES):
            if at is None:
                return
            answer = self.request("GET", at, expect=(200, 404), most=MAX_MANIFEST_BYTES)
            if answer.status == 404:
                if b"NAME_UNKNOWN" in answer.body:
                    return
                if not absent:
                    raise _refused(self._named(at), answer)
                self._by_tag_until_s = time.monotonic() + REFERRERS_ASKED_EVERY_S
                return
            yield parse_object(answer.body, self._named(at))
            following = _NEXT.search(answer.headers.get("link", ""))
            at = urljoin(f"{self._base}{at}", following[1]).removeprefix(self._base) if following else None
        raise Corrupt(self._named(target), f"must end within {MAX_PAGES} pages")

    def _read(self, kind: str, digest: str, most: int) -> bytes:
        self._well_formed(digest)
        answer = self.request("GET", f"{kind}/{digest}", expect=(200, 404), most=most)
        if answer.status == 404:
            raise Corrupt(self.at(kind, digest), MISSING)
        if _digest(answer.body) != digest:
            raise Corrupt(self.at(kind, digest), f"digest is {_digest(answer.body)}, must be {digest}")
        return answer.body

    def _well_formed(self, digest: str) -> None:
        if not DIGEST.fullmatch(digest):
            raise Corrupt(self.url, f"digest {digest[:100]!r} must be sha256: and 64 hexadecimal digits")

    def at(self, kind: str, reference: str) -> str:
        """How a thing of this repository is named to people."""
        return self._named(f"{kind}/{reference}")

    # ---- one request ---------------------------------------------------------------------------

    def request(
        self,
        method: str,
        target: str,
        *,
        body: bytes = b"",
        media: str = "",
        expect: tuple[int, ...] = (200,),
        most: int = MAX_ERROR_BYTES,
        tries: int | None = None,
    ) -> Answer:
        """An answer with one of the statuses in `expect`, of `most` bytes at most. `target`: below the repository; a path or URL as the
        registry gave it, otherwise. Raises Waiting, Stalled and Corrupt."""
        return self._asked(method, target, _Room(most), body=body, media=media, expect=expect, tries=tries)

    def _asked(
        self,
        method: str,
        target: str,
        room: _Room,
        *,
        body: bytes = b"",
        media: str = "",
        expect: tuple[int, ...] = (200,),
        tries: int | None = None,
    ) -> Answer:
        url = urljoin(f"{self._base}/v2/{self.name}/", target)
        headers = {"Accept": f"{INDEX}, {MANIFEST}, application/json, */*", "User-Agent": "knhk", "Content-Length": str(len(body))}
        if media:
            headers["Content-Type"] = media
        for left in reversed(range(tries or self.tries)):
            try:
                answer = self._authorised(method, url, headers, body, room)
            except (OSError, http.client.HTTPException) as error:
                self._go_on()
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise Stalled(
                        "RegistryTls", f"{self._named(url)}: {error.verify_message}; {self._authorities} must hold its authority"
                    ) from error
                if left == 0:
                    said = f"{self._named(url)} does not answer: {type(error).__name__}: {error}"
                    raise Waiting("RegistryUnreachable", said, RETRY_AFTER_S) from error
            else:
                if answer.status in expect:
                    return answer
                if left == 0 or not (answer.status in BUSY or _unsettled(answer)):
                    raise _refused(self._named(url), answer)
            time.sleep(PAUSE_S * (self.tries - left))
        raise AssertionError("the last try returns or raises")

    def _authorised(self, method: str, url: str, headers: Mapping[str, str], body: bytes, room: _Room) -> Answer:
        scope = _SCOPES.get(method, "push")
        known = self._known.get(scope)
        given = {"Authorization": known.header} if known and time.monotonic() < known.until_s else {}
        answer = self._followed(method, url, {**headers, **given}, body, room)
        challenge = answer.headers.get("www-authenticate", "")
        if answer.status != 401 or not challenge:
            return answer
        self._known[scope] = self._met(challenge)
        return self._followed(method, url, {**headers, "Authorization": self._known[scope].header}, body, room)

    def _followed(self, method: str, url: str, headers: Mapping[str, str], body: bytes, room: _Room) -> Answer:
        """The answer where redirects lead to; credentials stay with the registry, and nobody else may ask for them."""
        for _ in range(MAX_REDIRECTS):
            origin = _origin(url)
            if self.origin.tls and not origin.tls:
                raise Stalled("RegistryUrl", f"{self._named(url)}: the registry must not lead from https to http")
            sent = {name: value for name, value in headers.items() if name != "Authorization" or origin == self.origin}
            answer = self._exchanged(origin, method, url, sent, body, room)
            if origin != self.origin:
                answer = replace(answer, headers={name: value for name, value in answer.headers.items() if name != "www-authenticate"})
            if answer.status not in MOVED or method not in ("GET", "HEAD") or "location" not in answer.headers:
                return answer
            url = urljoin(url, answer.headers["location"])
        raise Stalled("RegistryUrl", f"{self._named(url)}: the registry must not redirect more than {MAX_REDIRECTS} times")

    def _exchanged(self, origin: Origin, method: str, url: str, headers: Mapping[str, str], body: bytes, room: _Room) -> Answer:
        """One request on a kept connection, or on a new one when none is kept or the kept one was closed meanwhile."""
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        while True:
            kept = self._kept(origin)
            connection = kept or self._made(origin)
            with self._watched(connection):
                try:
                    if kept is None:
                        self._connect(connection)
                    connection.request(method, target, body, dict(headers))
                    response = connection.getresponse()
                except (ConnectionError, http.client.BadStatusLine):
                    connection.close()
                    if kept is None or self._aborted:
                        raise
                    continue
                except BaseException:
                    connection.close()
                    raise
                try:
                    answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, self._body(response, url, room))
                except BaseException:
                    connection.close()
                    raise
            if response.will_close:
                connection.close()
            else:
                with self._lock:
                    self._idle.append((origin, connection))
            return answer

    def _body(self, response: http.client.HTTPResponse, url: str, room: _Room) -> bytes:
        """What was asked for goes where there is room for it; what another answer says is short, and for people."""
        room = room if response.status < 300 else _Room(MAX_ERROR_BYTES)
        room.begin()
        begun = time.monotonic()
        while part := response.read1(_PART):
            room.take(part)
            if room.size > room.most:
                raise Corrupt(self._named(url), f"must have at most {room.most} bytes")
            if time.monotonic() - begun > self.patience_s + room.size / LEAST_BYTES_PER_S:
                raise TimeoutError(f"only {room.size} bytes came within {self.patience_s:g} s")
        if response.length:  # the connection ended before all of it came
            raise http.client.IncompleteRead(b"", response.length)
        response.close()  # the connection is free for the next request
        return room.body

    def _kept(self, origin: Origin) -> http.client.HTTPConnection | None:
        with self._lock:
            place = next((i for i, (of, _) in enumerate(self._idle) if of == origin), None)
            return None if place is None else self._idle.pop(place)[1]

    def _made(self, origin: Origin) -> http.client.HTTPConnection:
        if origin.tls:
            return _Https(origin, self._trust())
        return http.client.HTTPConnection(origin.host, origin.port, timeout=CONNECTS_WITHIN_S)

    def _connect(self, made: http.client.HTTPConnection) -> None:
        made.connect()
        made.sock.settimeout(self.patience_s)
        self._go_on()  # `abort` came before there was anything to shut

    def _trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.tls is not None and self.tls.exists():
            try:
                context.load_verify_locations(self.tls)
            except (OSError, ssl.SSLError) as error:
                raise Stalled("RegistryTls", f"{self.tls}: must hold certificates of authorities (PEM): {error}") from error
        return context

    # ---- credentials ---------------------------------------------------------------------------

    def _met(self, challenge: str) -> _Known:
        """The header that meets a challenge (RFC 7235; distribution's token authentication)."""
        scheme, _, rest = challenge.partition(" ")
        said = dict(_CHALLENGE.findall(rest))
        given = self._credentials()
        if scheme.lower() == "basic":
            if "Authorization" not in given:
                raise Stalled("RegistryRefused", f"{self.url}: asks for credentials; {self._config} must hold some for it")
            return _Known(given["Authorization"], time.monotonic() + TOKEN_LIVES_S)
        if scheme.lower() != "bearer" or "realm" not in said:
            raise Stalled("RegistryRefused", f"{self.url}: must ask for Basic or Bearer, it asks for {challenge[:200]}")
        if "registrytoken" in given:
            return _Known(f"Bearer {given['registrytoken']}", time.monotonic() + TOKEN_LIVES_S)
        return self._token(said, given)

    def _token(self, said: Mapping[str, str], given: Mapping[str, str]) -> _Known:
        asked = {name: said[name] for name in ("service", "scope") if name in said}
        realm, origin = said["realm"], _origin(said["realm"])
        if self.origin.tls and not origin.tls:
            raise Stalled("RegistryUrl", f"{realm}: the registry must not send credentials from https to http")
        headers = {"Accept": "application/json", "User-Agent": "knhk"}
        if "identitytoken" in given:
            form = {"grant_type": "refresh_token", "refresh_token": given["identitytoken"], "client_id": "knhk", **asked}
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            answer = self._exchanged(origin, "POST", realm, headers, urlencode(form).encode(), _Room(MAX_MANIFEST_BYTES))
        else:
            headers |= {name: given[name] for name in ("Authorization",) if name in given}
            url = f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(asked)}"
            answer = self._exchanged(origin, "GET", url, headers, b"", _Room(MAX_MANIFEST_BYTES))
        if answer.status != 200:
            raise _refused(realm, answer)
        document = parse_object(answer.body, realm)
        token, lives = document.get("token") or document.get("access_token"), document.get("expires_in")
        if not isinstance(token, str):
            raise Corrupt(realm, "must answer with a token")
        lives_s = lives if isinstance(lives, int) and lives > 0 else TOKEN_LIVES_S
        return _Known(f"Bearer {token}", time.monotonic() + 0.8 * lives_s)

    def _credentials(self) -> dict[str, str]:
        """What the docker config says of this registry: a header Authorization, a registrytoken or an identitytoken; nothing when it says
        nothing. Raises Stalled when it cannot be read."""
        if self.auth is None or not self.auth.exists():
            return {}
        self._must_be_private()
        try:
            document = parse_object(self.auth.read_bytes(), str(self.auth))
            auths = document.get("auths", {})
            rows = [row for name, row in auths.items() if _host_of(name) == _host_of(self._base)]
            row = rows[0] if rows else {}
            if not row and (document.get("credsStore") or document.get("credHelpers")):
                raise Stalled("RegistryAuth", f"{self.auth}: must hold the credentials themselves: helpers are not run here")
            tokens = {name: str(row[name]) for name in ("registrytoken", "identitytoken") if row.get(name)}
            if "username" in row:
                basic = base64.b64encode(f"{row['username']}:{row['password']}".encode()).decode()
            else:
                basic = str(row.get("auth", ""))
        except (OSError, Corrupt, AttributeError, KeyError, TypeError) as error:
            raise Stalled("RegistryAuth", f"{self.auth}: must be a docker config.json: {error}") from error
        return tokens | ({"Authorization": f"Basic {basic}"} if basic else {})

    def _must_be_private(self) -> None:
        if not self.origin.tls and not self.origin.is_loopback:
            raise Stalled("RegistryUrl", f"{self.url}: must be https: credentials go over TLS only")

    @property
    def _config(self) -> str:
        return str(self.auth) if self.auth is not None else "a docker config.json"

    @property
    def _authorities(self) -> str:
        return str(self.tls) if self.tls is not None else "the system's store"

    @property
    def _base(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def _named(self, target: str) -> str:
        """For people: without what a registry hides in the query of an upload."""
        parts = urlsplit(urljoin(f"{self._base}/v2/{self.name}/", target))
        return f"{parts.scheme}://{parts.netloc}{parts.path}"


def fallback_tag(digest: str) -> str:
    """The tag under which referrers of `digest` are listed where there is no referrers API."""
    return digest.replace(":", "-")


def described(document: Mapping[str, Any], data: bytes, where: str) -> Descriptor:
    """The descriptor of a manifest or index, by what it says of itself. Raises Corrupt."""
    config = document.get("config")
    kind = document.get("artifactType") or (config.get("mediaType", "") if isinstance(config, dict) else "")
    item = {"mediaType": document.get("mediaType"), "digest": _digest(data), "size": len(data), "artifactType": kind}
    return descriptor(item | {"annotations": document.get("annotations") or {}}, where)


def _shut(connection: http.client.HTTPConnection) -> None:
    """Whoever reads of it, or writes, goes on with an error. By the plain socket's way: TLS would have both sides say goodbye."""
    if (found := connection.sock) is not None:
        with suppress(OSError):
            socket.socket.shutdown(found, socket.SHUT_RDWR)


def _says_signature(entry: Descriptor) -> bool:
    return entry.artifact_type == SIGNED and entry.annotations.get(PREDICATE, SIGNATURE_PREDICATE) == SIGNATURE_PREDICATE


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _origin(url: str) -> Origin:
    parts = urlsplit(url)
    try:
        port = parts.port or {"https": 443, "http": 80}[parts.scheme]
    except (KeyError, ValueError):
        raise Stalled("RegistryUrl", f"{url[:200]}: must be https://HOST[:PORT]/REPOSITORY") from None
    if not parts.hostname or parts.username is not None:
        raise Stalled("RegistryUrl", f"{parts.scheme}://{parts.hostname}: must name a host, and no user")
    return Origin(parts.scheme == "https", parts.hostname, port)


def _host_of(name: str) -> str:
    """HOST[:PORT] of what a docker config or a URL names."""
    return name.partition("://")[2].partition("/")[0] if "://" in name else name.partition("/")[0]


def _refused(where: str, answer: Answer) -> KnhkError:
    """What an answer that was not asked for means."""
    said = _message(answer)
    if answer.status in BUSY:
        after = answer.headers.get("retry-after", "")
        return Waiting("RegistryBusy", f"{where}: {answer.status} {said}", min(float(after), 300.0) if after.isdecimal() else RETRY_AFTER_S)
    if answer.status in (401, 403):
        return Stalled("RegistryRefused", f"{where}: {answer.status} {said}: the credentials of this process must be allowed to do this")
    return Stalled("RegistryRefused", f"{where}: {answer.status} {said}")


def _unsettled(answer: Answer) -> bool:
    """A blob is there and the registry does not see it: docker-registry empties the link of one that another client brings, too, and reads
    it meanwhile (MANIFEST_BLOB_UNKNOWN, with DIGEST_INVALID for the empty link)."""
    return answer.status in (400, 404) and "MANIFEST_BLOB_UNKNOWN" in _message(answer)


def _message(answer: Answer) -> str:
    """The registry's own words."""
    try:
        rows = json.loads(answer.body)["errors"]
        return "; ".join(f"{row.get('code', '')} {row.get('message', '')}".strip() for row in rows)[:500]
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer.body[:200].decode(errors="replace").strip()
