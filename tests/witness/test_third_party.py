"""A witness that others wrote cosigns our log, and answers the requests of the vectors as ours does, but one."""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import witness_vectors as given
from litewitness_binary import litewitness
from third_party import serving
from witness_world import FakeLog, private

from go_binaries import CannotBuild
from knhk_verify.note import Verifier, open_note

SAYS = {"another root of the same size": 422}  # where c2sp.org/tlog-witness wants 409

pytestmark = [pytest.mark.slow, pytest.mark.server]


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return litewitness(build=False)
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")


@pytest.fixture
def third(program: Path) -> Iterator[tuple[int, Verifier]]:
    """Port and verifier of a litewitness that knows the log of the vectors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="w") as folder, serving(program, Path(folder), FakeLog().verifier, private(50), port) as key:
        yield port, key


def post(port: int, body: bytes) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/add-checkpoint", body)
        answered = connection.getresponse()
        return answered.status, answered.read().decode()
    finally:
        connection.close()


def test_it_cosigns_what_our_log_signs(third: tuple[int, Verifier], log: FakeLog) -> None:
    port, key = third
    for old, size in ((0, 3), (3, 257), (257, 300)):
        status, line = post(port, log.asks(old, size))
        assert status == 200, line
        assert open_note(log.checkpoint(size) + line, [log.verifier, key])[1] == {log.verifier, key}


def test_it_answers_as_ours_does(third: tuple[int, Verifier], log: FakeLog) -> None:
    port, _ = third
    assert post(port, log.asks(0, given.SIZE))[0] == 200
    for row in json.loads(given.VECTORS.read_bytes())["requests"]:
        status, told = post(port, row["body"].encode())
        assert (row["name"], status) == (row["name"], SAYS.get(row["name"], row["status"]))
        if status == 409:
            assert told == row["answer"]
