"""A control plane over a real log, registry, keys, compiler and Git repository, guards that run on, and how it is lost."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

from fakes import FakeLog, FakePlacement
from git_repo import Repo
from rollout_world import PACK, POINT, World, bundle, pack, point

from knhk.adapters.registry_layout import LayoutRegistry
from knhk.adapters.signer_local import establish
from knhk.adapters.store_sqlite import SqliteStore
from knhk.adapters.system import SystemRandom
from knhk.model.canonical import canonical
from knhk.model.faults import Waiting
from knhk.model.resource import Resource
from knhk.ports.store import Store
from knhk.wiring import packs
from knhk.wiring.home import LOG_ORIGIN, Home
from knhk.wiring.restore import Left, restore_home
from knhk_runtime.exchange.documents import Accepted, Beside, read_keys, read_rollout
from knhk_runtime.point import parse_point
from knhk_runtime.record import entry_key
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log, lock
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import Append, item
from knhk_runtime.tlog.folder import log_entries
from knhk_runtime.tlog.notes import size_of

FLAG = """apiVersion: knhk.dev/v1alpha1
kind: FeatureFlag
metadata: {{name: canary, namespace: erp}}
spec: {{pack: orders, variants: {{"on": true, "off": false}}, defaultVariant: "{default}"}}
"""


def flag(default: str) -> str:
    return FLAG.format(default=default)


def reviewed(text: str) -> str:
    """A pack whose production waits for an approval."""
    return text.replace("  rollout:\n", "  rollout:\n    approvals: [{stage: production}]\n")


class FolderLog(FakeLog):
    """The sequencer's own log, in a folder, in this process."""

    def __init__(self, folder: Path, key: Path) -> None:
        super().__init__()
        self._folder, self._held = folder, lock(folder)
        self._log = Log(folder, load_key(key, LOG_ORIGIN), Disk())

    def append_event(self, bundle: bytes) -> int:
        self._reach()
        key = entry_key(bundle)
        (indexes,) = self._log.commit([Append((key,), (bundle,), item(key, bundle))])
        assert isinstance(indexes, list)
        if indexes[0] == len(self.entries):
            self.entries.append(bundle)
        return indexes[0]

    def proof(self, index: int) -> str:
        if index >= size_of(self.checkpoint()):
            raise Waiting("NotCovered", f"entry {index} is not covered yet", 0.5)
        found = self._log.proof(index)
        assert found is not None
        return found

    def checkpoint(self) -> str:
        return (self._folder / "checkpoint").read_text()

    def cover(self) -> None:
        self._log.integrate()

    def read(self) -> None:
        """What was there before this process."""
        self.entries = list(log_entries(self._folder))

    def close(self) -> None:
        self._log.close()
        os.close(self._held)


@dataclass
class Guard:
    """What a guard of a point has accepted, and goes on from; its folder is as an agent's."""

    point: str
    folder: Path
    accepted: Accepted = field(default_factory=Accepted)
    documents: list[Any] = field(default_factory=list)

    def take(self, world: Any, root: bytes) -> None:
        """Reads what is published now as an agent does. Raises Refused."""
        data = world.fleet.documents[self.point]
        now = datetime.now(UTC)
        keys = read_keys(world.signer.keys_json(), root, now, self.accepted, "keys.json")
        beside = Beside(parse_point(world.fleet.configs[self.point], "point.json"), world.fleet.bootstraps.get(self.point))
        rollout = read_rollout(data, keys, now, beside, self.accepted, "rollout.json")
        if rollout.epoch != self.accepted.epoch:
            self.documents.append(rollout)
        self.accepted = Accepted(keys.serial, rollout.epoch, rollout.digest, rollout.origin)
        for name, text in (("desired/rollout.json", data), ("state/accepted.json", canonical(vars(self.accepted)))):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(text)


@dataclass
class House:
    """`home` is what a home has on its disk; resources live in a store beside it, unless one is given."""

    folder: Path
    repo: Repo
    guards: list[Guard]
    world: Any = None
    before: dict[str, Any] = field(default_factory=dict)

    @property
    def home(self) -> Home:
        return Home(self.folder / "home")

    def start(self, store: Store | None = None) -> World:
        """A control plane over what the home has, and over `store`."""
        home = self.home
        signer = establish(home.keys, LOG_ORIGIN, datetime.now(UTC))
        home.prepare()
        log = FolderLog(home.log, signer.key_file("log"))
        own: dict[str, Any] = {
            "origin": LOG_ORIGIN,
            "signer": signer,
            "registry": LayoutRegistry(home.registry),
            "compiler": packs.compiler(),
            "log": log,
        }
        old, self.world = self.world, None
        if store is not None:
            own |= {"store": store}
        if old is not None:
            own |= {"clock": old.clock, "counts": deepcopy(old.counts), "versions": dict(old.versions), "bad": old.bad}
        if (home.log / "checkpoint").exists():
            log.read()
        world = World(**own)
        world.placement = FakePlacement()
        world.start()
        for name in ("keys.json", "root.pub"):
            shutil.copy(home.keys / name, home.log / name)
        self.world = world
        return world

    def commit(self, *texts: str) -> str:
        """Commits these as the whole of the repository and applies them, as a merge does."""
        found = self.commit_only(*texts)
        self.world.apply(*texts)
        return found

    def commit_only(self, *texts: str) -> str:
        self.repo.git("rm", "-rq", "--ignore-unmatch", ".")
        return self.repo.commit({f"policies/{number}.yaml": text for number, text in enumerate(texts)})

    def until(self, phase: str, version: str) -> None:
        self.world.until_phase(phase, version)
        self.look()

    def look(self) -> None:
        """Guards take what is published, as it comes."""
        root = self.world.signer.root_public()
        for guard in self.guards:
            if guard.point in self.world.fleet.documents:
                guard.take(self.world, root)

    def lose(self) -> None:
        """The control plane is gone: its process, and all of its home but log and registry; keys were kept elsewhere."""
        self.before = dict(self.world.get(PACK).status)
        self.world.log.close()
        home, kept = self.home, self.folder / "kept-keys"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(home.keys, kept)
        for path in home.root.iterdir():
            if path.name not in ("log", "registry"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def left(self, **changes: Any) -> Left:
        base = Left(
            git=self.repo.folder,
            revision="main",
            paths=("policies",),
            files=(),
            log=str(self.home.log),
            registry=self.home.registry,
            keys=self.folder / "kept-keys",
            guards=tuple(guard.folder for guard in self.guards),
        )
        return replace(base, **changes)

    def copy(self, folder: Path) -> House:
        """The same, elsewhere on this disk; of one that is not lost, what a copy of its disk has."""
        shutil.copytree(self.folder, folder, symlinks=True)
        guards = [Guard(g.point, folder / g.folder.relative_to(self.folder), g.accepted, list(g.documents)) for g in self.guards]
        repo = Repo.__new__(Repo)
        repo.folder = folder / self.repo.folder.relative_to(self.folder)
        return House(folder, repo, guards, self.world, dict(self.before))

    def opened(self) -> Store:
        """The store that was made."""
        return SqliteStore(self.home.store, self.world.clock, SystemRandom())


def moved_in(folder: Path) -> House:
    """A house at whose points p1 and p2 pack 1.0.0 is live."""
    guards = [Guard(name, folder / "guards" / name.replace("/", ".")) for name in (POINT, "erp/p2")]
    house = House(folder, Repo(folder / "repo"), guards)
    house.start()
    house.commit(*base(pack("1.0.0", targets="{point: p1}, {point: p2}", bundles="{name: roles}")))
    house.until("Live", "1.0.0")
    return house


def base(*texts: str) -> Sequence[str]:
    return (point(), point("p2"), bundle(), *texts)


def approve(world: World, approver: str = "local:kim") -> None:
    digest = world.get(PACK).status["revision"]["digest"]
    spec = {"pack": "orders", "revision": digest, "stage": "production", "approver": approver}
    world.store.create(Resource("Approval", "erp", f"kim-{digest[7:15]}", spec))


def quiet(line: str) -> None:
    """Nobody listens."""


def killed(module: ModuleType, name: str, nth: int, home: Home, left: Left) -> None:
    """The whole of it, in a process that ends by SIGKILL just after the nth call of a function."""
    real, calls = getattr(module, name), count(1)

    def works_and_dies(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        if next(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(module, name, works_and_dies)
    restore_home(home, left, quiet)
