"""The courier: loops that never end by themselves. What fails is told in `faults` and tried again; the point goes on meanwhile.

While the images of a document come, newer documents are waited for: one supersedes the other, whose pull is ended."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from knhk.model.consents import DOCUMENT as CONSENTS
from knhk.model.faults import Corrupt, KnhkError
from knhk_runtime.courier.identity import Identity, key_of
from knhk_runtime.courier.mirror import Mirror, read_desired
from knhk_runtime.exchange.consents import MAX_BASE_BYTES
from knhk_runtime.http1 import Answer, HttpClient, Https, Unreachable
from knhk_runtime.layout import parse_object
from knhk_runtime.log import log
from knhk_runtime.pull import Stop
from knhk_runtime.serving import Serving

LONG_POLL_S = 35.0  # the exchange answers after 25
LOOK_EVERY_S, PUSH_EVERY_S, PUSH_AT_LEAST_EVERY_S, CERTIFY_EVERY_S = 0.2, 1.0, 3.0, 60.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 5.0
MAX_SPREAD = 0.5
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class Unwilling(KnhkError):
    """The exchange answered, and not with what was asked for."""


@dataclass(frozen=True)
class _Taking:
    """What was desired last, on its way into the folder."""

    task: asyncio.Task[None]
    stop: Stop


@dataclass
class Courier:
    """`chance`: 0 ≤ x < 1, for the length of pauses. `serving`: what Envoy shows, at points that are asked by ours alone."""

    server: Https
    identity: Identity
    mirror: Mirror
    chance: Callable[[], float]
    serving: Serving | None = None
    _faults: dict[str, str] = field(default_factory=dict)
    _self: tuple[str, str] = ("", "")
    _etag: str = "none"
    _pushed: tuple[bytes, float] = (b"", float("-inf"))
    _taking: _Taking | None = None
    _files: Mapping[str, bytes] | None = None
    _consents: bytes = b""

    def __post_init__(self) -> None:
        self._asking, self._telling = HttpClient(self.server), HttpClient(self.server)

    @property
    def faults(self) -> list[dict[str, str]]:
        """`refused` of the statistics: what does not work now."""
        return [{"what": what, "where": f"exchange: {where}", "must": "must work"} for where, what in sorted(self._faults.items())]

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                steps = {"desired": self._fetch, "statistics": self._tell, "certificate": self._certify, "serving": self._serve}
                for where, step in steps.items():
                    group.create_task(self._always(where, step))
        finally:
            self._supersede()
            await self._asking.close()

    async def last_word(self, limit_s: float) -> None:
        """Tells the statistics as they lie there, after `run` has ended; gives up after `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                await self._push(self._statistics())
        except (Unreachable, KnhkError, OSError) as error:  # of a time-out too
            log("courier", fault=f"the last statistics were not told: {error}")
        finally:
            await self._telling.close()

    async def _always(self, where: str, step: Callable[[], Awaitable[float]]) -> None:
        """A step gives the seconds until the next one."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                wait_s, pause = await step(), FIRST_PAUSE_S
                self._faults.pop(where, None)
            except (Unreachable, KnhkError, OSError) as error:
                if self._faults.get(where) != str(error):
                    log("courier", where=where, fault=str(error))
                self._faults[where] = str(error)
                wait_s = pause * (1 - MAX_SPREAD + 2 * MAX_SPREAD * self.chance())
                pause = min(pause * 2, LAST_PAUSE_S)
            await asyncio.sleep(wait_s)

    async def _fetch(self) -> float:
        point, _ = await self._who()
        asking = asyncio.create_task(
            self._ask(self._asking, "GET", f"/v1/points/{point}/desired?after={self._etag}", timeout_s=LONG_POLL_S)
        )
        try:
            await asyncio.wait({asking, *([self._taking.task] if self._taking else ())}, return_when=asyncio.FIRST_COMPLETED)
            if self._taking is not None and self._taking.task.done():
                self._taken(self._taking.task)
            if asking.done() and (answer := asking.result()).status != 204:
                etag, files = read_desired(answer.body, str(self.server))
                await self._take_consents(point, files)
                self._take(etag, files)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        return LOOK_EVERY_S if self._taking is None else 0.0

    async def _take_consents(self, point: str, files: dict[str, bytes]) -> None:
        """They wait for nothing but the base that they name."""
        envelope = files.pop(CONSENTS, None)
        if envelope is None or envelope == self._consents:
            return
        base, digest = None, await asyncio.to_thread(self.mirror.lacks, envelope)
        if digest is not None:
            client = HttpClient(self.server, MAX_BASE_BYTES)
            try:
                base = (await self._ask(client, "GET", f"/v1/points/{point}/consents/{digest}", timeout_s=LONG_POLL_S)).body
            finally:
                await client.close()
        await asyncio.to_thread(self.mirror.take_consents, envelope, base)
        self._consents = envelope

    def _take(self, etag: str, files: dict[str, bytes]) -> None:
        if files == self._files:  # only consents are news: images that are on their way go on coming
            self._etag = etag
            return
        self._supersede()
        self._files = files
        stop = Stop()
        self._taking = _Taking(asyncio.create_task(asyncio.to_thread(self.mirror.take, files, stop)), stop)
        self._etag = etag

    def _taken(self, task: asyncio.Task[None]) -> None:
        """Raises what kept it from lying there; it is then asked for again."""
        self._taking = None
        try:
            task.result()
        except BaseException:
            self._etag, self._files = "none", None
            raise

    def _supersede(self) -> None:
        """What is on its way is to end by itself; nobody waits for that."""
        if self._taking is not None:
            self._taking.stop.set()
            self._taking.task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._taking = None

    async def _tell(self) -> float:
        body = self._statistics()
        now_s = asyncio.get_running_loop().time()
        told, at_s = self._pushed
        if not body or now_s - at_s < (PUSH_EVERY_S if body != told else PUSH_AT_LEAST_EVERY_S):
            return LOOK_EVERY_S
        await self._push(body)
        self._pushed = body, now_s
        return LOOK_EVERY_S

    async def _certify(self) -> float:
        if not self.identity.is_due(datetime.now(UTC)):
            return CERTIFY_EVERY_S
        self.identity.take(*await self._certificate("certificate"))
        return CERTIFY_EVERY_S

    async def _serve(self) -> float:
        if self.serving is None:
            return CERTIFY_EVERY_S
        authorities = self.identity.authorities()
        self.serving.trust(authorities)
        if self.serving.is_due(authorities, datetime.now(UTC)):
            key, certificate = await self._certificate("serving")
            self.serving.show(certificate, key_of(key, certificate))
        return CERTIFY_EVERY_S

    async def _certificate(self, use: str) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
        """A new key, and what the exchange certifies of it for this use."""
        point, pod = await self._who()
        key, request = self.identity.request()
        answer = await self._ask(self._telling, "POST", f"/v1/points/{point}/pods/{pod}/{use}", request)
        certificate = parse_object(answer.body, str(self.server)).get("certificate")
        if not isinstance(certificate, str):
            raise Corrupt(str(self.server), "must answer with a certificate")
        return key, certificate.encode()

    async def _push(self, body: bytes) -> None:
        point, pod = await self._who()
        if body:
            await self._ask(self._telling, "POST", f"/v1/points/{point}/pods/{pod}/statistics", body)

    def _statistics(self) -> bytes:
        path: Path = self.mirror.folders.stats
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""

    async def _who(self) -> tuple[str, str]:
        """(NAMESPACE/NAME, pod), as the exchange knows us."""
        if not self._self[0]:
            answer = await self._ask(self._telling, "GET", "/v1/self")
            told = parse_object(answer.body, str(self.server))
            names = [told.get(name) for name in ("namespace", "point", "pod")]
            if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
                raise Corrupt(str(self.server), f"must tell namespace, point and pod; told {json.dumps(names)[:200]}")
            self._self = f"{names[0]}/{names[1]}", str(names[2])
        return self._self

    async def _ask(self, client: HttpClient, method: str, target: str, body: bytes = b"", timeout_s: float = 10.0) -> Answer:
        """Raises Unreachable, Unwilling, OSError."""
        answer = await client.request(method, target, body, self.identity.authorization(), timeout_s)
        if answer.status not in (200, 204):
            raise Unwilling(f"{answer.status}: {answer.body[:500].decode(errors='replace')}")
        return answer
