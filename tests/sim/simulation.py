"""The control plane under one seed: real controller and reconcilers over ports that lie, with people, agents and time around them.

tests/sim/run.py plays seeds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

from fakes import NS, Died, FakeCompiler
from house import House
from laws import Broken, Laws, broken, pack_key
from lines import Call, SlowWorkshop, ports_of, subject_of
from outsiders import Outsiders
from people import NAMES, People, Wish
from rollout_world import bundle, point
from simulated_pods import SCALES, Pods, quality
from weather import PORTS, Weather

from knhk.model.arrows import CText, PackSources
from knhk.model.faults import Deposed, KnhkError
from knhk.model.phases import Event, Phase, move
from knhk.model.resource import Key
from knhk.reconcilers import admission, building, packs, retention, revisions, workshop
from knhk.reconcilers.controller import Controller

DEEPEST = 2
CALM_STEPS = 160
STILL_STEPS = 16
REQUESTS = 24
PACES_S = (0.05, 0.25, 0.25, 1.0, 5.0)
BUILDER_PORTS = ("compiler", "prover")


@dataclass(frozen=True)
class Outcome:
    """How one seed ended. `broken`: what is wrong, and `law`: the name of the law that says so; both empty when all hold. `moves`: those of
    MOVES that were made."""

    seed: int
    law: str
    broken: str
    steps: int
    moves: frozenset[tuple[Phase, Event]]
    trace: tuple[str, ...] = ()


@dataclass
class Operator:
    """One process."""

    name: str
    controller: Controller
    workshop: SlowWorkshop
    busy: bool = False


class _Bugs(logging.Handler):
    """Exceptions that the controller logs as bugs of its own."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._found.append(f"{record.getMessage()}: {type(error).__name__}: {error}")


@dataclass
class Simulation:
    """Deterministic: the seed alone draws what happens."""

    seed: int
    traced: bool = False
    focus: Mapping[str, float] = field(default_factory=dict)  # members of the weather that the seed does not draw
    chance: Random = field(init=False)
    weather: Weather = field(init=False)
    house: House = field(default_factory=House)
    later: list[tuple[Call, tuple[Any, ...]]] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    bugs: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    moves: set[tuple[Phase, Event]] = field(default_factory=set)
    hazard: dict[str, float] = field(default_factory=dict)
    hazards: dict[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    _depth: int = 0
    steps: int = 0
    _born: int = 0
    _down: bool = False

    def __post_init__(self) -> None:
        self.chance = Random(self.seed)
        weather = replace(Weather.draw(self.chance), **self.focus)  # type: ignore[arg-type]
        self.pods = Pods(self.house, self.chance, weather.pods)
        points = tuple(f"p{i + 1}" for i in range(weather.points))
        self.people = People(self.house, self.chance, points, NAMES[: weather.packs], weather.bad, self.say)
        if weather.waves:
            self.people.waving = Random(f"{self.seed} waves")
        if weather.scaling:
            self.pods.scaling = Random(f"{self.seed} scaling")
        if weather.switches:
            self.people.switching = Random(f"{self.seed} switches")
        self.outsiders = Outsiders(Random(f"{self.seed} outsiders"), weather.witnesses) if weather.witnesses else None
        self.laws = Laws(self.house, self.pods, self.outsiders is not None)
        self._set(weather)

    # ---- the story -------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Broken."""
        self.people.begin()
        self._start()
        for _ in range(self.weather.steps):
            self.step()
            if (scaling := self.pods.scaling) is not None and self.pods.are_in_a_wave() and scaling.random() < 0.7:
                break  # to look at it
        self._calm()

    def step(self) -> None:
        """Something happens, the agents look, an operator turns, time passes; then the laws are looked at."""
        self.steps += 1
        weather, chance = self.weather, self.chance
        if weather.people and chance.random() < weather.people:
            self.people.act()
        if (switching := self.people.switching) is not None and switching.random() < weather.switches:
            self.people.switch()
        if (scaling := self.pods.scaling) is not None and scaling.random() < weather.scaling:
            self.pods.scale()
        self._come_true()
        if self.outsiders is not None:
            self.outsiders.answer()
        requests = REQUESTS if chance.random() < weather.busy else 0
        self.pods.turn(requests, weather.delay, weather.silence, weather.restarts)
        self._turn_all()
        if not weather.uncovered or chance.random() >= weather.uncovered:
            self.house.log.cover()
        self._pass()
        self._check()

    def _calm(self) -> None:
        """Faults cease, people ask for something that can be had, and within a bounded time everything is as it should be."""
        self.say("---- calm ----")
        nothing = dict.fromkeys(PORTS, 0.0)
        zero = dict.fromkeys(("conflict", "late", "death", "meanwhile", "takeover", "gap", "delay", "people"), 0.0)
        zero |= dict.fromkeys(("restarts", "silence", "uncovered", "jump"), 0.0)
        self._set(replace(self.weather, fails=nothing, **zero))  # type: ignore[arg-type]
        self._come_true()
        if not self.operators:
            self._start()
        if self.outsiders is not None:
            self.outsiders.fails = False
        if self.pods.scaling is not None:
            self._still()
        wanted = self._last_wishes()
        left: list[tuple[str, str]] = []
        for _ in range(CALM_STEPS):
            self.people.let_all_go_on()
            if self.outsiders is not None:
                self.outsiders.answer()
            self.pods.turn(REQUESTS, 0.0, 0.0, 0.0)
            self._turn_all()
            self.house.log.cover()
            self.house.clock.ns += NS // 2
            self.steps += 1
            self._check()
            left = [("wishes", text) for text in self._unmet(wanted)] or self.laws.at_rest()
            if not left:
                return
        raise broken(left[0][0], "when all is quiet: " + "; ".join(text for _, text in left[:6]))

    def _still(self) -> None:
        """All pods come back, and no request does, so that rollouts stay where they are: each wave must fit."""
        self.pods.scale(max(SCALES))
        for _ in range(STILL_STEPS):
            self.pods.turn(0, 0.0, 0.0, 0.0)
            self._turn_all()
            self.house.log.cover()
            self.house.clock.ns += NS // 2
            self._check()
        if left := list(self.laws.waves()):
            raise broken("waves", "when nothing moves: " + "; ".join(left))

    def _last_wishes(self) -> dict[str, tuple[Phase, ...]]:
        """Points and data are there, and most packs get one more version; by pack the phases in which it may come to rest."""
        for name in self.people.points:
            if self.house.store.find(Key("EnforcementPoint", "erp", name)) is None:
                self.people.apply(point(name))
        self.people.apply(bundle(1))
        wanted: dict[str, tuple[Phase, ...]] = {}
        for name in self.people.packs:
            found = self.house.store.find(pack_key(name))
            held = found is not None and found.status.get("revision", {}).get("phase") == Phase.STALLED
            if found is not None and self.chance.random() < (0.7 if held else 0.3):
                wanted[name] = ()
                continue
            wanted[name] = self._last_wish(name)
        return wanted

    def _last_wish(self, name: str) -> tuple[Phase, ...]:
        found = self.house.store.find(pack_key(name))
        live = (found.status.get("live") or {}) if found is not None else {}
        version = f"1.{len(self.people.past.setdefault(name, []))}.{self.chance.choice('0012')}"
        self.people.past[name].append(version)
        taken = {p for other in self.people.packs if other != name for p in self._held_by(other)}
        mine = tuple(live.get("points", ()))
        free = tuple(p for p in self.people.points if p not in taken and p not in mine)
        choices = [found for found in (mine, free, (*mine, *free)) if found] or [self.people.points[:1]]
        targets = self.chance.choice(choices)
        self.people.want(Wish(name, version, targets))
        kind, beside = quality(version), set(targets) & set(mine)
        if kind == "broken" or (beside and quality(live["version"]) != kind):
            return (Phase.ROLLED_BACK,)
        return (Phase.LIVE,)

    def _held_by(self, name: str) -> set[str]:
        found = self.house.store.find(pack_key(name))
        if found is None:
            return set()
        wish = self.people.wishes.get(name)
        live, revision = found.status.get("live") or {}, found.status.get("revision", {})
        return {*live.get("points", ()), *revision.get("points", ()), *(wish.targets if wish else ())}

    def _unmet(self, wanted: dict[str, tuple[Phase, ...]]) -> Iterator[str]:
        """Good packs end promoted, bad ones rolled back, and what nobody touched rests where it may."""
        for name, phases in wanted.items():
            found = self.house.store.find(pack_key(name))
            assert found is not None
            revision = found.status.get("revision", {})
            phase = Phase(revision.get("phase", "Pending"))
            said: Mapping[str, str] = next((c for c in found.status.get("conditions", ()) if c["type"] == "Ready"), {})
            if phase in (Phase.PENDING, Phase.SIGNED, Phase.COMPILED, Phase.BUILT):
                other = " has it" in said.get("message", "") and len(self.people.packs) > 1
                held_up = found.spec["suspend"] or said.get("reason") == "Suspended" or other
                if not phases and not held_up:
                    yield f"{found.key} is in phase {phase}: {said.get('message')}"
                elif phases and not other:
                    yield f"{found.key} is in phase {phase}, must be {phases[0]}: {said.get('message')}"
            elif phases and (phase not in phases or revision["generation"] != found.generation):
                yield f"{found.key} is in phase {phase}, must be {phases[0]}: {said.get('message')}"
            elif not phases and phase is Phase.ROLLING and not found.spec["suspend"]:
                yield f"{found.key} still rolls: {said.get('message')}"
            elif not phases and phase is Phase.STALLED and "arm" in revision and not found.spec["suspend"]:
                yield f"{found.key} is held though there is data: {said.get('message')}"

    # ---- operators -------------------------------------------------------------------------------

    def _start(self) -> None:
        self._born += 1
        name = f"op{self._born}"
        self.say(f"{name} starts")
        ports, workshop = ports_of(self, name)
        self.operators.append(Operator(name, Controller(ports, None), workshop))

    def _turn_all(self) -> None:
        """The newest operator turns; sometimes it is taken for dead and another one begins."""
        if not self.operators:
            if self.chance.random() < 0.7:
                self._start()
            return
        self._turn(self.operators[-1])

    def _turn(self, operator: Operator) -> None:
        if operator.busy:
            return
        operator.busy = True
        try:
            operator.workshop.advance()
            operator.controller.tick()
        except Died as died:
            self.say(f"{operator.name} died at {died}")
            self._died(operator)
        finally:
            operator.busy = False
        if self.is_deposed(operator.name) and operator in self.operators:
            self.say(f"{operator.name} ends: it leads no longer")
            self._died(operator)

    def _died(self, operator: Operator) -> None:
        self.operators.remove(operator)

    def is_deposed(self, who: str) -> bool:
        """Whether another one took over from `who`."""
        return who != f"op{self._born}"

    def check_leads(self, who: str) -> None:
        """As the Lease's check."""
        if self.is_deposed(who):
            self.say(f"{who} leads no longer")
            raise Deposed(f"{who} leads no longer")

    def meanwhile(self, who: str) -> None:
        """In the middle of a call of `who`: people and agents go on, and a second operator, which takes the first for dead, may too."""
        if self._depth >= DEEPEST:
            return
        self._depth += 1
        try:
            if self.chance.random() < 0.5:
                self.people.act()
            self._come_true()
            if self.outsiders is not None:
                self.outsiders.answer()
            self.pods.turn(REQUESTS, self.weather.delay, self.weather.silence, self.weather.restarts)
            if self.weather.takeover and self.chance.random() < 0.5:
                self._take_over(who)
            self._pass()
        finally:
            self._depth -= 1

    def _take_over(self, who: str) -> None:
        self.say(f"{who} sleeps and is taken for dead")
        self._start()
        newest = self.operators[-1]
        for _ in range(1 + self.chance.randrange(6)):
            if newest not in self.operators:
                break
            self.pods.turn(REQUESTS, 0.0, 0.0, 0.0)
            if self.outsiders is not None:
                self.outsiders.answer()
            self._turn(newest)
            self.house.log.cover()
            self._pass()
        self.say(f"{who} wakes up")

    # ---- the world -------------------------------------------------------------------------------

    def _pass(self) -> None:
        self.house.clock.ns += int(self.chance.choice(PACES_S) * NS)
        if self.weather.jump and self.chance.random() < self.weather.jump:
            jump_s = self.chance.choice((-20, 13 * 3600, 700, 90_000))
            self.say(f"time jumps by {jump_s} s")
            if jump_s < 0:
                self.house.clock.set_by_ns += jump_s * NS
            else:
                self.house.clock.ns += jump_s * NS

    def _come_true(self) -> None:
        later, self.later = self.later, []
        for call, args in later:
            try:
                call.inner(*args)
                self.tell(call, args, "is done at last")
            except (KnhkError, OSError) as error:
                self.tell(call, args, f"is refused at last: {error}")

    def _check(self) -> None:
        self.laws.check()
        if self.bugs:
            raise broken("bugs", f"the controller met a bug of its own: {self.bugs[0]}")

    def _set(self, weather: Weather) -> None:
        self.weather = weather
        for port in PORTS:
            rows = [("fails", weather.fails[port])]
            if port not in BUILDER_PORTS:
                rows.append(("death", weather.death))
                rows.append(("meanwhile", weather.meanwhile))
            if port == "store":
                rows.append(("conflict", weather.conflict))
            self.hazards[port] = tuple(rows)
            self.hazard[port] = sum(rate for _, rate in rows)

    # ---- the trace -------------------------------------------------------------------------------

    def tell(self, call: Call, args: tuple[Any, ...], how: str) -> None:
        """A line of the trace; of readings only those that fail."""
        if self.traced and (how or call.way.writes):
            self.say(f"{call.who} {call.what} {subject_of(args)} {how}".rstrip())

    def say(self, text: str) -> None:
        if self.traced:
            self.trace.append(f"{self.steps:4} {self.house.clock.ns / 1e9 - 1_795_428_000:10.2f} {'  ' * self._depth}{text}")

    def moved(self, phase: Phase, event: Event) -> Phase:
        """`move`, noted."""
        after = move(phase, event)
        self.moves.add((phase, event))
        self.say(f"{phase.value} -{event.value}-> {after.value}")
        return after


# ---- compiling costs nothing here, and images retire soon ----------------------------------------------------------------

_MADE: dict[tuple[Any, ...], building.Made] = {}


def _assemble(pack: PackSources, compiler: Any) -> Any:
    """What `assemble` makes, remembered: it follows from the sources alone. The compiler is asked each time, for it may fail."""
    key = (pack.namespace, pack.name, pack.version, *(source.text for source in pack.sources))
    if key not in _MADE:
        steps = _REAL(pack, FakeCompiler())
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                _MADE[key] = stop.value
                break
    compiler.compile(CText("", _MADE[key].plan.digest))
    return _MADE[key]
    yield


_REAL = building.assemble


@contextmanager
def _quickly(sim: Simulation) -> Iterator[None]:
    real = admission.bundle_bytes

    def remembered(resource: Any) -> bytes:
        key = resource.spec["source"]["inline"]
        if key not in _DATA:
            _DATA[key] = real(resource)
        return _DATA[key]

    handler = _Bugs(sim.bugs)
    log = logging.getLogger("knhk.controller")
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.ERROR)
    log.propagate = False
    try:
        with (
            patch.object(building, "assemble", _assemble),
            patch.object(workshop, "bundle_bytes", remembered),
            patch.object(packs, "move", sim.moved),
            patch.object(revisions, "MAX_HISTORY", 2),
            patch.object(retention, "SWEEP_EVERY_S", 5.0),
        ):
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


_DATA: dict[str, bytes] = {}


def play(seed: int, traced: bool = False, focus: Mapping[str, float] = MappingProxyType({})) -> Outcome:
    """One seed from beginning to end."""
    sim = Simulation(seed, traced, focus)
    law = text = ""
    with _quickly(sim):
        try:
            sim.run()
        except Broken as error:
            law, text = error.law, str(error)
    moves = sim.moves | {(phase, Event.SUPERSEDED) for phase in sim.laws.superseded}
    return Outcome(seed, law, text, sim.steps, frozenset(moves), tuple(sim.trace))
