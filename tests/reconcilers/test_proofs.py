"""The control plane proves what it built before anything of it is published, and refuses what its proof refutes."""

from __future__ import annotations

from fakes import FakeProver
from rollout_world import PACK, POINT, World, bundle, pack, point


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
