"""Packs are lowered apart: what does not end, or needs too much, ends alone, and others are judged."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from knhk.adapters.lowering_process import BoundedLowering, Lowered
from knhk.model.faults import Fault

T = TypeVar("T")
EXAMPLES = Path(__file__).parents[2] / "examples" / "packs" / "invoice-controls"
REAL = (sys.executable, "-P", "-m", "knhk.wiring.lowerer")
# Answers as the real one does; holds for ever, or dies, where its input says so.
STAND_IN = (
    sys.executable,
    "-c",
    "import sys, os, signal\n"
    "for line in sys.stdin:\n"
    "    signal.pause() if 'hold' in line else os._exit(3) if 'die' in line else print('{\"faults\": []}', flush=True)\n",
)


def run(argv: tuple[str, ...], within_s: float, ask: Callable[[BoundedLowering], Awaitable[T]], workers: int = 1) -> T:
    async def whole() -> T:
        lowering = BoundedLowering(argv, workers, within_s)
        lowering.start()
        try:
            await lowering.until_warm()
            return await ask(lowering)
        finally:
            await lowering.close()

    return asyncio.run(whole())


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_bytes())
    return found


def test_a_good_pack_has_no_faults_and_a_faulty_one_all_of_them() -> None:
    async def ask(lowering: BoundedLowering) -> tuple[Lowered, Lowered]:
        good = await lowering.lowered(document(EXAMPLES / "1.0.0" / "pack.yaml"))
        return good, await lowering.lowered(document(EXAMPLES / "faulty" / "pack.yaml"))

    good, faulty = run(REAL, 60.0, ask)
    assert good == Lowered()
    assert len(faulty.faults) > 1
    assert all("must" in fault.must for fault in faulty.faults)


@pytest.mark.parametrize("hostile", ["hold", "die"])
def test_a_hostile_pack_holds_nobody(hostile: str) -> None:
    """The one worker is ended and started anew; the hostile pack, sent again, does not get it a second time."""

    async def ask(lowering: BoundedLowering) -> list[Lowered]:
        first = await lowering.lowered({"spec": hostile})
        await lowering.until_warm()
        again = await lowering.lowered({"spec": hostile})
        return [first, again, await lowering.lowered({"spec": "good"})]

    first, again, good = run(STAND_IN, 1.0, ask)
    assert first.unfinished
    assert again == first
    assert good == Lowered()


def test_who_found_no_free_process_is_not_remembered() -> None:
    async def ask(lowering: BoundedLowering) -> tuple[Lowered, Lowered]:
        held = asyncio.create_task(lowering.lowered({"spec": "hold"}))
        await asyncio.sleep(0)  # it has the process now
        waiting = await lowering.lowered({"spec": "good"})
        await held
        await lowering.until_warm()
        return waiting, await lowering.lowered({"spec": "good"})

    waiting, later = run(STAND_IN, 0.5, ask)
    assert "others were being lowered" in waiting.unfinished
    assert later == Lowered()


def test_nothing_runs_afterwards() -> None:
    async def ask(lowering: BoundedLowering) -> list[asyncio.subprocess.Process]:
        return list(lowering._running)

    (process,) = run(STAND_IN, 1.0, ask)
    assert process.returncode is not None


def test_a_fault_travels_whole() -> None:
    async def ask(lowering: BoundedLowering) -> Lowered:
        return await lowering.lowered({"kind": 1})

    assert Fault("spec", "nothing", "must be given") not in run(REAL, 60.0, ask).faults
    assert any(fault.where == "kind" for fault in run(REAL, 60.0, ask).faults)
