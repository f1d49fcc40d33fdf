"""People: they apply, edit, suspend, abort and delete, mostly at the wrong moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random

from house import House
from rollout_world import STEPS, bundle, pack, point

from knhk.api import parse
from knhk.model.resource import Key, Resource
from knhk.reconcilers.revisions import ABORT

NAMES = ("orders", "invoices")
FAULTY = "sh:minCount -1"
OTHER_STEPS = (
    STEPS,
    STEPS,
    "steps: [{weight: 10, minPairs: 20}]",
    "steps: [{weight: 5, minPairs: 20}, {weight: 30, minPairs: 20}, {weight: 90, minPairs: 20}]",
    "steps: [{weight: 80, minPairs: 20}]",
)


@lru_cache(4096)
def parsed(text: str) -> Resource:
    (found,) = parse(text, "sim.yaml")
    return replace(found, status={}, path="", lines={})


@dataclass(frozen=True)
class Wish:
    """What somebody wants a pack to be."""

    name: str
    version: str
    targets: tuple[str, ...]
    bundles: str = ""
    suspend: bool = False
    deadline: int = 600
    no_data: str = "Abort"
    steps: str = STEPS

    def text(self) -> str:
        made = pack(
            self.version,
            name=self.name,
            constraint=FAULTY if self.version.endswith(".3") else "sh:minCount 1",
            targets=", ".join(f"{{point: {name}}}" for name in self.targets),
            bundles=self.bundles,
            suspend=str(self.suspend).lower(),
            deadline=self.deadline,
            no_data=self.no_data,
        )
        return made.replace(STEPS, self.steps)


@dataclass
class People:
    house: House
    chance: Random
    points: tuple[str, ...]
    packs: tuple[str, ...]
    bad: float
    tell: Callable[[str], None]
    wishes: dict[str, Wish] = field(default_factory=dict)
    past: dict[str, list[str]] = field(default_factory=dict)
    _limit: int = 1

    def begin(self) -> None:
        """What is there at first, in any order."""
        texts = [point(name, self.chance.choice(("Deny", "Admit"))) for name in self.points]
        texts += [bundle(1)] if self.chance.random() < 0.5 else []
        self.chance.shuffle(texts)
        for text in texts:
            self.apply(text)
        for name in self.packs:
            self.new_version(name)

    def act(self) -> None:
        """One thing."""
        acts: tuple[tuple[Callable[[str], None], int], ...] = (
            (self.new_version, 8),
            (self.old_version, 3),
            (self.edit_rollout, 4),
            (self.suspend, 3),
            (self.abort, 2),
            (self.delete_pack, 2),
            (self.move_targets, 2),
            (self.point_goes_or_comes, 2),
            (self.data_changes, 3),
            (self.turn_key, 1),
        )
        (act,) = self.chance.choices([act for act, _ in acts], [weight for _, weight in acts])
        act(self.chance.choice(self.packs))

    def apply(self, text: str) -> None:
        self.tell(f"apply {parsed(text).key} {text.partition('version: ')[2][:6].strip()}")
        self.house.store.apply(parsed(text))

    # ---- packs -----------------------------------------------------------------------------------

    def fresh(self, name: str) -> str:
        past = self.past.setdefault(name, [])
        kind = self.chance.choice("1123") if self.chance.random() < self.bad else "0"
        past.append(f"1.{len(past)}.{kind}")
        return past[-1]

    def new_version(self, name: str) -> None:
        old = self.wishes.get(name)
        version = self.fresh(name)
        if old is None:
            many = 1 + self.chance.randrange(len(self.points))
            deadline, no_data = self.chance.choice((5, 30, 600, 600)), self.chance.choice(("Abort", "Hold", "Hold", "Promote"))
            targets = tuple(sorted(self.chance.sample(self.points, many)))
            old = Wish(name, version, targets, deadline=deadline, no_data=no_data)
        bundles = "{name: roles}" if self.chance.random() < 0.3 else old.bundles
        self.want(replace(old, version=version, bundles=bundles))

    def old_version(self, name: str) -> None:
        if name in self.wishes:
            self.want(replace(self.wishes[name], version=self.chance.choice(self.past[name])))

    def edit_rollout(self, name: str) -> None:
        if name in self.wishes:
            deadline, no_data = self.chance.choice((5, 30, 600)), self.chance.choice(("Abort", "Hold", "Promote"))
            self.want(replace(self.wishes[name], deadline=deadline, no_data=no_data, steps=self.chance.choice(OTHER_STEPS)))

    def suspend(self, name: str) -> None:
        if name in self.wishes:
            self.want(replace(self.wishes[name], suspend=not self.wishes[name].suspend))

    def move_targets(self, name: str) -> None:
        if name in self.wishes:
            many = 1 + self.chance.randrange(len(self.points))
            self.want(replace(self.wishes[name], targets=tuple(sorted(self.chance.sample(self.points, many)))))

    def want(self, wish: Wish) -> None:
        self.wishes[wish.name] = wish
        self.apply(wish.text())

    def abort(self, name: str) -> None:
        found = self.house.store.find(Key("PolicyPack", "erp", name))
        if found is not None:
            asked = self.chance.choice((f"{found.generation} stop", f"{found.generation - 1} too late", "stop"))
            self.tell(f"abort {name}: {asked}")
            self.house.store.update(replace(found, annotations={**found.annotations, ABORT: asked}))

    def delete_pack(self, name: str) -> None:
        self.delete(Key("PolicyPack", "erp", name))
        if self.chance.random() < 0.5 and name in self.wishes:
            self.want(self.wishes[name])

    # ---- the rest --------------------------------------------------------------------------------

    def delete(self, key: Key) -> None:
        if self.house.store.find(key) is not None:
            self.tell(f"delete {key}")
            self.house.store.delete(key)

    def point_goes_or_comes(self, _: str) -> None:
        name = self.chance.choice(self.points)
        key = Key("EnforcementPoint", "erp", name)
        if self.house.store.find(key) is not None and self.chance.random() < 0.5:
            self.delete(key)
        else:
            self.apply(point(name, self.chance.choice(("Deny", "Admit"))))

    def data_changes(self, _: str) -> None:
        draw = self.chance.random()
        if draw < 0.15:
            self.delete(Key("DataBundle", "erp", "roles"))
        elif draw < 0.3:
            self.apply(bundle(1).replace("ex:limit 1", "ex:limit"))
        else:
            self._limit += 1
            self.apply(bundle(self._limit % 9 + 1))

    def turn_key(self, _: str) -> None:
        self.tell("the rollout key is replaced")
        self.house.signer.turn("rollout")
