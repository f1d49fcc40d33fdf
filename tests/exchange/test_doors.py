"""Who comes to a server of ours and says nothing, or is nobody, keeps nobody out; and what was believed and is no more ends at once."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from knhk.adapters.certificates import Pair, client_pair, new_authority, server_pair
from knhk.adapters.client_context import show
from knhk.adapters.serving_certificates import component_uri
from knhk_runtime.doors import Bounds, Doors
from knhk_runtime.sequencer.tls import CLIENT, Guard, Renewed, TlsFiles

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]
DAY, WITHIN_S = timedelta(days=1), 120.0
HERE, THERE, ELSEWHERE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Server:
    """Its authority signs for everybody; `asks`: whether it asks clients for a certificate of it."""

    port: int
    authority: Pair
    connections: list[Connection] = field(default_factory=list)

    async def connected(self, address: str = HERE, shown: Pair | None = None) -> Connection:
        context = ssl.create_default_context(cadata=self.authority.certificate.decode())
        if shown is not None:
            show(context, shown)
        return await self._opened(address, context)

    async def silent(self, address: str) -> Connection:
        """A connection without a word of TLS."""
        return await self._opened(address, None)

    async def _opened(self, address: str, context: ssl.SSLContext | None) -> Connection:
        self.connections.append(await asyncio.open_connection(HERE, self.port, ssl=context, local_addr=(address, 0)))
        return self.connections[-1]

    async def end(self) -> None:
        """Of every connection, on this side."""
        for _, writer in self.connections:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    def client(self, name: str = "knhk-operator") -> Pair:
        return client_pair(self.authority, component_uri(name), now(), DAY)


async def answered(connection: Connection) -> bool:
    """Whether a request over it is; it stays open."""
    reader, writer = connection
    with suppress(OSError):
        writer.write(GET)
        await writer.drain()
        return (await reader.read(1000)).startswith(b"HTTP/1.1 200")
    return False


async def ended(connection: Connection) -> bool:
    with suppress(OSError):
        return await connection[0].read(1) == b""
    return True


async def hello(_: web.Request) -> web.Response:
    return web.Response()


@asynccontextmanager
async def serving(tls: Callable[[], ssl.SSLContext], authority: Pair, doors: Doors) -> AsyncIterator[Server]:
    app = web.Application(middlewares=[doors.watch])
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    server = await doors.open(runner, HERE, 0, tls)
    opened = Server(server.sockets[0].getsockname()[1], authority)
    try:
        yield opened
    finally:
        doors.close()
        await runner.cleanup()
        doors.dismiss()
        await opened.end()


def run(bounds: Bounds, story: Callable[[Server], Awaitable[None]]) -> None:
    """Of a server that asks for certificates and does without."""
    authority = new_authority(now())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    show(context, server_pair(authority, [HERE], now(), DAY))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=authority.certificate.decode())

    async def told() -> None:
        async with asyncio.timeout(WITHIN_S), serving(lambda: context, authority, Doors(bounds)) as server:
            await story(server)

    asyncio.run(told())


def test_who_opens_connections_and_says_nothing_keeps_nobody_out() -> None:
    """Two addresses have all places of those that are about to begin, and each new one takes that of the longest there."""

    async def story(server: Server) -> None:
        silent = [await server.silent(address) for address in (THERE, ELSEWHERE) for _ in range(4)]
        assert await answered(await server.connected(HERE, server.client()))
        assert await ended(silent[0])

    run(Bounds(connections=8, of_one=4, handshake_within_s=WITHIN_S), story)


def test_of_one_address_no_more_may_be_about_to_begin_than_may_be_inside() -> None:
    async def story(server: Server) -> None:
        silent = [await server.silent(THERE) for _ in range(2)]
        assert await ended(await server.silent(THERE))
        assert await answered(await server.connected(HERE))
        silent[0][1].close()
        await silent[0][1].wait_closed()
        while not await later(server, THERE):
            continue

    async def later(server: Server, address: str) -> bool:
        with suppress(OSError):
            return await answered(await server.connected(address))
        return False

    run(Bounds(connections=8, of_one=2, handshake_within_s=WITHIN_S), story)


def test_who_runs_the_server_is_told_whose_connections_are_turned_away(capfd: pytest.CaptureFixture[str]) -> None:
    """Once, however many come: guards that all have one address learn no more than that their connections end."""

    async def story(server: Server) -> None:
        inside = [await server.connected(THERE) for _ in range(2)]
        assert all([await answered(connection) for connection in inside])
        for _ in range(5):
            with suppress(OSError):
                assert not await answered(await server.connected(THERE))

    run(Bounds(connections=8, of_one=2), story)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "turned away" in line]
    assert [(line["event"], line["address"], line["of_one"]) for line in lines] == [("connections turned away", THERE, 2)]


def test_who_says_nothing_is_gone_when_its_time_is_over() -> None:
    async def story(server: Server) -> None:
        assert await ended(await server.silent(THERE))

    run(Bounds(handshake_within_s=0.2), story)


def test_strangers_keep_nobody_out_who_shows_a_certificate_and_no_probe_either() -> None:
    async def story(server: Server) -> None:
        strangers = [await server.connected(THERE) for _ in range(6)]
        assert await answered(strangers[-1])
        proxies = [await server.connected(HERE, server.client()) for _ in range(4)]
        assert all([await answered(proxy) for proxy in proxies])
        assert await answered(await server.connected(ELSEWHERE)), "a probe shows no certificate and is answered"
        assert await ended(strangers[0])
        assert all([await answered(proxy) for proxy in proxies])

    run(Bounds(connections=8, of_one=8, strangers=2), story)


def test_an_authority_that_is_no_more_in_the_file_counts_no_more_nor_does_a_connection_of_before(tmp_path: Path) -> None:
    """As the log takes `--client-ca`; who is of the other authority comes again."""
    before, after = new_authority(now()), new_authority(now())
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")
    shown = server_pair(before, [HERE], now(), DAY)
    for path, data in ((files.certificate, shown.certificate), (files.key, shown.key)):
        path.write_bytes(data)
    files.client_ca.write_bytes(before.certificate)

    def renew(*authorities: Pair) -> None:
        """As a mounted Secret changes: the stamp is another one."""
        made = files.client_ca.with_suffix(".tmp")
        made.write_bytes(b"".join(row.certificate for row in authorities))
        made.rename(files.client_ca)
        tls.look()

    doors = Doors()
    tls = Renewed(files, doors.dismiss)
    of_before, of_after = (client_pair(authority, component_uri("knhk-operator"), now(), DAY) for authority in (before, after))

    async def story() -> None:
        async with asyncio.timeout(WITHIN_S), serving(tls, before, doors) as server:
            kept = await server.connected(shown=of_before)
            assert await answered(kept)
            assert not await opened(server, of_after)
            renew(before, after)
            assert await answered(kept), "one more authority ends nothing"
            assert await opened(server, of_after)
            files.client_ca.write_text("no PEM")
            tls.look()
            assert await opened(server, of_after), "what is none changes nothing"
            renew(after)
            assert await ended(kept)
            assert not await opened(server, of_before)
            assert await opened(server, of_after)

    async def opened(server: Server, shown: Pair) -> bool:
        with suppress(OSError):
            return await answered(await server.connected(shown=shown))
        return False

    asyncio.run(story())


@pytest.mark.parametrize(
    ("client", "places"),
    [(component_uri("knhk-receipts"), 16), ("spiffe://knhk.dev/ns/erp/point/orders/pod/one", 4)],
    ids=["replicas of a component", "a pod"],
)
def test_replicas_of_a_component_are_one_client_with_places_for_all(client: str, places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of receipts has two, each with four that read and one that follows."""
    monkeypatch.setattr("knhk_runtime.sequencer.tls.client_of", lambda _: client)
    waiting, full, going_on = list[str](), asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        waiting.append(request[CLIENT])
        if len(waiting) == places:
            full.set()
        await going_on.wait()
        return web.Response()

    class Asked(dict[str, str]):
        method, path, body_exists = "GET", "/checkpoint", False

    async def story() -> list[int]:
        guard = Guard()
        asked = [asyncio.create_task(guard.watch(Asked(), slow)) for _ in range(places + 1)]  # type: ignore[arg-type]
        await full.wait()
        going_on.set()
        return [answer.status for answer in await asyncio.gather(*asked)]

    assert sorted(asyncio.run(story())) == [200] * places + [429]
