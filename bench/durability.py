"""What a request waits for its receipt at each level of durability: real Envoys, one agent, one sequencer, two regions that mirror."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.durable import ORIGIN, until
from bench.figures import Figures, Row, spread
from bench.native import compile_c
from bench.shim import HOST, an_admitted_request, envoy_binary, free_port, listens, point_of, settings, upstream
from knhk_hot.toolchain import artifacts
from knhk_runtime.exchange.install import discovery_text
from knhk_runtime.keyfile import load_private_key, raw_public
from knhk_runtime.tlog.notes import format_vkey
from knhk_templates import render_bootstrap
from knhk_verify.note import Verifier

TITLE = "Durability of receipts"
LEVELS = ("ring", "disk", "log", "region")
CALLERS = (1, 32)
REGIONS = ("one", "two")
INTERVAL_S = "0.1"  # between checkpoints


@dataclass(frozen=True)
class Round:
    """Requests per second, and microseconds from a request to its answer."""

    rate: float
    p50_us: float
    p99_us: float


class House:
    """All of it as processes; `ports`: of the guard of each level."""

    def __init__(self, folder: Path, rings: Path) -> None:
        self._folder, self._rings = folder, rings
        self._running: list[subprocess.Popen[bytes]] = []
        self._load = compile_c("load")
        self.ports: dict[str, int] = {}

    def start(self) -> None:
        self._start_log()
        agent = [str(self._rings), str(self._folder), str(self._folder / "agent.sock"), str(self._folder / "s.sock")]
        guarding = self._start("guarding", [sys.executable, "-m", "bench.guarding", *agent])
        until((self._folder / "agent.sock").exists, "the agent listens", guarding)
        app = free_port()
        self._start_envoy("app", json.dumps(upstream(app)), app)
        for level in LEVELS:
            self.ports[level] = self._start_guard(level, app)

    def _start_guard(self, level: str, app: int) -> int:
        port, module, folder = free_port(), artifacts().shim, self._folder / f"guard-{level}"
        if module is None:
            raise FileNotFoundError("the Envoy shim is not built: run `make setup`")
        folder.mkdir()
        point = point_of(port, app, folder)
        point["local"]["agentSocket"] = str(self._folder / "agent.sock")
        (folder / "ecds.json").write_text(discovery_text("1", module, settings(folder, self._rings, level)))
        self._start_envoy(level, render_bootstrap(point), port)
        return port

    def _start_log(self) -> None:
        """A sequencer, and a witness that mirrors it in each of two regions; one of them is a quorum."""
        key, port, folder = self._key("log"), free_port(), self._folder
        log = format_vkey(Verifier(ORIGIN, raw_public(load_private_key(key))))
        (folder / "watched").write_text(f"log {log} http://{HOST}:{port}\nquorum none\n")
        witnesses = "".join(f"witness {name} {self._start_region(name)}\n" for name in REGIONS)
        (folder / "policy").write_text(f"log {log}\n{witnesses}group others 1 {' '.join(REGIONS)}\nquorum others\n")
        words = ["--dir", str(folder / "log"), "--socket", str(folder / "s.sock"), "--origin", ORIGIN, "--key", str(key)]
        words += ["--witnesses", str(folder / "policy"), "--read-port", str(port), "--checkpoint-interval-s", INTERVAL_S]
        sequencer = self._start("sequencer", [sys.executable, "-m", "knhk_runtime.sequencer", *words])
        until((folder / "s.sock").exists, "the sequencer serves", sequencer)

    def _start_region(self, name: str) -> str:
        key, said = self._key(name), self._folder / f"witness-{name}.log"
        words = ["--dir", str(self._folder / f"witness-{name}"), "--name", f"knhk.dev/bench/{name}", "--key", str(key)]
        words += ["--policy", str(self._folder / "watched"), "--listen", f"{HOST}:0", "--mirror", str(self._folder / f"mirror-{name}")]
        command = [sys.executable, "-m", "knhk_runtime.witness", *words]
        vkey = subprocess.run([*command, "--vkey"], capture_output=True, text=True, check=True).stdout.strip()
        process = self._start(f"witness-{name}", command)
        until(lambda: '"witness serves"' in said.read_text(), f"the witness of region {name} serves", process)
        line = next(line for line in said.read_text().splitlines() if '"witness serves"' in line)
        return f"{vkey} http://{json.loads(line)['listen']}"

    def _key(self, name: str) -> Path:
        path = self._folder / f"{name}.key"
        path.touch(0o600)
        path.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return path

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, cwd=Path(__file__).parent.parent)
        self._running.append(process)
        return process

    def _start_envoy(self, name: str, bootstrap: str, port: int) -> None:
        path = self._folder / f"envoy-{name}.json"
        path.write_text(bootstrap)
        command = [envoy_binary(), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
        process = self._start(f"envoy-{name}", command)
        until(lambda: listens(port), f"Envoy {name} listens", process)

    def round(self, level: str, callers: int, milliseconds: int) -> Round:
        """One burst of load. Raises ValueError when an answer was not 200."""
        command = [str(self._load), str(self.ports[level]), str(callers), str(milliseconds)]
        done = subprocess.run(command, input=an_admitted_request(), capture_output=True, check=False)
        if done.returncode != 0:
            raise ValueError(f"the load on {level} ended with {done.returncode}")
        answers, others, taken_us, p50_us, p99_us = map(int, done.stdout.split())
        if others or not answers:
            raise ValueError(f"{level}: {others} of {answers} answers were not 200")
        return Round(answers / taken_us * 1e6, p50_us, p99_us)

    def close(self) -> None:
        """Ends what was started."""
        for process in reversed(self._running):
            process.terminate()
        for process in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            if process.poll() is None:
                process.kill()
                process.wait()


@contextlib.contextmanager
def house() -> Iterator[House]:
    """Everything of it ends with the block."""
    with (
        tempfile.TemporaryDirectory(prefix="knhk-bench-") as name,
        tempfile.TemporaryDirectory(prefix="knhk-bench-", dir="/dev/shm") as rings,
    ):
        made = House(Path(name), Path(rings))
        try:
            made.start()
            yield made
        finally:
            made.close()


def run(quick: bool = False) -> Figures:
    """Each round: every level with one caller and with many; ratios to `ring` within a round."""
    rounds, milliseconds = (1, 300) if quick else (8, 1500)
    with house() as made:
        for level in LEVELS:
            made.round(level, CALLERS[-1], 100 if quick else 1000)
        found = {
            callers: [{level: made.round(level, callers, milliseconds) for level in LEVELS} for _ in range(rounds)] for callers in CALLERS
        }
    rows = [row for callers, each in found.items() for level in LEVELS for row in _rows(level, callers, each)]
    notes = (
        f"{rounds} rounds of {milliseconds} ms for each level and number of callers; times are the callers'.",
        "p50 and p99 are of one round's requests; a row has their spread over rounds.",
        f"Checkpoints every {INTERVAL_S} s: what `region` waits for is mostly that. One region of two is enough.",
        f"Load, Envoys, agent, sequencer and both regions share {len(os.sched_getaffinity(0))} cores and one disk, on loopback:",
        "no network between regions is in it.",
    )
    return Figures("durability", TITLE, tuple(rows), notes)


def _rows(level: str, callers: int, each: list[dict[str, Round]]) -> list[Row]:
    who = "one caller" if callers == 1 else f"{callers} callers"
    rows = [
        Row(f"{level}, {who}: p50", "ms", spread([found[level].p50_us / 1000 for found in each])),
        Row(f"{level}, {who}: p99", "ms", spread([found[level].p99_us / 1000 for found in each])),
        Row(f"{level}, {who}", "requests/s", spread([found[level].rate for found in each])),
    ]
    if level == LEVELS[0]:
        return rows
    ratios = spread([found[level].rate / found[LEVELS[0]].rate for found in each])
    slower = spread([found[level].p50_us / found[LEVELS[0]].p50_us for found in each])
    return [*rows, Row(f"{level} ÷ ring, {who}: throughput", "×", ratios), Row(f"{level} ÷ ring, {who}: p50", "×", slower)]
