"""One part fails under traffic, the rest goes on, and what waited arrives: sequencer, agent, application, disk, registry."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from system_world import (
    ADMIT,
    AGENT,
    ENFORCED,
    POINT,
    SEQUENCER,
    UNAVAILABLE,
    Document,
    World,
    assert_covered,
    fast_pack,
    until,
)

GRACE_S = 2
DISK = "4m"

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("system"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One home for the failures that heal: each test leaves it answering, the fixture ends with the whole log verified."""
    with World.start(tmp_path_factory.mktemp("failures"), agentGraceSeconds=GRACE_S) as world:
        with world.traffic():
            world.roll(fast_pack("1.0.0"))
        yield world
        world.until_logged()
        world.down()
        assert_covered(world)
        world.verify()


@contextmanager
def stays_down(world: World, name: str) -> Iterator[None]:
    """A child that is killed and not started again: its supervisor is stopped meanwhile."""
    control = world.control()
    os.kill(control, signal.SIGSTOP)
    try:
        pid = world.kill(name)
        yield
    finally:
        os.kill(control, signal.SIGCONT)
    world.until_restarted(name, pid)


def waits(told: Document) -> bool:
    """Whether the agent says that leaves are durable that the log does not have yet, and why."""
    return bool(told["durable"] > told["acked"]) and any(fault["where"] == "sequencer" for fault in told["refused"])


@pytest.mark.failure("sequencer", "traffic")
@pytest.mark.failure("sequencer", "receipts")
@pytest.mark.failure("sequencer", "seen")
def test_sequencer_is_down(shared: World) -> None:
    """Without a sequencer decisions go on; their receipts wait in the outbox and all arrive when it is back."""
    world = shared
    world.until_logged()
    with world.traffic():
        with stays_down(world, SEQUENCER):
            before = len(world.answers)
            until(lambda: len(world.answers) >= before + 100, "100 answers without a sequencer")
            until(lambda: waits(world.statistics()), "the agent tells that receipts wait for the sequencer")
            waiting = world.answers[before : before + 100]
        assert {answer.status for answer in waiting} <= {200, 201, 202, 403}  # 202: parked, where the machine was late
    world.until_logged()
    logged = {leaf.receipt_id.hex() for leaf in world.leaves()}
    assert {answer.receipt for answer in waiting} <= logged


@pytest.mark.failure("agent", "traffic")
@pytest.mark.failure("agent", "receipts")
def test_agent_is_silent_for_longer_than_its_grace(shared: World) -> None:
    """A silent agent is tolerated for agentGraceSeconds, then requests get 503 with a receipt; with the agent back all is as before."""
    world = shared
    with world.traffic():
        with stays_down(world, AGENT):
            before = len(world.answers)
            refused = until(lambda: [a for a in world.answers[before:] if a.status == 503], "503 after the grace")
        until(lambda: world.answers and world.answers[-1].status in (200, 201), "requests are admitted again")
    problem = json.loads(refused[0].body)
    assert problem["status"] == 503
    assert problem["receipt"] == refused[0].receipt
    world.until_logged()
    kinds = {leaf.receipt_id.hex(): leaf.kind for leaf in world.leaves()}
    assert all(kinds[answer.receipt] == UNAVAILABLE for answer in refused)


@pytest.mark.failure("upstream", "traffic")
@pytest.mark.failure("upstream", "receipts")
def test_application_is_down(shared: World) -> None:
    """Without the application admitted requests get 503 from Envoy, and the log has their ADMIT all the same."""
    world = shared
    world.app.stop()
    try:
        answers = world.send(*world.invoices(5))
    finally:
        world.app.start()
    assert {answer.status for answer in answers} == {503}
    world.until_answering()
    world.until_logged()
    verdicts = {leaf.receipt_id.hex(): leaf.verdict for leaf in world.leaves() if leaf.mode == ENFORCED}
    assert [verdicts[answer.receipt] for answer in answers] == [ADMIT] * 5


@pytest.mark.failure("registry", "traffic")
@pytest.mark.failure("registry", "rollout")
@pytest.mark.failure("registry", "seen")
def test_registry_is_missing_during_a_rollout(shared: World) -> None:
    """The registry is gone when a candidate is fetched: the old pack goes on, the point says Drifted; with it back the pack goes live."""
    world = shared
    registry, away = world.home / "registry", world.home / "registry.away"
    agent = world.pids()[AGENT]
    with world.traffic() as traffic:
        os.kill(agent, signal.SIGSTOP)
        try:
            world.apply(fast_pack("1.0.1"))
            until(lambda: world.revision().get("phase") == "Rolling", "1.0.1 rolls")
            registry.rename(away)
        finally:
            os.kill(agent, signal.SIGCONT)
        until(lambda: world.ready().get("reason") == "Drifted", "the point says Drifted")
        traffic.wait_for(20, 200, 201, 403)
        assert world.revision()["phase"] == "Rolling"
        assert str(registry) in world.ready()["message"]
        if registry.exists():
            shutil.rmtree(registry)
        away.rename(registry)
        world.until_phase("1.0.1", "Live")
    until(lambda: world.ready().get("status") == "True", "the point is ready")


@pytest.mark.failure("registry", "rollout")
@pytest.mark.failure("registry", "seen")
def test_registry_is_damaged_during_a_rollout(shared: World) -> None:
    """A flipped bit in a candidate's image: the agent takes nothing of it, the old pack goes on, the point names the blob."""
    world = shared
    agent = world.pids()[AGENT]
    with world.traffic() as traffic:
        os.kill(agent, signal.SIGSTOP)
        try:
            world.apply(fast_pack("1.0.2"))
            digest = str(until(lambda: world.revision() if world.revision().get("phase") == "Rolling" else {}, "1.0.2 rolls")["digest"])
            blob = world.home / "registry" / "blobs" / "sha256" / digest.removeprefix("sha256:")
            whole = blob.read_bytes()
            blob.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        finally:
            os.kill(agent, signal.SIGCONT)
        until(lambda: world.ready().get("reason") == "Drifted", "the point says Drifted")
        assert digest.removeprefix("sha256:")[:12] in world.ready()["message"]
        traffic.wait_for(20, 200, 201, 202, 403)  # 202: an agent that was stopped has what waited to judge first
        until(lambda: {answer.status for answer in traffic.answers[-20:]} <= {200, 201, 403}, "the old pack answers at once again")
        blob.write_bytes(whole)
        world.until_phase("1.0.2", "Live")


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own with little room, mounted on `folder`, with what was in it."""
    kept = shutil.copytree(folder, folder.with_suffix(".kept"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(folder)], check=True)
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        shutil.rmtree(kept)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.failure("disk", "traffic")
@pytest.mark.failure("disk", "receipts")
@pytest.mark.failure("disk", "seen")
@pytest.mark.failure("disk", "act")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_disk_of_the_outbox_is_full(tmp_path: Path) -> None:
    """No room for the outbox: after the grace 503, the point says that the disk is full; with room again all receipts arrive."""
    with World.start(tmp_path, agentGraceSeconds=GRACE_S) as world:
        outbox = world.home / "log" / "observations" / POINT.replace("/", ".")
        world.down()
        with small_disk(outbox):
            world.up()
            world.until_answering()
            with world.traffic():
                fill(outbox / "filler")
                before = len(world.answers)
                until(lambda: [a for a in world.answers[before:] if a.status == 503], "503 when nothing can be written")
                until(lambda: "No space left" in world.ready().get("message", ""), "the point tells that the disk is full")
                (outbox / "filler").unlink()
                until(lambda: world.answers[-1].status in (200, 201), "requests are admitted again")
            until(lambda: world.ready().get("status") == "True", "the point is ready again")
            world.until_logged()
            world.down()
            assert_covered(world)
            world.verify()


def fill(path: Path) -> None:
    """Takes all the room that is left on a small disk."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            return
