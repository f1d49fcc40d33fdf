"""Regions watch each other: a history that a log shows to readers alone is found, kept as proof, and told as a split view."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import evidence_vectors
import pytest
from machines import KEY, Quick
from region_logs import log_of, of_folder
from witness_options import options
from witness_world import FakeLog, Running, witness_key

from folder_served import served
from knhk_runtime.tlog.notes import format_vkey
from knhk_runtime.tlog.served import Fetch
from knhk_runtime.witness.core import Refusal, Witness
from knhk_runtime.witness.follow import Followed, of_url
from knhk_verify.__main__ import main
from knhk_verify.signed import keyid


class Shown:
    """A witness that follows one log, of which `place` is what it is shown."""

    def __init__(self, folder: Path) -> None:
        self.place = folder
        self.folder = folder / "witness"
        self.witness = Witness(self.folder, witness_key(), {KEY.verifier.name: [KEY.verifier]}, Quick(), lambda: 1)
        self.followed = Followed({KEY.verifier.name: lambda: of_folder(self.place)}, self.witness.latest, self.witness.add_checkpoint)

    def look(self, place: Path) -> str:
        """What is amiss."""
        self.place = place
        self.followed.look()
        return self.followed.errors[KEY.verifier.name]

    @property
    def size(self) -> int:
        return self.witness.sizes()[KEY.verifier.name]


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    return Shown(tmp_path)


def test_it_follows_what_grows(shown: Shown, tmp_path: Path) -> None:
    assert shown.look(tmp_path / "nowhere") == "has no checkpoint"
    for rows in ((0, 5), (0, 5), (5, 300), (300, 301)):
        assert shown.look(log_of(tmp_path / "a", rows)) == ""
        assert shown.size == rows[1]
    assert shown.look(log_of(tmp_path / "behind", (0, 7))) == "", "what is not published yet is nothing amiss"
    assert shown.witness.split_views == ()


@pytest.mark.parametrize(("old", "size"), [(5, 5), (5, 6), (5, 300), (4, 4), (4, 5), (4, 300), (1, 2), (256, 257), (256, 700)])
def test_a_fork_is_kept_and_the_verifier_tells_it(
    shown: Shown, tmp_path: Path, old: int, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of a tree that proofs leave out, of a size that is a power of two."""
    assert shown.look(log_of(tmp_path / "a", (0, old))) == ""
    same = old // 2
    rows = ((0, same), (900, 900 + size - same)) if same else ((900, 900 + size),)
    told = shown.look(log_of(tmp_path / "b", *rows))
    assert "split view" in told
    assert shown.size == old
    (name,) = shown.witness.split_views
    named = evidence_vectors.b64(evidence_vectors.public(evidence_vectors.ROOT))
    keys = evidence_vectors.keys_json(
        log=[{"keyid": keyid(KEY.verifier.public), "pub": evidence_vectors.b64(KEY.verifier.public), "name": KEY.verifier.name}]
    )
    (tmp_path / "keys.json").write_text(keys)
    bundle = str(shown.folder / "splitviews" / name)
    assert main([bundle, "--root", named, "--keys", str(tmp_path / "keys.json"), "--at", evidence_vectors.AT]) == 1
    assert "split view" in capsys.readouterr().out


def test_who_only_asks_leaves_out_the_tree_that_proves_his_fork_and_is_refused_all_the_same(log: FakeLog, tmp_path: Path) -> None:
    witness = Witness(tmp_path / "w", witness_key(), {log.origin: [log.verifier]}, Quick(), lambda: 1)
    witness.add_checkpoint(log.asks(0, 4))
    with pytest.raises(Refusal, match="does not lead"):
        witness.add_checkpoint(FakeLog(fork=2).asks(4, 6))
    assert witness.sizes() == {log.origin: 4}


def test_rubbish_between_two_good_checkpoints_accuses_nobody(shown: Shown, log: FakeLog, tmp_path: Path) -> None:
    witness = Witness(tmp_path / "w", witness_key(), {log.origin: [log.verifier]}, Quick(), lambda: 1)
    witness.add_checkpoint(log.asks(0, 5))
    for proof in ([], [bytes(32)] * 4, [bytes(32)] * 3):
        with pytest.raises(Refusal):
            witness.add_checkpoint(log.asks(5, 9, proof))
    assert witness.split_views == ()


@pytest.mark.server
@pytest.mark.failure("region", "seen")
def test_the_process_alarms(run: Callable[..., Running], tmp_path: Path, log: FakeLog) -> None:
    """Its metrics say that a log has forked, and its standard error where the proof lies."""
    log_of(tmp_path / "a", (0, 5))
    log_of(tmp_path / "b", (0, 2), (900, 910))
    (tmp_path / "log").symlink_to("a")
    with served(tmp_path / "log") as url:
        words = options(tmp_path, log)
        (tmp_path / "policy").write_text(f"log {format_vkey(KEY.verifier)} {url}\nquorum none\n")
        witness = run(*words, "--follow-s", "0.02")
        _until(lambda: f'log_size{{log="{KEY.verifier.name}"}} 5' in witness.get("/metrics")[1])
        assert "split_views 0" in witness.get("/metrics")[1]
        (tmp_path / "next").symlink_to("b")
        (tmp_path / "next").rename(tmp_path / "log")
        _until(lambda: "split_views 1" in witness.get("/metrics")[1])
        assert 'log_amiss{log="knhk.dev/test"} 1' in witness.get("/metrics")[1]
        assert witness.process.stderr is not None
        assert '"split view"' in witness.process.stderr.readline()


@contextmanager
def no_http() -> Iterator[str]:
    """URL of somebody who answers everything with one line of something else."""

    class Rubbish(StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"what?\r\n\r\n")

    with answering(Rubbish) as url:
        yield url


@contextmanager
def answering(handler: type[StreamRequestHandler]) -> Iterator[str]:
    """URL of a server that answers so."""
    with ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_log_that_does_not_speak_http_keeps_nobody_from_looking_at_others(log: FakeLog, tmp_path: Path) -> None:
    witness = Witness(tmp_path / "w", witness_key(), {KEY.verifier.name: [KEY.verifier]}, Quick(), lambda: 1)
    with no_http() as url:
        grown = of_folder(log_of(tmp_path / "a", (0, 5)))
        followed = Followed({log.origin: partial(of_url, url), KEY.verifier.name: lambda: grown}, witness.latest, witness.add_checkpoint)
        followed.look()
    assert "does not answer as HTTP does" in followed.errors[log.origin]
    assert (followed.errors[KEY.verifier.name], witness.sizes()[KEY.verifier.name]) == ("", 5)


@contextmanager
def dripping() -> Iterator[str]:
    """A server that never ends its answer's head, a byte at a time, until the context ends."""
    over = threading.Event()

    class Drip(StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            with suppress(OSError):
                while not over.wait(0.02):
                    self.wfile.write(b"H")

    with answering(Drip) as url:
        yield url
        over.set()


def test_a_log_that_drips_its_answer_keeps_nobody_from_looking_at_others(log: FakeLog, tmp_path: Path) -> None:
    """It is told, and has one look at a time, until that ends."""
    witness = Witness(tmp_path / "w", witness_key(), {KEY.verifier.name: [KEY.verifier]}, Quick(), lambda: 1)
    place, asked = [tmp_path / "a"], list[str]()
    log_of(tmp_path / "a", (0, 5))
    with dripping() as url:

        def slow() -> Fetch:
            asked.append(url)
            return of_url(url)

        logs = {log.origin: slow, KEY.verifier.name: lambda: of_folder(place[0])}
        followed = Followed(logs, witness.latest, witness.add_checkpoint, within_s=0.5)

        def cosigned(size: int) -> bool:
            """On a slow machine it is a later look that ends within its time."""
            followed.look()
            return witness.sizes()[KEY.verifier.name] == size

        _until(lambda: cosigned(5))
        assert "has not been read within 0.5 s" in followed.errors[log.origin]
        log_of(tmp_path / "a", (5, 9))
        _until(lambda: cosigned(9))
        assert len(asked) == 1

    def looked_anew() -> bool:
        followed.look()
        return len(asked) == 2

    _until(looked_anew)


def _until(holds: Callable[[], bool]) -> None:
    """The test's own time-out ends what never comes."""
    while not holds():
        threading.Event().wait(0.01)
