"""The whole house on this machine for tests: a home run by `knhk`, the example application behind its enforcement point, real callers.

`World` does what a user does (commands, HTTP) and reads what a stranger may read (the log by `knhk_verify`, the application's rows).
Nothing here sleeps for luck: `until` polls something that can be seen, with a deadline.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yaml

from identity import AUDIENCE, ISSUER, IdentityProvider
from knhk_runtime.record import Record, h_o, parse_observation, parse_record, scan_frames
from knhk_runtime.tlog.folder import log_entries
from knhk_verify.leaf import Leaf, parse_leaf
from traffic import Answer, Callers, Mix, Request

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from loopback_ports import free_port

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PACKS = EXAMPLES / "packs" / "invoice-controls"
PAYLOADS = EXAMPLES / "payloads"
APP = EXAMPLES / "order_to_cash" / "app.py"
PACK, POINT = "erp/invoice-controls", "erp/orders"
AGENT, ENVOY, SEQUENCER = f"agent {POINT}", f"envoy {POINT}", "sequencer"
WITHIN_S = 240.0
LOOK_S = 0.05
ADMIT, DENY = 1, 2
DECISION, PARK, UNAVAILABLE = 1, 2, 3
ENFORCED, CANDIDATE = 1, 1
ENDED = frozenset({"Live", "RolledBack", "Aborted", "Stalled"})

Document = dict[str, Any]
T = TypeVar("T")


def until(look: Callable[[], T], what: str, within_s: float = WITHIN_S) -> T:
    """The first true answer of `look`. Fails with `what` was awaited, and what was seen last."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"{what}: not within {within_s:g} s; last seen: {seen!r}"
        time.sleep(LOOK_S)
    return seen


def fast_pack(version: str, shadow: int = 20, step: int = 20) -> Document:
    """The example's pack as another version, with a rollout of so many pairs; a difference that matters is seen after a few callers."""
    pack: Document = yaml.safe_load((PACKS / "1.0.0" / "pack.yaml").read_text())
    pack["spec"]["version"] = version
    pack["spec"]["rollout"] = {
        "shadow": {"minPairs": shadow},
        "steps": [{"weight": 50, "minPairs": step}],
        "analysis": {"tolerances": {"maxNewDenials": "0.01", "maxNewAdmits": "0.01"}, "effect": "0.5"},
        "deadlineSeconds": 600,
        "onNoData": "Hold",
    }
    return pack


def descendants(pid: int) -> list[int]:
    """Processes that `pid` started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return found


def processes_of(folder: Path) -> dict[int, str]:
    """Processes whose command line names `folder`: process id → command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f"{folder}/" in words:
                found[int(path.parent.name)] = words
    return found


@dataclass
class Application:
    """The example's order-to-cash service as a process of its own; it keeps its port over a restart."""

    database: Path
    port: int
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        argv = [sys.executable, str(APP), "--db", str(self.database), "--port", str(self.port)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(json.loads(self.process.stdout.readline())["port"])

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def rows(self) -> list[tuple[str, str]]:
        """(receipt id, SHA-256 of the body) of every request that reached the database."""
        with sqlite3.connect(self.database) as db:
            rows: list[tuple[str, str]] = db.execute("SELECT receipt, body_sha256 FROM entries").fetchall()
        db.close()
        return rows


@dataclass
class Sent:
    """Requests whose headers left this process, a client's own repetitions included: what of them has no answer was lost."""

    count: int = 0

    def session(self, lanes: int) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(self._one)
        connector = aiohttp.TCPConnector(limit=lanes)
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30), trace_configs=[trace])

    async def _one(self, *_: object) -> None:
        self.count += 1


class Traffic:
    """Requests in the background until the block ends."""

    MOST = 60_000

    def __init__(self, callers: Callers, sent: Sent, requests: Iterator[Request], rate_s: float, lanes: int = 8) -> None:
        self.callers = callers
        self._sent = sent
        self._requests = requests
        self._interval_s = 1.0 / rate_s
        self._lanes = lanes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")

    @property
    def answers(self) -> list[Answer]:
        return list(self.callers.tally.answers)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        async with self._sent.session(self._lanes) as session:
            await asyncio.gather(*(self._lane(session) for _ in range(self._lanes)))

    async def _lane(self, session: aiohttp.ClientSession) -> None:
        """One caller after another; each lane has its share of the rate."""
        due = time.monotonic()
        for _ in range(self.MOST // self._lanes):
            if self._stop.is_set():
                return
            await self.callers.send(session, next(self._requests))
            due = max(due + self._interval_s * self._lanes, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    def wait(self, seconds: float) -> None:
        """Lets requests flow for a while: what a random moment is."""
        self._stop.wait(seconds)

    def wait_for(self, count: int, *statuses: int) -> None:
        """Until so many more answers came, all with one of `statuses`."""
        before = len(self.answers)
        until(lambda: len(self.answers) >= before + count, f"{count} answers")
        others = {answer.status for answer in self.answers[before:]} - set(statuses)
        assert not others, f"answers with {others}"


@dataclass
class World:
    """One home, one point, one application. Made by `start`, which also ends everything."""

    folder: Path
    app: Application
    provider: IdentityProvider
    point: Document
    callers: Callers
    mix: Mix
    sent: Sent = field(default_factory=Sent)

    @classmethod
    @contextmanager
    def start(cls, folder: Path, **spec: Any) -> Iterator[World]:
        """Everything up and the point answering; `spec` overrides members of the point's spec."""
        app = Application(folder / "application.db", 0)
        app.start()
        provider = IdentityProvider.new()
        point: Document = yaml.safe_load((PACKS / "orders.yaml").read_text())
        port = free_port()
        point["spec"]["upstream"] = {"host": "127.0.0.1", "port": app.port}
        point["spec"]["listen"] = {"address": "127.0.0.1", "port": port}
        point["spec"]["attributes"]["jwt"] |= {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"inline": provider.jwks()}}
        point["spec"] |= spec
        mix = Mix(PAYLOADS, seed=7)
        world = cls(folder, app, provider, point, Callers(f"http://127.0.0.1:{port}", provider, mix), mix)
        try:
            world.up()
            world.apply(yaml.safe_load((PACKS / "finance-roles.yaml").read_text()), point)
            world.until_answering()
            yield world
        finally:
            world.end()

    # ---- what a user does ------------------------------------------------------------------------

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def knhk(self, *args: str, expect: int = 0, timeout_s: float = 240.0) -> Any:
        """`knhk ARGS` as a process, its JSON. Fails unless the exit code is `expect`."""
        argv = [str(Path(sys.executable).parent / "knhk"), *args]
        env = {**os.environ, "KNHK_HOME": str(self.home)}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
        assert done.returncode == expect, f"knhk {' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout or done.stderr or "null")

    def up(self) -> None:
        self.knhk("up", "--timeout-s", "180")

    def down(self) -> None:
        self.knhk("down")

    def apply(self, *resources: Document) -> None:
        path = self.folder / "applied.yaml"
        path.write_text(yaml.safe_dump_all(resources, sort_keys=False))
        self.knhk("apply", "-f", str(path))

    def roll(self, pack: Document, wanted: str = "Live", within_s: float = 240.0) -> Document:
        """Applies a pack and waits for the phase; its revision."""
        self.apply(pack)
        return self.until_phase(pack["spec"]["version"], wanted, within_s)

    def until_phase(self, version: str, wanted: str, within_s: float = 240.0) -> Document:
        def look() -> Document:
            found = self.revision()
            if found.get("version") != version:
                return {}
            phase = found.get("phase")
            assert phase == wanted or phase not in ENDED, f"{version}: expected {wanted}, came to {json.dumps(found, indent=1)}"
            return found if phase == wanted else {}

        return until(look, f"{version} {wanted}", within_s)

    def revision(self) -> Document:
        status: Document = self.knhk("get", "policypack", PACK).get("status", {})
        return dict(status.get("revision", {}))

    def point_status(self) -> Document:
        return dict(self.knhk("get", "enforcementpoint", POINT).get("status", {}))

    def ready(self) -> Document:
        """The condition Ready of the point."""
        conditions = self.point_status().get("conditions", [])
        return next((dict(c) for c in conditions if c["type"] == "Ready"), {})

    # ---- processes -------------------------------------------------------------------------------

    def pids(self) -> dict[str, int]:
        """Name → process id of the children of the control plane, as it tells them; empty while it does not run."""
        try:
            return dict(json.loads((self.home / "run" / "ready.json").read_text())["processes"])
        except FileNotFoundError:
            return {}

    def control(self) -> int:
        return int(json.loads((self.home / "run" / "control.json").read_text())["pid"])

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Sends a signal to a child that runs now; its process id."""
        pid = until(lambda: self.pids().get(name), f"{name} runs")
        assert pid is not None
        os.kill(pid, number)
        return pid

    def kill_control(self) -> None:
        """SIGKILL of the control plane; returns when it and its children are gone."""
        os.kill(self.control(), signal.SIGKILL)
        until(lambda: not processes_of(self.home), "the children of a killed control plane end", 15)

    def until_restarted(self, name: str, old: int) -> int:
        pid = until(lambda: (self.pids().get(name) or old) != old and self.pids().get(name), f"{name} runs again")
        assert pid
        return int(pid)

    def statistics(self) -> Document:
        """What the agent tells of itself."""
        path = self.home / "points" / POINT.replace("/", ".") / "stats.json"
        try:
            return dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return {}

    def rings(self) -> list[Path]:
        """The files that Envoy and the agent share now."""
        discovery = json.loads((self.private / "ecds.json").read_text())
        config = json.loads(discovery["resources"][0]["typed_config"]["filter_config"]["value"])
        return sorted(Path(config["ringDir"]).glob("*.ring"))

    @property
    def private(self) -> Path:
        return self.home / "points" / POINT.replace("/", ".") / "private"

    @property
    def agent_log(self) -> Path:
        return self.private.parent / "agent.log"

    def end(self) -> None:
        """Ends all, and fails when something was left running after `knhk down`."""
        try:
            self.down()
        finally:
            self.app.stop()
            with suppress(AssertionError):
                until(lambda: not processes_of(self.home), "nothing runs", 10)
            left = processes_of(self.home)
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert not left, f"left running after knhk down: {left}"

    # ---- callers ---------------------------------------------------------------------------------

    def traffic(self, rate_s: float = 60.0, writes_only: bool = False) -> Traffic:
        """Callers of the example's mix. `writes_only`: no GET, which a client may repeat by itself."""
        requests = (request for request in self.mix if request.method == "POST" or not writes_only)
        return Traffic(self.callers, self.sent, iter(requests), rate_s)

    @property
    def answers(self) -> list[Answer]:
        """Every answer that a caller had so far."""
        return list(self.callers.tally.answers)

    @property
    def lost(self) -> int:
        """Requests that were sent and have no answer."""
        return self.sent.count - len(self.callers.tally.answers)

    def send(self, *requests: Request, decision: str = "") -> list[Answer]:
        """The answers, in order; all are sent at once. Raises aiohttp.ClientError. `decision`: the id under which they were parked."""
        return asyncio.run(self._send(requests, {"knhk-decision": decision} if decision else {}))

    async def _send(self, requests: tuple[Request, ...], headers: dict[str, str]) -> list[Answer]:
        async with self.sent.session(len(requests)) as session:

            async def one(request: Request) -> Answer:
                own = {"authorization": f"Bearer {self.provider.token(request.caller)}", "content-type": "application/json", **headers}
                async with session.request(request.method, self.url + request.path, data=request.body, headers=own) as response:
                    receipt = response.headers.get("knhk-receipt", "")
                    answer = Answer(request, response.status, receipt, time.time_ns(), await response.read())
                self.callers.tally.answers.append(answer)
                return answer

            return await asyncio.gather(*(one(request) for request in requests))

    @property
    def url(self) -> str:
        listen = self.point["spec"]["listen"]
        return f"http://{listen['address']}:{listen['port']}"

    def invoices(self, count: int) -> list[Request]:
        """Invoices that every version of the example's pack admits."""
        right = (request for request in self.mix if request.kind == "right")
        return [next(right) for _ in range(count)]

    def until_answering(self) -> None:
        """Until a right invoice is admitted; the point may have been started anew."""

        def look() -> bool:
            with suppress(aiohttp.ClientError, TimeoutError):
                return self.send(*self.invoices(1))[0].status == 201
            return False

        until(look, "the point admits a right invoice")

    # ---- what a stranger reads -------------------------------------------------------------------

    def until_logged(self) -> None:
        """Until every receipt that a caller holds is in the log. Not for 503 of a full ring, which has none."""

        def look() -> bool:
            held = {answer.receipt for answer in self.answers if answer.receipt}
            with suppress(FileNotFoundError):  # the sequencer has just replaced a tile by a wider one
                return held <= {leaf.receipt_id.hex() for leaf in self.leaves()}
            return False

        until(look, "every receipt that callers hold is in the log")

    def leaves(self) -> list[Leaf]:
        return [parse_leaf(entry) for entry in log_entries(self.home / "log") if entry[:1] == b"\x01"]

    def records(self) -> Iterator[Record]:
        """What the agents recorded, in the outbox's order."""
        for path in sorted((self.home / "log" / "observations").glob("*/*.seg")):
            frames, _ = scan_frames(path.read_bytes(), int(path.stem, 16), str(path))
            for offset, payload in frames:
                yield parse_record(payload, f"{path}:{offset}")

    def verify(self) -> Document:
        """`knhk log verify` and `knhk log replay` of the stopped home: both must find nothing."""
        verified: Document = self.knhk("log", "verify", str(self.home / "log"))
        assert verified["bad"] == []
        replayed = self.knhk("log", "replay", str(self.home / "log"), timeout_s=300)
        assert replayed["different"] == replayed["unrecorded"] == 0, replayed["differences"][:3]
        return {**verified, **replayed}


@dataclass(frozen=True)
class Covered:
    """What `assert_covered` counted."""

    rows: int
    responses: int
    leaves: int
    unanswered: int


def assert_covered(world: World) -> Covered:
    """The application's rows and the callers' responses held against the log; neither was written by what they are held against."""
    groups: dict[str, list[Leaf]] = defaultdict(list)
    for leaf in world.leaves():
        groups[leaf.receipt_id.hex()].append(leaf)
    for receipt, group in groups.items():
        _assert_one_per_arm(receipt, group)
    rows = world.app.rows()
    assert len({receipt for receipt, _ in rows}) == len(rows), "two rows have one receipt id"
    _assert_rows(rows, groups, world)
    answers = [answer for answer in world.answers if answer.receipt]
    _assert_answers(answers, groups)
    known = {answer.receipt for answer in answers}
    return Covered(len(rows), len(answers), sum(map(len, groups.values())), sum(1 for receipt in groups if receipt not in known))


def _assert_one_per_arm(receipt: str, group: list[Leaf]) -> None:
    arms = sorted(leaf.flags & CANDIDATE for leaf in group)
    assert arms in ([0], [0, 1]), f"{receipt}: must have one leaf of the stable arm and at most one of the candidate, has {arms}"
    enforced = [leaf for leaf in group if leaf.mode == ENFORCED]
    assert len(enforced) == 1, f"{receipt}: must have one enforced leaf, has {len(enforced)}"
    assert len({leaf.pack for leaf in group}) == len(group), f"{receipt}: both arms name one pack"


def _assert_rows(rows: list[tuple[str, str]], groups: dict[str, list[Leaf]], world: World) -> None:
    """Each row has one enforced ADMIT leaf whose H(O) is that of a recorded observation with the body that the application saw."""
    recorded = defaultdict(set)
    for record in world.records():
        body = hashlib.sha256(parse_observation(record.observation).body).hexdigest()
        for data in record.leaves:
            recorded[parse_leaf(data).receipt_id.hex()].add((h_o(record.salt, record.observation), body))
    for receipt, body in rows:
        admits = [leaf for leaf in groups.get(receipt, ()) if leaf.mode == ENFORCED and leaf.verdict == ADMIT]
        assert len(admits) == 1, f"row {receipt}: must have one enforced ADMIT leaf, has {len(admits)}: {groups.get(receipt)}"
        assert (admits[0].h_o, body) in recorded[receipt], f"row {receipt}: H(O) is not that of an observation with the application's body"


def _assert_answers(answers: list[Answer], groups: dict[str, list[Leaf]]) -> None:
    assert len({answer.receipt for answer in answers}) == len(answers), "two responses have one receipt id"
    for answer in answers:
        group = groups.get(answer.receipt)
        assert group, f"{answer.receipt}, answered with {answer.status}: is not in the log"
        enforced = next(leaf for leaf in group if leaf.mode == ENFORCED)
        said = {200: ADMIT, 201: ADMIT, 403: DENY}.get(answer.status)
        assert said in (None, enforced.verdict), f"{answer.receipt}: answered with {answer.status}, but its leaf says {enforced.verdict}"


def with_text(pack: Document, source: str, old: str, new: str) -> Document:
    """A copy of a pack with `old` in the text of one source replaced."""
    made = copy.deepcopy(pack)
    text = next(item for item in made["spec"]["sources"] if item["name"] == source)
    assert old in text["inline"], f"{source} must have {old}"
    text["inline"] = text["inline"].replace(old, new)
    return made
