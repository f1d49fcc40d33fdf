"""What outlives an operator: the store, the log, the registry, the fleet and what runs. It remembers what the laws ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fakes import NS, START_NS, CheckedStore, FakeCompiler, FakeFleet, FakeLog, FakePlacement, FakeProver, FakeRegistry, FakeSigner

from knhk.model.resource import Key, Resource
from knhk.model.times import rfc3339


@dataclass
class SimClock:
    """Moved by the scheduler. The wall clock may be set; the monotonic one is not."""

    ns: int = START_NS
    set_by_ns: int = 0

    def now_ns(self) -> int:
        return self.ns + self.set_by_ns

    def monotonic_ns(self) -> int:
        return self.ns

    def sleep(self, duration_s: float) -> None:
        self.ns += int(duration_s * NS)


class SimStore(CheckedStore):
    """Remembers each spec by uid and generation, each event by the object whose status committed it, and deletions."""

    def __init__(self, clock: SimClock) -> None:
        super().__init__()
        self._clock = clock
        self.specs: dict[tuple[str, int], Mapping[str, Any]] = {}
        self.committed: dict[bytes, set[str]] = {}
        self.fresh: list[Resource] = []  # statuses that no law has looked at yet

    def time(self) -> str:
        return rfc3339(self._clock.now_ns())

    def update_status(self, resource: Resource) -> Resource:
        stored = super().update_status(resource)
        for row in stored.status.get("pending", ()):
            self.committed.setdefault(row["bundle"].encode(), set()).add(stored.uid)
        self.fresh.append(stored)
        return stored

    def _store(self, type: Any, resource: Resource) -> Resource:
        stored = super()._store(type, resource)
        self.specs[stored.uid, stored.generation] = stored.spec
        return stored

    def find(self, key: Key) -> Resource | None:
        return self._objects.get(key)

    def revision(self) -> int:
        return self._revision

    def every_change(self) -> list[Any]:
        return self._changes


@dataclass(frozen=True)
class Handed:
    """A document that the fleet took; `length` of the log at that moment."""

    point: str
    envelope: bytes
    length: int


class SimFleet(FakeFleet):
    """Remembers what the log held when a document was handed over."""

    def __init__(self, log: FakeLog) -> None:
        super().__init__()
        self._log = log
        self.history: list[Handed] = []

    def publish_document(self, point: str, envelope: bytes) -> None:
        super().publish_document(point, envelope)
        self.history.append(Handed(point, envelope, len(self._log.entries)))


class SimSigner(FakeSigner):
    """keys.json and the names of keys, which are asked for at each look, are made once for each turn."""

    def __init__(self) -> None:
        super().__init__()
        self._named: dict[str, str] = {}
        self._keys_json = b""

    def turn(self, role: str) -> None:
        super().turn(role)
        self._named.clear()
        self._keys_json = b""

    def keyid(self, role: str) -> str:
        if role not in self._named:
            self._named[role] = super().keyid(role)
        return self._named[role]

    def keys_json(self) -> bytes:
        self._keys_json = self._keys_json or super().keys_json()
        return self._keys_json


@dataclass
class House:
    """The durable world."""

    clock: SimClock = field(default_factory=SimClock)
    log: FakeLog = field(default_factory=FakeLog)
    signer: SimSigner = field(default_factory=SimSigner)
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    placement: FakePlacement = field(default_factory=FakePlacement)
    compiler: FakeCompiler = field(default_factory=FakeCompiler)
    prover: FakeProver = field(default_factory=FakeProver)
    store: SimStore = field(init=False)
    fleet: SimFleet = field(init=False)

    def __post_init__(self) -> None:
        self.store = SimStore(self.clock)
        self.fleet = SimFleet(self.log)
