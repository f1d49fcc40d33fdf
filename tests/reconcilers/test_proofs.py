"""The control plane proves what it built before anything of it is published, and refuses what its proof refutes."""

from __future__ import annotations

import pytest
from fakes import NS, FakeProver
from rollout_world import BUNDLE, PACK, POINT, World, bundle, pack, point

from knhk.reconcilers.packs import BUILD_WITHIN_S


def test_what_a_proof_refutes_is_never_published_and_says_so() -> None:
    world = World(prover=FakeProver(wrong=frozenset({"1.0.0"})))
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Stalled")
    assert (world.registry.blobs, world.registry.named) == ({}, {})
    ready = world.ready()
    assert (ready["status"], ready["reason"]) == ("False", "CompilerBug")
    assert "limits: passing by the scalar kernels, failing by the sources, on {}" in ready["message"]
    (fault,) = world.get().status["faults"]
    assert fault["where"] == "body:3"
    world.settle()
    assert "Signed" not in world.kinds()
    assert world.document(POINT)["candidate"] is None


def test_a_version_that_is_proven_follows_one_that_was_refuted() -> None:
    world = World(prover=FakeProver(wrong=frozenset({"1.0.0"})))
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Stalled")
    world.apply(pack("1.0.1"))
    world.until_phase("Live", "1.0.1")
    assert "faults" not in world.get().status


def test_the_policy_event_of_a_build_names_its_proof() -> None:
    world = World()
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    (built,) = (s["predicate"]["evidence"] for s in world.log.statements() if s["predicate"]["kind"] == "Built")
    assert built["proof"]["cases"] == 7
    assert built["proof"]["seed"] == 1
    assert len(built["proof"]["digest"]) == 64


def test_a_pack_is_proven_with_the_data_that_it_reads() -> None:
    prover = FakeProver()
    world = World(prover=prover)
    world.apply(point(), bundle(7), pack("1.0.0", bundles="{name: roles}"))
    world.until_phase("Live")
    given = prover.given["1.0.0"]
    assert given is not None
    assert "ex:limit 7" in given.spec["source"]["inline"]
    world.apply(pack("1.0.1", name=PACK.name))
    world.until_phase("Live", "1.0.1")
    assert prover.given["1.0.1"] is None


def test_a_pack_before_its_data_is_proven_with_it_and_not_before() -> None:
    prover = FakeProver()
    world = World(prover=prover)
    world.apply(point(), pack("1.0.0", bundles="{name: roles}"))
    world.run(10)
    assert "DataBundle erp/roles must be there" in world.ready()["message"]
    assert prover.given == {}
    world.apply(bundle(7))
    world.until_phase("Live")
    given = prover.given["1.0.0"]
    assert given is not None
    assert "ex:limit 7" in given.spec["source"]["inline"]


@pytest.mark.parametrize("was", ["never right", "right before"])
def test_a_pack_waits_until_faulty_data_is_mended(was: str) -> None:
    prover = FakeProver()
    world = World(prover=prover)
    if was == "right before":
        world.apply(bundle(1))
        world.until(lambda: "image" in world.get(BUNDLE).status)
    world.apply(point(), bundle(1).replace("ex:limit 1", "ex:limit"), pack("1.0.0", bundles="{name: roles}"))
    world.run(10)
    assert world.ready()["status"] == "Unknown"
    assert "DataBundle erp/roles must be mended: " in world.ready()["message"]
    assert prover.given == {}
    world.apply(bundle(2))
    world.until_phase("Live")
    given = prover.given["1.0.0"]
    assert given is not None
    assert "ex:limit 2" in given.spec["source"]["inline"]


def test_a_build_that_waits_for_another_has_its_whole_time() -> None:
    world = World()
    world.executor.hold = True
    world.apply(point(), pack("1.0.0"))
    world.run(4)
    world.clock.ns += int(2 * BUILD_WITHIN_S) * NS
    world.run(4)
    assert world.get().status["revision"]["phase"] == "Pending"
    (running,) = world.controller._packs._builds.values()
    running.future.set_running_or_notify_cancel()
    world.run(4)
    assert world.get().status["revision"]["phase"] == "Pending"
    world.clock.ns += int(2 * BUILD_WITHIN_S) * NS
    world.run(4)
    assert world.ready()["reason"] == "DeadlineExceeded"
