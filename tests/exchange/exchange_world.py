"""An exchange with TLS of its own authority. Who a token belongs to is told by a table in place of the API server's answers."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from knhk.adapters.certificates import Pair, client_certificate, new_authority, server_certificate, server_pair
from knhk.adapters.exchange_server import Exchange, serving
from knhk.adapters.fleet_exchange import ExchangeFleet
from knhk.adapters.fleet_folder import FolderShelf
from knhk.adapters.placement_kube import service_name
from knhk.adapters.system import SystemClock
from knhk.model.faults import Waiting
from knhk.ports.caller import Acquaintance, Caller, Denied
from knhk_runtime.doors import Bounds

DAY = timedelta(days=1)


@dataclass
class SetClock:
    """Stands until it is moved."""

    ns: int = 1_800_000_000_000_000_000

    def now_ns(self) -> int:
        return self.ns

    def monotonic_ns(self) -> int:
        return self.ns

    def sleep(self, duration_s: float) -> None:
        self.ns += int(duration_s * 1e9)


@dataclass
class Callers:
    """knhk.ports.caller.Authenticator: tokens and running pods as the test says."""

    tokens: dict[str, Caller] = field(default_factory=dict)
    running: dict[str, dict[str, str]] = field(default_factory=dict)
    ending: set[str] = field(default_factory=set)
    away: bool = False

    def add(self, point: str, pod: str) -> str:
        """A running pod; its token."""
        namespace, _, name = point.partition("/")
        self.tokens[f"token-{pod}"] = Caller(namespace, pod, f"uid-{pod}", name)
        self.running.setdefault(point, {})[f"uid-{pod}"] = pod
        return f"token-{pod}"

    asked: list[str] = field(default_factory=list)
    met: set[str] = field(default_factory=set)
    hangs: threading.Event = field(default_factory=threading.Event)

    def remembered(self, token: str) -> Caller | Acquaintance:
        """Nobody is believed for long: each request of somebody who is known asks again."""
        return Acquaintance.MET if token in self.met else Acquaintance.STRANGER

    def caller(self, token: str) -> Caller:
        self.asked.append(token)
        if token.startswith("made-up"):
            self.hangs.wait(60)
        if token not in self.tokens:
            raise Denied("the token must be a valid one")
        self.met.add(token)
        return self.tokens[token]

    def pods(self, point: str) -> Mapping[str, str]:
        if self.away:
            raise Waiting("ApiServer", "does not answer", 1.0)
        return self.running.get(point, {})

    def there(self, point: str) -> frozenset[str]:
        return frozenset(self.running.get(point, {})) | self.ending


@dataclass(frozen=True)
class Answered:
    status: int
    media: str
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Served:
    fleet: ExchangeFleet
    callers: Callers
    authority: Pair
    port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def ask(self, method: str, target: str, token: str | None = None, body: bytes | None = None) -> Answered:
        """One request, as a client that trusts the authority."""
        context = ssl.create_default_context(cadata=self.authority.certificate.decode())
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        try:
            connection.request(method, target, body, {"Authorization": f"Bearer {token}"} if token is not None else {})
            answer = connection.getresponse()
            return Answered(answer.status, answer.headers.get_content_type(), answer.read())
        finally:
            connection.close()

    def ask_until(self, target: str, token: str, holds: Callable[[Answered], bool]) -> list[Answered]:
        """Answers to one request after another on one connection, up to the first that is so; 5,000 at most."""
        context = ssl.create_default_context(cadata=self.authority.certificate.decode())
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        answers: list[Answered] = []
        try:
            while len(answers) < 5000 and not (answers and holds(answers[-1])):
                connection.request("GET", target, headers={"Authorization": f"Bearer {token}"})
                answer = connection.getresponse()
                answers.append(Answered(answer.status, answer.headers.get_content_type(), answer.read()))
        finally:
            connection.close()
        return answers


@contextmanager
def exchange(
    folder: Path, authority: Pair | None = None, callers: Callers | None = None, port: int = 0, bounds: Bounds | None = None
) -> Iterator[Served]:
    """Serves what lies in `folder`."""
    callers, authority, clock = callers or Callers(), authority or new_authority(datetime.now(UTC)), SystemClock()
    fleet = ExchangeFleet(FolderShelf(folder), callers, clock)

    def issue(request: bytes, uri: str) -> bytes:
        return client_certificate(authority, request, uri, datetime.now(UTC), DAY)

    shown = server_pair(authority, ["127.0.0.1"], datetime.now(UTC), DAY)

    def serves(request: bytes, point: str) -> bytes:
        return server_certificate(authority, request, [service_name(point)], datetime.now(UTC), DAY)

    with serving(Exchange(fleet, callers, issue, serves, clock), "127.0.0.1", port, lambda: shown, bounds) as found:
        yield Served(fleet, callers, authority, found)


def word(**changes: Any) -> dict[str, Any]:
    """A whole word of an agent of erp/orders."""
    return {
        "version": 1, "point": "erp/orders", "boot": "0" * 16, "epoch": 7, "evaluator": "", "ready": True, "listening": True,
        "counted": True, "ending": False, "running": {"stable": None, "candidate": None, "data": None}, "refused": [],
        "drained": 0, "durable": 0, "acked": 0, "ringFull": 0, "pairs": [], "decisions": {}, "absent": 0, "heat": {}, **changes,
    }  # fmt: skip
