"""A log publishes what a quorum of its witnesses has cosigned, and nothing else; whatever they do, appends go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import Mock

import pytest
from aiohttp import web
from machines import KEY, TTL_S, Clock, Quick, leaves
from memory_store import MemoryStore
from witness_world import answer, witness_key

from knhk_runtime.sequencer import server
from knhk_runtime.sequencer.__main__ import witnesses_of
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.lease import Lease
from knhk_runtime.sequencer.publication import StorePublication
from knhk_runtime.sequencer.server import Sequencer, Surface, Unavailable, application
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.sequencer.witnesses import Witnesses
from knhk_runtime.sequencer_client import SequencerClient, encode_batch
from knhk_runtime.tlog.audit import verify_log
from knhk_runtime.tlog.notes import format_vkey
from knhk_runtime.tlog.policy import parse_policy
from knhk_runtime.witness.core import Witness, WitnessKey
from knhk_verify.note import Verifier, open_checkpoint, open_note

Post = Callable[[bytes], Awaitable[tuple[int, bytes]]]
T = TypeVar("T")
KEYS = [witness_key(60 + n, f"w.example/{n}") for n in range(3)]


class World:
    """A log in a folder and three witnesses, of which `posts` says how each answers."""

    def __init__(self, folder: Path, quorum: str = "2") -> None:
        self.folder = folder
        lines = [f"log {format_vkey(KEY.verifier)}"]
        lines += [f"witness W{n} {format_vkey(key.verifier)} http://w{n}" for n, key in enumerate(KEYS)]
        text = "\n".join([*lines, f"group G {quorum} W0 W1 W2", "quorum G", ""])
        self.policy = parse_policy(text.encode())
        self.posts: list[Post] = [self.honest(n) for n in range(3)]

    def witness(self, n: int, key: WitnessKey | None = None) -> Witness:
        return Witness(self.folder / f"w{n}", key or KEYS[n], {KEY.verifier.name: [KEY.verifier]}, Quick(), lambda: 1_700_000_000)

    def honest(self, n: int, key: WitnessKey | None = None) -> Post:
        witness = self.witness(n, key)

        async def post(body: bytes) -> tuple[int, bytes]:
            status, told = answer(witness, body)
            return status, f"{told}\n".encode() if status == 409 else str(told).encode()

        return post

    def witnesses(self) -> Witnesses:
        async def post(url: str, body: bytes) -> tuple[int, bytes]:
            return await self.posts[int(url.removeprefix("http://w").partition("/")[0])](body)

        return Witnesses(self.policy, KEY.verifier, post, within_s=0.2)

    def signed_by(self, note: str) -> set[Verifier]:
        return set(open_note(note, [key.verifier for key in KEYS])[1])

    def published(self) -> tuple[int, set[Verifier]]:
        note = (self.folder / "log" / "checkpoint").read_text()
        return open_checkpoint(note, KEY.verifier).size, self.signed_by(note)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def dead(_body: bytes) -> tuple[int, bytes]:
    raise ConnectionRefusedError("nobody listens")


async def slow(_body: bytes) -> tuple[int, bytes]:
    await asyncio.sleep(3600)
    raise AssertionError


async def rubbish(_body: bytes) -> tuple[int, bytes]:
    return 200, b"\xff no line\n\n\n"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110  what is waited for is told by no event
            await asyncio.sleep(0.01)


def run(world: World, story: Callable[[Sequencer], Coroutine[Any, Any, T]], **more: Any) -> T:
    """A sequencer of the world's log while the story is told."""

    async def all_of_it() -> T:
        log = Log(world.folder / "log", KEY, Quick(), witnessed=True)
        sequencer = Sequencer(log, 0.02, witnesses=world.witnesses(), **more)
        running = asyncio.create_task(sequencer.run())
        try:
            return await story(sequencer)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await sequencer.finish()

    return asyncio.run(all_of_it())


async def append(sequencer: Sequencer, start: int, stop: int) -> list[int]:
    return await sequencer.append(parse_append(encode_batch(leaves(start, stop))))


TWO = [
    ("all honest", [None, None, None], True),
    ("one dead", [dead, None, None], True),
    ("one slow", [None, slow, None], True),
    ("one that answers rubbish", [None, None, rubbish], True),
    ("two dead", [None, dead, dead], False),
    ("one dead, one slow", [dead, None, slow], False),
    ("two that answer rubbish", [rubbish, rubbish, None], False),
]


@pytest.mark.failure("witness", "receipts")
@pytest.mark.failure("witness", "seen")
@pytest.mark.parametrize(("posts", "reached"), [row[1:] for row in TWO], ids=[row[0] for row in TWO])
def test_two_of_three_must_cosign_and_appends_go_on(world: World, posts: list[Post | None], reached: bool) -> None:
    async def story(sequencer: Sequencer) -> None:
        for n, post in enumerate(posts):
            if post is not None:
                world.posts[n] = post
        for start in range(0, 300, 100):
            assert await append(sequencer, start, start + 100) == [*range(start, start + 100)]
        await until(lambda: sequencer.log.integrated == 300)
        if reached:
            await until(lambda: world.published()[0] == 300 and sequencer.unwitnessed_s() == 0)
            assert len(world.published()[1]) >= 2
            return
        await until(lambda: sum(bool(told.error) for told in sequencer.witnesses.told.values()) >= 2)  # type: ignore[union-attr]
        assert world.published() == (0, set())
        assert sequencer.unwitnessed_s() > 0
        metrics = (await Surface(sequencer).metrics(Mock())).text or ""
        assert 'knhk_log_entries{stage="published"} 0\n' in metrics
        assert "knhk_log_unwitnessed_seconds 0.000" not in metrics
        assert metrics.count("} 1\n") >= 2, "each witness that is away is told"
        refused = await Surface(sequencer).proof(Mock(match_info={"index": "5"}, query={}))
        assert "the newest has 0" in (refused.text or "")
        assert await append(sequencer, 300, 301) == [300]
        world.posts = [world.honest(n) for n in range(3)]  # they are there again
        await until(lambda: world.published()[0] == 301)

    run(world, story)
    assert not verify_log(world.folder / "log", format_vkey(KEY.verifier), None).bad


def test_an_answer_that_comes_in_pieces_is_read_whole(world: World) -> None:
    """As it does from a server that flushes each line, or over a network that cuts it."""

    async def in_pieces(request: web.Request) -> web.StreamResponse:
        _, line = await world.posts[0](await request.read())
        answer = web.StreamResponse()
        await answer.prepare(request)
        for piece in (line[:30], line[30:]):
            await answer.write(piece)
            for _ in range(100):  # the other end reads meanwhile
                await asyncio.sleep(0)
        return answer

    async def story() -> str | None:
        app = web.Application()
        app.router.add_post("/add-checkpoint", in_pieces)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        lines = (f"log {format_vkey(KEY.verifier)}", f"witness W {format_vkey(KEYS[0].verifier)} http://127.0.0.1:{runner.addresses[0][1]}")
        policy = parse_policy("\n".join([*lines, "quorum W", ""]).encode())
        try:
            async with witnesses_of(policy, log, KEY.verifier, None) as (witnesses, _):
                assert witnesses is not None
                return await witnesses.cosigned(log.signed, 3, prove)
        finally:
            await runner.cleanup()

    async def prove(old: int, new: int) -> list[bytes]:
        return log.consistency(old, new)

    log = Log(world.folder / "log", KEY, Quick(), witnessed=True)
    log.commit([parse_append(encode_batch(leaves(0, 3)))])
    log.integrate()
    try:
        note = asyncio.run(story())
    finally:
        log.close()
    assert note is not None
    assert world.signed_by(note) == {KEYS[0].verifier}


def test_one_that_signs_for_another_is_no_second_witness(world: World) -> None:
    """Its name with another's key, or another's line: neither counts."""

    async def story(sequencer: Sequencer) -> None:
        world.posts[1] = world.honest(1, WitnessKey(KEYS[1].verifier, KEYS[0].sign))
        world.posts[2] = world.posts[0]
        await append(sequencer, 0, 5)
        await until(lambda: all(told.error != "not asked yet" for told in sequencer.witnesses.told.values()))  # type: ignore[union-attr]
        await until(lambda: "no good cosignature" in sequencer.witnesses.told[KEYS[1].verifier].error)  # type: ignore[union-attr]
        assert world.published()[0] == 0

    run(world, story)


def test_what_was_signed_is_published_after_a_restart_and_never_signed_otherwise(world: World) -> None:
    async def alone(sequencer: Sequencer) -> str:
        world.posts = [dead, dead, dead]
        await append(sequencer, 0, 257)
        await until(lambda: sequencer.log.integrated == 257)
        return sequencer.log.signed

    async def again(sequencer: Sequencer) -> None:
        assert sequencer.log.signed == signed
        world.posts = [world.honest(n) for n in range(3)]
        await until(lambda: world.published()[0] == 257)
        assert (world.folder / "log" / "checkpoint").read_text().startswith(signed)

    signed = run(world, alone)
    run(world, again)


def test_a_log_that_no_longer_asks_witnesses_publishes_what_it_signed(world: World) -> None:
    async def alone(sequencer: Sequencer) -> None:
        world.posts = [dead, dead, dead]
        await append(sequencer, 0, 3)
        await until(lambda: sequencer.log.integrated == 3)

    run(world, alone)
    Log(world.folder / "log", KEY, Quick()).close()
    assert world.published() == (3, set())


def test_leaves_are_refused_when_they_have_waited_too_long(world: World) -> None:
    async def story(sequencer: Sequencer) -> None:
        world.posts = [dead, dead, dead]
        await append(sequencer, 0, 3)
        await until(lambda: sequencer.unwitnessed_s() > 0.1)
        with pytest.raises(Unavailable, match="quorum of witnesses"):
            await append(sequencer, 3, 4)
        world.posts = [world.honest(n) for n in range(3)]
        await until(lambda: world.published()[0] == 3)
        assert await append(sequencer, 3, 4) == [3]

    run(world, story, max_unwitnessed_s=0.1)


def test_another_machine_goes_on_from_what_a_witness_may_have_seen(tmp_path: Path) -> None:
    """The first one dies when its checkpoint was cosigned and not published: were it not for `signed`, the next would sign another tree of
    its size, and no witness would ever cosign this log again."""
    store, clock, world = MemoryStore(), Clock(), World(tmp_path)

    def start(name: str) -> tuple[Log, Lease]:
        lease = Lease(store, name, name, clock, TTL_S)
        while wait_s := lease.take():
            clock.now_s += wait_s
        return Log(tmp_path / name, KEY, Quick(), public=StorePublication(store, lease), witnessed=True), lease

    async def cosigned(log: Log) -> str | None:
        async def prove(old: int, new: int) -> list[bytes]:
            return log.consistency(old, new)

        size = open_checkpoint(log.signed, KEY.verifier).size
        return await world.witnesses().cosigned(log.signed, size, prove)

    one, _ = start("one")
    one.commit([parse_append(encode_batch(leaves(0, 5)))])
    one.integrate()
    assert asyncio.run(cosigned(one)) is not None
    two, _ = start("two")
    assert (two.integrated, two.published) == (5, 0)
    two.commit([parse_append(encode_batch(leaves(7, 9)))])
    two.integrate()
    note = asyncio.run(cosigned(two))
    assert note is not None
    two.publish(note)
    assert open_checkpoint(store.get("checkpoint").data, KEY.verifier).size == 7


def test_who_knows_nothing_is_told_at_once_how_far_the_log_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent begins to count how long its records wait with that answer; one that knows waits for news."""
    monkeypatch.setattr(server, "STAGES_WITHIN_S", 3600.0)
    log = Log(world.folder / "log", KEY, Quick())
    path = world.folder / "s.sock"

    async def story() -> dict[str, float]:
        runner = web.AppRunner(application(Surface(Sequencer(log)).reading()), shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(path)).start()
        client, waiting = SequencerClient(path, timeout_s=120.0), SequencerClient(path, timeout_s=120.0)
        try:
            waits = asyncio.create_task(waiting.stages((0, 0)))
            told = await client.stages(None)
            assert not waits.done()
            waits.cancel()
            await asyncio.gather(waits, return_exceptions=True)
            return told
        finally:
            await client.close()
            await waiting.close()
            await runner.cleanup()

    try:
        assert asyncio.run(story()) == {"durable": 0, "published": 0, "regions": 0, "unwitnessed_s": 0.0}
    finally:
        log.close()
