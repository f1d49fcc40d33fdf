"""The log under one seed: real sequencers on machines whose disks, processes and line to the store fail in every way (docs/simulation.md).

Everything is one thread and one Random(seed). In the middle of a step of one process others go on, and it then finds itself where a
process does that slept. tests/sim/run.py --world log plays seeds."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), *(str(_HERE.parent / folder) for folder in ("sim", "storage"))]

from log_disk import Disk  # noqa: E402
from log_laws import Ack, Broken, Laws  # noqa: E402
from log_lines import Line, late  # noqa: E402
from log_weather import Weather  # noqa: E402
from machines import KEY, TTL_S, leaves  # noqa: E402
from memory_store import MemoryStore  # noqa: E402
from remembering import signatures_remembered  # noqa: E402

from knhk.model.faults import Corrupt, Deposed, NotFound, Waiting  # noqa: E402
from knhk_runtime.record import entry_key  # noqa: E402
from knhk_runtime.sequencer.core import Log, Taken  # noqa: E402
from knhk_runtime.sequencer.lease import Lease  # noqa: E402
from knhk_runtime.sequencer.publication import StorePublication  # noqa: E402
from knhk_runtime.sequencer.wire import parse_append  # noqa: E402
from knhk_runtime.sequencer_client import encode_batch  # noqa: E402
from knhk_runtime.tlog.fsck import fsck  # noqa: E402

DEEPEST = 2
CALM_TURNS = 12
LATE = ("swap", "create", "put", "create_all", "put_all", "delete")  # calls of the store that a line may hold back; no step of a disk
FOLDER = Path("/log")


class Died(BaseException):
    """A process was killed in the middle of a step."""


@dataclass(frozen=True)
class Outcome:
    """How one seed ended. `broken`: what is wrong, and `law`: the name of the law that says so; both empty when all hold."""

    seed: int
    law: str
    broken: str
    steps: int
    trace: tuple[str, ...] = ()


@dataclass
class Process:
    """One sequencer: a lease that it wants or holds, and the log once it has it. `busy`: what it is in the middle of."""

    lease: Lease | None
    log: Log | None = None
    busy: set[str] = field(default_factory=set)
    renewed_s: float = 0.0


@dataclass
class Computer:
    """`disks`: how many it has had."""

    name: str
    disk: Disk = field(default_factory=lambda: Disk(FOLDER))
    disks: int = 0
    process: Process | None = None


@dataclass
class Simulation:
    """Deterministic: the seed alone draws what happens."""

    seed: int
    traced: bool = False
    focus: Mapping[str, float] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)
    steps: int = 0
    now_s: float = 0.0
    calm: bool = False
    _depth: int = 0
    _next: int = 0
    _born: int = 0

    def __post_init__(self) -> None:
        self.chance = Random(f"log {self.seed}")
        self.weather = replace(Weather.draw(self.chance), **self.focus)  # type: ignore[arg-type]
        self.store, self.laws = MemoryStore(), Laws()
        self.late = list[Callable[[], None]]()
        self.waiting = list[list[bytes]]()  # batches that were not acknowledged
        self.computers = [Computer(f"m{number}") for number in range(max(1, int(self.weather.machines)))]
        for computer in self.computers:
            self._line(computer)

    # ---- the story -------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Broken."""
        for _ in range(int(self.weather.turns)):
            self.turn()
        self._calm()

    def turn(self) -> None:
        """Something happens to somebody."""
        self.steps += 1
        computer = self.chance.choice(self.computers)
        weather = self.weather
        self._time()
        if self.late and self.chance.random() < 0.3:
            self.late.pop(self.chance.randrange(len(self.late)))()
            self._look()
        if self._happens(weather.kills):
            self._end(computer, "killed")
        elif self._happens(weather.burns) and computer.process is None and weather.machines:
            self.say(f"{computer.name} is replaced: its disk is gone")
            computer.disk, computer.disks = Disk(FOLDER), computer.disks + 1
            self._line(computer)
        elif self._happens(weather.silence):
            self.say(f"{computer.name} does nothing")
        else:
            self._act(computer)

    def _act(self, computer: Computer) -> None:
        process = computer.process
        if process is None:
            self._within(computer, "start", lambda: self._start(computer))
        elif process.log is None:
            self._within(computer, "open", lambda: self._open(computer, process))
        else:
            what = self.chance.choice(("append", "append", "integrate", "renew"))
            self._within(computer, what, lambda: self._work(computer, process, what))

    def _time(self) -> None:
        jump = self.chance.choice((TTL_S, 2 * TTL_S)) if self._happens(self.weather.sleeps) else self.chance.choice((0.0, 0.2, 1.0))
        self.now_s += jump
        for computer in self.computers:  # what every process does by its clock, unless it is held up
            process = computer.process
            if process is None or process.log is None or process.lease is None or process.busy or jump >= TTL_S:
                continue
            if self.now_s - process.renewed_s > TTL_S / 3:
                self._within(computer, "renew", lambda c=computer, p=process: self._work(c, p, "renew"))  # type: ignore[misc]

    def _calm(self) -> None:
        """Faults cease. Every machine opens the log once more, one after another, and appends what it has; then all must be there."""
        self.calm = True
        while self.late:
            self.late.pop(0)()
            self._look()
        for computer in self.computers:
            self._end(computer, "ended")
        for computer in self.computers:
            self.now_s += 2 * TTL_S
            for _ in range(CALM_TURNS):
                self.now_s += TTL_S / 2
                if computer.process is None:
                    self._start(computer)
                if computer.process is not None and computer.process.log is None:
                    self._open(computer, computer.process)
                if computer.process is not None and computer.process.log is not None:
                    break
            process = computer.process
            if process is None or process.log is None:
                raise Broken("opens", f"{computer.name} cannot open the log when all is well")
            while self.waiting:
                self._append(computer, process)
            process.log.integrate()
            self._look()
            if process.lease is not None:
                process.lease.give_back()
            self._end(computer, "ended")
        self._judge()

    def _judge(self) -> None:
        disks = {computer.name: computer.disks for computer in self.computers}

        def survives(ack: Ack) -> bool:
            return disks[ack.machine] == ack.disk

        self.laws.kept(survives, exact=not self.weather.machines)
        if self.weather.machines:
            found = fsck(self.store, KEY.verifier)
            if found.bad:
                raise Broken("fsck", f"{found.bad[0].where}: {found.bad[0].what}")
            if left := [note.where for note in found.notes if "replaced" in note.what]:
                raise Broken("collected", f"{left[0]} was replaced by a full tile, and is still there")

    # ---- processes -------------------------------------------------------------------------------

    def _start(self, computer: Computer) -> None:
        lease = None
        if self.weather.machines:
            self._born += 1
            line = Line(self.store, lambda step, do, half: self._store_step(computer, step, do, half))
            lease = Lease(line, computer.name + f"-{computer.disks}", f"p{self._born}", lambda: self.now_s, TTL_S)
        process = computer.process = Process(lease, busy={"start"})
        try:
            self._open(computer, process)
        finally:
            process.busy.clear()

    def _open(self, computer: Computer, process: Process) -> None:
        public = None
        if process.lease is not None:
            began_s = self.now_s
            if process.lease.take() > 0:
                return
            process.renewed_s = began_s
            line = Line(self.store, lambda step, do, half: self._store_step(computer, step, do, half))
            public = StorePublication(line, process.lease)
        try:
            process.log = Log(FOLDER, KEY, computer.disk, public=public)
        except Corrupt as error:
            raise Broken("opens", f"{computer.name} refuses what sound hardware kept: {error}") from error
        except (OSError, Deposed):
            self._end(computer, "ends: cannot open")
            raise

    def _work(self, computer: Computer, process: Process, what: str) -> None:
        assert process.log is not None
        try:
            if what == "append":
                self._append(computer, process)
            elif what == "integrate":
                process.log.integrate()
            elif process.lease is not None:
                began_s = self.now_s
                process.lease.renew()
                process.renewed_s = began_s
        except Deposed:
            if computer.process is process:
                self._end(computer, "ends: deposed")
            raise

    def _append(self, computer: Computer, process: Process) -> None:
        assert process.log is not None
        batch = self.waiting.pop(0) if self.waiting and (self.calm or self.chance.random() < 0.5) else self._batch()
        keys = [entry_key(leaf) for leaf in batch]
        self.laws.sent.update(keys)
        self.waiting.append(batch)
        (found,) = process.log.commit([parse_append(encode_batch(batch))])
        if batch in self.waiting:  # else it was sent again meanwhile, and answered
            self.waiting.remove(batch)
        if isinstance(found, Taken):
            raise Broken("twice", f"a repeated leaf is refused: {found.what}")
        if process.lease is not None and not self.calm and b'"epoch":%d,' % process.lease.epoch not in self.store.objects["lease"]:
            raise Broken("deposed", f"{computer.name} acknowledged though another has the lease")
        self.laws.acknowledged(keys, found, computer.name, computer.disks, exact=not self.weather.machines)

    def _batch(self) -> list[bytes]:
        if self._next and self._happens(self.weather.repeats):
            start = self.chance.randrange(self._next)
            return leaves(start, min(self._next, start + 4))
        size = self.chance.choice((200, 256, 300)) if self._happens(self.weather.big) else self.chance.randint(1, 5)
        self._next += size
        return leaves(self._next - size, self._next)

    def _end(self, computer: Computer, how: str) -> None:
        """Ends its process; now and then its power goes too."""
        if computer.process is None:
            return
        cut = not self.calm and how == "killed" and self._happens(self.weather.power)
        self.say(f"{computer.name} {how}{', its power is cut' if cut else ''}")
        computer.process = None
        if cut:
            computer.disk.power_cut(self.chance)
            if not self.weather.machines:
                self.laws._seen = b""
        else:
            computer.disk.killed()
        self._look()

    def _within(self, computer: Computer, what: str, do: Callable[[], None]) -> None:
        """One thing that a process does. Errors that it may meet end it or not, as they say; others are bugs."""
        process = computer.process
        if process is not None:
            if what in process.busy or (process.busy and (what != "append" or process.busy != {"integrate"})):
                return
            process.busy.add(what)
        self.say(f"{computer.name} {what}s")
        try:
            do()
        except Died:
            if process is None or computer.process is process:
                self._end(computer, "killed")
        except (OSError, Waiting, Deposed, NotFound) as error:
            self.say(f"{computer.name} {what}: {error}")
        finally:
            if process is not None:
                process.busy.discard(what)
        self._look()

    # ---- steps -----------------------------------------------------------------------------------

    def _line(self, computer: Computer) -> None:
        computer.disk.hook = lambda step, do, half: self._disk_step(computer, step, do, half)

    def _disk_step(self, computer: Computer, step: str, do: Callable[[], Any], half: Callable[[], Any]) -> Any:
        def failure() -> OSError:
            return OSError(errno.ENOSPC, f"{step} was told to fail")

        return self._step(computer, step, do, half, self.weather.disk_fails, failure)

    def _store_step(self, computer: Computer, step: str, do: Callable[[], Any], half: Callable[[], Any]) -> Any:
        return self._step(computer, step, do, half, self.weather.store_fails, lambda: Waiting("Store", f"{step} was told to fail", 1.0))

    def _step(
        self,
        computer: Computer,
        step: str,
        do: Callable[[], Any],
        half: Callable[[], Any],
        fails: float,
        failure: Callable[[], Exception],
    ) -> Any:
        if self.calm:
            return do()
        process = computer.process
        self._meanwhile()
        if computer.process is not process:
            raise Died
        if self._happens(self.weather.death):
            if self.chance.random() < 0.5:
                do()
            self.say(f"{computer.name} is killed in {step}")
            raise Died
        if self._happens(fails):
            self._fail(step, do, half)
            raise failure()
        done = do()
        self._look()
        self._meanwhile()
        if computer.process is not process:
            raise Died
        return done

    def _fail(self, step: str, do: Callable[[], Any], half: Callable[[], Any]) -> None:
        """Failed and lost, failed and done in part, failed and done, failed and done later."""
        if self.chance.random() < self.weather.persists:
            self.say(f"{step} fails, and is done")
            late(do)()
        elif step.split(" ")[0] in LATE and step != "create" and self._happens(self.weather.late):
            self.say(f"{step} fails, and will be done")
            self.late.append(late(do))
        else:
            self.say(f"{step} fails")
            late(half)()
        self._look()

    def _meanwhile(self) -> None:
        """In the middle of a step others go on."""
        if self._depth < DEEPEST and self._happens(self.weather.meanwhile):
            self._depth += 1
            for _ in range(self.chance.randint(1, 6)):
                self.turn()
            self._depth -= 1

    def _look(self) -> None:
        self.laws.look(self._fetch)

    def _fetch(self, path: str) -> bytes | None:
        if self.weather.machines:
            return self.store.objects.get(path)
        found = self.computers[0].disk.files.get(FOLDER / path)
        return found.data if found else None

    def _happens(self, rate: float) -> bool:
        return rate > 0 and not self.calm and self.chance.random() < rate

    def say(self, what: str) -> None:
        if self.traced:
            self.trace.append(f"{self.steps} {self.now_s:.1f} {'  ' * self._depth}{what}")


def play(seed: int, traced: bool = False, focus: Mapping[str, float] = MappingProxyType({})) -> Outcome:
    """How a seed ends."""
    simulation = Simulation(seed, traced, focus)
    law, broken = "", ""
    try:
        with signatures_remembered():
            simulation.run()
    except Broken as error:
        law, broken = error.law, str(error)
    except Exception as error:
        law, broken = "bug", f"{type(error).__name__}: {error}"
        if traced:
            raise
    return Outcome(seed, law, broken, simulation.steps, tuple(simulation.trace))
