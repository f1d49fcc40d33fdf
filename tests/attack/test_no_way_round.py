"""Nothing reaches the application that the policy would not admit: each test attacks a real point from outside and judges what was stored.

The application stores whatever reaches it. Rows are judged by `attack_policy`, which shares nothing with the product; refusals by their
leaves in the log.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import hmac
import json
import os
import sqlite3
import stat
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from attack_http2 import Http2
from attack_policy import admissible
from attack_world import Answer, House
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from system_world import APP

from identity import AUDIENCE, ISSUER, KEY_ID, IdentityProvider
from knhk.wiring.home import Home

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("attack-house")]

JSON = "Content-Type: application/json"


# ---- who is calling --------------------------------------------------------------------------------


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {"sub": "dora", "iss": ISSUER, "aud": AUDIENCE, "iat": now - 1, "exp": now + 3600, **changes}
    return {name: value for name, value in made.items() if value is not None}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], payload: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(payload).encode())}"
    return f"{signed}.{b64(sign(signed.encode()))}"


def false_tokens(provider: IdentityProvider) -> dict[str, str]:
    """Tokens that must not pass, by what is wrong with them."""
    right = provider.token("dora")
    header, payload, signature = right.split(".")
    stranger = IdentityProvider(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    public = provider.key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def signed(**changes: Any) -> str:
        return jwt.encode(claims(**changes), provider.key, algorithm="RS256", headers={"kid": KEY_ID})

    def hs256(key: bytes) -> str:
        return by_hand({"alg": "HS256", "typ": "JWT", "kid": KEY_ID}, claims(), lambda text: hmac.new(key, text, hashlib.sha256).digest())

    own = json.loads(stranger.jwks())["keys"][0]
    embedded = {"kid": KEY_ID, "jwk": own, "jku": "https://attacker.example/jwks.json"}
    return {
        "missing": "",
        "expired": provider.token("dora", lifetime_s=-3600),
        "without expiry": signed(exp=None),
        "not yet valid": signed(nbf=int(time.time()) + 3600),
        "another issuer": provider.token("dora", issuer="https://idp.attacker.example"),
        "issuer with a slash more": provider.token("dora", issuer=ISSUER + "/"),
        "no issuer": signed(iss=None),
        "another audience": provider.token("dora", audience="payroll"),
        "no audience": signed(aud=None),
        "a stranger's key under our key id": stranger.token("dora"),
        "a stranger's key sent along": jwt.encode(claims(), stranger.key, algorithm="RS256", headers=embedded),
        "alg none": by_hand({"alg": "none", "typ": "JWT"}, claims(), lambda _: b""),
        "alg None": by_hand({"alg": "None", "typ": "JWT", "kid": KEY_ID}, claims(), lambda _: b""),
        "HS256 with the public key": hs256(public),
        "HS256 with the key set": hs256(provider.jwks().encode()),
        "no signature": f"{header}.{payload}.",
        "two parts": f"{header}.{payload}",
        "another caller under the signature": f"{header}.{b64(json.dumps(claims(sub='root')).encode())}.{signature}",
        "not base64": f"{header}.{payload}.{'*' * len(signature)}",
        "very long": "a" * 20_000,
    }


def test_false_tokens(house: House) -> None:
    """No token but one that our issuer signed for us, now, lets a caller in; Envoy answers 401 (403 for an audience), no pack is asked, and
    a receipt says so."""
    since, refused = len(house.rows), list[Answer]()
    body = house.body()
    for what, token in false_tokens(house.provider).items():
        answers = house.ask(body, JSON, token=token)
        assert [answer.status for answer in answers] == [403 if "audience" in what else 401], f"{what}: {answers}"
        refused += answers
    assert all(answer.receipt for answer in refused)
    house.assert_kept_out(since, refused)


def test_tokens_from_elsewhere(house: House) -> None:
    """A right token in a query, a cookie, another header or another scheme is no token."""
    since, refused, token, body = len(house.rows), list[Answer](), house.provider.token("dora"), house.body()
    places = [
        (f"POST /invoices?access_token={token} HTTP/1.1", ()),
        ("POST /invoices HTTP/1.1", (f"Cookie: access_token={token}",)),
        ("POST /invoices HTTP/1.1", (f"X-Authorization: Bearer {token}",)),
        ("POST /invoices HTTP/1.1", (f"Authorization: Basic {token}",)),
        ("POST /invoices HTTP/1.1", (f"Proxy-Authorization: Bearer {token}",)),
    ]
    for line, more in places:
        answers = house.ask(body, JSON, *more, line=line, token="")
        assert [answer.status for answer in answers] == [401], (line, more, answers)
        refused += answers
    assert all(answer.receipt for answer in refused)
    house.assert_kept_out(since, refused)


@pytest.mark.parametrize("order", ["own first", "own last"])
def test_two_tokens(house: House, order: str) -> None:
    """A caller with a token of his own beside a forged one of a director stays who he is."""
    since = len(house.rows)
    forged = by_hand({"alg": "none"}, claims(), lambda _: b"")
    tokens = [house.provider.token("clerk-001"), forged][:: 1 if order == "own first" else -1]
    body = house.body()
    second = f"Authorization: Bearer {tokens[1]}"
    answers = house.ask(body, JSON, second, line="POST /invoices/x-1/approve HTTP/1.1", token=tokens[0])
    house.assert_kept_out(since, answers, order)


FORGED = [
    f"{name}: {value}"
    for value in ("dora",)
    for name in (
        *("sub", "Sub", "SUB", "x-sub", "X-Sub", "x-jwt-sub", "iss", "x-iss", "action", "X-Action", "peer", "x-peer", "path.id", "Path.Id"),
        *("knhk-sub", "Knhk-Sub", "KNHK-SUB", "knhk-attr-sub", "knhk-receipt", "Knhk-Receipt", "knhk-action", "knhk-"),
    )
]
UNDERSCORES = [f"{name}: dora" for name in ("knhk_sub", "knhk_receipt", "KNHK_RECEIPT", "x_sub", "knhk_decision")]


def test_forged_attributes(house: House) -> None:
    """A clerk does not become a director by any header; none of them reaches the application."""
    since, body = len(house.rows), house.body(totals__payable="100.00")
    answers = []
    for field in (*FORGED, *UNDERSCORES):
        for repeated in ((field,), (field, field)):
            answers.append(house.post(body, "POST /invoices/x-1/approve HTTP/1.1", more=repeated))
    house.assert_kept_out(since, answers)
    for field in FORGED:
        before = len(house.rows)
        assert house.post(body, more=(field, field)).status == 201, field
        row = house.rows[before]
        name = field.split(":")[0].lower()
        assert row.header(name) in ([], [row.header("knhk-receipt")[0]]), f"{field} reached the application: {row.headers}"
        assert "dora" not in str(row.headers)
    house.assert_rows_right(since)


STEERING = (
    *(f"x-{name}: DELETE" for name in ("http-method-override", "http-method", "method-override", "original-method", "forwarded-method")),
    *(
        f"x-{name}: /admin"
        for name in ("original-url", "rewrite-url", "forwarded-uri", "original-uri", "forwarded-path", "forwarded-prefix")
    ),
    *("x-envoy-original-path: /admin", "x-envoy-original-method: DELETE", "x-envoy-original-host: admin"),
    *(f"{name}: dora" for name in ("x-forwarded-user", "x-remote-user", "remote-user", "x-auth-request-user", "x-user", "x-webauth-user")),
    *(f"{name}: dora" for name in ("x-forwarded-email", "x-forwarded-groups", "x-auth-request-email", "x-ms-client-principal")),
    *(f"{name}: host=admin.example" for name in ("forwarded", "x-forwarded-host", "x-original-host", "x-host", "x-forwarded-server")),
    *(f"{name}: CN=dora" for name in ("x-ssl-client-s-dn", "x-client-dn", "ssl-client-cert", "client-cert", "x-forwarded-client-cert")),
)


def test_headers_that_steer_an_application(house: House) -> None:
    """What was judged is what the application does: no header that frameworks take for another method, path or caller gets there."""
    since, body = len(house.rows), house.body()
    for field in STEERING:
        before = len(house.rows)
        name, value = field.split(": ")
        assert house.post(body, more=(field,)).status == 201, field
        assert value not in str(house.rows[before].header(name)), f"{field} reached the application"
    house.assert_rows_right(since)


RETRIES = (
    ("x-envoy-retry-on: retriable-status-codes", "x-envoy-retriable-status-codes: 201", "x-envoy-max-retries: 5"),
    ("x-envoy-retry-on: 5xx,retriable-headers", "x-envoy-retriable-header-names: content-length", "x-envoy-max-retries: 5"),
    ("x-envoy-hedge-on-per-try-timeout: true", "x-envoy-upstream-rq-per-try-timeout-ms: 1", "x-envoy-max-retries: 5"),
)


@pytest.mark.parametrize("fields", RETRIES, ids=["status", "headers", "hedge"])
def test_headers_that_steer_envoy(house: House, fields: tuple[str, ...]) -> None:
    """One receipt admits one request once: a client cannot make Envoy send it to the application again."""
    since = len(house.rows)
    house.post(house.body(), more=fields)
    receipts = [row.header("knhk-receipt")[0] for row in house.rows[since:]]
    assert len(receipts) == len(set(receipts)) == 1, f"one admitted request reached the application {len(receipts)} times"


def test_hop_by_hop_names(house: House) -> None:
    """A client cannot have the receipt removed by naming it in Connection."""
    since, body = len(house.rows), house.body()
    house.post(body, more=("Connection: close, knhk-receipt, content-type", "TE: trailers", "Keep-Alive: timeout=5"))
    house.assert_rows_right(since)


# ---- where it goes ---------------------------------------------------------------------------------

PATHS = (
    *("/", "*", "/invoice", "/invoicesx", "/Invoices", "/INVOICES", "/invoices/", "/admin", "/invoices/x/approve/", "/invoices/x/Approve"),
    *("/invoices/x/approve/now", "/invoices//approve", "/invoices/x/reject", "/invoices;v=1", "/invoices;", "/invoices/x;y/approve;z"),
    *("/%69nvoices%2f", "/invoices%2f", "/invoices%2F..", "/invoices%5c", "/invoices\\x", "/invoices%00", "/invoices/%00/approve"),
    *("/invoices%0d%0aX", "/invoices/..%2f..%2fadmin", "/invoices/%2e%2e/admin", "/x/%2e%2e/admin", "/invoices/.%2e/approve"),
    *("/invoices/x/%2e%2e/%2e%2e/admin", "/invoices/%252e%252e%252fadmin/reject", "/invoices/%c0%ae%c0%ae/approve"),
    *("/invoices/%ff/approve", "/invoices/%/approve", "/invoices/%2/approve", "/invoices%3fx=1", "/invoices%23", "/invoices#x"),
    *("/invoices?", "/invoices?x=1", "/invoices?/../admin", "/invoices/x/approve?as=dora", "http://orders.example/invoices?x"),
    *("http://orders.example/admin", "//orders.example/admin", "http://[::1/invoices", "invoices"),
    *("/invoices/" + "a" * 5000 + "/approve", "/" + "a" * 60_000, "/invoices" + "/x" * 5000),
)


def test_paths(house: House) -> None:
    """Only the declared routes exist, however a path is written; what is normalised reaches the application normalised."""
    since, answers, body = len(house.rows), [], house.body()
    for path in PATHS:
        for method in ("POST", "GET"):
            sent = (body, JSON) if method == "POST" else (b"",)
            answers += house.ask(*sent, line=f"{method} {path} HTTP/1.1")
    house.assert_rows_right(since)
    assert not [row for row in house.rows[since:] if row.method != "GET"], "a path that is not exactly a route's was taken for it"
    house.assert_leaves([answer.receipt for answer in answers if answer.receipt and answer.status != 201])


EQUAL = ("//invoices", "/./invoices", "/%69nvoices", "/x/../invoices", "/invoices/.", "/%2e/invoices", "http://orders.example/invoices")


def test_paths_that_mean_a_route(house: House) -> None:
    """What the application gets is the path that was judged, in its one spelling."""
    since = len(house.rows)
    for path in EQUAL:
        house.post(house.body(), f"POST {path} HTTP/1.1")
    house.assert_rows_right(since)


def test_methods(house: House) -> None:
    """A route is a method and a path; no other method gets through, and no tunnel or upgrade."""
    since, answers, body = len(house.rows), [], house.body()
    for method in ("HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "DELETE", "post", "Post", "PROPFIND", "PURGE", "POSTX", "PRI"):
        answers += house.ask(body, JSON, line=f"{method} /invoices HTTP/1.1")
    posts = [f"POST /invoices{version}" for version in (" HTTP/1.0", " HTTP/2.0", "")]
    for line in ("CONNECT orders.example:80 HTTP/1.1", "CONNECT /invoices HTTP/1.1", *posts):
        answers += house.ask(body, JSON, line=line)
    for upgrade in ("websocket", "h2c", "TLS/1.0", "foo, websocket"):
        fields = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAMAAABkAAQAAP__")
        socket_fields = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
        answers += house.raw(house.head("GET /invoices/x HTTP/1.1", more=(*fields, *socket_fields)) + b"\r\n\r\n")
    assert not [answer for answer in answers if answer.status == 101]
    house.assert_rows_right(since)
    assert not [row for row in house.rows[since:] if row.header("upgrade")], "an upgrade reached the application"
    house.assert_leaves([answer.receipt for answer in answers if answer.receipt and answer.status >= 400])


# ---- framing ---------------------------------------------------------------------------------------


def smuggled(house: House) -> bytes:
    """A second request inside the body of a first: an approval by nobody."""
    inner = house.body()
    head = b"POST /invoices/x-9/approve HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n%s" % (len(inner), inner)


def chunked(*parts: bytes, last: bytes = b"0\r\n\r\n", extension: bytes = b"") -> bytes:
    return b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts) + last


FRAMINGS: dict[str, tuple[str, ...]] = {
    "CL.TE": ("Content-Length: 6", "Transfer-Encoding: chunked"),
    "TE.CL": ("Transfer-Encoding: chunked", "Content-Length: 4"),
    "TE with a tab": ("Content-Length: 6", "Transfer-Encoding:\tchunked"),
    "TE with a space before the colon": ("Content-Length: 6", "Transfer-Encoding : chunked"),
    "TE in mixed case": ("Content-Length: 6", "tRANSFER-eNCODING: cHUNKED"),
    "TE of two": ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
    "TE identity": ("Content-Length: 6", "Transfer-Encoding: identity"),
    "TE xchunked": ("Content-Length: 6", "Transfer-Encoding: xchunked"),
    "TE gzip, chunked": ("Transfer-Encoding: gzip, chunked",),
    "TE chunked, gzip": ("Transfer-Encoding: chunked, gzip",),
    "TE folded": ("Content-Length: 6", "Transfer-Encoding:\r\n chunked"),
    "folded value": ("X-Fold: a\r\n Content-Length: 6", "Transfer-Encoding: chunked", "Content-Length: 6"),
    "CL twice, different": ("Content-Length: 0", "Content-Length: 6"),
    "CL list": ("Content-Length: 6, 6",),
    "CL signed": ("Content-Length: +6",),
    "CL negative": ("Content-Length: -1",),
    "CL hex": ("Content-Length: 0x6",),
    "CL huge": ("Content-Length: 18446744073709551622",),
    "CL empty": ("Content-Length: ",),
    "CR in a value": ("X-A: b\rTransfer-Encoding: chunked", "Content-Length: 6"),
    "NUL in a name": ("Content-Length\0: 0", "Content-Length: 6"),
    "line feed only": ("X-A: b\nTransfer-Encoding: chunked", "Content-Length: 6"),
}


def test_smuggling(house: House) -> None:
    """No pair of length and encoding lets a second request through inside a first, whoever is asked first."""
    since, tail = len(house.rows), smuggled(house)
    for what, framing in FRAMINGS.items():
        for start in (b"0\r\n\r\n", chunked(b"{}", last=b"0\r\n\r\n"), b"{}\r\n\r\n"):
            house.raw(house.head(more=(JSON, *framing)) + b"\r\n\r\n" + start + tail)
        assert house.rows[since:] == [], f"{what}: reached the application: {house.rows[since:]}"


def test_a_refused_body_is_no_next_request(house: House) -> None:
    """What is left of a body that was refused at its headers is never read as a request: encodings, media types, methods, no token."""
    since, tail = len(house.rows), smuggled(house)
    right = house.head("POST /invoices/x-9/approve HTTP/1.1", caller="clerk-002", more=(JSON,))
    answers: list[Answer] = []
    refused = (
        ("Content-Encoding: gzip",),
        ("Content-Type: text/plain",),
        ("Expect: 100-continue", "Content-Encoding: br"),
        ("Upgrade: x",),
    )
    for fields in refused:
        answers += house.raw(house.head(more=(*fields, f"Content-Length: {len(tail)}")) + b"\r\n\r\n" + tail)
        answers += house.raw(house.head(more=(*fields, "Transfer-Encoding: chunked")) + b"\r\n\r\n" + chunked(tail) + right + b"\r\n\r\n")
    answers += house.raw(house.head(token="", more=(JSON, f"Content-Length: {len(tail)}")) + b"\r\n\r\n" + tail)
    house.assert_kept_out(since, answers)


def test_chunks(house: House) -> None:
    """However a body is cut, the whole of it is judged: one byte a chunk, extensions, trailers, an early end."""
    since, wrong, right = len(house.rows), house.body(currency="XXQ"), house.body()
    head = house.head(more=(JSON, "Transfer-Encoding: chunked", "Connection: close")) + b"\r\n\r\n"
    single = [wrong[i : i + 1] for i in range(len(wrong))]
    for what, data in {
        "one byte each": chunked(*single),
        "extensions": chunked(wrong, extension=b';x="' + b"y" * 100 + b'"'),
        "trailers": chunked(wrong, last=b"0\r\nknhk-sub: dora\r\nContent-Type: text/plain\r\n\r\n"),
        "two documents": chunked(right, wrong),
        "an early end": chunked(right[:-20]),
        "no end": chunked(right, last=b""),
        "a chunk shorter than it says": b"%x\r\n%s\r\n0\r\n\r\n" % (len(right) + 50, right),
        "a negative chunk": b"-1\r\n" + right,
        "a huge chunk": b"ffffffffffffffff\r\n" + right,
        "a chunk size with 0x": b"0x%x\r\n%s\r\n0\r\n\r\n" % (len(right), right),
    }.items():
        house.assert_kept_out(since, house.raw(head + data), what)
    cut = chunked(right[:10], right[10:], last=b"0\r\nx-trailer: y\r\n\r\n", extension=b";a=b")
    assert [answer.status for answer in house.raw(head + cut)] == [201]
    assert house.rows[-1].body == right


def test_pipelines(house: House) -> None:
    """Requests on one connection are judged each for itself: a right one does not carry a wrong one."""
    since = len(house.rows)
    right, wrong = house.body(), house.body(currency="XXQ")

    def whole(body: bytes, line: str = "POST /invoices HTTP/1.1", caller: str = "clerk-001") -> bytes:
        return house.head(line, caller=caller, more=(JSON, f"Content-Length: {len(body)}")) + b"\r\n\r\n" + body

    approve = "POST /invoices/x-1/approve HTTP/1.1"
    parts = [whole(right), whole(wrong), whole(right, approve), whole(right, approve, "dora"), whole(wrong, approve, "dora"), whole(right)]
    answers = house.raw(b"".join(parts), least=2)
    assert [answer.status for answer in answers] == [201, 403, 403, 201, 403, 201][: len(answers)], "Envoy may close after a refusal"
    stored = ["/invoices", "/invoices/x-1/approve", "/invoices"]
    assert [row.target for row in house.rows[since:]] == stored[: sum(answer.status == 201 for answer in answers)]
    house.assert_leaves([answer.receipt for answer in answers if answer.status == 403])


def test_expect_and_empty(house: House) -> None:
    """Expect: 100-continue changes nothing; an empty body is no invoice; a body where none belongs is refused."""
    since, wrong = len(house.rows), house.body(currency="XXQ")
    answers = [house.post(wrong, more=("Expect: 100-continue",)), house.post(b""), house.post(b" "), house.post(b"null"), house.post(b"{}")]
    for more in (("Content-Length: 0",), ("Transfer-Encoding: chunked",), ()):
        tail = b"\r\n\r\n" + (b"0\r\n\r\n" if "chunked" in str(more) else b"")
        answers += house.raw(house.head(more=("Connection: close", *more)) + tail)
        answers += house.raw(house.head("POST /invoices/x-1/approve HTTP/1.1", caller="dora", more=("Connection: close", *more)) + tail)
    for fields, body in (((JSON, "Content-Length: 2"), b"{}"), (("Transfer-Encoding: chunked",), chunked(b"{}"))):
        answers += house.raw(house.head("GET /invoices/x HTTP/1.1", more=(*fields, "Connection: close")) + b"\r\n\r\n" + body)
    house.assert_kept_out(since, answers)


def test_the_largest_body(house: House) -> None:
    """1 MiB is judged whole; a byte more is refused, with and without a length."""
    since, most = len(house.rows), 1 << 20

    def padded(size: int, **changes: Any) -> bytes:
        body = house.body(**changes)
        return body[:-1] + b" " * (size - len(body)) + b"}"

    assert house.post(padded(most)).status == 201
    assert house.post(padded(most - 1)).status == 201
    before = len(house.rows)
    answers = [house.post(padded(most, currency="XXQ")), house.post(padded(most + 1)), house.post(padded(most + 1, currency="XXQ"))]
    head = house.head(more=(JSON, "Transfer-Encoding: chunked", "Connection: close")) + b"\r\n\r\n"
    answers += house.raw(head + chunked(padded(most + 1)))
    answers += house.raw(head + chunked(padded(most), b"{}" * 100))
    house.assert_kept_out(before, answers)
    house.assert_rows_right(since)


# ---- encodings and charsets -------------------------------------------------------------------------


def test_encodings_and_media_types(house: House) -> None:
    """A body is read as it was sent: no content encoding, no other charset, no other media type."""
    since, body, answers = len(house.rows), house.body(), []
    packed = {"gzip": gzip.compress(body), "deflate": zlib.compress(body)}
    for encoding in (*packed, "x-gzip", "br", "identity", "gzip, identity", ""):
        answers.append(house.post(packed.get(encoding, body), more=(f"Content-Encoding: {encoding}",)))
    for media in (
        *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml", "application/json5"),
        *("application/jsonx", "application/json; charset=utf-16", "application/json; charset=utf-7", "application/ld+json", ""),
        *("application/json; charset=UTF-8; charset=utf-16", "application/json; version=2", "application/json, text/plain"),
        *("*/*", "application/*", "text/json", "application/json;charset=latin1"),
    ):
        answers += house.ask(body, f"Content-Type: {media}")
    answers += house.ask(body, JSON, "Content-Type: text/plain")
    house.assert_kept_out(since, answers)


def test_charsets(house: House) -> None:
    """Only UTF-8 is read; a body that Python would guess to be something else is none."""
    since, wrong, right = len(house.rows), house.envelope(currency="XXQ"), house.envelope()
    answers = []
    for document in (wrong, right):
        text = json.dumps(document)
        for data in (
            *(text.encode(name) for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "utf-8-sig")),
            *(text.encode() + b"\0", b"\0" + text.encode(), text.encode() + b"\x1a", text.replace('"', '"\x00', 1).encode()),
            *(f"+AHs-{text[1:]}".encode(), text.encode().replace(b'"doc"', b'"d\xc1\xafc"', 1)),
            json.dumps({**document, "x": "\xe9"}, ensure_ascii=False).encode("latin-1"),
        ):
            answers.append(house.post(data))
    house.assert_kept_out(since, answers)


# ---- two parsers -----------------------------------------------------------------------------------


def variants(house: House) -> dict[str, bytes]:
    """Bodies in which one parser may see a right invoice and another a wrong one."""
    text = json.dumps(house.envelope(currency="EUR", totals__payable="100.00"))
    assert '"currency": "EUR"' in text

    def put(old: str, new: str) -> bytes:
        made = text.replace(old, new, 1)
        assert made != text, old
        return made.encode("utf-8", "surrogatepass")

    def currency(value: str) -> bytes:
        return put('"currency": "EUR"', value)

    def payable(value: str) -> bytes:
        return put('"payable": "100.00"', f'"payable": {value}')

    made = {
        "repeated member, wrong last": currency('"currency": "EUR", "currency": "XXQ"'),
        "repeated member, wrong first": currency('"currency": "XXQ", "currency": "EUR"'),
        "repeated by an escape": currency('"currency": "EUR", "curr\\u0065ncy": "XXQ"'),
        "escape first": currency('"\\u0063urrency": "XXQ", "currency": "EUR"'),
        "repeated doc": put('"doc":', '"doc": {"currency": "XXQ"}, "doc":'),
        "repeated by an escape, doc": put('"doc":', '"d\\u006fc": {"currency": "XXQ"}, "doc":'),
        "repeated deep in what nobody reads": put('"doc":', '"head": {"a": {"b": 1, "b": 2}}, "doc":'),
        "repeated empty name": put('"doc":', '"": 1, "": 2, "doc":'),
        "only an escape, wrong": currency('"curr\\u0065ncy": "XXQ"'),
        "name with a NUL": currency('"currency\\u0000": "EUR"'),
        "value with a NUL": currency('"currency": "EUR\\u0000"'),
        "lone surrogate in a name": currency('"currency": "EUR", "\\ud800": 1'),
        "lone surrogate in a value": currency('"currency": "\\ud800"'),
        "reversed surrogates": currency('"currency": "EUR", "x": "\\udc00\\ud800"'),
        "half a surrogate pair": currency('"currency": "EUR", "x": "\\ud83d"'),
        "raw surrogate": currency('"currency": "EUR", "x": "\ud800"'),
        "invalid escape": currency('"currency": "EU\\R"'),
        "control character": currency('"currency": "EUR", "x": "\x01"'),
        "raw line feed": currency('"currency": "EUR", "x": "a\nb"'),
        "comment": put("{", "{/* currency: XXQ */"),
        "line comment": put("{", "{// x\n"),
        "hash comment": put("{", "{# x\n"),
        "trailing comma": text[:-1].encode() + b",}",
        "leading comma": put("{", "{,"),
        "single quotes": currency("'currency': 'EUR'"),
        "bare name": currency('currency: "EUR"'),
        "a second document": text.encode() + json.dumps(house.envelope(currency="XXQ")).encode(),
        "text after it": text.encode() + b" x",
        "text before it": b")]}',\n" + text.encode(),
        "NaN": payable("NaN"),
        "Infinity": payable("Infinity"),
        "-Infinity": payable("-Infinity"),
        "1e400": payable("1e400"),
        "-1e400": payable("-1e400"),
        "-1": payable("-1"),
        "-0.01 as text": payable('"-0.01"'),
        "-1e-400": payable("-1e-400"),
        "leading zeros": payable("0100"),
        "plus": payable("+100"),
        "bare point": payable(".5"),
        "point at the end": payable("5."),
        "hex": payable("0x10"),
        "with a separator": payable("1_000"),
        "text with a separator": payable('"1_000"'),
        "text with a comma": payable('"1,000.00"'),
        "text with a space": payable('" 100.00"'),
        "text in other digits": payable('"\u0661\u0660\u0660"'),
        "text with an exponent": payable('"1e2"'),
        "text NaN": payable('"NaN"'),
        "text hex": payable('"0x10"'),
        "empty text": payable('""'),
        "true": payable("true"),
        "null": payable("null"),
        "a list": payable('["100.00"]'),
        "an object": payable('{"value": "100.00"}'),
        "very many digits, negative": payable("-" + "9" * 5000),
        "date with digits of elsewhere": put('"issue_date": "', '"issue_date": "\u0662'),
        "deep": b'{"a":' * 70 + b"1" + b"}" * 70,
        "deep beside the invoice": put('"doc":', '"x": ' + "[" * 100 + "]" * 100 + ', "doc":'),
        "very deep": b"[" * 400_000,
        "a list of invoices": b"[" + text.encode() + b"]",
        "a text": json.dumps(text).encode(),
        "a line that is a list": put('"lines": [{', '"lines": [[], {'),
        "a line that is null": put('"lines": [{', '"lines": [null, {'),
        "quantity of a second line": put('"lines": [{', '"lines": [{"quantity": "0"}, {'),
        "many members": put('"doc":', ", ".join(f'"m{i}": {i}' for i in range(40_000)) + ', "doc":'),
    }
    return made


def test_what_one_parser_sees_and_another_does_not(house: House) -> None:
    """No body in which a parser of the application could see what the guard did not: none is stored unless every reading is right."""
    since, answers = len(house.rows), []
    for what, body in variants(house).items():
        before = len(house.rows)
        answer = house.post(body)
        for row in house.rows[before:]:
            why = admissible(row.method, row.target, row.body, "clerk-001")
            assert not why, f"{what}: was stored, but {why}: {body[:300]!r}"
        assert answer.status in (201, 202) or 400 <= answer.status < 600, f"{what}: {answer.status}"
        if answer.status >= 400:
            answers.append(answer)
        assert answer.receipt or answer.status in (400, 413), f"{what}: {answer.status} without a receipt"
    house.assert_leaves([answer.receipt for answer in answers if answer.receipt])
    stored = len(house.rows) - since
    assert stored <= 12, f"{stored} of the wrong bodies were stored"


AMOUNTS = (
    *("7500.01", "7500.000000000000000000000000001", "7500.010000000000000000000000", "250000.01"),
    *("1e5", "1E+9", "9" * 40, "999999999999999999999.5"),
)


@pytest.mark.parametrize("form", ["number", "text"])
def test_amounts_above_the_limit(house: House, form: str) -> None:
    """Who may approve 7,500 approves no cent more, however the amount is written."""
    since, answers = len(house.rows), []
    for amount in AMOUNTS:
        text = house.body(totals__payable="@").decode().replace('"@"', amount if form == "number" else f'"{amount}"')
        answers.append(house.post(text.encode(), "POST /invoices/x-1/approve HTTP/1.1", caller="mia"))
    for row in house.rows[since:]:
        assert not (why := admissible(row.method, row.target, row.body, "mia")), why
    assert house.rows[since:] == []
    house.assert_leaves([answer.receipt for answer in answers if answer.status == 403])


# ---- HTTP/2 ----------------------------------------------------------------------------------------


def test_http2(house: House) -> None:
    """The same door for HTTP/2: pseudo-headers, names, trailers, lengths and extended CONNECT open no other."""
    since, right, wrong = len(house.rows), house.body(), house.body(currency="XXQ")
    token = house.provider.token("clerk-001")

    def fields(*more: tuple[str, str], method: str = "POST", path: str = "/invoices") -> list[tuple[str, str]]:
        pseudo = [(":method", method), (":scheme", "http"), (":authority", "orders.example"), (":path", path)]
        return [*pseudo, ("authorization", f"Bearer {token}"), ("content-type", "application/json"), *more]

    with Http2(house.port) as client:
        assert client.send(fields(), right) == 201
    assert len(house.rows) == since + 1
    attempts: dict[str, tuple[list[tuple[str, str]], bytes, list[tuple[str, str]]]] = {
        "wrong body": (fields(), wrong, []),
        "trailers after a wrong body": (fields(("te", "trailers")), wrong, [("x-end", "1"), ("knhk-sub", "dora")]),
        "trailers that name us": (fields(), wrong, [("knhk-receipt", "0" * 32)]),
        "approve as a clerk": (fields(path="/invoices/x/approve"), right, []),
        "header knhk-sub": (fields(("knhk-sub", "dora"), ("sub", "dora"), path="/invoices/x/approve"), right, []),
        "upper-case name": (fields(("Knhk-Sub", "dora")), right, []),
        "name with a colon": (fields(("x:y", "1")), right, []),
        "name with a line end": (fields(("x\r\ntransfer-encoding", "chunked")), right, []),
        "value with a line end": (fields(("x-a", "b\r\ntransfer-encoding: chunked\r\n\r\nPOST /admin HTTP/1.1")), right, []),
        "transfer-encoding": (fields(("transfer-encoding", "chunked")), right, []),
        "connection": (fields(("connection", "close")), right, []),
        "length too small": (fields(("content-length", "1")), right, []),
        "length too large": (fields(("content-length", str(len(right) + 10))), right, []),
        "path with a query": (fields(path="/invoices?x=1"), right, []),
        "path empty": (fields(path=""), right, []),
        "path with a line end": (fields(path="/invoices HTTP/1.1\r\nx: y"), right, []),
        "method with a space": (fields(method="POST /admin"), right, []),
        "path twice": ([*fields(), (":path", "/admin")], right, []),
        "pseudo-header of its own": (fields((":knhk", "x")), right, []),
        "pseudo-header in the trailers": (fields(), wrong, [(":path", "/admin")]),
        "extended CONNECT": ([(":protocol", "websocket"), *fields(method="CONNECT")], b"", []),
        "CONNECT": ([(":method", "CONNECT"), (":authority", "orders.example"), ("authorization", f"Bearer {token}")], b"", []),
        "encoding": (fields(("content-encoding", "gzip")), right, []),
        "no token": ([field for field in fields() if field[0] != "authorization"], right, []),
    }
    before = len(house.rows)
    for what, (headers, body, trailers) in attempts.items():
        with Http2(house.port) as client:
            status = client.send(headers, body, trailers, continuation=len(what) % 2 == 0)
        assert status is None or status >= 400, f"{what}: {status}"
        assert house.rows[before:] == [], f"{what}: reached the application: {house.rows[before:]}"
    with Http2(house.port) as client:
        assert client.send(fields(("host", "admin.example")), right) in (201, 400, None)
    house.assert_rows_right(since)


# ---- past the point --------------------------------------------------------------------------------

CONNECT = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
with socket.socket(socket.AF_UNIX) as s:
    try:
        s.connect(sys.argv[1])
    except PermissionError:
        sys.exit(13)
"""


def test_the_application_itself(house: House) -> None:
    """Only Envoy's user reaches the application: its folder lets nobody else in, and nothing of it listens on TCP."""
    folder = house.app.socket.parent  # type: ignore[attr-defined]
    status = folder.stat()
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert status.st_uid == os.getuid()
    if os.getuid() == 0:
        done = subprocess.run([sys.executable, "-c", CONNECT, str(house.app.socket)], cwd="/", check=False)  # type: ignore[attr-defined]
        assert done.returncode == 13, "another user of this machine reached the application"


def test_the_limit_of_loopback(tmp_path: Path) -> None:
    """What an upstream of host and port costs: every process of this machine goes round the point. Such a row shows: no leaf has its
    receipt."""
    argv = [sys.executable, str(APP), "--db", str(tmp_path / "app.db"), "--port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = json.loads(process.stdout.readline())["port"]
            request = urllib.request.Request(f"http://127.0.0.1:{port}/invoices", b"{}", method="POST")
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.status == 201
        finally:
            process.terminate()
    with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as db:
        assert db.execute("SELECT receipt FROM entries").fetchall() == [("",)]


def test_the_private_sockets(house: House) -> None:
    """Nobody else reaches the agent, the sequencer or Envoy's admin socket either."""
    ours = [path for path in Path("/proc/net/unix").read_text().split() if path.startswith(str(Home(house.home).sockets))]
    assert {Path(path).name for path in ours} >= {"agent.sock", "sequencer.sock", "envoy-admin.sock"}
    for path in ours:
        assert stat.S_IMODE(Path(path).parent.stat().st_mode) & 0o077 == 0, path


def test_a_decision_of_somebody_else(house: House) -> None:
    """A made-up decision id passes nothing."""
    since, wrong = len(house.rows), house.body(currency="XXQ")
    answers = [house.post(wrong, more=(f"knhk-decision: {value}",)) for value in ("0" * 32, "f" * 32, "x", "", "0" * 31, "0" * 33)]
    answers.append(house.post(house.body(), more=("knhk-decision: " + "ab" * 16,)))
    answers.append(house.post(house.body(), more=("knhk-decision: " + "ab" * 16, "knhk-decision: " + "cd" * 16)))
    house.assert_kept_out(since, answers)
