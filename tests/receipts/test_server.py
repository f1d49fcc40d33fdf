"""What people ask of the server of receipts keeps nobody else out."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import sqlite3
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from knhk.adapters.front_proxy import User
from knhk.adapters.receipt_index import ENTRY_BYTES, ReceiptIndex
from knhk.receipts.objects import BASE
from knhk.receipts.server import WAIT_AT_ONCE, Token, application
from knhk.wiring import renewing
from knhk.wiring.receipts import BOUNDS, HANDS, UNREADY_AFTER_S, Follower, LogPlace

sys.path.insert(0, str(Path(__file__).parent))
from log_of_entries import Written, leaf, outside

from knhk_runtime.tlog.served import Served

LIST = f"{BASE}/namespaces/erp/decisionreceipts"


class Asked:
    """Anybody may, and other replicas are waited for until `over`."""

    def __init__(self, index: ReceiptIndex) -> None:
        self.origin, self.index, self.over, self.behind = "o", index, threading.Event(), 0.0

    def user(self, _: web.Request) -> User:
        return User("rosa")

    def may(self, _: User, __: str, ___: Mapping[str, str]) -> str:
        return ""

    def proof(self, _: int) -> tuple[str, str]:
        raise AssertionError

    def entry(self, _: int) -> bytes:
        raise AssertionError

    def on_growth(self, told: Callable[[], None]) -> None:
        self.grown = told

    def reaches(self, size: int, within_s: float) -> bool:
        return self.index.size >= size or (within_s > 0 and self.over.wait() and False)

    def behind_s(self) -> float:
        return self.behind

    def taken(self) -> int:
        return self.index.disk_bytes()

    def bound(self) -> float:
        return 1e6

    def unready(self) -> str:
        return ""


@asynccontextmanager
async def served(asked: Asked) -> AsyncIterator[Callable[[str], asyncio.Task[int]]]:
    """Asks for a path: the status of the answer."""
    with ThreadPoolExecutor(HANDS) as hands:
        runner = web.AppRunner(application(asked, hands))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:

            async def status(path: str) -> int:
                async with session.get(path) as answer:
                    return answer.status

            try:
                yield lambda path: asyncio.create_task(status(path))
            finally:
                asked.over.set()
                await runner.cleanup()


def test_versions_that_are_made_up_keep_nobody_out(written: Written, tmp_path: Path) -> None:
    async def play() -> None:
        written.add(written.event("Signed"), leaf(1))
        asked = Asked(ReceiptIndex(tmp_path / "index.db"))
        asked.index.follow("o", written.served)
        async with served(asked) as get:
            waiting = {get(f"{LIST}?resourceVersion={99999 + number}") for number in range(3 * HANDS)}
            over = set[asyncio.Task[int]]()
            while len(over) < 3 * HANDS - WAIT_AT_ONCE:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                over |= done
            assert {task.result() for task in over} == {504}
            assert await get(LIST) == 200
            asked.over.set()
            assert set(await asyncio.gather(*waiting)) == {504}

    asyncio.run(asyncio.wait_for(play(), 30))


def test_a_policy_receipt_has_what_others_outside_said_of_it(written: Written, tmp_path: Path) -> None:
    """As the log has it: of events that say they are about it the first that is."""

    class OfLog(Asked):
        def proof(self, number: int) -> tuple[str, str]:
            return f"proof of {number}", "checkpoint"

        def entry(self, number: int) -> bytes:
            return written.served.entry(number)

    async def play() -> None:
        promoted, signed = written.event("Promoted"), written.event("Signed")
        first, second, name = outside(promoted), outside(promoted, "ef" * 32), "erp/promoted-00000000"
        told = [
            written.notarised(signed, 0, name, outside(signed)),
            *(written.notarised(promoted, 0, name, each) for each in (first, second)),
        ]
        written.add(promoted, leaf(1), *told, signed)
        asked = OfLog(ReceiptIndex(tmp_path / "index.db"))
        asked.index.follow("o", written.served)
        with ThreadPoolExecutor(HANDS) as hands:
            async with TestClient(TestServer(application(asked, hands))) as client:
                found = await (await client.get(f"{BASE}/namespaces/erp/policyreceipts/promoted-00000000")).json()
                assert found["status"]["sigstore"] == first.decode()
                assert found["status"]["sigstoreIndex"] == 3
                bare = await (await client.get(f"{BASE}/namespaces/erp/policyreceipts/signed-00000005")).json()
                assert "sigstore" not in bare["status"]
                tells = await (await client.get(f"{BASE}/namespaces/erp/policyreceipts?fieldSelector=event=Notarised")).json()
                assert [item["metadata"]["name"] for item in tells["items"]] == [f"notarised-0000000{n}" for n in (4, 3, 2)]

    asyncio.run(asyncio.wait_for(play(), 60))


def test_discovery_waits_for_no_list(written: Written, tmp_path: Path) -> None:
    """While it waits the API server takes the group for gone, and no namespace of the cluster can be deleted."""

    class Slow(Asked):
        def may(self, _: User, __: str, ___: Mapping[str, str]) -> str:
            self.over.wait()
            return ""

    async def play() -> None:
        asked = Slow(ReceiptIndex(tmp_path / "index.db"))
        async with served(asked) as get:
            lists = [get(LIST) for _ in range(HANDS)]
            assert await get(BASE) == 200
            asked.over.set()
            assert await asyncio.gather(*lists) == [200] * HANDS

    asyncio.run(asyncio.wait_for(play(), 30))


def test_an_index_that_fails_is_told_and_the_log_is_followed_on(written: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(ReceiptIndex):
        times = 1

        def follow(self, *args: object) -> int:
            if self.times:
                self.times -= 1
                raise sqlite3.OperationalError("database or disk is full")
            return super().follow(*args)  # type: ignore[arg-type]

    written.add(leaf(1))
    follower = Follower(Full(tmp_path / "index.db"), LogPlace(str(written.folder)))
    follower.start()
    try:
        assert follower.reaches(1, 30.0)
    finally:
        follower.stop()
    assert "database or disk is full" in caplog.text
    assert "read again" in caplog.text or not follower.unready


def test_no_address_takes_all_places() -> None:
    assert 2 * BOUNDS.of_one <= BOUNDS.connections


def test_what_is_renewed_is_looked_at_again_whatever_failed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(renewing, "LOOK_EVERY_S", 0.0)
    failing, again = [ssl.SSLError("no certificate or crl found")], threading.Event()

    def look() -> None:
        if failing:
            raise failing.pop()
        again.set()

    async def play() -> None:
        task = asyncio.create_task(renewing.keep_looking(look, logging.getLogger("t")))
        assert await asyncio.to_thread(again.wait, 30)
        task.cancel()

    asyncio.run(play())
    assert "no certificate or crl found" in caplog.text


async def answers(asked: Asked, *paths: str) -> list[tuple[int, str, Mapping[str, str]]]:
    """Status, text and headers of each, one after the other."""
    found = list[tuple[int, str, Mapping[str, str]]]()
    with ThreadPoolExecutor(HANDS) as hands:
        runner = web.AppRunner(application(asked, hands))
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
                for path in paths:
                    async with session.get(path) as answer:
                        found.append((answer.status, await answer.text(), answer.headers))
        finally:
            await runner.cleanup()
    return found


@pytest.fixture
def asked(written: Written, tmp_path: Path) -> Asked:
    written.add(written.event("Signed"), leaf(1), leaf(2, ring=b"NOBODYS1", pack=bytes(32), kind=4, verdict=2))
    found = Asked(ReceiptIndex(tmp_path / "index.db"))
    found.index.follow("o", written.served)
    return found


def test_it_tells_prometheus_what_it_was_asked_and_how_far_it_is_behind(asked: Asked) -> None:
    asked.behind = 12.5
    *_, (code, text, _) = asyncio.run(answers(asked, LIST, LIST, f"{LIST}?continue=x", f"{LIST}/nothing", "/metrics"))
    assert code == 200
    for row in (
        'knhk_receipts_requests_total{code="200",verb="list"} 2.0',
        'knhk_receipts_requests_total{code="400",verb="list"} 1.0',
        'knhk_receipts_requests_total{code="404",verb="get"} 1.0',
        'knhk_receipts_request_seconds_count{verb="list"} 3.0',
        "knhk_receipts_behind_seconds 12.5",
        "knhk_receipts_index_entries 3.0",
    ):
        assert row in text.splitlines()


def test_who_gets_old_pages_is_told(asked: Asked) -> None:
    """kubectl shows a Warning to its user."""
    (fresh,) = asyncio.run(answers(asked, LIST))
    asked.behind = 99.0
    (old,) = asyncio.run(answers(asked, LIST))
    assert (fresh[0], old[0]) == (200, 200)
    assert "Warning" not in fresh[2]
    assert old[2]["Warning"] == '299 - "the log was not read for 99 s: newer receipts are not here"'


def test_an_index_that_cannot_be_read_says_when_to_come_again(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(asked.index, "page", locked)
    ((code, _, headers),) = asyncio.run(answers(asked, LIST))
    assert (code, headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize(
    "query",
    [
        f"continue={base64.urlsafe_b64encode(b'[' * 5000).decode()}",
        f"continue={Token(1 << 62, 1 << 62).text()}",
        f"continue={Token(4, 3).text()}",
        f"fieldSelector={'pack!=a,' * 1000}",
        f"labelSelector={'pack!=a,' * 1000}",
    ],
    ids=("nested", "huge", "backwards", "fields", "labels"),
)
def test_a_query_that_is_none_is_its_askers_fault(asked: Asked, query: str, caplog: pytest.LogCaptureFixture) -> None:
    """No 503, after which a client comes again, and no error in our log."""
    found = asyncio.run(answers(asked, f"{LIST}?{query}", f"{BASE}/namespaces/erp/policyreceipts?{query}"))
    assert [(code, json.loads(text)["reason"]) for code, text, _ in found] == [(400, "BadRequest")] * 2
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_has_no_namespace_is_found_where_it_is_shown(asked: Asked) -> None:
    every, own = f"{BASE}/decisionreceipts?fieldSelector=metadata.namespace=knhk-system", f"{BASE}/namespaces/knhk-system/decisionreceipts"
    other = f"{BASE}/decisionreceipts?fieldSelector=metadata.namespace!=knhk-system"
    names = [
        [item["metadata"]["name"] for item in json.loads(text)["items"]] for _, text, _ in asyncio.run(answers(asked, every, own, other))
    ]
    assert names[0] == names[1] == [leaf(2, ring=b"NOBODYS1")[100:116].hex()]
    assert names[2] == [leaf(1)[100:116].hex()]


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return found


def test_an_index_warns_before_it_outgrows_its_room(written: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once at each of 80, 90 and 100 %; nothing while there is room, or where nobody says how much there is."""
    written.leaves(leaf(n) for n in range(2000))
    index, log = ReceiptIndex(tmp_path / "index.db"), LogPlace(str(written.folder))
    Follower(index, log).look()
    assert warned(caplog) == []
    for share, times in ((0.7, 0), (0.85, 1), (0.95, 1)):
        follower = Follower(index, log, int(Follower(index, log).taken() / share))
        follower.look()
        follower.look()
        said = warned(caplog)
        assert (len(said), all("give it more room" in each for each in said)) == (times, True), (share, said)
    follower = Follower(index, log, int(Follower(index, log).taken() / 0.85))
    follower.look()
    written.leaves(leaf(n, ring=b"RING0002") for n in range(6000))
    follower.look()
    assert [("of 2000 entries" in each, "of 8000 entries" in each) for each in warned(caplog)] == [(True, False), (False, True)]


def test_an_index_that_begins_anew_counts_what_it_will_take(written: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After an eviction its file is small, and the next one is due: so that is told before the log was read."""
    written.leaves(leaf(n) for n in range(20_000))

    class Evicted(ReceiptIndex):
        def follow(self, origin: str, log: Served) -> int:
            said.append(warned(caplog))
            return super().follow(origin, log)

    said, index = list[list[str]](), Evicted(tmp_path / "index.db")
    follower = Follower(index, LogPlace(str(written.folder)), 20_000 * 180)
    follower.look()
    assert [("of 20000 entries" in each) for each in said[0]] == [True]
    index.close()
    assert 0.85 < (tmp_path / "index.db").stat().st_size / (20_000 * ENTRY_BYTES) < 1.25


def test_a_log_that_is_not_read_for_long_makes_it_unready(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written.add(leaf(1))
    follower = Follower(ReceiptIndex(tmp_path / "index.db"), LogPlace(str(written.folder)))
    assert follower.unready == "the log was not read yet"
    follower.look()
    assert follower.unready == ""
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + UNREADY_AFTER_S + 60)
    assert re.match(r"the log was not read for 6\d\d s", follower.unready)
    follower.look()
    assert follower.unready == "", "a log that has nothing new is read all the same"
