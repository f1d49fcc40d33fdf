"""The pool of workers, with workers that do as the order says: what waits, what goes first, what is ended."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from knhk.adapters.build_workers import DONE, QUEUED, BuildWorkers, Job
from knhk.model.faults import Waiting

WORKER = """
import json, os, sys, time
print('{"warm": true}', flush=True)
for line in sys.stdin:
    order = json.loads(line)
    print('{"step": "Begun: it"}', flush=True)
    if order["does"] == "dies":
        os._exit(3)
    if order["does"] == "hangs":
        time.sleep(600)
    print(json.dumps({"data": order} if order["does"] == "works" else {"waiting": ["Later", "not now", 1]}), flush=True)
"""


def run(scenario: Callable[[BuildWorkers], Awaitable[None]], workers: int = 1, most: int = 3, within_s: float = 60.0) -> None:
    async def main() -> None:
        pool = BuildWorkers((sys.executable, "-c", WORKER), {}, workers, most, within_s)
        await scenario(pool)
        await pool.close()

    asyncio.run(main())


def order(name: str, does: str = "works") -> dict[str, Any]:
    return {"name": name, "does": does}


async def done(job: Job) -> dict[str, Any]:
    while job.state != DONE:
        await job.changed.wait()
    assert job.outcome is not None
    return dict(job.outcome)


def test_the_urgent_go_first_and_each_order_is_built_once() -> None:
    async def scenario(pool: BuildWorkers) -> None:
        jobs = [pool.submit(order(name), urgent) for name, urgent in (("a", False), ("b", False), ("c", True))]
        assert pool.submit(order("b"), False) is jobs[1]
        finished: list[str] = []

        async def watch(name: str, job: Job) -> None:
            await done(job)
            finished.append(name)

        pool.start()
        await asyncio.gather(*(watch(name, job) for name, job in zip("abc", jobs, strict=True)))
        assert finished == ["c", "a", "b"]
        assert pool.submit(order("a"), False) is jobs[0]

    run(scenario)


def test_an_order_that_becomes_urgent_passes_those_before_it() -> None:
    async def scenario(pool: BuildWorkers) -> None:
        first, second = pool.submit(order("a"), False), pool.submit(order("b"), False)
        assert pool.submit(order("b"), True) is second
        pool.start()
        await done(second)
        assert first.state != DONE
        await done(first)

    run(scenario)


def test_more_than_the_queue_holds_must_wait_and_what_is_taken_back_is_not_built() -> None:
    async def scenario(pool: BuildWorkers) -> None:
        jobs = [pool.submit(order(name), False) for name in "abc"]
        with pytest.raises(Waiting, match="3 orders wait already"):
            pool.submit(order("d"), True)
        assert pool.cancel(jobs[1].id)
        assert not pool.cancel(jobs[1].id)
        last = pool.submit(order("d"), False)
        pool.start()
        assert await done(last) == {"data": order("d")}
        assert "waiting" in (jobs[1].outcome or {})
        assert not pool.cancel(last.id)

    run(scenario)


def test_a_worker_that_ends_is_waiting_and_the_third_time_stalled_and_others_are_built() -> None:
    async def scenario(pool: BuildWorkers) -> None:
        pool.start()
        outcomes = [await done(pool.submit(order("a", "dies"), False)) for _ in range(3)]
        assert [next(iter(outcome)) for outcome in outcomes] == ["waiting", "waiting", "stalled"]
        assert "Begun: it" in outcomes[0]["waiting"][1]
        assert await done(pool.submit(order("b"), False)) == {"data": order("b")}

    run(scenario)


def test_a_build_that_does_not_end_is_ended() -> None:
    async def scenario(pool: BuildWorkers) -> None:
        pool.start()
        hanging, next_one = pool.submit(order("a", "hangs"), False), pool.submit(order("b"), False)
        assert (await done(hanging))["stalled"][0] == "DeadlineExceeded"
        assert await done(next_one) == {"data": order("b")}

    run(scenario, within_s=1.0)


def test_an_error_is_not_kept_and_the_order_is_built_anew() -> None:
    async def scenario(pool: BuildWorkers) -> None:
        pool.start()
        first = pool.submit(order("a", "waits"), False)
        assert "waiting" in await done(first)
        again = pool.submit(order("a", "waits"), False)
        assert again is not first
        assert again.state == QUEUED
        await done(again)

    run(scenario)


def test_an_ending_builder_takes_no_orders() -> None:
    async def scenario(pool: BuildWorkers) -> None:
        pool.start()
        await pool.close()
        with pytest.raises(Waiting, match="ends"):
            pool.submit(order("a"), False)

    run(scenario)
