"""HTTP/2: the end of a body may be seen in its trailers."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import pytest
from shim_native import build_pack
from shim_rig import Rig, rig, token
from shim_ring import all_records

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("http2")) as made:
        made.configure(build_pack(made.packs))
        yield made


CHECKSUM = (("x-checksum", "1"),)


def exchange(
    point: Rig, pieces: list[bytes], trailers: bool, more: tuple[tuple[str, str], ...] = (), last: tuple[tuple[str, str], ...] = CHECKSUM
) -> dict[str, str]:
    """One POST on a connection of its own; the headers of the answer."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    head = [
        (":method", "POST"),
        (":path", "/invoices"),
        (":scheme", "http"),
        (":authority", "x"),
        ("authorization", f"Bearer {token()}"),
        ("content-type", "application/json"),
    ]
    connection.send_headers(1, [*head, *more])
    for number, piece in enumerate(pieces):
        connection.send_data(1, piece, end_stream=not trailers and number == len(pieces) - 1)
    if trailers:
        connection.send_headers(1, list(last), end_stream=True)
    with socket.create_connection(("127.0.0.1", point.port), timeout=20) as s:
        s.sendall(connection.data_to_send())
        while data := s.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    return {str(name): str(value) for name, value in event.headers}
                if isinstance(event, h2.events.StreamReset):
                    return {":status": "reset"}
            s.sendall(connection.data_to_send())
    return {":status": "closed"}


@pytest.mark.parametrize("trailers", [False, True])
@pytest.mark.parametrize(
    ("pieces", "status"),
    [([b"fine"], "200"), ([b"b", b"ad"], "403"), ([b"co", b"ld"], "200"), ([b""], "200"), ([b"b", b"", b"ad", b""], "403")],
)
def test_bodies_are_judged_whole_whatever_ends_them(point: Rig, pieces: list[bytes], status: str, trailers: bool) -> None:
    point.app.seen.clear()
    answer = exchange(point, pieces, trailers)
    assert answer[":status"] == status
    assert point.app.bodies() == ([b"".join(pieces)] if status == "200" else [])
    records = all_records(point.rings)
    assert b"cold" in pieces[0] + b"".join(pieces) or records[answer["knhk-receipt"]].o.body == b"".join(pieces)


def test_the_agent_denies_what_ended_in_trailers(point: Rig) -> None:
    point.app.seen.clear()
    point.agent.verdict = lambda _: (200, 2, b"{}")
    assert exchange(point, [b"cold"], trailers=True)[":status"] == "403"
    assert point.app.seen == []
    point.agent.verdict = lambda _: (200, 1, b"")


def test_content_encodings_stay_out(point: Rig) -> None:
    point.app.seen.clear()
    assert exchange(point, [b"fine"], trailers=False, more=(("content-encoding", "br"),))[":status"] == "415"
    assert point.app.seen == []


def test_trailers_bring_nothing_to_the_application(point: Rig) -> None:
    """What the guard takes from headers cannot come behind it in trailers: the application merges those with headers, or does not."""
    before = len(point.app.seen)
    forged = (("knhk-receipt", "f" * 32), ("x-sub", "root"), ("sub", "root"), ("x-http-method-override", "DELETE"))
    answer = exchange(point, [b"fi", b"ne"], True, last=forged)
    assert answer[":status"] == "200"
    ((_, _, headers, body),) = point.app.seen[before:]
    assert (body, headers["knhk-receipt"]) == (b"fine", answer["knhk-receipt"])
    assert point.app.trailers == []
