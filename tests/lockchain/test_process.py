"""The sequencer as a process: kills, a second writer, a full disk, malformed requests, a graceful end."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.log_sequencer import SequencerLog
from knhk.model.faults import NotFound, Refused, Waiting
from knhk_runtime.record import entry_key
from knhk_runtime.sequencer_client import SequencerClient, SequencerRefused, SequencerUnavailable, encode_batch
from knhk_runtime.tlog.audit import verify_log
from knhk_runtime.tlog.folder import log_entries
from knhk_runtime.tlog.notes import verify_proof
from knhk_runtime.tlog.tree import Tiles, consistency_proof
from knhk_verify.note import open_checkpoint, parse_vkey
from knhk_verify.tree import leaf_hash, verify_consistency

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from loopback_ports import free_port

pytestmark = pytest.mark.server
Leaves = Callable[[int, int], list[bytes]]


def request(path: Path, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_what_is_acknowledged_is_found_proven_and_verified(home: Any, leaves: Leaves, covered: Any) -> None:
    process = home.start()
    assert stat.S_IMODE(home.socket.stat().st_mode) == 0o600
    log, batch = home.log(), leaves(0, 700)
    assert log.append_leaves(batch) == [*range(700)]
    assert log.append_leaves(batch[::-1]) == [*range(699, -1, -1)]
    assert log.index_of(entry_key(batch[5])) == 5
    for index in (0, 255, 256, 699):
        found, checkpoint = verify_proof(covered(log, index), batch[index], parse_vkey(home.vkey))
        assert (found, checkpoint.size >= 700) == (index, True)
    with pytest.raises(NotFound):
        log.index_of(bytes(17))
    with pytest.raises(Waiting):
        log.proof(700)
    assert log.proofs([255, 700, 0]) == [log.proof(255), None, log.proof(0)]
    assert log.proofs(range(65))[64] == log.proof(64)
    assert log.proofs([]) == []
    for wrong in ("", "one", "-1", ",".join(["0"] * 65)):
        assert request(home.socket, "GET", f"/proofs?of={wrong}")[0] == 400
    assert "700 entries under the checkpoint" in home.stop(process)
    assert not home.socket.exists()
    report = verify_log(home.dir, home.vkey)
    assert (report.bad, report.size, report.receipts) == ([], 700, 700)


def test_an_older_checkpoint_can_still_be_proven_against(home: Any, leaves: Leaves, covered: Any) -> None:
    home.start()
    log = home.log()
    log.append_leaves(leaves(0, 3))
    covered(log, 2)
    log.append_leaves(leaves(3, 300))
    covered(log, 299)
    status, text = request(home.socket, "GET", "/proof/1?size=3")
    assert status == 200
    assert verify_proof(text.decode(), leaves(1, 2)[0], parse_vkey(home.vkey))[1].size == 3


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.failure("sequencer", "receipts")
def test_killed_again_and_again_under_appends_nothing_is_lost_doubled_or_forked(home: Any, leaves: Leaves) -> None:
    chance = random.Random(5)
    acked, seen, done = dict[bytes, int](), list[Any](), threading.Event()
    faults = list[BaseException]()

    def agent(source: int) -> None:
        """Appends batches; repeats what was not acknowledged, as agents do."""
        own, start = random.Random(source), source * 10_000_000
        try:
            while not done.is_set():
                batch = leaves(start, start + own.randrange(1, 60))
                while not done.is_set():
                    try:
                        indexes = SequencerLog(home.socket).append_leaves(batch)
                    except Waiting:
                        done.wait(0.05)
                        continue
                    for leaf, index in zip(batch, indexes, strict=True):
                        assert acked.setdefault(entry_key(leaf), index) == index
                    break
                start += own.choice((len(batch), len(batch) // 2))
        except BaseException as fault:
            faults.append(fault)

    agents = [threading.Thread(target=agent, args=(source,)) for source in (1, 2, 3)]
    for thread in agents:
        thread.start()
    try:
        for kill in range(32):
            process = home.start()
            before = len(acked)
            deadline = time.monotonic() + chance.uniform(0, 0.6)
            while not faults and (time.monotonic() < deadline or len(acked) == before):
                time.sleep(0.005)
                seen.append(open_checkpoint((home.dir / "checkpoint").read_bytes(), parse_vkey(home.vkey)))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if kill % 8 == 0:
                assert verify_log(home.dir, home.vkey).bad == []
    finally:
        done.set()
        for thread in agents:
            thread.join()
    assert faults == []
    home.stop(home.start())
    assert verify_log(home.dir, home.vkey).bad == []
    keys = [entry_key(entry) for entry in log_entries(home.dir)]
    assert len(set(keys)) == len(keys)
    assert all(keys[index] == key for key, index in acked.items())
    newest = open_checkpoint((home.dir / "checkpoint").read_bytes(), parse_vkey(home.vkey))
    tiles = Tiles(lambda path: (home.dir / path).read_bytes(), newest.size)
    for old in {checkpoint.size: checkpoint for checkpoint in seen}.values():
        verify_consistency(old.size, old.root, newest.size, newest.root, consistency_proof(tiles, old.size, newest.size))
    assert len({(c.size, c.root) for c in seen}) == len({c.size for c in seen})


def test_a_live_log_verifies_at_any_moment(home: Any, leaves: Leaves) -> None:
    home.start("--checkpoint-interval-s", "0.02")
    for start in range(0, 6000, 100):
        home.log().append_leaves(leaves(start, start + 100))
        if start % 500 == 0:
            assert verify_log(home.dir, home.vkey).bad == []


def test_a_second_writer_is_refused(home: Any) -> None:
    home.start()
    second = subprocess.run(
        [*home.command(), "--socket", str(home.base / "other.sock")], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1
    assert "another sequencer writes this log" in second.stderr
    assert home.log().checkpoint()


@pytest.mark.failure("disk", "traffic")
def test_a_full_disk_acknowledges_nothing_and_recovers_when_space_returns(home: Any, leaves: Leaves) -> None:
    # RLIMIT_FSIZE stands for the full disk: a write beyond it fails (EFBIG) as one on a full disk does, and it can be lifted from outside.
    process = home.start()
    log = home.log()
    assert log.append_leaves(leaves(0, 100)) == [*range(100)]
    _limit(process.pid, 2000)
    with pytest.raises(Waiting, match="storage"):
        log.append_leaves(leaves(100, 200))
    with pytest.raises(Waiting, match="storage"):
        log.append_leaves(leaves(200, 300))
    assert request(home.socket, "GET", "/health")[0] == 503
    with pytest.raises(NotFound):
        log.index_of(entry_key(leaves(100, 101)[0]))
    _limit(process.pid, -1)
    assert log.append_leaves(leaves(200, 300)) == [*range(100, 200)]
    assert "append works again" in home.stop(process)
    report = verify_log(home.dir, home.vkey)
    assert (report.bad, report.size) == ([], 200)


def _limit(pid: int, size: int) -> None:
    import resource

    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _body(*items: bytes, count: int | None = None) -> bytes:
    return (len(items) if count is None else count).to_bytes(4, "big") + b"".join(items)


def test_malformed_requests_are_told_what_is_wrong_and_change_nothing(home: Any, leaves: Leaves) -> None:
    home.start()
    (leaf,) = leaves(0, 1)
    good = encode_batch([leaf])[4:]
    cases: list[tuple[str, bytes, int, str]] = [
        ("/append", b"", 400, "number of entries"),
        ("/append", b"\0\0\0", 400, "number of entries"),
        ("/append", _body(), 400, "number of entries"),
        ("/append", _body(good, count=2), 400, "item 1 goes past the end"),
        ("/append", _body(good[:-1]), 400, "past the end"),
        ("/append", _body(good) + b"\0", 400, "after the last item"),
        ("/append", _body(good[:17] + b"\0\1\1"), 400, "118"),
        ("/append", _body(bytes(17) + good[17:]), 400, "must be 52494e47"),
        ("/append", _body(good[:19] + b"\2" + good[20:]), 400, "version"),
        ("/append", _body(good[:20] + b"\3" + good[21:]), 400, "H(A)"),
        ("/append", _body(good[:-1] + b"\1"), 400, "reserved"),
        ("/append", _body(bytes(17) + b"\0\2{}"), 400, "mediaType"),
        ("/append", _body(good, count=65_537), 413, "at most 65536"),
        ("/append", bytes((8 << 20) + 1), 413, "at most 8388608"),
        ("/event", b"", 400, "JSON object"),
        ("/event", b"[]", 400, "JSON object"),
        ("/event", b'{"mediaType":"x"}', 400, "mediaType"),
        ("/event", b'{"a":1,"a":1}', 400, "repeats"),
        ("/event", b"{" + b'"a":[' * 9000, 400, "JSON"),
        ("/event", b"{" + bytes(70_000), 400, "at most 65535"),
    ]
    for target, body, status, says in cases:
        got, answer = request(home.socket, "POST", target, body)
        assert (got, says in json.loads(answer)["error"]) == (status, True), (target, body[:40], answer)
    for target, status in (
        ("/index/xyz", 400),
        ("/proof/-1", 400),
        ("/proof/1?size=a", 400),
        ("/proof/" + "9" * 5000, 400),
        ("/tile/0/999", 404),
        ("/tile/../keys.json", 404),
        ("/tile/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/wal/0000000000000000.seg", 404),
        ("/observations/x", 404),
    ):
        assert request(home.socket, "GET", target)[0] == status, target
    assert json.loads(request(home.socket, "GET", "/health")[1])["durable"] == 0
    with pytest.raises(Refused, match="version"):
        home.log().append_leaves([b"\2" + leaf[1:]])


def test_the_read_port_reads_only(home: Any, leaves: Leaves, covered: Any) -> None:
    port = free_port()
    home.start("--read-port", str(port))
    home.log().append_leaves(leaves(0, 300))
    covered(home.log(), 299)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        for method, target, status in (
            ("GET", "/tile/0/000", 200),
            ("GET", "/checkpoint", 200),
            ("POST", "/append", 404),
            ("POST", "/event", 404),
        ):
            connection.request(method, target, encode_batch(leaves(900, 901)) if method == "POST" else None)
            answer = connection.getresponse()
            data = answer.read()
            assert answer.status in ({status} | ({405} if method == "POST" else set())), target
            if target == "/tile/0/000":
                assert data[:32] == leaf_hash(leaves(0, 1)[0])
    finally:
        connection.close()


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_log_that_ends_lets_nobody_in_while_it_waits_for_who_is_inside(home: Any, leaves: Leaves) -> None:
    """Whoever came to the read port then was let in, by a server that was shut down already."""
    port = free_port()
    process = home.start("--read-port", str(port))
    assert not _is_refused(port)
    body = encode_batch(leaves(0, 3))
    with socket.socket(socket.AF_UNIX) as inside:
        inside.settimeout(60)
        inside.connect(str(home.socket))
        inside.sendall(f"POST /append HTTP/1.1\r\nHost: log\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
        home.log().checkpoint()  # it has the head
        process.terminate()
        deadline = time.monotonic() + 60
        while not _is_refused(port):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        inside.setblocking(False)
        with pytest.raises(BlockingIOError):  # it is still waited for
            inside.recv(1)
    assert process.wait(60) == 0


def test_so_many_at_the_read_port_leave_files_for_the_log(home: Any, leaves: Leaves) -> None:
    """As many as READERS, of the 1024 files that a process may often have; one more is turned away, until one leaves."""
    port = free_port()
    home.start("--read-port", str(port))

    def reads(connection: http.client.HTTPConnection) -> bool:
        try:
            connection.request("GET", "/checkpoint")
            return len(connection.getresponse().read()) > 0
        except (ConnectionError, http.client.BadStatusLine):
            connection.close()
            return False

    within = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(257)]
    try:
        assert [reads(each) for each in within] == [True] * 256 + [False]
        assert home.log().append_leaves(leaves(0, 1)) == [0]
        within[0].close()
        deadline = time.monotonic() + 60
        while not reads(within[-1]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        for each in within:
            each.close()


@pytest.mark.slow
def test_who_says_nothing_at_the_read_port_is_not_waited_for(home: Any, leaves: Leaves) -> None:
    """Each connection is a file of the process that writes the log, too."""
    port = free_port()
    home.start("--read-port", str(port))
    slow = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(3)]
    try:
        slow[0].sendall(b"GET /check")
        slow[1].sendall(b"GET /checkpoint HTTP/1.1\r\nX: ")
        for each in slow:
            try:
                assert each.recv(1) == b""
            except ConnectionResetError:
                continue
    finally:
        for each in slow:
            each.close()
    assert home.log().append_leaves(leaves(0, 1)) == [0]


def test_a_start_that_cannot_be_says_why(home: Any, tmp_path: Path) -> None:
    for more, says in (
        (("--key", str(tmp_path / "none")), "No such file"),
        (("--origin", "two words"), "without spaces"),
        (("--socket", str(tmp_path / ("x" * 200))), "107 bytes"),
        (("--socket", str(home.signer.key_file("log"))), "is not a socket"),
    ):
        done = subprocess.run([*home.command(), *more], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, says in done.stderr) == (1, True), done.stderr
        assert "Traceback" not in done.stderr


def test_the_agents_client_survives_a_restart(home: Any, leaves: Leaves) -> None:
    async def story() -> None:
        client = SequencerClient(home.socket)
        with pytest.raises(SequencerUnavailable):
            await client.append_leaves(leaves(0, 1))
        process = await asyncio.to_thread(home.start)
        assert await client.append_leaves(leaves(0, 3)) == [0, 1, 2]
        with pytest.raises(SequencerRefused, match="version"):
            await client.append_body(encode_batch(leaves(9, 10)).replace(b"\1\1\1\1\1", b"\2\1\1\1\1"))
        many = await asyncio.gather(*(client.append_leaves(leaves(n, n + 2)) for n in range(3, 43, 2)))
        assert sorted(i for row in many for i in row) == [*range(3, 43)]
        await asyncio.to_thread(home.stop, process)
        with pytest.raises(SequencerUnavailable):
            await client.append_leaves(leaves(0, 1))
        await asyncio.to_thread(home.start)
        assert await client.append_leaves(leaves(0, 1)) == [0]
        assert "knhk.dev/test\n43\n" in await client.checkpoint()
        await client.close()

    asyncio.run(story())
