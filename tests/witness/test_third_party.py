"""A witness that others wrote cosigns our log, and answers the requests of the vectors as ours does, but one."""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import witness_vectors as given
from litewitness_binary import litewitness
from machines import leaves
from third_party import serving
from witness_world import FakeLog, Running, pem, private, witness_key

from go_binaries import CannotBuild
from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.signer_local import LocalSigner, establish
from knhk.model.faults import Waiting
from knhk_runtime.tlog.notes import format_vkey, size_of
from knhk_verify.note import Verifier, open_note, parse_vkey
from loopback_ports import free_port

SAYS = {"another root of the same size": 422}  # where c2sp.org/tlog-witness wants 409

pytestmark = [pytest.mark.slow, pytest.mark.server]


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return litewitness(build=False)
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")


@pytest.fixture
def signer(tmp_path: Path) -> LocalSigner:
    return establish(tmp_path / "keys", "knhk.dev/test", datetime(2026, 11, 23, tzinfo=UTC))


@pytest.fixture
def third(program: Path) -> Iterator[tuple[int, Verifier]]:
    """Port and verifier of a litewitness that knows the log of the vectors."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="w") as folder, serving(program, Path(folder), FakeLog().verifier, private(50), port) as key:
        yield port, key


def appended(log: SequencerLog, rows: list[bytes]) -> None:
    """As soon as it listens."""
    while True:
        try:
            log.append_leaves(rows)
        except Waiting:
            time.sleep(0.02)
        else:
            return


def covered(log: SequencerLog, size: int) -> str:
    """The published checkpoint of at least this size; the test's own time-out ends what never comes."""
    while size_of(note := log.checkpoint()) < size:
        time.sleep(0.02)
    return note


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


def test_our_log_is_published_with_its_lines_and_ours(
    program: Path, run: Callable[..., Running], tmp_path: Path, signer: LocalSigner
) -> None:
    """`knhk log serve` with a policy that wants two: `knhk log witness`, and litewitness."""
    origin = "knhk.dev/test"
    log, key = parse_vkey(signer.vkey(origin)), witness_key()
    (tmp_path / "witness.key").write_bytes(pem(private(40)))
    (tmp_path / "witness.key").chmod(0o600)
    (tmp_path / "logs").write_text(f"log {format_vkey(log)}\nquorum none\n")
    words = ["w", "--name", key.verifier.name, "--key", "witness.key", "--policy", "logs", "--listen", "127.0.0.1:0"]
    ours, port = run(*words), free_port()
    with tempfile.TemporaryDirectory(prefix="w") as folder, serving(program, Path(folder), log, private(50), port) as third:
        lines = [f"log {format_vkey(log)}", f"witness ours {format_vkey(key.verifier)} http://127.0.0.1:{ours.port}"]
        lines += [f"witness third {format_vkey(third)} http://127.0.0.1:{port}/", "group both all ours third", "quorum both", ""]
        (tmp_path / "policy").write_text("\n".join(lines))
        words = ["log", "--origin", origin, "--key", str(signer.key_file("log")), "--socket", f"{folder}/s", "--witnesses", "policy"]
        run(*words, command=("-m", "knhk.cli", "log", "serve"))
        sequencer = SequencerLog(Path(folder) / "s")
        for start, stop in ((0, 300), (300, 301)):
            appended(sequencer, leaves(start, stop))
            note = covered(sequencer, stop)
            assert open_note(note, [log, third, key.verifier])[1] == {log, third, key.verifier}
