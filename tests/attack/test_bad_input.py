"""Bad input on the command line: each a clear line that says what must be done, the documented exit code, no traceback, nothing changed.

`tests/cli` and `tests/embedded` try each command's own mistakes; here are those that a whole process meets: endless files, broken pipes,
full disks, files that are none, and what is left running after them.
"""

from __future__ import annotations

import io
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from system_world import PACKS, PAYLOADS, processes_of

from knhk.cli import main

pytestmark = pytest.mark.server

PACK = PACKS / "1.2.0" / "pack.yaml"
ANSWER_S = 60.0
MEMORY = 2 << 30


def limits() -> None:
    """What a command may take: an endless input shows as a failure, not as a dead machine."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def ends() -> None:
    """The compiler maps more than it uses: only time bounds it."""
    resource.setrlimit(resource.RLIMIT_CPU, (30, 30))


def small_files() -> None:
    """A disk that is full after 4 KiB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def knhk(home: Path, *words: str, stdin: bytes = b"", before: Callable[[], None] = limits) -> subprocess.CompletedProcess[bytes]:
    argv = [str(Path(sys.executable).parent / "knhk"), "--home", str(home), *words]
    return subprocess.run(argv, input=stdin, capture_output=True, timeout=ANSWER_S, check=False, preexec_fn=before)


@dataclass(frozen=True)
class Said:
    """What a command wrote, and its exit code."""

    exit: int
    out: str
    err: str

    def told(self, exit_code: int) -> str:
        """What standard error says, one JSON line that names what must be; never a traceback or the name of a bug."""
        assert self.exit == exit_code, self
        assert "Traceback" not in self.err
        assert "KNHK_TRACE" not in self.err, f"a user's mistake must not look like a bug: {self.err}"
        answer = json.loads(self.err or self.out)
        for fault in answer["faults"]:
            assert fault["where"]
            assert fault["must"].startswith("must "), fault
        return json.dumps(answer, ensure_ascii=False)


Here = Callable[..., Said]


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """`knhk` in this process, with a home that is not there yet."""

    def run(*words: str, stdin: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(["--home", str(tmp_path / "home"), *words])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


def told(done: subprocess.CompletedProcess[bytes], exit_code: int) -> str:
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode()).told(exit_code)


POINT = b"""apiVersion: knhk.dev/v1alpha1
kind: EnforcementPoint
metadata: {name: p1, namespace: erp}
spec:
  mode: Sidecar
  upstream: {socket: /run/app/app.sock}
  match: [{name: create, method: POST, path: /orders, action: create}]
"""
LETTERS = range(ord("b"), ord("l"))
YAML: dict[str, bytes] = {
    "empty": b"",
    "no UTF-8": b"apiVersion: \xff\xfe",
    "UTF-16": POINT.decode().encode("utf-16"),
    "a NUL": POINT.replace(b"p1", b"p\0"),
    "NaN": POINT.replace(b"spec:", b"spec:\n  agentGraceSeconds: .nan"),
    "a huge number": POINT.replace(b"spec:", b"spec:\n  agentGraceSeconds: " + b"9" * 4000),
    "duplicate keys": POINT + b"  mode: Gateway\n",
    "deep": b"a: " + b"[" * 100_000,
    "a bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 108)),
    "a tag": b"!!python/object/apply:os.system [id]\n",
    "a merge key": POINT.replace(b"spec:", b"spec:\n  <<: {mode: Gateway}"),
    "JSON with a comment": b'{"apiVersion": "knhk.dev/v1alpha1", // x\n}',
    "another kind": b"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n",
    "a script": b"#!/bin/sh\nrm -rf /\n",
    "a path that climbs": POINT.replace(b"p1", b"../../etc"),
    "a name with a line end": POINT.replace(b"p1", b'"a\\nb"'),
    "an upstream of both": POINT.replace(b"socket: /run/app/app.sock", b"socket: /run/app/app.sock, host: a, port: 1"),
    "a very long name": POINT.replace(b"p1", b"p" * 10_000),
}


@pytest.mark.parametrize("name", YAML)
def test_faulty_yaml(here: Here, tmp_path: Path, name: str) -> None:
    """From standard input: exit 1 with every fault, its line and what it must be; no home is made."""
    assert "<stdin>:" in here("apply", "--dry-run", "-f", "-", stdin=YAML[name]).told(1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["folder", "loop", "missing", "file/x", "\udcff"])
def test_files_that_are_none(here: Here, tmp_path: Path, name: str) -> None:
    """What cannot be read is named, by each command that reads a file."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    path = str(tmp_path / name)
    payload = str(PAYLOADS / "gobl-es-invoice-es-es.json")
    here("apply", "--dry-run", "-f", path).told(3)
    here("pack", "decide", str(PACK), "--payload", path).told(3)
    assert here("pack", "check", path).exit == 1
    here("pack", "decide", path, "--payload", payload).told(1)
    here("log", "verify", path).told(3)
    here("log", "replay", path).told(3)


def test_an_endless_file(tmp_path: Path) -> None:
    """It is read to its bound and refused."""
    assert "/dev/zero:1" in told(knhk(tmp_path / "home", "apply", "--dry-run", "-f", "/dev/zero"), 1)
    assert "1 MiB" in told(knhk(tmp_path / "home", "pack", "decide", str(PACK), "--payload", "/dev/zero", before=ends), 1)


PAYLOAD: dict[str, bytes] = {
    "empty": b"",
    "no UTF-8": b'{"a": "\xff"}',
    "NaN": b'{"a": NaN}',
    "duplicate keys": b'{"a": 1, "a": 2}',
    "deep": b"[" * 100_000,
    "huge": b'"' + b"x" * (1 << 20) + b'"',
    "a NUL": b'{"a": "\0"}',
    "text": b"hello",
}


@pytest.mark.parametrize("name", PAYLOAD)
def test_faulty_payloads(here: Here, tmp_path: Path, name: str) -> None:
    """`pack decide` denies or refuses what Envoy would."""
    file = tmp_path / "payload.json"
    file.write_bytes(PAYLOAD[name])
    said = here("pack", "decide", str(PACK), "--payload", str(file), "--attr", "action=create", "--attr", "sub=dora")
    if said.out:
        assert (said.exit, json.loads(said.out)["verdict"]) == (0, "DENY")
    else:
        assert str(file) in said.told(1)


WRONG = (
    *("", "frobnicate", "pack", "get teapots", "up --timeout-s nan", "up --timeout-s -1", "up --port x", "-o xml doctor"),
    *("log serve --read-port x", "pack decide --attr x", "apply"),
)


@pytest.mark.parametrize("words", WRONG)
def test_wrong_commands(here: Here, tmp_path: Path, words: str) -> None:
    """Exit 2, and a way to learn more; nothing is made."""
    assert here(*words.split()).told(2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.failure("disk", "act")
def test_a_full_disk(tmp_path: Path) -> None:
    """`knhk up` on a full disk says so, leaves nothing running, and works when there is room."""
    home = tmp_path / "home"
    done = knhk(home, "up", "--timeout-s", "20", before=small_files)
    told(done, 3)
    assert processes_of(home) == {}
    assert knhk(home, "up", before=lambda: None).returncode == 0
    assert knhk(home, "down", before=lambda: None).returncode == 0
    assert processes_of(home) == {}


@pytest.mark.failure("disk", "seen")
def test_a_store_that_is_full(tmp_path: Path) -> None:
    """An `apply` that finds no room changes nothing: what was there is there, and the next one goes through."""
    home = tmp_path / "home"
    assert knhk(home, "up", before=lambda: None).returncode == 0
    try:
        told(knhk(home, "apply", "-f", "-", stdin=POINT, before=small_files), 3)
        assert json.loads(knhk(home, "get", "enforcementpoints").stdout)["items"] == []
        assert knhk(home, "apply", "-f", "-", stdin=POINT).returncode == 0
    finally:
        assert knhk(home, "down", before=lambda: None).returncode == 0
    assert processes_of(home) == {}


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """A closed pipe ends a command quietly."""
    argv = [str(Path(sys.executable).parent / "knhk"), "--home", str(tmp_path / "home"), "catalog", "-o", "json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        text = process.stderr.read().decode()
        process.wait(ANSWER_S)
    assert "Traceback" not in text
    assert "Exception ignored" not in text
