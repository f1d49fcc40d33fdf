"""A region is lost, and what that cost is read from receipts."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tarfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import drill_stranger
import pytest
from drill_vectors import made

from knhk.adapters.signer_local import establish
from knhk.model.faults import NotFound, Waiting
from knhk.reconcilers.drilling import GOALS, Dealt, again, dealt, digest, figures, measured, merged, parse_given, parse_goals
from knhk.wiring.drill_traffic import COMMIT_EVERY, VERSIONS, Consumed, Consumer, FilePositions, Live, Topic, policies, source_of
from knhk_runtime.record import encode_leaf, entry_key
from knhk_verify.__main__ import main as knhk_verify
from knhk_verify.errors import Bad
from knhk_verify.leaf import Leaf

A, B = b"CLIENT-A", b"CLIENT-B"


def leaf(source: bytes, time_ns: int) -> bytes:
    id_ = source + time_ns.to_bytes(8, "big")
    return encode_leaf(Leaf(1, 1, 1, 1, 0, 0, id_ * 2, id_ * 2, bytes(20), time_ns, id_))


def test_a_gap_around_the_strike_is_the_recovery_time() -> None:
    there = [leaf(A, at) for at in (10, 20, 28, 75, 80)] + [leaf(B, at) for at in (5, 900)]
    found = measured(there[:5], frozenset({A}), there, struck_ns=30)
    assert (found.rto_ns, found.rpo_ns, found.acknowledged, found.lost) == (47, 0, 5, 0)
    assert measured(there, frozenset({A, B}), there, struck_ns=30).rto_ns == 895


def test_what_was_acknowledged_and_is_nowhere_is_lost_since_its_time() -> None:
    there = [leaf(A, at) for at in (10, 50)]
    found = measured([*there, leaf(A, 12), leaf(A, 25)], frozenset({A}), there, struck_ns=30)
    assert (found.rpo_ns, found.lost) == (18, 2)


@pytest.mark.parametrize(("times", "lacks"), [((10, 20), "after"), ((40, 50), "before")])
def test_a_drill_without_receipts_on_both_sides_measures_nothing(times: tuple[int, ...], lacks: str) -> None:
    with pytest.raises(ValueError, match=f"no receipt {lacks}"):
        measured([], frozenset({A}), [leaf(A, at) for at in times], struck_ns=30)


def test_the_merged_order_is_one_and_keeps_each_log_s() -> None:
    chance = random.Random(7)
    logs = {origin: [b"{}" if chance.random() < 0.2 else leaf(A, chance.randrange(99)) for _ in range(50)] for origin in ("us", "ap", "eu")}
    order = list(merged(logs))
    assert digest(order) == digest(merged(dict(reversed(logs.items()))))
    for origin, entries in logs.items():
        assert [each.entry for each in order if each.origin == origin] == entries
    assert [each.time_ns for each in order] == sorted(each.time_ns for each in order)
    logs["eu"][3] = leaf(B, 3)
    assert digest(merged(logs)) != digest(order)


def test_a_source_is_dealt_with_when_every_offset_has_one_receipt() -> None:
    there = [leaf(A, offset) for offset in (0, 1, 2, 3)] + [leaf(B, 0)]
    assert dealt([A, B], [*there, *there]) == Dealt(5, 0, 0), "two regions may hold the same receipt"
    assert dealt([A], [each for each in there if each != leaf(A, 1)]) == Dealt(3, 1, 0)
    again = bytearray(leaf(A, 2))
    again[20] ^= 1
    assert dealt([A], [*there, bytes(again)]) == Dealt(4, 0, 1)


def test_a_consumer_that_takes_over_leaves_out_what_the_log_has(tmp_path: Path) -> None:
    """The first one ends between a leaf and its position: the second one meets the message again, and decides nothing twice."""
    one, other = FakePlace("one", tmp_path / "one", lasts=COMMIT_EVERY + 7), FakePlace("other", tmp_path / "other")
    policy = policies(tmp_path / "registry", establish(tmp_path / "keys", "knhk.dev/test", datetime.now(UTC)), None)[VERSIONS[0]]
    told = Consumed()
    first = Consumer(0, (one, other), 0, Live(policy), told, resumes=False, source=Topic())
    first.start()
    first.join(120)
    position = FilePositions(other.folder / "positions").position(0)
    assert (position, len(other.entries)) == (COMMIT_EVERY, COMMIT_EVERY + 7)
    acknowledged, there = list(told.held), len(other.entries)
    second = Consumer(0, (other, FakePlace("third", tmp_path / "third")), 1, Live(policy), told, resumes=True, source=Topic())
    second.start()
    until(lambda: len(told.held) > len(acknowledged) + 5)
    second.stopping.set()
    second.join(120)
    assert (told.resumed_at, told.doubles) == (position, there - position)
    assert set(acknowledged) <= set(other.entries)
    found = dealt([source_of(0)], other.entries)
    assert (found.missing, found.twice, found.messages) == (0, 0, len(other.entries))


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@dataclass
class FakePlace:
    """A region whose log is in memory; it is gone after so many leaves."""

    name: str
    folder: Path
    lasts: int = sys.maxsize
    entries: list[bytes] = field(default_factory=list)

    @property
    def log_dir(self) -> Path:
        return self.folder / "log"

    def log(self) -> Any:
        return self

    def append_leaves(self, leaves: list[bytes]) -> list[int]:
        if len(self.entries) >= self.lasts:
            raise Waiting("LogUnreachable", "the region is gone", 0.1)
        self.entries += leaves
        return [len(self.entries) - 1]

    def index_of(self, key: bytes) -> int:
        found = [number for number, entry in enumerate(self.entries) if entry_key(entry) == key]
        if not found:
            raise NotFound("no such key")
        return found[0]


@pytest.fixture(scope="module")
def knhk() -> Callable[..., tuple[int, Any]]:
    def run(*words: str) -> tuple[int, Any]:
        done = subprocess.run([sys.executable, "-m", "knhk.cli", *words, "-o", "json"], capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout or done.stderr)

    return run


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.failure("region", "traffic")
@pytest.mark.failure("region", "receipts")
def test_a_region_is_lost_and_nothing_that_was_acknowledged(tmp_path: Path, knhk: Callable[..., tuple[int, Any]]) -> None:
    code, told = knhk("drill", "run", "--strike", "us", "--out", str(tmp_path / "drill"), "--clients", "3", "--seconds", "4")
    assert code == 0, told
    assert (told["lost"], told["rpo_ms"], told["survivor"]) == (0, 0, "eu")
    assert (told["missing"], told["twice"], told["different"], told["unrecorded"]) == (0, 0, 0, 0)
    assert min(told[name] for name in ("rto_ms", "policy_ms", "messages", "replayed")) > 0
    assert (told["rto_goal_ms"], told["rto_goal"], told["rpo_goal_ms"], told["rpo_goal"]) == (900_000, "met", 60_000, "met")
    assert told["replayed"] >= told["acknowledged"] - told["lost"], "the survivors decide again what was decided anywhere"
    bundle, root = tmp_path / "drill", ("--root", str(tmp_path / "drill/root.pub"))
    code, judged = knhk("receipt", "verify", told["receipt"], *root, "--keys", str(bundle / "keys.json"))
    assert (code, judged["verified"]) == (0, True)
    assert any("DrillCompleted of drill/us" in step["detail"] for step in judged["steps"])
    assert knhk_verify(["--root", (bundle / "root.pub").read_text().strip(), "--keys", str(bundle / "keys.json"), told["receipt"]]) == 0
    assert not list(tmp_path.glob(".drill*")), "folders of the drill are gone"
    code, again = knhk("drill", "run", "--strike", "us", "--out", str(bundle))
    assert (code, "must not be there" in json.dumps(again)) == (3, True)

    said = json.loads(b64decode(json.loads(json.loads(Path(told["receipt"]).read_text())["bundle"])["dsseEnvelope"]["payload"]))
    said = said["predicate"]["evidence"]
    document = json.loads((bundle / "drill.json").read_bytes())
    logs = {name: drill_stranger.entries(bundle / "logs" / name, int(row["size"])) for name, row in document["logs"].items()}
    measured_again = drill_stranger.figures(document, (bundle / "acknowledged").read_bytes(), logs)
    assert measured_again == {name: said[name] for name in measured_again}, "a stranger measures the same"
    assert (said["struck"], measured_again["rtoMs"], measured_again["merged"]) == ("us", str(told["rto_ms"]), told["merged"])

    code, judged = knhk("drill", "verify", str(bundle), *root)
    assert (code, judged["verified"], judged["missed"]) == (0, True, []), judged
    assert {*measured_again, *GOALS} <= {step["what"] for step in judged["steps"] if step["ok"]}
    code, late = knhk("drill", "verify", str(bundle), *root, "--at", "2099-01-01T00:00:00Z")
    assert (code, "expired at" in json.dumps(late)) == (1, True), late
    code, then = knhk("drill", "verify", str(bundle), *root, "--at", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    assert (code, then) == (0, judged)
    assert judged["not_judged"] == ["replayed, different, unrecorded"]
    for name in document["logs"]:
        code, found = knhk("log", "verify", str(bundle / "logs" / name), *root)
        assert (code, found["bad"]) == (0, []), "each is a log as others are"
    tiles = [path for path in (bundle / "logs" / told["survivor"] / "tile" / "entries").rglob("*") if path.is_file()]
    for path in (bundle / "acknowledged", bundle / "drill.json", min(tiles), max(tiles)):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        code, judged = knhk("drill", "verify", str(bundle), *root)
        assert (code, judged["verified"]) == (1, False), path
        path.write_bytes(whole)
    code, judged = knhk("drill", "verify", str(bundle), "--root", b64encode(bytes(32)).decode())
    assert (code, judged["verified"]) == (1, False), "of another root nothing is believed"


@pytest.mark.slow
@pytest.mark.server
def test_a_drill_that_misses_its_goal_fails_and_its_receipt_says_so(tmp_path: Path) -> None:
    bundle = tmp_path / "drill"
    asked = ("--strike", "ap", "--clients", "3", "--seconds", "4", "--rto-s", "0", "--rpo-s", "0", "--out", str(bundle))
    code, told, notes = said_by("drill", "run", *asked)
    assert (code, told["rto_goal"], told["rto_goal_ms"], told["rpo_goal"]) == (1, "missed", 0, "met"), told
    assert (told["lost"], told["missing"], told["twice"], told["different"], told["unrecorded"]) == (0, 0, 0, 0, 0), "it fails by its goal"
    assert json.loads(notes) == {"note": f"RTO missed its goal: {told['rto_ms']} ms, at most 0 ms were to be"}
    said = json.loads(b64decode(json.loads(json.loads(Path(told["receipt"]).read_text())["bundle"])["dsseEnvelope"]["payload"]))
    said = said["predicate"]["evidence"]
    assert {name: said[name] for name in GOALS} == {"rtoGoalMs": "0", "rtoGoal": "missed", "rpoGoalMs": "0", "rpoGoal": "met"}
    assert {name: said[name] for name in ("rtoGoal", "rpoGoal")} == drill_stranger.goals(said)
    code, judged, notes = said_by("drill", "verify", str(bundle), "--root", str(bundle / "root.pub"))
    assert (code, judged["verified"], judged["missed"]) == (0, True, ["rtoGoal"]), "what it says is true"
    assert json.loads(notes) == {"note": "rtoGoal: the drill missed it, as its receipt says"}


def test_a_bundle_of_before_goals_verifies_and_can_be_held_to_some(tmp_path: Path) -> None:
    """Made by the version before; its keys.json holds at the time given here."""
    with tarfile.open(Path(__file__).with_name("before_goals.tar.xz")) as packed:
        packed.extractall(tmp_path, filter="data")
    asked = ("drill", "verify", str(tmp_path / "drill"), "--at", "2026-11-27T16:10:00Z")
    code, judged, notes = said_by(*asked)
    assert (code, judged["verified"], judged["missed"], notes) == (0, True, [], ""), judged
    assert judged["not_judged"] == [", ".join(GOALS), "replayed, different, unrecorded"]
    code, judged, _ = said_by(*asked, "--rto-s", "1", "--rpo-s", "0")
    assert (code, judged["verified"]) == (0, True), "its RTO is 133 ms, its RPO 0"
    assert {"rtoMs is at most 1000", "rpoMs is at most 0"} <= {step["what"] for step in judged["steps"] if step["ok"]}
    code, judged, _ = said_by(*asked, "--rto-s", "0")
    assert (code, [step["what"] for step in judged["steps"] if step["ok"] is False]) == (1, ["rtoMs is at most 0"])
    code, told, _ = said_by(*asked, "--rto-s", "-1")
    assert (code, "must be 0 to 604800, whole seconds" in json.dumps(told)) == (2, True), told


def said_by(*words: str) -> tuple[int, Any, str]:
    """Exit status, answer and notes of a command."""
    done = subprocess.run([sys.executable, "-m", "knhk.cli", *words, "-o", "json"], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout or done.stderr), done.stderr


@pytest.mark.slow
def test_a_drill_that_is_only_looked_at_starts_nothing(tmp_path: Path, knhk: Callable[..., tuple[int, Any]]) -> None:
    asked = ("drill", "run", "--strike", "ap", "--out", str(tmp_path / "drill"), "--dry-run")
    code, would = knhk(*asked[:5], str(tmp_path / "of" / "this" / "year" / "drill"), "--dry-run")
    assert code == 0, would
    assert (would["dry_run"], would["struck"], would["survivors"], would["rto_ms"]) == (True, "ap", ["eu", "us"], None)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "drill").mkdir()
    code, told = knhk(*asked)
    assert (code, "must not be there" in json.dumps(told)) == (3, True)


def test_figures_are_those_of_the_vectors() -> None:
    vector = json.loads((Path(__file__).parents[2] / "formats" / "vectors" / "drill.json").read_text())
    document, held = vector["document"].encode(), b64decode(vector["acknowledged"])
    logs = {name: [b64decode(entry) for entry in log] for name, log in vector["entries"].items()}
    given = parse_given(document, held, "drill.json")
    assert given.files() == (document, held)
    assert figures(given, logs).told() == vector["figures"] == drill_stranger.figures(json.loads(document), held, logs)
    assert vector == made(), "the vectors are those of their program"
    assert {(row["rtoGoal"], row["rpoGoal"]) for row in vector["goals"]} == {
        (one, other) for one in ("met", "missed") for other in ("met", "missed")
    }
    for row in vector["goals"]:
        goals = parse_goals(row, "event")
        assert goals is not None
        assert goals.told(figures(given, logs).measured) == row
    with pytest.raises(Bad, match="one of them was altered"):
        parse_given(document, held[:-1] + b"x", "drill.json")
    with pytest.raises(Bad, match="no name of a region"):
        parse_given(document.replace(b'"eu":', b'"../eu":'), held, "drill.json")


def test_an_event_that_says_something_else_of_goals_than_its_receipts_is_told() -> None:
    vector = json.loads((Path(__file__).parents[2] / "formats" / "vectors" / "drill.json").read_text())
    given = parse_given(vector["document"].encode(), b64decode(vector["acknowledged"]), "drill.json")
    found = figures(given, {name: [b64decode(entry) for entry in log] for name, log in vector["entries"].items()})
    said = {**vector["figures"], **vector["goals"][1]}
    assert all(step.ok for step in again(said, found, "event"))
    assert [step.ok for step in again(vector["figures"], found, "event")].count(None) == 1, "of before goals were recorded"
    for name in GOALS:
        altered = {**said, name: "met" if said[name] == "missed" else "missed" if said[name] == "met" else str(10 * int(said[name]))}
        bad = [step.what for step in again(altered, found, "event") if step.ok is False]
        assert bad == ({"rpoGoalMs": ["rpoGoal"], "rtoGoalMs": []}.get(name, [name])), (
            "a goal is the event's word, whether it was met is not"
        )
        half = {member: said[member] for member in said if member != name}
        with pytest.raises(Bad) if name.endswith("Ms") else nullcontext():
            assert [step.what for step in again(half, found, "event") if step.ok is False] == [name]


def test_what_is_no_bundle_of_a_drill_is_told_to_be_none(tmp_path: Path, knhk: Callable[..., tuple[int, Any]]) -> None:
    code, told = knhk("drill", "verify", str(tmp_path))
    assert (code, "is no bundle of a drill" in json.dumps(told)) == (1, True), told
