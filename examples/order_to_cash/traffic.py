"""Bounded loopback traffic of real GOBL invoices, right and wrong, from many callers."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import random
import time
import uuid as uuidlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from identity import IdentityProvider

CLERKS = 400
FOREIGN = ("GBP", "CHF", "JPY", "CAD")

Envelope = dict[str, Any]
Change = Callable[[Envelope], None]


def _set(*path: str | int, value: object) -> Change:
    def change(envelope: Envelope) -> None:
        node: Any = envelope["doc"]
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = value

    return change


def _drop(name: str) -> Change:
    def change(envelope: Envelope) -> None:
        envelope["doc"].pop(name, None)

    return change


# What people get wrong: each change makes a right invoice wrong in one way.
WRONG: tuple[tuple[str, Change], ...] = (
    ("no currency", _drop("currency")),
    ("unknown currency", _set("currency", value="XXQ")),
    ("negative payable", _set("totals", "payable", value="-5.00")),
    ("issue date that is none", _set("issue_date", value="2022-02-31")),
    ("zero quantity", _set("lines", 0, "quantity", value="0")),
)


@dataclass(frozen=True)
class Request:
    """One request to send; `right` says what a careful person would expect of the policy."""

    method: str
    path: str
    body: bytes
    caller: str
    right: bool
    kind: str


@dataclass(frozen=True)
class Answer:
    """What came back. `receipt` is empty when none could be kept (503, connection lost)."""

    request: Request
    status: int
    receipt: str
    at_ns: int
    body: bytes


@dataclass
class Tally:
    """All answers so far."""

    answers: list[Answer] = field(default_factory=list)
    lost: int = 0

    def statuses(self) -> dict[int, int]:
        counts: dict[int, int] = {}
        for answer in self.answers:
            counts[answer.status] = counts.get(answer.status, 0) + 1
        return dict(sorted(counts.items()))


class Mix:
    """An endless, seeded stream of requests."""

    def __init__(self, payloads: Path, seed: int) -> None:
        self._random = random.Random(seed)
        self._templates = [json.loads(path.read_text()) for path in sorted(payloads.glob("gobl-*.json"))]
        if not self._templates:
            raise FileNotFoundError(f"{payloads}: must hold gobl-*.json")
        self._serial = itertools.count(1)

    def __iter__(self) -> Iterator[Request]:
        while True:
            yield self._next()

    def _next(self) -> Request:
        envelope = copy.deepcopy(self._random.choice(self._templates))
        uuid = str(uuidlib.UUID(int=self._random.getrandbits(128), version=4))
        envelope["doc"]["uuid"] = uuid
        envelope["doc"]["code"] = f"INV-{next(self._serial):06d}"
        clerk = f"clerk-{self._random.randrange(CLERKS):03d}"
        chance = self._random.random()
        if chance < 0.12:
            name, change = self._random.choice(WRONG)
            change(envelope)
            return Request("POST", "/invoices", _encode(envelope), clerk, False, name)
        if chance < 0.32:
            envelope["doc"]["currency"] = self._random.choice(FOREIGN)
            return Request("POST", "/invoices", _encode(envelope), clerk, True, "foreign currency")
        if chance < 0.40:
            return Request("POST", f"/invoices/{uuid}/approve", _encode(envelope), "dora", True, "approved by a director")
        if chance < 0.45:
            return Request("POST", f"/invoices/{uuid}/approve", _encode(envelope), clerk, False, "approved by a clerk")
        if chance < 0.50:
            return Request("GET", f"/invoices/{uuid}", b"", clerk, True, "read")
        return Request("POST", "/invoices", _encode(envelope), clerk, True, "right")


def _encode(envelope: Envelope) -> bytes:
    return json.dumps(envelope, ensure_ascii=False).encode()


class Callers:
    """Sends requests with each caller's own token, `rate_s` a second at most, `lanes` at once at most."""

    def __init__(
        self,
        base_url: str,
        provider: IdentityProvider,
        mix: Mix,
        lanes: int = 16,
        rate_s: float = 300.0,
        local: Collection[str] = ("127.0.0.1", "localhost", "::1"),
    ) -> None:
        """`local`: hosts that are this machine's, for this traffic is for it only."""
        if urlsplit(base_url).hostname not in local:
            raise ValueError(f"{base_url}: must be one of {', '.join(local)}; this traffic is for this machine only")
        self._base = base_url
        self._provider = provider
        self._requests = iter(mix)
        self._lanes = lanes
        self._interval_s = 1.0 / rate_s
        self._tokens: dict[str, str] = {}
        self.tally = Tally()

    def _token(self, caller: str) -> str:
        if caller not in self._tokens:
            self._tokens[caller] = self._provider.token(caller)
        return self._tokens[caller]

    async def send(self, session: aiohttp.ClientSession, request: Request) -> Answer | None:
        """One request; None when the connection was lost."""
        headers = {"authorization": f"Bearer {self._token(request.caller)}"}
        if request.body:
            headers["content-type"] = "application/json"
        try:
            async with session.request(request.method, self._base + request.path, data=request.body or None, headers=headers) as response:
                body = await response.read()
                receipt = response.headers.get("knhk-receipt", "")
                answer = Answer(request, response.status, receipt, time.time_ns(), body)
        except (aiohttp.ClientError, TimeoutError):
            self.tally.lost += 1
            return None
        self.tally.answers.append(answer)
        return answer

    async def run(self, stop: asyncio.Event, most: int) -> None:
        """Sends until `stop` is set, and never more than `most` requests."""
        timeout = aiohttp.ClientTimeout(total=10)
        connector = aiohttp.TCPConnector(limit=self._lanes)
        due = time.monotonic()
        running: set[asyncio.Task[Answer | None]] = set()
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            for _ in range(most):
                if stop.is_set():
                    break
                while len(running) >= self._lanes:
                    _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                running.add(asyncio.create_task(self.send(session, next(self._requests))))
                due = max(due + self._interval_s, time.monotonic() - 0.05)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            if running:
                await asyncio.wait(running)
