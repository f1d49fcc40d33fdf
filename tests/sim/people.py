"""People: they apply, edit, suspend, abort and delete, mostly at the wrong moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
TOO_LATE = "too late"  # what is said of a generation that is gone
OTHER_STEPS = (
    STEPS,
    STEPS,
    "steps: [{weight: 10, minPairs: 20}]",
    "steps: [{weight: 5, minPairs: 20}, {weight: 30, minPairs: 20}, {weight: 90, minPairs: 20}]",
    "steps: [{weight: 80, minPairs: 20}]",
)

WAVED = (
    "steps: [{weight: 50, minPairs: 20, wave: 30}, {weight: 50, minPairs: 20, wave: 60}, {weight: 90, minPairs: 20}]",
    "steps: [{weight: 10, minPairs: 20, wave: 50}, {weight: 50, minPairs: 20}]",
    "steps: [{weight: 100, minPairs: 20, wave: 1}]",
    STEPS,
)


FLAG = """apiVersion: knhk.dev/v1alpha1
kind: FeatureFlag
metadata: {{name: {pack}-canary, namespace: erp}}
spec:
  pack: {pack}
  variants: {{"on": true, "off": false}}
  defaultVariant: "{variant}"
"""
APPROVAL = """apiVersion: knhk.dev/v1alpha1
kind: Approval
metadata: {{name: {pack}-{person}-{digest:.12}, namespace: erp}}
spec: {{pack: {pack}, revision: "sha256:{digest}", stage: production, approver: "local:{person}"}}
"""


# What people do, by how often; and how often instead while a pack stands so.
ACTS: Mapping[str, int] = {
    "new_version": 8,
    "old_version": 3,
    "edit_rollout": 4,
    "suspend": 3,
    "abort": 2,
    "delete_pack": 2,
    "move_targets": 2,
    "point_goes_or_comes": 2,
    "data_changes": 3,
    "turn_key": 1,
}
WORST: Mapping[str, Mapping[str, int]] = {
    "Shadow": {"new_version": 2},
    "Canary": {"new_version": 2, "edit_rollout": 12, "move_targets": 4},
    "RolledBack": {"again": 8, "delete_pack": 6},
    "Aborted": {"again": 8},
    "Live": {"new_version": 10, "move_targets": 4},
    "suspended": {"suspend": 20},
    "Pending": {"new_version": 2, "old_version": 1, "data_changes": 8},
}


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
    approvals: int = 0

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
        asked = f"  rollout:\n    approvals: [{{stage: production, count: {self.approvals}}}]\n" if self.approvals else "  rollout:\n"
        return made.replace(STEPS, self.steps).replace("  rollout:\n", asked)


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
    waving: Random | None = None  # draws steps in waves of pods; None: there are none
    switching: Random | None = None  # draws what is done about flags and approvals; None: there are none
    _limit: int = 1

    def begin(self) -> None:
        """What is there at first, in any order."""
        texts = [point(name, self.chance.choice(("Deny", "Admit"))) for name in self.points]
        texts += [bundle(1)] if self.chance.random() < 0.8 else []
        self.chance.shuffle(texts)
        for text in texts:
            self.apply(text)
        for name in self.packs:
            self.new_version(name)

    def act(self) -> None:
        """One thing, of those that hurt most as things stand."""
        name = self.chance.choice(self.packs)
        acts = {**ACTS, **WORST.get(self._phase(name), {})}
        (act,) = self.chance.choices([*acts], [*acts.values()])
        getattr(self, act)(name)

    def _phase(self, name: str) -> str:
        """How the newest revision of a pack stands: its phase, or its arm while it rolls; "suspended" while it is."""
        found = self.house.store.find(Key("PolicyPack", "erp", name))
        revision = found.status.get("revision", {}) if found is not None else {}
        if found is not None and found.spec["suspend"]:
            return "suspended"
        return str(revision.get("arm") or revision.get("phase", ""))

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
            approvals = self.switching.randrange(3) if self.switching else 0
            old = Wish(name, version, targets, deadline=deadline, no_data=no_data, approvals=approvals)
        bundles = "{name: roles}" if self.chance.random() < 0.3 else old.bundles
        self.want(replace(old, version=version, bundles=bundles))

    def old_version(self, name: str) -> None:
        if name in self.wishes:
            self.want(replace(self.wishes[name], version=self.chance.choice(self.past[name])))

    def again(self, name: str) -> None:
        """What did not come through is asked for once more, in another generation."""
        if name in self.wishes:
            self.want(replace(self.wishes[name], bundles="" if self.wishes[name].bundles else "{name: roles}"))

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
        if self.waving is not None:
            wish = replace(wish, steps=self.waving.choice(WAVED))
        self.wishes[wish.name] = wish
        self.apply(wish.text())

    def abort(self, name: str) -> None:
        found = self.house.store.find(Key("PolicyPack", "erp", name))
        if found is not None:
            asked = self.chance.choice((f"{found.generation} stop", f"{found.generation - 1} {TOO_LATE}", "stop"))
            self.tell(f"abort {name}: {asked}")
            self.house.store.update(replace(found, annotations={**found.annotations, ABORT: asked}))

    def delete_pack(self, name: str) -> None:
        self.delete(Key("PolicyPack", "erp", name))
        if self.chance.random() < 0.5 and name in self.wishes:
            self.want(self.wishes[name])

    # ---- flags and approvals -------------------------------------------------------------------

    def switch(self) -> None:
        """A flag is turned, or taken away; somebody approves, or takes it back."""
        assert self.switching is not None
        name, draw = self.switching.choice(self.packs), self.switching.random()
        if draw < 0.4:
            self.apply(FLAG.format(pack=name, variant=self.switching.choice(("on", "off"))))
        elif draw < 0.5:
            self.delete(Key("FeatureFlag", "erp", f"{name}-canary"))
        elif draw < 0.9:
            self.approve(name, self.switching.choice(("ada", "ben")))
        elif given := self.house.store.list("Approval").resources:
            self.delete(self.switching.choice(given).key)

    def approve(self, name: str, person: str) -> None:
        found = self.house.store.find(Key("PolicyPack", "erp", name))
        digest = found.status.get("revision", {}).get("digest", "").removeprefix("sha256:") if found is not None else ""
        text = APPROVAL.format(pack=name, person=person, digest=digest)
        if digest and self.house.store.find(parsed(text).key) is None:
            self.apply(text)

    def let_all_go_on(self) -> None:
        """No flag holds a canary, and everybody approves."""
        for name in self.packs if self.switching else ():
            if self.house.store.find(Key("FeatureFlag", "erp", f"{name}-canary")) is not None:
                self.apply(FLAG.format(pack=name, variant="on"))
            for person in ("ada", "ben"):
                self.approve(name, person)

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
        if draw < 0.1 and self.house.store.find(Key("DataBundle", "erp", "roles")) is not None:
            self.delete(Key("DataBundle", "erp", "roles"))
        elif draw < 0.2:
            self.apply(bundle(1).replace("ex:limit 1", "ex:limit"))
        else:
            self._limit += 1
            self.apply(bundle(self._limit % 9 + 1))

    def turn_key(self, _: str) -> None:
        self.tell("the rollout key is replaced")
        self.house.signer.turn("rollout")
