"""The main story, on this machine, without a cluster: from a policy to receipts that verify offline.

An order-to-cash service stands behind an enforcement point. A policy pack is applied, shadowed, rolled out by canary and promoted
while traffic flows; a wrong version rolls itself back; a right one follows; a faulty one is refused. Then everything is stopped, and
the log is verified and replayed with nothing running.

Example:  .venv/bin/python examples/order_to_cash/demo.py --out demo.json
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audit import Differs, hold_against_answers, hold_against_rows, open_books
from identity import AUDIENCE, ISSUER, IdentityProvider
from traffic import Answer, Callers, Mix, Request

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent
PACKS = EXAMPLES / "packs" / "invoice-controls"
PAYLOADS = EXAMPLES / "payloads"
PACK = "erp/invoice-controls"
POINT = "erp/orders"
WAIT_S = 180.0
MOST_REQUESTS = 60_000
ENDED = frozenset({"Live", "RolledBack", "Aborted", "Stalled"})


class Failed(Exception):
    """The story did not go as told; the text says what was expected and what came."""


class Hands(Protocol):
    """What the story needs of whoever plays it: here, or on a cluster."""

    def apply(self, file: Path) -> None: ...
    def refused(self, file: Path) -> list[str]: ...
    def get(self, kind: str, key: str) -> dict[str, Any]: ...
    def receipts(self, namespace: str) -> list[dict[str, Any]]: ...
    def say(self, text: str) -> None: ...
    def step(self, number: int, text: str) -> None: ...


@dataclass
class Tools:
    """The commands that a user has, run as a user runs them."""

    home: Path
    console: Console

    def knhk(self, *args: str, expect: int = 0, timeout_s: float = 60.0) -> Any:
        """Runs `knhk ARGS`, JSON out. Fails unless the exit code is `expect`."""
        argv = [str(Path(sys.executable).parent / "knhk"), *args]
        env = {**os.environ, "KNHK_HOME": str(self.home)}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode != expect:
            raise Failed(f"$ knhk {' '.join(args)}: exit {done.returncode}, expected {expect}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout or done.stderr or "null")

    def apply(self, file: Path) -> None:
        """`knhk apply` of one file, by the path that a user would type."""
        self.knhk("apply", "-f", os.path.relpath(file))

    def refused(self, file: Path) -> list[str]:
        """Applies a file that must be refused; a line for each fault."""
        faults = self.knhk("apply", "-f", os.path.relpath(file), expect=1)["faults"]
        return [f"{fault['where']}: {fault['value']}: {fault['must']}" for fault in faults]

    def get(self, kind: str, key: str) -> dict[str, Any]:
        """One resource; `key` is NAMESPACE/NAME."""
        resource: dict[str, Any] = self.knhk("get", kind, key)
        return resource

    def receipts(self, namespace: str) -> list[dict[str, Any]]:
        """All Receipts of a namespace."""
        rows: list[dict[str, Any]] = self.knhk("get", "receipts", "-n", namespace)["items"]
        return rows

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def step(self, number: int, text: str) -> None:
        self.console.print(f"\n[bold cyan]{number}.[/] [bold]{text}[/]", highlight=False)


@contextmanager
def application(database: Path) -> Iterator[Path]:
    """The example application as a process of its own; gives its socket, in a folder that only this user enters: no way round."""
    with tempfile.TemporaryDirectory(prefix="order-to-cash-") as folder:
        socket = Path(folder) / "app.sock"
        argv = [sys.executable, str(HERE / "app.py"), "--db", str(database), "--socket", str(socket)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield Path(json.loads(process.stdout.readline())["socket"])
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=10)


def manifests(folder: Path, provider: IdentityProvider, app_socket: Path) -> tuple[Path, Path]:
    """The example's EnforcementPoint with this run's application socket and identity provider, and its DataBundle."""
    point = yaml.safe_load((PACKS / "orders.yaml").read_text())
    point["spec"]["upstream"] = {"socket": str(app_socket)}
    point["spec"]["attributes"]["jwt"] |= {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"inline": provider.jwks()}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orders.yaml").write_text(yaml.safe_dump(point, sort_keys=False))
    return folder / "orders.yaml", PACKS / "finance-roles.yaml"


@dataclass
class Story:
    """The state that the chapters share."""

    tools: Hands
    callers: Callers
    started_s: float = field(default_factory=time.monotonic)
    facts: dict[str, Any] = field(default_factory=dict)

    def pack(self) -> dict[str, Any]:
        return self.tools.get("policypack", PACK)

    async def until(self, version: str, wanted: str) -> dict[str, Any]:
        """Waits until version `version` reaches phase `wanted`, telling each move on the way."""
        told = ""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            resource = await asyncio.to_thread(self.pack)
            revision = resource.get("status", {}).get("revision", {})
            current = revision.get("version") == version
            line = message(resource) if current else ""
            if line and line != told:
                self.tools.say(f"   [dim]{time.monotonic() - self.started_s:6.1f} s[/]  {version}  {line}")
                told = line
            if current and revision.get("phase") == wanted:
                return dict(revision)
            if current and revision.get("phase") in ENDED:
                raise Failed(f"{PACK} {version}: expected {wanted}, came to {revision['phase']}: {line}\n{json.dumps(revision, indent=1)}")
            await asyncio.sleep(0.1)
        raise Failed(f"{PACK} {version}: not {wanted} within {WAIT_S:.0f} s; last: {told or 'nothing'}")

    async def apply(self, file: Path) -> None:
        await asyncio.to_thread(self.tools.apply, file)

    async def tell_events(self, version: str) -> None:
        """The receipts of a version's policy events, in the order of the log: nothing of a rollout goes without one."""
        listed = await asyncio.to_thread(self.tools.receipts, PACK.partition("/")[0])
        events = [event_of(resource["spec"]) for resource in listed]
        for index, predicate in sorted((index, p) for index, p in events if p.get("pack", {}).get("version") == version):
            weight = f"{predicate['weight']} %" if predicate.get("weight") else ""
            seen = predicate.get("evidence", {})
            pairs = f"after {seen['pairs']} pairs, {seen['errors']} errors" if "pairs" in seen else ""
            line = "  ".join(part for part in (predicate.get("arm", ""), weight, pairs) if part)
            self.tools.say(f"     receipt {index:6}  {predicate['kind']:15} {line}")


def event_of(receipt: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Log index and predicate of a Receipt's signed event."""
    envelope = json.loads(receipt["bundle"])["dsseEnvelope"]
    return receipt["logIndex"], json.loads(base64.b64decode(envelope["payload"]))["predicate"]


def ready(resource: dict[str, Any]) -> dict[str, Any]:
    """The condition Ready, empty before the first look."""
    conditions = resource.get("status", {}).get("conditions", [])
    return next((dict(c) for c in conditions if c["type"] == "Ready"), {})


def message(resource: dict[str, Any]) -> str:
    """What the condition Ready says, in one line."""
    told = ready(resource)
    return f"{told.get('reason', '')}: {told.get('message', '')}" if told else ""


def _denied(story: Story, kind: str) -> Answer | None:
    """The last request of this kind that was denied."""
    return next((a for a in reversed(story.callers.tally.answers) if a.status == 403 and a.request.kind == kind), None)


async def chapter_wrong_payloads(story: Story) -> None:
    """A wrong payload is denied with rule, shape, path, value and message; a right one reaches the application."""
    tools, deadline_s = story.tools, time.monotonic() + WAIT_S
    while (shown := _denied(story, "unknown currency")) is None:
        if time.monotonic() > deadline_s:
            raise Failed("no request with an unknown currency was denied")
        await asyncio.sleep(0.1)
    problem = json.loads(shown.body)
    violation = problem["violations"][0]
    tools.say(f"   POST /invoices, {shown.request.kind}: [red]403[/] {problem['title']}, receipt {shown.receipt}")
    for name in ("guard", "rule", "shape", "path", "value", "message"):
        tools.say(f"     {name:8} {escape(str(violation.get(name, '')))}")
    by_status = story.callers.tally.statuses()
    tools.say("   answers so far: " + ", ".join(f"{status} × {count}" for status, count in by_status.items()))


async def live(story: Story) -> None:
    """Chapters that need the point running and traffic flowing."""
    tools, facts = story.tools, story.facts
    tools.step(2, "PolicyPack invoice-controls 1.0.0: compile, build, sign, shadow, canary, promote")
    facts["applied_ns"] = time.time_ns()
    await story.apply(PACKS / "1.0.0" / "pack.yaml")
    status = await story.until("1.0.0", "Live")
    facts["digests"] = {"1.0.0": status["digest"]}
    await story.tell_events("1.0.0")

    tools.step(3, "Wrong payloads are denied and told why; right ones reach the application")
    await chapter_wrong_payloads(story)

    tools.step(4, "1.1.0 is well-formed but wrong: it would deny valid foreign-currency invoices")
    await story.apply(PACKS / "1.1.0" / "pack.yaml")
    status = await story.until("1.1.0", "RolledBack")
    facts["digests"]["1.1.0"] = status["digest"]
    facts["rollback"] = status
    rollback = status["findings"][0]
    crossed = f"{rollback['tolerance']} of guard {rollback['guard']}: {rollback['value']} > {rollback['threshold']}"
    tools.say(f"   tolerance crossed: [red]{escape(crossed)}[/] on {rollback['pairs']} pairs ({rollback['clusters']} callers)")
    tools.say(f"   sample receipts: {', '.join(rollback['samples'][:3])}; digest deny-listed: {status['digest'][:23]}…")

    tools.step(5, "1.2.0 is right; a faulty pack is refused whole")
    await story.apply(PACKS / "1.2.0" / "pack.yaml")
    status = await story.until("1.2.0", "Live")
    facts["digests"]["1.2.0"] = status["digest"]
    await story.tell_events("1.2.0")
    refused = await asyncio.to_thread(tools.refused, PACKS / "faulty" / "pack.yaml")
    for fault in refused:
        tools.say(f"   [red]refused[/] {escape(fault)}")
    still = (await asyncio.to_thread(story.pack))["status"]["revision"]
    if (still["version"], still["phase"]) != ("1.2.0", "Live"):
        raise Failed(f"the refused pack must touch nothing, but status is {still['version']} {still['phase']}")
    tools.say(f"   {len(refused)} faults at once; 1.2.0 runs on untouched")


async def play(tools: Tools, app_socket: Path, database: Path) -> Story:
    """Everything from `knhk up` to `knhk down`."""
    provider = IdentityProvider.new()
    tools.step(1, "An application, an enforcement point in front of it, the sequencer and the control plane start")
    tools.knhk("up")
    point_file, bundle_file = manifests(tools.home / "manifests", provider, app_socket)
    tools.knhk("apply", "-f", str(bundle_file), "-f", str(point_file))
    address = await address_of_point(tools)
    tools.say(f"   application on {app_socket} (SQLite {database.name}), guarded by Envoy on {address}")
    callers = Callers(f"http://{address}", provider, Mix(PAYLOADS, seed=20261123), lanes=12, rate_s=250.0)
    story = Story(tools, callers)
    await first_answer(callers)
    stop = asyncio.Event()
    traffic = asyncio.create_task(callers.run(stop, MOST_REQUESTS))
    try:
        await live(story)
    finally:
        stop.set()
        await traffic
    return story


async def address_of_point(tools: Tools) -> str:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        resource = await asyncio.to_thread(tools.get, "enforcementpoint", POINT)
        if ready(resource).get("status") == "True":
            return str(resource["status"]["address"])
        await asyncio.sleep(0.1)
    raise Failed(f"{POINT}: not ready within {WAIT_S:.0f} s; see {tools.home}/run and {tools.home}/points")


async def first_answer(callers: Callers) -> None:
    """Waits until the point gives receipts."""
    deadline = time.monotonic() + WAIT_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while time.monotonic() < deadline:
            answer = await callers.send(session, Request("GET", "/invoices/none", b"", "clerk-000", True, "probe"))
            if answer is not None and answer.receipt:
                return
            await asyncio.sleep(0.05)
    raise Failed(f"{POINT}: no answer with a receipt within {WAIT_S:.0f} s")


def offline(*command: str, fine: Sequence[int] = (0,), timeout_s: float = 300.0) -> Any:
    """Runs a program over a copy of the log, with nothing else running; what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode not in fine:
        raise Failed(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def summary(story: Story, log_dir: Path, databases: Sequence[Path]) -> dict[str, Any]:
    """With nothing running: verify, replay, hold against the application's rows and the callers' answers."""
    facts = story.facts
    vkey, knhk = json.loads((log_dir / "meta.json").read_text())["vkey"], str(Path(sys.executable).parent / "knhk")
    verified = offline(knhk, "log", "verify", str(log_dir), "--vkey", vkey, "-o", "json")
    replayed = offline(knhk, "log", "replay", str(log_dir), "-o", "json", fine=(0, 1))
    answers = story.callers.tally.answers
    books = open_books(log_dir)
    rows = sum(hold_against_rows(books, database) for database in databases)
    hold_against_answers(books, [answer.receipt for answer in answers if answer.receipt])
    leaves = books.leaves
    bad, first = (bytes.fromhex(facts["digests"][version].removeprefix("sha256:"))[:20] for version in ("1.1.0", "1.0.0"))
    bad_leaves = [leaf for leaf in leaves if leaf.pack == bad]
    judged_ns = nanoseconds(facts["rollback"]["judged"])
    enforced = [leaf for leaf in bad_leaves if leaf.mode == 1]
    right = {answer.receipt for answer in answers if answer.request.right and answer.receipt}
    return {
        "decisions": sum(1 for answer in answers if answer.receipt),
        "receipts": verified["receipts"],
        "leaves": len(leaves),
        "denied": count(answers, 403),
        "admitted": sum(1 for answer in answers if answer.status in (200, 201)),
        "app_rows": rows,
        "rolled_back": books.versions("RolledBack"),
        "promoted": books.versions("Promoted"),
        "apply_to_first_decision_s": seconds(min(leaf.time_ns for leaf in leaves if leaf.pack == first) - facts["applied_ns"]),
        "bad_pack_pairs": int(facts["rollback"]["findings"][0]["pairs"]),
        "rollback_s": max(0.0, seconds(max((leaf.time_ns for leaf in enforced), default=judged_ns) - judged_ns)),
        "last_judged_by_bad_pack_s": max(0.0, seconds(max((leaf.time_ns for leaf in bad_leaves), default=judged_ns) - judged_ns)),
        "wrong_enforced": sum(1 for leaf in enforced if leaf.verdict == 2 and leaf.receipt_id.hex() in right),
        "replayed": replayed["replayed"],
        "different": replayed["different"],
        "erased": replayed["erased"],
        "unrecorded": replayed["unrecorded"],
        "log_size": verified["size"],
        "log_dir": str(log_dir),
        "vkey": vkey,
    }


def count(answers: list[Answer], status: int) -> int:
    return sum(1 for answer in answers if answer.status == status)


def nanoseconds(time_text: str) -> int:
    """Nanoseconds since 1970 of RFC 3339 with nanoseconds."""
    whole, _, fraction = time_text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * 1_000_000_000 + int(fraction)


def seconds(span_ns: int) -> float:
    return round(span_ns / 1e9, 3)


def closing_table(result: dict[str, Any]) -> Table:
    table = Table(title="What happened", show_header=False, title_justify="left")
    for name, value in result.items():
        table.add_row(name, str(value))
    return table


def closing(console: Console, result: dict[str, Any], home: Path, out: Path) -> None:
    console.print(closing_table(result))
    knhk = "KNHK_HOME=" + os.path.relpath(home) + " .venv/bin/knhk"
    console.print("Nothing is left running. To try next:")
    for command in (
        f"{knhk} log verify {os.path.relpath(result['log_dir'])}",
        f"{knhk} receipt list",
        f"{knhk} pack explain examples/packs/invoice-controls/1.2.0",
        f"{knhk} up && {knhk} get policypacks && {knhk} down",
        f"cat {os.path.relpath(out)}",
    ):
        console.print(f"  {command}", highlight=False)


def main() -> int:
    """Plays the story; exit 0 when it went as told, 1 with what differed otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo.json"), help="summary (JSON)")
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="made anew at each run; the log in it is kept afterwards")
    args = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    home = args.home.absolute()
    tools = Tools(home / "home", console)
    if home.exists():
        if (home / "home").exists():
            tools.knhk("down")
        shutil.rmtree(home)
    home.mkdir(parents=True)
    database = home / "application.db"
    try:
        try:
            with application(database) as app_socket:
                try:
                    story = asyncio.run(play(tools, app_socket, database))
                finally:
                    tools.knhk("down")
        except KeyboardInterrupt:
            console.print("stopped; nothing is left running")
            return 130
        tools.step(6, "Everything is stopped; the log is verified and replayed offline")
        result = summary(story, tools.home / "log", [database])
    except (Failed, Differs) as failure:
        console.print(f"[bold red]The story failed:[/] {escape(str(failure))}", highlight=False, soft_wrap=True)
        return 1
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    tools.say(f"   verified: {result['log_size']} entries, {result['receipts']} receipts, {result['app_rows']} rows of the application")
    tools.say(f"   replayed from the bytes of O: {result['replayed']} decisions, {result['different']} different")
    closing(console, result, tools.home, args.out)
    return 0 if result["different"] == result["unrecorded"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
