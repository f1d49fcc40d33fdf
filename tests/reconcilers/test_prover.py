"""Proofs in a process of their own: agreement, planted bugs of the compiler, processes that crash or do not end, and what the control
plane makes of it with the real compiler."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from typing import Any, Never

import pytest
from rollout_world import World, point
from rollout_world import pack as pack_yaml

from knhk.adapters.compiler_zig import ZigCompiler
from knhk.adapters.prover_process import ProcessProver
from knhk.model.arrows import GuardPlan, PackSources, SharedObject, Source
from knhk.model.faults import Refuted, Stalled, Waiting
from knhk.ports.prover import Budget
from knhk.reconcilers import proving
from knhk.reconcilers.lowering import plan_of
from knhk.wiring import packs
from knhk.wiring.prover import MEMORY_BYTES
from knhk_gen import emit_guards
from knhk_gen.emit import emit
from knhk_runtime.tiers.errors import Undecided

SHAPES = """@prefix sh: <http://www.w3.org/ns/shacl#> .
@prefix ex: <https://example.com/ns#> .
ex:S a sh:NodeShape ; sh:targetClass ex:Order ; sh:property [ sh:path ex:total ; sh:maxInclusive 1000 ] .
"""
MAPPING = """prefixes: {ex: "https://example.com/ns#"}
maps:
  - {id: order, iterator: "$", subject: {blank: true}, class: ex:Order, properties: {ex:total: total}}
"""
CHILD = packs.prover()._argv


def pack(limit: int = 1000) -> PackSources:
    shapes = Source("shapes", "shapes", SHAPES.replace("1000", str(limit)), "pack.yaml", first_line=9)
    return PackSources(
        "erp", "orders", "1.0.0", (shapes, Source("m", "mapping", MAPPING, "pack.yaml", "application/yaml")), {"orders": "m"}
    )


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> ZigCompiler:
    return ZigCompiler(tmp_path_factory.mktemp("objects"))


@pytest.fixture
def provers() -> Iterator[Any]:
    made: list[ProcessProver] = []

    def new(argv: tuple[str, ...] = CHILD, budget: Budget | None = None) -> ProcessProver:
        made.append(ProcessProver(argv, packs.host_arch(), budget or Budget(cases=40, seconds=60)))
        return made[-1]

    yield new
    for prover in made:
        prover.close()


def compiled(sources: PackSources, compiler: ZigCompiler) -> tuple[GuardPlan, tuple[SharedObject, ...]]:
    plan = plan_of(sources)
    return plan, compiler.compile(emit(plan))


def plant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of 1000 is compiled as one of less."""
    right = emit_guards.range_words
    monkeypatch.setattr(emit_guards, "range_words", lambda test: (right(test)[0], right(test)[1] - 1))


def test_a_right_pack_is_proven_and_a_wrong_one_refuted_by_the_same_process(
    compiler: ZigCompiler, provers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prover = provers()
    right = compiled(pack(), compiler)
    proof = prover.prove(pack(), *right, None)
    assert (proof["cases"], proof["asked"], proof["seed"], proof["bundle"]) == (40, 40, 1, None)
    assert proof["judged"]["compared"] > 20
    with monkeypatch.context() as planted:
        plant(planted)
        wrong = compiled(pack(500), compiler)
    with pytest.raises(Refuted) as refuted:
        prover.prove(pack(500), *wrong, None)
    (fault,) = refuted.value.faults
    assert fault.where == "pack.yaml:11"
    assert fault.value.startswith("shapes.S.total.maxInclusive: failing by the ")
    assert '"total":500' in fault.value.replace(": ", ":")
    assert prover.prove(pack(), *right, None) is proof, "what is proven is not proven again"


def test_time_that_ends_early_is_told_by_the_count_and_leaves_a_least_of_cases(compiler: ZigCompiler, provers: Any) -> None:
    proof = provers(budget=Budget(cases=1000, seconds=0)).prove(pack(), *compiled(pack(), compiler), None)
    assert proof["cases"] < proof["asked"] == 1000
    assert proof["cases"] - proof["judged"]["not-judged"] >= proving.LEAST


def test_a_proof_that_compares_nothing_is_none(compiler: ZigCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, objects = compiled(pack(), compiler)
    under = proving.loaded(plan, objects, packs.host_arch(), None)

    def undecided(*_: object) -> Never:
        raise Undecided("no time")

    monkeypatch.setattr(proving, "decide", undecided)
    with pytest.raises(Stalled, match=r"0 of \d cases could be compared") as told:
        proving.prove(pack(), under, (), (), 1)
    assert told.value.reason == "ProofUnfinished"


ENDS = {
    "a pack that crashes": ("os.kill(os.getpid(), signal.SIGSEGV)", Refuted, "the compiled pack ended its process by SIGSEGV"),
    "a process that ends": ("sys.exit(3)", Stalled, "ended with 3"),
    "a pack that does not end": ("signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()", Waiting, "did not end in its time"),
    "a process that is killed": ("os.kill(os.getpid(), signal.SIGKILL)", Waiting, "SIGKILL, for want of memory"),
    "a process that aborts": ("os.kill(os.getpid(), signal.SIGABRT)", Waiting, "SIGABRT, for want of memory"),
    "an environment that is left": ("sys.exit(4 if 'SECRET' in os.environ else 3)", Stalled, "ended with 3"),
    "a proof that cannot be made": ('print(\'{"failed": "ShapeError: no"}\', flush=True)', Stalled, "could not be made: ShapeError: no"),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_happens_to_the_process_is_told(name: str, compiler: ZigCompiler, provers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    does, kind, told = ENDS[name]
    monkeypatch.setenv("SECRET", "of the parent")
    prover = provers((sys.executable, "-c", f"import os, signal, sys\nfor _ in sys.stdin: {does}"))
    made = compiled(pack(), compiler)
    for _ in range(2):  # each finds a process of its own
        with pytest.raises(kind, match=told):
            prover.prove(pack(), *made, None)


@pytest.mark.parametrize(("ending", "must"), [("SIGALRM", "KNHK_PROOF_SECONDS must be more"), ("SIGKILL", "must have more memory")])
def test_what_passes_is_tried_again_and_what_stays_is_told(ending: str, must: str, compiler: ZigCompiler, provers: Any) -> None:
    ends = f"import os, signal, sys\nfor _ in sys.stdin: os.kill(os.getpid(), signal.{ending})"
    world = World(compiler=compiler, prover=provers((sys.executable, "-c", ends)))
    world.apply(point(), pack_yaml("1.0.0"))
    world.step()
    world.until(lambda: "tried again" in world.ready()["message"])
    assert (world.ready()["status"], world.ready()["reason"]) == ("Unknown", "ProofUnfinished")
    world.until_phase("Stalled")
    assert world.ready()["reason"] == "ProofUnfinished"
    assert must in world.ready()["message"]
    assert (world.registry.blobs, world.registry.named) == ({}, {})


def test_a_proof_has_so_much_memory_and_no_more(compiler: ZigCompiler, provers: Any) -> None:
    prover = provers()
    prover.prove(pack(), *compiled(pack(), compiler), None)
    assert resource.prlimit(prover._process.pid, resource.RLIMIT_AS) == (MEMORY_BYTES, MEMORY_BYTES)


def test_a_closed_prover_starts_nothing(compiler: ZigCompiler, provers: Any) -> None:
    prover = provers()
    prover.warm()
    pid = prover._process.pid
    prover.close()
    with pytest.raises(Waiting):
        prover.prove(pack(), *compiled(pack(), compiler), None)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("text", ["0", "-1", "many", "1000001", "1e3"])
def test_a_budget_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNHK_PROOF_CASES", text)
    with pytest.raises(Stalled, match=f"KNHK_PROOF_CASES={text}: must be a number from 1 to 1000000"):
        packs.proof_budget()


def test_the_budget_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packs.proof_budget() == packs.PROOF
    monkeypatch.setenv("KNHK_PROOF_CASES", "20000")
    monkeypatch.setenv("KNHK_PROOF_SECONDS", "600")
    assert packs.proof_budget() == Budget(20_000, 600.0)


def test_a_bug_of_the_compiler_stops_the_control_plane_from_publishing(
    compiler: ZigCompiler, provers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(compiler=compiler, prover=provers())
    limits = {"constraint": "sh:maxInclusive 1000"}
    with monkeypatch.context() as planted:
        plant(planted)
        world.apply(point(), pack_yaml("1.0.0", **limits))
        world.until_phase("Stalled")
    ready = world.ready()
    assert ready["reason"] == "CompilerBug"
    assert "shapes.S.total.maxInclusive: failing by the" in ready["message"]
    assert '"total":1000' in ready["message"].replace(": ", ":")
    assert (world.registry.blobs, world.registry.named) == ({}, {})
    world.apply(pack_yaml("1.0.1", **limits))
    world.until_phase("Live", "1.0.1")
    (built,) = (s["predicate"]["evidence"] for s in world.log.statements() if s["predicate"]["kind"] == "Built")
    assert built["proof"]["cases"] == 40
