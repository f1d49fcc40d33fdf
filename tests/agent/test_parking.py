"""Parked requests: judged within the time, or later under a decision id that passes once."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from agent_parking import NONE, held_up, id16, message
from agent_rings import Request
from agent_world import World, failing, observation, until

from knhk_runtime.outbox.records import DECISION, ENFORCED, OBSERVED, PARK, RESUMED, Arm
from knhk_runtime.record import check_record
from knhk_runtime.tiers.action import action_bytes
from knhk_verify.leaf import parse_leaf

pytestmark = pytest.mark.server
SLOW = b"cold " + b"a" * 60


def verdict(body: bytes) -> tuple[int, bytes, bytes]:
    """(verdict, receipt, problem) of KNPA."""
    magic, version, found, zero, receipt, length = struct.unpack_from(">4sBBH16sI", body)
    assert (magic, version, zero, length) == (b"KNPA", 1, 0, len(body) - 28)
    return found, receipt, body[28:]


@pytest.fixture
def up(world: World) -> World:
    world.desire(world.sign(world.rollout()))
    world.start_agent()
    world.runs(1)
    until(lambda: world.park(message(world, b"cold good", 999))[0] == 200, "the evaluator is warm")
    return world


def leaves_of(world: World, receipt: int) -> list[tuple[int, int, int, int]]:
    """(kind, class, verdict, flags) of the leaves with this receipt."""
    found = [parse_leaf(leaf) for record in world.records() for leaf in record.leaves]
    return [(leaf.kind, leaf.klass, leaf.verdict, leaf.flags) for leaf in found if leaf.receipt_id == id16(receipt)]


def test_a_decision_is_durable_before_it_is_told(up: World) -> None:
    status, ours, body = up.park(message(up, b"cold good", 1))
    assert (status, ours, verdict(body)) == (200, "1", (1, id16(1), b""))
    assert leaves_of(up, 1) == [(DECISION, 3, 1, 0)]
    status, ours, body = up.park(message(up, b"cold bad", 2))
    found, _, problem = verdict(body)
    told = json.loads(problem)
    assert (status, ours, found) == (200, "1", 2)
    assert (told["status"], told["receipt"], told["pack"]) == (403, id16(2).hex(), "erp/invoices@1.0.0")
    assert [(v["guard"], v["value"]) for v in told["violations"]] == [("text", "cold bad")]
    record = up.records()[-1]
    check_record(record, "outbox")
    assert failing(record.actions[0]) == (2,)
    assert until(lambda: up.stats()["decisions"], "counted")


def test_both_arms_are_judged(up: World) -> None:
    up.desire(up.sign(up.rollout(mode="Shadow", candidate=up.pack("1.1.0"))))
    up.runs(2)
    status, _, _ = up.park(message(up, b"cold good", 3, versions=("1.0.0", "1.1.0")))
    assert status == 200
    assert leaves_of(up, 3) == [(DECISION, 3, 1, 0), (DECISION, 3, 1, 1)]
    until(lambda: [row["pairs"] for row in up.stats()["pairs"]] == [1], "the pair is counted")


def test_a_pattern_that_runs_away_does_not_hold_up_others(up: World) -> None:
    status, ours, _ = up.park(message(up, SLOW, 4))
    assert (status, ours) == (202, "1")
    assert leaves_of(up, 4) == [(PARK, 0, 0, 0)]
    assert until(lambda: up.park(message(up, b"cold good", 5))[0] == 200, "others are judged")
    assert up.park(message(up, SLOW, 6, id16(4)))[:2] == (410, "1")  # never decided: refused, not admitted


@pytest.fixture
def hasty(world: World) -> World:
    """A point whose shim waits 150 ms only."""
    world.park_timeout_ms = 150
    world.desire(world.sign(world.rollout()))
    world.start_agent()
    world.runs(1)
    until(lambda: world.park(message(world, b"cold good", 999))[0] == 200, "the evaluator is warm")
    return world


def late(world: World) -> int:
    """The receipt of a request that was answered 202 and decided afterwards."""

    def asks(receipt: int) -> None:
        assert world.park(message(world, b"cold good", receipt))[:2] == (202, "1")

    return held_up(world, asks)


def test_a_late_decision_passes_once_and_only_for_the_same_request(hasty: World) -> None:
    parked = late(hasty)
    assert leaves_of(hasty, parked) == [(PARK, 0, 0, 0)]
    again = observation(b"cold good")
    for other in (observation(b"cold good", sub="eve"), observation(b"cold good!"), observation(b"cold good", bundle=b"\1" * 32)):
        assert hasty.park(message(hasty, b"", 11, id16(parked), o=other))[:2] == (410, "1")
    assert hasty.park(message(hasty, b"", 11, id16(parked), o=again, versions=("1.1.0",)))[:2] == (410, "1")
    status, _, body = hasty.park(message(hasty, b"", 12, id16(parked), o=again))
    assert (status, verdict(body)[0]) == (200, 1)
    assert leaves_of(hasty, 12) == [(DECISION, 3, 1, RESUMED)]
    assert hasty.park(message(hasty, b"", 13, id16(parked), o=again))[:2] == (410, "1")
    assert hasty.park(message(hasty, b"", 14, id16(77), o=again))[:2] == (410, "1")
    for record in hasty.records():
        check_record(record, "outbox")


def test_of_many_repetitions_at_once_one_passes(hasty: World) -> None:
    parked = late(hasty)
    with ThreadPoolExecutor(8) as pool:
        repeats = [pool.submit(hasty.park, message(hasty, b"", 30 + i, id16(parked), o=observation(b"cold good"))) for i in range(8)]
        statuses = sorted(repeat.result()[0] for repeat in repeats)
    assert statuses == [200] + [410] * 7


def test_a_repetition_that_comes_too_early_waits_or_is_sent_away_again(hasty: World) -> None:
    def asks(receipt: int) -> None:
        assert hasty.park(message(hasty, b"cold good", receipt))[:2] == (202, "1")
        assert hasty.park(message(hasty, b"cold good", receipt + 1, id16(receipt)))[:2] == (202, "1")

    parked = held_up(hasty, asks)
    passed = until(
        lambda: next((n for n in range(52, 60) if hasty.park(message(hasty, b"cold good", n, id16(parked + 1)))[0] == 200), None),
        "it passes",
    )
    assert leaves_of(hasty, passed) == [(DECISION, 3, 1, RESUMED)]
    for number in range(2):  # one judgement under several ids passes one request
        assert hasty.park(message(hasty, b"cold good", 70 + number, id16(parked + number)))[:2] == (410, "1")


def test_a_repetition_that_waits_for_what_is_never_decided_is_refused(hasty: World) -> None:
    assert hasty.park(message(hasty, SLOW, 60))[:2] == (202, "1")
    tries = iter(range(61, 10_000))
    last = until(lambda: (got := hasty.park(message(hasty, SLOW, next(tries), id16(60)))[:2]) != (202, "1") and got, "an answer")
    assert last == (410, "1")


def test_a_late_decision_survives_a_restart(hasty: World) -> None:
    parked = late(hasty)
    hasty.running[-1].kill()
    hasty.running[-1].wait()
    (hasty.point / "stats.json").unlink()
    hasty.start_agent()
    hasty.runs(1)
    assert hasty.park(message(hasty, b"", 42, id16(parked), o=observation(b"cold good")))[0] == 200


@pytest.mark.parametrize("versions", [("1.0.0",), ("1.0.0", "1.1.0")], ids=["one arm", "both arms open"])
def test_what_the_shim_parked_while_the_agent_was_away_passes_when_it_is_repeated(hasty: World, versions: tuple[str, ...]) -> None:
    if len(versions) == 2:
        hasty.desire(hasty.sign(hasty.rollout(mode="Shadow", candidate=hasty.pack("1.1.0"))))
        hasty.runs(2)
    hasty.running[-1].kill()
    hasty.running[-1].wait()
    ring = hasty.ring()
    receipt, o = ring.next_receipt(), observation(b"cold good")
    packs = [bytes.fromhex(hasty.packs.digests[version][7:47]) for version in versions]
    arms = (Arm(packs[0], PARK, 3, 0, ENFORCED, 0, b""), *(Arm(pack, PARK, 3, 0, OBSERVED, 1, b"") for pack in packs[1:]))
    ring.put(Request(receipt, 0, 77, o, arms))
    (hasty.point / "stats.json").unlink()
    hasty.start_agent()
    hasty.runs(len(versions))
    until(lambda: hasty.stats()["durable"] >= len(versions), "the leaves")
    tries = iter(range(80, 200))
    passed = until(
        lambda: next((n for n in [next(tries)] if hasty.park(message(hasty, b"cold good", n, receipt, versions=versions))[0] == 200), None),
        "it passes",
    )
    assert [leaf[:3] for leaf in leaves_of(hasty, passed)] == [(DECISION, 3, 1)] * len(versions)
    assert hasty.park(message(hasty, b"cold good", 201, receipt, versions=versions))[:2] == (410, "1")


def _plan(world: World) -> str:
    path = world.point / "state" / "running.json"
    path.write_text(path.read_text().replace("^cold (good|", "^cold (bad|good|"))
    return "running.json: plan of invoices"


def _library(world: World) -> str:
    (path,) = (world.point / "private").glob("*.so")
    path.chmod(0o700)
    path.write_bytes(path.read_bytes() + b"\0")
    return path.name


@pytest.mark.parametrize("alter", [_plan, _library], ids=["plan", "library"])
def test_what_was_altered_between_two_runs_decides_nothing(up: World, alter: Callable[[World], str]) -> None:
    """With the registry out of reach a restarted agent has only its own copies: an altered one is told, and judges no request."""
    up.stop_all()
    where = alter(up)
    up.registry.rename(up.registry.with_name("away"))
    (up.point / "stats.json").unlink()
    up.start_agent()
    until(lambda: any(where in fault["where"] for fault in up.stats().get("refused", ())), f"{where} is told")
    for number, body in enumerate((b"cold bad", b"cold good")):
        assert up.park(message(up, body, 100 + number))[:2] == (202, "1")
        assert leaves_of(up, 100 + number) == [(PARK, 0, 0, 0)]
    up.registry.with_name("away").rename(up.registry)
    tries = iter(range(110, 100_000))
    until(lambda: up.park(message(up, b"cold good", next(tries)))[0] == 200, "it is fetched anew")
    assert verdict(up.park(message(up, b"cold bad", 102))[2])[0] == 2


def test_a_malformed_message_is_never_an_admission(up: World) -> None:
    good = message(up, b"cold good", 50)
    before = len(up.records())
    for bad in (
        b"",
        b"KNPX" + good[4:],
        good[:-1],
        good + b"\0",
        good[:5] + b"\3" + good[6:],
        good[:76] + b"\xff\xff\xff\xff" + good[80:],
        good.replace(b"\0\5local", b"\0\5LOCAL"),
    ):
        assert up.park(bad)[:2] == (400, None)
    assert len(up.records()) == before
    assert up.park(message(up, b"cold good", 51))[0] == 200


def test_a_pack_that_is_not_loaded_is_not_admitted(up: World) -> None:
    odd = message(up, b"cold good", 60).replace(bytes.fromhex(up.packs.digests["1.0.0"][7:47]), b"\x11" * 20)
    assert up.park(odd)[:2] == (202, "1")
    assert leaves_of(up, 60) == [(PARK, 0, 0, 0)]
    with_bundle = observation(b"cold good", bundle=b"\x22" * 32)
    assert up.park(message(up, b"", 61, o=with_bundle))[:2] == (202, "1")


def test_a_decision_by_the_tables_is_kept_as_the_shim_made_it(up: World) -> None:
    o = observation(b"fine")
    a = action_bytes([{"kind": "payload", "severity": "Violation"}], [])
    pack = bytes.fromhex(up.packs.digests["1.0.0"][7:47])
    arms = pack + struct.pack(">BBHI", 0, ENFORCED, 2, len(a)) + a
    head = struct.pack(">4sBBH16sQ16s", b"KNPK", 1, 1, 0, id16(70), 0, NONE)
    assert verdict(up.park(head + arms + len(o).to_bytes(4, "big") + o)[2])[0] == 1
    assert leaves_of(up, 70) == [(DECISION, 1, 1, 0)]


def test_the_agent_imports_nothing_heavy() -> None:
    code = "import sys, knhk_runtime.main, knhk_runtime.wiring; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {
        "kopf",
        "kubernetes",
        "rdflib",
        "sigstore",
        "pyshacl",
        "jinja2",
        "knhk_gen",
        "knhk_templates",
        "pyoxigraph",
        "obstore",
    }


def test_help_has_examples_and_a_check_says_what_and_where(world: World) -> None:
    command = [sys.executable, "-m", "knhk_runtime.main"]
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "examples:" in told
    world.desire(world.sign(world.rollout(weight=1001)))
    options = {
        "point-dir": world.point, "registry": world.registry, "sequencer-socket": world.socket,
        "outbox": world.outbox, "ring-dir": world.rings, "root-pub": world.root_pub,
    }  # fmt: skip
    words = [word for name, path in options.items() for word in (f"--{name}", str(path))]
    checked = subprocess.run([*command, *words, "--once-check"], capture_output=True, text=True)
    assert checked.returncode == 1
    assert json.loads(checked.stderr)["refused"][0]["must"] == "must be 0 to 1000"
    world.desire(world.sign(world.rollout()))
    checked = subprocess.run([*command, *words, "--once-check"], capture_output=True, text=True)
    assert json.loads(checked.stdout)["stable"] == world.packs.digests["1.0.0"]
    assert not list(Path(world.point / "private").glob("*"))


def test_another_body_never_inherits_a_decision_that_is_being_made(hasty: World) -> None:
    """While a good request is still being decided, its decision id is no good for a bad one: neither then nor when it is done."""
    evaluator = hasty.evaluator()
    os.kill(evaluator, signal.SIGSTOP)
    try:
        assert hasty.park(message(hasty, b"cold good", 90))[:2] == (202, "1")
        assert hasty.park(message(hasty, b"cold bad", 91, id16(90)))[:2] == (410, "1")
    finally:
        with suppress(ProcessLookupError):  # an agent that waits for half a second ends it
            os.kill(evaluator, signal.SIGCONT)
    until(lambda: hasty.park(message(hasty, b"cold good", 92, id16(90)))[0] in (200, 410), "it is decided")
    assert hasty.park(message(hasty, b"cold bad", 93, id16(91)))[:2] == (410, "1")
