"""One operator's lines to the ports. Each call may fail and be lost, fail and have been done, be done later, find somebody else faster, end
the operator, or let everybody else go on in its middle."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from fakes import Died, Shuffled

from knhk.model.arrows import SignedPack
from knhk.model.faults import Conflict, Corrupt, Gap, NotFound, Refuted, Stalled, Waiting
from knhk.model.faults import Fault as Complaint
from knhk.model.resource import Key, Resource
from knhk.packaging.builds import DataOrder, PackOrder, PublishedData
from knhk.ports.builder import Build
from knhk.ports.store import Change, Listing
from knhk.reconcilers.context import Ports
from knhk.reconcilers.controller import KINDS
from knhk.reconcilers.workshop import Bench, Retirement
from knhk.wiring.leading import ACTS, fence, fenced

if TYPE_CHECKING:
    from simulation import Simulation

Raise = Callable[[str], Exception]
AT_ONCE = 4
GRACE_S = 60.0


def _waiting(what: str) -> Exception:
    return Waiting("Unreachable", f"{what} does not answer", 0.5)


def _os_error(what: str) -> Exception:
    return OSError(5, f"{what}: Input/output error")


def _torn(what: str) -> Exception:
    return Corrupt(what, "must be JSON")


def _stalled(what: str) -> Exception:
    return Stalled("Broken", f"{what} must be mended")


def _refuted(what: str) -> Exception:
    return Refuted([Complaint(what, "passing by tables, failing by the sources", "is a bug")])


@dataclass(frozen=True)
class Way:
    """How calls of one name fail. `writes`: they may also have been done; `later`: or be done after the error was told."""

    errors: tuple[Raise, ...]
    writes: bool = False
    later: bool = False


READ, WRITE = Way((_waiting,)), Way((_waiting,), writes=True, later=True)
WAYS: Mapping[str, Mapping[str, Way]] = {
    "store": {
        **dict.fromkeys(("get", "list", "changes", "departed"), READ),
        **dict.fromkeys(("create", "update", "update_status", "apply", "delete", "release"), WRITE),
        "record": Way((_waiting,), writes=True),
    },
    "log": {"append_events": WRITE, "proofs": READ},
    "registry": {
        **dict.fromkeys(("publish", "remove", "collect_garbage"), Way((_os_error,), writes=True)),
        **dict.fromkeys(("read", "manifest", "resolve", "tagged", "referrers", "statements", "listed"), Way((_os_error,))),
    },
    "fleet": {
        **dict.fromkeys(("publish_keys", "publish_config", "publish_bootstrap"), Way((_os_error,), writes=True)),
        "publish_document": Way((_os_error,), writes=True, later=True),
        **dict.fromkeys(("document", "config"), Way((_os_error,))),
        "statistics": Way((_torn, _os_error)),
    },
    "placement": {
        "ensure": Way((_waiting, _stalled, _os_error), writes=True),
        "remove": Way((_os_error,), writes=True),
        "bootstrap": Way((_waiting, _stalled, _os_error)),
        "placed": Way((_os_error,)),
    },
    "compiler": {"compile": Way((_stalled,)), "materials": Way(())},
    "prover": {"prove": Way((_waiting, _waiting, _refuted))},
    "signer": {"sign": Way((_stalled,)), "bundle": Way((_stalled,)), "keyid": Way(()), "keys_json": Way(()), "public": Way(())},
}


class Line:
    """One port as one operator sees it."""

    def __init__(self, world: Simulation, who: str, port: str, inner: object) -> None:
        for name, way in WAYS[port].items():
            setattr(self, name, Call(world, who, port, name, way, getattr(inner, name)))


@dataclass(frozen=True)
class Call:
    """One method of one port, as one operator calls it."""

    world: Simulation
    who: str
    port: str
    name: str
    way: Way
    inner: Callable[..., Any]

    @property
    def what(self) -> str:
        return f"{self.port}.{self.name}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The call with the weather of the moment. Where nothing happens it costs one draw."""
        if self.way.writes and self.world.is_deposed(self.who):
            self.world.laws.acted.append(f"{self.who} begins {self.what}, and leads no longer")
        limit = self.world.hazard[self.port]
        if self.world.chance.random() >= limit:
            self.world.tell(self, args, "")
            return self.inner(*args, **kwargs)
        draw = self.world.chance.random() * limit
        for happens, rate in self.world.hazards[self.port]:
            if draw < rate:
                return getattr(self, f"_{happens}")(*args, **kwargs)
            draw -= rate
        return self.inner(*args, **kwargs)

    def _meanwhile(self, *args: Any, **kwargs: Any) -> Any:
        self.world.tell(self, args, "others go on meanwhile")
        self.world.meanwhile(self.who)
        return self.inner(*args, **kwargs)

    def _death(self, *args: Any, **kwargs: Any) -> Any:
        if self.way.writes and self.world.chance.random() < 0.5:
            self.inner(*args, **kwargs)
            self.world.tell(self, args, "is done")
        raise Died(self.what)

    def _conflict(self, *args: Any, **kwargs: Any) -> Any:
        if self.name not in ("update", "update_status"):
            return self.inner(*args, **kwargs)
        self.world.tell(self, args, "Conflict")
        raise Conflict(f"{args[0].key} changed; read again")

    def _fails(self, *args: Any, **kwargs: Any) -> Any:
        if not self.way.errors:
            return self.inner(*args, **kwargs)
        error, how = self.world.chance.choice(self.way.errors)(self.what), "fails"
        if self.way.writes and self.world.chance.random() < 0.5:
            if self.way.later and self.world.chance.random() < self.world.weather.late:
                self.world.later.append((self, args))
                how = "fails, and will be done"
            else:
                self.inner(*args, **kwargs)
                how = "is done, and fails"
        self.world.tell(self, args, f"{how}: {error}")
        raise error


class Feed:
    """What one operator's watch tells: late, twice, only the last of several changes of an object, or lost and then a gap. Its numbers are
    its own; a listing is of the moment before it."""

    def __init__(self, world: Simulation) -> None:
        self._world = world
        self._source = world.house.store.revision()
        self._told: list[Change] = []
        self._last = 0

    def position(self) -> int:
        return self._last

    def changes(self, since: int, kinds: Collection[str] = (), timeout_s: float = 0.0) -> tuple[tuple[Change, ...], int]:
        """As Store.changes."""
        weather, chance = self._world.weather, self._world.chance
        new = [c for c in self._world.house.store.every_change()[-200:] if c.revision > self._source and c.resource.kind in kinds]
        if weather.gap and chance.random() < weather.gap:
            self._source = self._world.house.store.revision()
            self._last += 1
            self._told.clear()
            self._world.say("the watch has a gap")
            raise Gap("list again")
        if new and weather.delay and chance.random() < weather.delay:
            new = new[: chance.randrange(len(new))]
        if new:
            self._source = new[-1].revision
        if self._told and weather.delay and chance.random() < 0.1:
            new.insert(0, self._told[-1])
        for change in new:
            before = self._told[-1] if self._told and self._told[-1].revision > since else None
            if before is not None and before.type == change.type == "Modified" and before.resource.key == change.resource.key:
                del self._told[-1]
            self._last += 1
            self._told.append(replace(change, revision=self._last))
        if since > self._last or (self._told and since < self._told[0].revision - 1) or (not self._told and since < self._last):
            raise Gap("list again")
        self._told = [c for c in self._told if c.revision > since] or self._told[-1:]
        return tuple(c for c in self._told if c.revision > since), self._last


class Mirror:
    """The store as one operator reads it from memory: as its watch told it last, and never older than what it wrote itself. What was done
    though it failed is seen when the watch tells it, or when a write finds it in its way."""

    def __init__(self, world: Simulation, feed: Feed) -> None:
        self._store, self._feed, self._chance = world.house.store, feed, world.chance
        self._objects: dict[Key, Resource] = {}
        self._filled = False
        self.record, self.delete = self._store.record, self._store.delete
        self.departed, self.release = self._store.departed, self._store.release

    def changes(self, since: int, kinds: Collection[str] = (), timeout_s: float = 0.0) -> tuple[tuple[Change, ...], int]:
        try:
            changes, revision = self._feed.changes(since, kinds, timeout_s)
        except Gap:
            self._filled = False
            raise
        for change in changes:
            known = self._objects.get(change.resource.key)
            if change.type == "Deleted":
                if known is not None and known.uid == change.resource.uid:
                    del self._objects[change.resource.key]
            elif known is None or int(change.resource.resource_version) > int(known.resource_version):
                self._objects[change.resource.key] = change.resource
        return changes, revision

    def get(self, key: Key) -> Resource:
        if key.kind == "Receipt":
            return self._store.get(key)
        self._fill()
        if key not in self._objects:
            raise NotFound(f"{key} was not found")
        return self._objects[key]

    def list(self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> Listing:
        if kind == "Receipt":
            return self._store.list(kind, namespace, labels)
        self._fill()
        found = (r for key, r in self._objects.items() if key.kind == kind and namespace in (None, key.namespace))
        return Listing(tuple(sorted(found, key=lambda resource: resource.key)), self._feed.position())

    def create(self, resource: Resource) -> Resource:
        return self._told(self._store.create, resource)

    def update(self, resource: Resource) -> Resource:
        return self._told(self._store.update, resource)

    def update_status(self, resource: Resource) -> Resource:
        return self._told(self._store.update_status, resource)

    def apply(self, resource: Resource) -> Resource:
        return self._told(self._store.apply, resource)

    def _told(self, write: Callable[[Resource], Resource], resource: Resource) -> Resource:
        try:
            stored = write(resource)
        except (Conflict, NotFound):
            found = self._store.find(resource.key)
            if found is None:
                self._objects.pop(resource.key, None)
            else:
                self._objects[resource.key] = found
            raise
        self._objects[stored.key] = stored
        return stored

    def _fill(self) -> None:
        if not self._filled:
            self._objects = {r.key: r for kind in KINDS for r in self._store.list(kind).resources}
            self._filled = True


class Direct:
    """The store as one operator reads it from the API server, with the changes of its own feed."""

    def __init__(self, world: Simulation, feed: Feed) -> None:
        store = world.house.store
        for name in ("get", "create", "update", "update_status", "apply", "delete", "record", "departed", "release"):
            setattr(self, name, getattr(store, name))
        self._store, self._feed, self.changes = store, feed, feed.changes

    def list(self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> Listing:
        return replace(self._store.list(kind, namespace, labels), revision=self._feed.position())


def ports_of(world: Simulation, who: str) -> tuple[Ports, SlowWorkshop]:
    """All ports as one operator sees them, behind the fence that lets only a leader act: one that was taken for dead ends its call at
    most. And the workshop behind one of them."""
    house = world.house
    inner: dict[str, Any] = {name: getattr(house, name) for name in WAYS} | {
        "store": (Mirror if world.weather.mirrored else Direct)(world, Feed(world))
    }
    lines: dict[str, Any] = {name: Line(world, who, name, port) for name, port in inner.items()}

    def check() -> None:
        world.check_leads(who)

    registry = fence(lines["registry"], ACTS["registry"], check)
    bench = Bench(lines.pop("compiler"), lines.pop("prover"), registry, lines["signer"], "generator")
    workshop = SlowWorkshop(bench, Retirement(registry, house.clock, GRACE_S), world.chance)
    together = Shuffled(Random(f"{world.seed} {who}"), AT_ONCE)
    own: dict[str, Any] = {"clock": house.clock, "origin": "knhk.dev/sim", "actor": who, "together": together, "notary": world.outsiders}
    ports = Ports(**lines, builder=workshop, **own)
    return fenced(ports, check), workshop


class SlowWorkshop:
    """knhk.ports.builder.Builder: builds of packs, and sweeps, wait, run for a while, and end; of a dead operator they never end."""

    def __init__(self, bench: Bench, retirement: Retirement, chance: Random) -> None:
        self._bench, self._retirement, self._chance = bench, retirement, chance
        self._waiting: list[tuple[Build[SignedPack], PackOrder]] = []
        self._running: list[tuple[Build[SignedPack], PackOrder]] = []
        self._sweeps: list[tuple[Future[tuple[str, ...]], Mapping[str, Collection[str]]]] = []

    def pack(self, order: PackOrder) -> Build[SignedPack]:
        build: Build[SignedPack] = Build()
        self._waiting.append((build, order))
        return build

    def data(self, order: DataOrder) -> Build[PublishedData]:
        build: Build[PublishedData] = Build()
        build.settle(lambda: self._bench.data(order))
        return build

    def retire(self, needed: Mapping[str, Collection[str]]) -> Future[tuple[str, ...]]:
        done: Future[tuple[str, ...]] = Future()
        self._sweeps.append((done, needed))
        return done

    def advance(self) -> None:
        """What runs ends, what waits runs; sometimes both at once."""
        if self._sweeps and self._chance.random() < 0.5:
            self._sweep(*self._sweeps.pop())
        if self._chance.random() < 0.7:
            self._begin()
        running, self._running = self._running, []
        for build, order in running:
            build.settle(partial(self._bench.pack, order, build.told))
        self._begin()

    def _sweep(self, done: Future[tuple[str, ...]], needed: Mapping[str, Collection[str]]) -> None:
        try:
            done.set_result(self._retirement.sweep(needed))
        except Exception as error:
            done.set_exception(error)

    def _begin(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._running += [(build, order) for build, order in waiting if build.set_running_or_notify_cancel()]


def subject_of(args: tuple[Any, ...]) -> str:
    """What a call is about, for the trace."""
    if not args:
        return ""
    first = args[0]
    key = first if isinstance(first, Key) else getattr(first, "key", None)
    return str(key) if key is not None else first if isinstance(first, str) and len(first) < 80 else ""
