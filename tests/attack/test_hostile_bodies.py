"""Bodies at every limit: each gets a problem document and a receipt whose leaf says no; the next request is served as always."""

from __future__ import annotations

import contextlib
import http.client
import json
from dataclasses import dataclass

import pytest
from attack_world import PATIENCE_S, House

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("attack-house")]

MIB = 1 << 20


@dataclass(frozen=True)
class Said:
    """An answer of the point."""

    status: int
    media: str
    receipt: str
    body: bytes


def post(house: House, body: bytes, *, chunked: bool = False) -> Said:
    """One request on a connection of its own; the point may answer before it has read all."""
    connection = http.client.HTTPConnection("127.0.0.1", house.port, timeout=PATIENCE_S)
    fields = {"authorization": f"Bearer {house.provider.token('clerk-001')}", "content-type": "application/json"}
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it answered, and reads no more
        connection.request("POST", "/invoices", iter([body]) if chunked else body, fields, encode_chunked=chunked)
    answer = connection.getresponse()
    said = Said(answer.status, answer.getheader("content-type", ""), answer.getheader("knhk-receipt", ""), answer.read())
    connection.close()
    return said


def denied(house: House) -> dict[str, bytes]:
    """Bodies that nobody may admit."""
    text = house.body(currency="EUR", totals__payable="@").decode()

    def payable(value: str) -> bytes:
        return text.replace('"@"', value).encode()

    def beside(member: str) -> bytes:
        return ("{" + member + ", " + payable("1").decode()[1:]).encode("utf-8", "surrogatepass")

    return {
        "100,000 lists": b"[" * 100_000 + b"]" * 100_000,
        "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "100,000 lists beside": beside('"x": ' + "[" * 100_000 + "]" * 100_000),
        "1,000,000 lists that do not end": b"[" * 1_000_000,
        "1e400": payable("1e400"),
        "-1e400": payable("-1e400"),
        "-2^63-1": payable("-9223372036854775809"),
        "-0.1 with 10,000 digits": payable("-0." + "1" * 10_000),
        "10,000 nines and a letter": payable("9" * 10_000 + "a"),
        "a digit less than none": payable("-"),
        "half a pair": beside('"x": "\\ud800"'),
        "half a pair in a name": beside('"\\ud800": 1'),
        "half a pair, raw": beside('"x": "\ud800"'),
        "the same name, escaped": beside('"\\u0064oc": {}'),
        "the same name, all escaped": beside('"\\u0064\\u006f\\u0063": {}'),
        "NUL in a name": beside('"a\x00b": 1'),
        "NUL, escaped, twice": beside('"a\\u0000b": 1, "a\\u0000b": 2'),
        "BOM": b"\xef\xbb\xbf" + payable("1"),
        "UTF-16": payable("1").decode().encode("utf-16"),
        "UTF-32": payable("1").decode().encode("utf-32-le"),
        "garbage at the end": payable("1") + b"]",
        "several documents": payable("1") + b"\n" + payable("1"),
        "several documents, separated": b"\x1e" + payable("1") + b"\n\x1e" + payable("1"),
        "a text of almost 1 MiB that does not end": b'{"x": "' + b"a" * (MIB - 100),
        "a text of almost 1 MiB in a name": b'{"' + b"a" * (MIB - 100) + b'": 1}',
        "escapes of almost 1 MiB": b'{"x": "' + b"\\u0061" * (MIB // 6 - 10) + b'"}',
        "200,000 numbers": b"[" + b"1e9," * 200_000 + b"1]",
        "nothing": b"",
        "only blanks": b" " * 100_000,
    }


def test_hostile_bodies_are_denied_with_a_problem_and_a_receipt(house: House) -> None:
    since, receipts = len(house.rows), []
    for what, body in denied(house).items():
        said = post(house, body)
        assert house.rows[since:] == [], f"{what}: reached the application"
        assert 400 <= said.status < 500, f"{what}: {said.status} {said.body[:300]!r}"
        assert said.media == "application/problem+json", f"{what}: {said.media}"
        problem = json.loads(said.body)
        assert problem["status"] == said.status, what
        assert problem["title"], what
        assert len(said.body) <= 64 << 10, f"{what}: a problem of {len(said.body)} bytes"
        assert said.receipt, f"{what}: {said.status} without a receipt"
        receipts.append(said.receipt)
        assert post(house, house.body()).status == 201, f"the request after {what}"
        since = len(house.rows)
    house.assert_leaves(receipts)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_text_of_10_mb_is_refused_while_others_are_served(house: House, chunked: bool) -> None:
    since = len(house.rows)
    for body in (json.dumps({"x": "a" * 10_000_000}).encode(), b'{"x":' * 2_000_000, b'"' + b"\\ud800" * 1_666_666 + b'"'):
        said = post(house, body, chunked=chunked)
        assert said.status == 413
        assert said.receipt
        house.assert_leaves([said.receipt])
        assert house.rows[since:] == []
        assert post(house, house.body()).status == 201
        since = len(house.rows)


@pytest.mark.parametrize(
    "value", ["-0", "-0.0", "0.1" + "0" * 10_000, "0.1" + "1" * 10_000, "9223372036854775807", "9223372036854775808", "1e15", "5e-324"]
)
def test_numbers_at_the_limits_are_judged(house: House, value: str) -> None:
    """Right as decimals: admitted, or left to a lower tier, never an error of the point."""
    since = len(house.rows)
    said = post(house, house.body(currency="EUR", totals__payable="@").replace(b'"@"', value.encode()))
    assert said.status in (201, 202, 403)
    assert said.receipt
    house.assert_rows_right(since)
    assert post(house, house.body()).status == 201
