"""A watch tells each receipt that fits once, in the order of the log, as it comes; what is too old, too much or not allowed is refused."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from knhk.adapters.front_proxy import User
from knhk.adapters.receipt_index import ReceiptIndex
from knhk.receipts import server, watching
from knhk.receipts.objects import BASE
from knhk.receipts.server import application
from knhk.wiring.receipts import HANDS

sys.path.insert(0, str(Path(__file__).parent))
from log_of_entries import LIMITS, OTHERS, Written, leaf

EVENTS, DECISIONS = (f"{BASE}/namespaces/erp/{plural}?watch=true" for plural in ("policyreceipts", "decisionreceipts"))
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
WITHIN_S = 60.0


class Followed:
    """A log that `grow` follows at once; `denied`: who may nothing any more."""

    def __init__(self, written: Written, index: ReceiptIndex) -> None:
        self.origin, self.index, self.denied, self._written = "o", index, "", written
        self._told = list[Callable[[], None]]()
        self.grow()

    def grow(self, *entries: bytes) -> None:
        if entries:
            self._written.add(*entries)
        self.index.follow("o", self._written.served)
        for told in self._told:
            told()

    def user(self, _: web.Request) -> User:
        return User("rosa")

    def may(self, _: User, verb: str, __: Mapping[str, str]) -> str:
        assert verb in ("watch", "list", "get")
        return self.denied

    def proof(self, number: int) -> tuple[str, str]:
        note = (self._written.folder / "checkpoint").read_text()
        return self._written.served.inclusion(number, note), note

    def entry(self, number: int) -> bytes:
        return self._written.served.entry(number)

    def reaches(self, size: int, within_s: float) -> bool:
        return self.index.size >= size

    def on_growth(self, told: Callable[[], None]) -> None:
        self._told.append(told)

    def behind_s(self) -> float:
        return 0.0

    def taken(self) -> int:
        return self.index.disk_bytes()

    def bound(self) -> float:
        return 1e6

    def unready(self) -> str:
        return ""


@pytest.fixture
def log(written: Written, tmp_path: Path) -> Followed:
    written.add(written.event("Signed"), leaf(1), written.event("Approved", actor="ann"), written.event("Signed", OTHERS))
    return Followed(written, ReceiptIndex(tmp_path / "index.db"))


class Watching:
    """One watch: its answer's status, then what it tells."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.status, self.answer = answer.status, answer

    async def next(self) -> tuple[str, dict[str, Any]]:
        line = await self.answer.content.readline()
        assert line, "the watch is over"
        told = json.loads(line)
        return told["type"], told["object"]

    async def name(self) -> str:
        kind, told = await self.next()
        assert kind == "ADDED"
        return str(told["metadata"]["name"])

    async def over(self) -> bool:
        return await self.answer.content.readline() == b""


class Door:
    """Watches over HTTP; `end` ends the server's application."""

    def __init__(self, session: aiohttp.ClientSession, runner: web.AppRunner) -> None:
        self._session, self._runner = session, runner
        self._answers = list[aiohttp.ClientResponse]()

    async def watch(self, path: str, headers: Mapping[str, str] | None = None) -> Watching:
        answer = await self._session.get(path, headers=headers)
        self._answers.append(answer)
        return Watching(answer)

    async def text(self, path: str) -> str:
        async with self._session.get(path) as answer:
            return await answer.text()

    async def end(self) -> None:
        await self._runner.cleanup()

    def close(self) -> None:
        for answer in self._answers:
            answer.close()


@asynccontextmanager
async def opened(log: Followed) -> AsyncIterator[Door]:
    with ThreadPoolExecutor(HANDS) as hands:
        runner = web.AppRunner(application(log, hands))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}", connector=connector) as session:
            door = Door(session, runner)
            try:
                yield door
            finally:
                door.close()
                await runner.cleanup()


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, WITHIN_S))


def test_events_are_told_from_a_version_on_as_they_come(log: Followed, written: Written) -> None:
    async def scene() -> None:
        async with opened(log) as door:
            watch = await door.watch(f"{EVENTS}&resourceVersion=2")
            assert await watch.name() == "approved-00000002"
            await asyncio.to_thread(log.grow, leaf(2), written.event("Promoted", OTHERS), written.event("Promoted"), leaf(3))
            kind, told = await watch.next()
            assert (kind, told["metadata"]["name"], told["metadata"]["resourceVersion"]) == ("ADDED", "promoted-00000006", "7")
            assert told["status"]["statement"]["predicate"]["kind"] == "Promoted"
            await asyncio.to_thread(log.grow, written.event("RolledBack"))
            assert await watch.name() == "rolledback-00000008"

    play(scene())


def test_decisions_are_told_by_the_same_selectors_as_lists(log: Followed) -> None:
    async def scene() -> None:
        async with opened(log) as door:
            watch = await door.watch(f"{DECISIONS}&resourceVersion=4&fieldSelector=verdict=DENY")
            await asyncio.to_thread(log.grow, leaf(2), leaf(3, verdict=2), *(leaf(n) for n in range(4, 60)), leaf(60, verdict=2))
            assert [await watch.name() for _ in range(2)] == [leaf(n)[100:116].hex() for n in (3, 60)]

    play(scene())


def test_kubectl_gets_rows_of_a_table(log: Followed) -> None:
    async def scene() -> None:
        async with opened(log) as door:
            watch = await door.watch(f"{EVENTS}&resourceVersion=2", TABLE)
            kind, told = await watch.next()
            assert (kind, told["kind"], told["rows"][0]["cells"][:2]) == ("ADDED", "Table", ["approved-00000002", "Approved"])
            assert told["columnDefinitions"][0]["name"] == "Name"

    play(scene())


def test_without_a_version_what_there_is_comes_first(log: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with opened(log) as door:
            watch = await door.watch(EVENTS)
            assert [await watch.name() for _ in range(2)] == ["signed-00000000", "approved-00000002"]
            monkeypatch.setattr(server, "MAX_PAGE", 1)
            assert (await door.watch(EVENTS)).status == 410
            assert await (await door.watch(f"{EVENTS}&fieldSelector=event=Approved&resourceVersion=0")).name() == "approved-00000002"

    play(scene())


def test_a_version_that_is_too_old_is_said_to_be(log: Followed, written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        for module in (server, watching):
            monkeypatch.setattr(module, "TOO_OLD", 3)
        async with opened(log) as door:
            watch = await door.watch(f"{DECISIONS}&resourceVersion=4")
            await asyncio.to_thread(log.grow, *(leaf(n) for n in range(10, 15)))
            kind, told = await watch.next()
            assert (kind, told["code"], told["reason"]) == ("ERROR", 410, "Expired")
            assert await watch.over()
            refused = await door.watch(f"{DECISIONS}&resourceVersion=1")
            assert (refused.status, json.loads(await refused.answer.text())["reason"]) == (410, "Expired")
            events = await door.watch(f"{EVENTS}&resourceVersion=1")
            assert await events.name() == "approved-00000002", "of few events none is too old, however many decisions came since"

    play(scene())


def test_a_log_that_is_another_one_ends_what_watched_it(log: Followed, written: Written, tmp_path: Path) -> None:
    async def scene() -> None:
        async with opened(log) as door:
            watch = await door.watch(f"{EVENTS}&resourceVersion=4")
            log.index.forget()
            await asyncio.to_thread(log.grow)  # as far as before at once: not to be told as if nothing had been
            kind, told = await watch.next()
            assert (kind, told["code"]) == ("ERROR", 410)

    play(scene())


def test_a_right_that_is_taken_away_ends_a_watch(log: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        monkeypatch.setattr(watching, "LOOK_S", 0.0)
        async with opened(log) as door:
            watch = await door.watch(f"{EVENTS}&resourceVersion=4&allowWatchBookmarks=true")
            kind, told = await watch.next()
            assert (kind, told["metadata"]["resourceVersion"], told["kind"]) == ("BOOKMARK", "4", "PolicyReceipt")
            log.denied = "no rule"
            while kind == "BOOKMARK":
                kind, told = await watch.next()
            assert (kind, told["code"]) == ("ERROR", 403)
            assert 'cannot watch resource "policyreceipts"' in told["message"]
            assert (await door.watch(f"{EVENTS}&resourceVersion=4")).status == 403

    play(scene())


def test_watches_have_a_bound_and_lists_go_on(log: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        monkeypatch.setattr(watching, "MOST_OF_ONE", 2)
        async with opened(log) as door:
            open_ = [await door.watch(f"{EVENTS}&resourceVersion=2") for _ in range(2)]
            assert [await watch.name() for watch in open_] == ["approved-00000002"] * 2
            refused = await door.watch(f"{EVENTS}&resourceVersion=2")
            assert (refused.status, refused.answer.headers["Retry-After"]) == (429, "1")
            assert json.loads(await door.text(EVENTS.partition("?")[0]))["metadata"]["resourceVersion"] == "4"
            assert "knhk_receipts_watches 2.0" in (await door.text("/metrics")).splitlines()
            open_[0].answer.close()
            while "knhk_receipts_watches 1.0" not in (await door.text("/metrics")).splitlines():
                await asyncio.to_thread(log.grow, of_limits(log))
            assert (await door.watch(f"{EVENTS}&resourceVersion=2")).status == 200

    play(scene())


def test_watches_that_begin_together_have_the_same_bound(log: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3)

    def may(_: User, __: str, ___: Mapping[str, str]) -> str:
        together.wait(WITHIN_S)
        return ""

    async def scene() -> None:
        monkeypatch.setattr(watching, "MOST_OF_ONE", 2)
        monkeypatch.setattr(watching, "LOOK_S", 10 * WITHIN_S)  # nobody is asked again
        monkeypatch.setattr(log, "may", may)
        async with opened(log) as door:
            watches = await asyncio.gather(*(door.watch(f"{EVENTS}&resourceVersion=2") for _ in range(3)))
            assert sorted(watch.status for watch in watches) == [200, 200, 429]

    play(scene())


def of_limits(log: Followed) -> bytes:
    """Something that an abandoned watch would have to tell."""
    return log._written.event("Signed", LIMITS, step=log.index.size)


def test_its_time_and_the_end_of_the_server_end_a_watch(log: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with opened(log) as door:
            watch = await door.watch(f"{EVENTS}&resourceVersion=4")
            ended = asyncio.create_task(door.end())
            assert await watch.over()
            await ended
        monkeypatch.setattr(server, "LASTS_S", 0.0)
        async with opened(log) as door:
            assert await (await door.watch(f"{EVENTS}&resourceVersion=4")).over()

    play(scene())


@pytest.mark.parametrize(
    ("query", "code"),
    [("resourceVersion=99", 504), ("resourceVersion=x", 400), ("sendInitialEvents=true", 422), ("fieldSelector=colour=red", 400)],
)
def test_what_cannot_be_watched_is_refused_with_why(log: Followed, query: str, code: int) -> None:
    async def scene() -> None:
        async with opened(log) as door:
            assert (await door.watch(f"{EVENTS}&{query}")).status == code

    play(scene())
