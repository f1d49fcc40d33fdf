"""Simulated agents: several for each point, which get documents late and in any order, restart with and without their memory, fall silent,
and count what both arms judged."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any

from house import House

from knhk.model.canonical import sha256_hex
from knhk.model.waves import is_in
from knhk.ports.fleet import Statistics

GUARD = "shapes.S.total.minCount"
NOTHING = "0" * 40
SCALES = (1, 1, 2, 8)


@lru_cache(4096)
def payload(envelope: bytes) -> dict[str, Any]:
    """What a rollout document says."""
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    return found


def short(pack: Mapping[str, Any] | None) -> str:
    return pack["digest"].removeprefix("sha256:")[:40] if pack else ""


def quality(version: str) -> str:
    """Versions say what they are: 1.N.QUALITY."""
    return {"0": "good", "1": "strict", "2": "broken", "3": "faulty"}[version.rpartition(".")[2]]


@dataclass
class Row:
    """Counts of one pair."""

    pairs: int = 0
    worse: int = 0
    better: int = 0
    errors: int = 0


@dataclass
class Pod:
    """One agent. `alarms`: what it must never have been given."""

    point: str
    name: str
    epoch: int = -1
    taken: str = ""
    document: dict[str, Any] | None = None
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)

    def offer(self, house: House, envelope: bytes) -> None:
        """What the rules of epochs say (formats/signed.md)."""
        document, digest = payload(envelope), sha256_hex(envelope)
        if document["epoch"] < self.epoch or digest == self.taken:
            return
        if document["epoch"] == self.epoch:
            self.alarms.append(f"{self.name} of {self.point}: two documents of epoch {self.epoch}")
            return
        for pack in (document["stable"], document["candidate"]):
            if pack is not None and pack["digest"] not in house.registry.blobs:
                self.alarms.append(f"{self.name} of {self.point}: the registry has no {pack['digest']}")
                return
        self.epoch, self.taken, self.document = document["epoch"], digest, document

    @property
    def in_wave(self) -> bool | None:
        """As the document says (formats/signed.md)."""
        if self.document is None or "wave" not in self.document:
            return None
        return is_in(self.document["salt"], self.name, self.document["wave"])

    def judge(self, requests: int) -> None:
        """Both arms judge each request; outside of a wave there is one."""
        if self.document is None or self.document["candidate"] is None or self.in_wave is False:
            return
        stable, candidate = self.document["stable"], self.document["candidate"]
        row = self.rows.setdefault((short(stable) or NOTHING, short(candidate)), Row())
        row.pairs += requests
        kind = quality(candidate["version"])
        row.errors += requests // 4 if kind == "broken" else 0
        if stable is not None and quality(stable["version"]) != kind:
            row.worse += requests // 3 if kind == "strict" else 0
            row.better += requests // 3 if kind == "good" else 0


@dataclass
class Pods:
    """All agents, and what they told: for each point the sum, as the control plane gets it."""

    house: House
    chance: Random
    many: int
    pods: dict[str, list[Pod]] = field(default_factory=dict)
    gone: dict[str, list[Pod]] = field(default_factory=dict)
    scaling: Random | None = None  # draws how many pods points have; None: as many as ever
    _wanted: dict[str, int] = field(default_factory=dict)
    _made: int = 0

    def turn(self, requests: int, late: float, silence: float, restarts: float) -> None:
        """Every agent of every point that runs looks, judges and tells."""
        running = self.house.placement.running
        for point in sorted(self.pods.keys() - running.keys()):
            self.gone.setdefault(point, []).extend(self.pods.pop(point))
        for point in sorted(running):
            pods = self.pods.setdefault(point, [])
            wanted = self._wanted.get(point, self.many)
            while len(pods) > wanted:
                self.gone.setdefault(point, []).append(pods.pop(self.chance.randrange(len(pods))))
            while len(pods) < wanted:
                pods.append(self._new(point))
            if restarts and self.chance.random() < restarts:
                self._restart(point, pods)
            for pod in pods:
                self._look(pod, late)
                pod.judge(requests)
            if not silence or self.chance.random() >= silence:
                self._tell(point, pods)

    def scale(self, many: int | None = None) -> None:
        """One point that runs has another number of pods from now on; with `many`, all have so many."""
        if self.scaling is not None:
            chosen = sorted(self.pods) if many is not None else [self.scaling.choice(sorted(self.pods))] if self.pods else []
            self._wanted |= {point: many or self.scaling.choice(SCALES) for point in chosen}

    def are_in_a_wave(self) -> bool:
        return any(pod.in_wave for pods in self.pods.values() for pod in pods)

    def everyone(self) -> list[Pod]:
        return [pod for rows in (*self.pods.values(), *self.gone.values()) for pod in rows]

    def _new(self, point: str) -> Pod:
        self._made += 1
        return Pod(point, f"pod-{self._made}")

    def _restart(self, point: str, pods: list[Pod]) -> None:
        """A pod is replaced by one that knows nothing; what the old one counted is kept."""
        at = self.chance.randrange(len(pods))
        self.gone.setdefault(point, []).append(pods[at])
        pods[at] = self._new(point)

    def _look(self, pod: Pod, late: float) -> None:
        newest = self.house.fleet.documents.get(pod.point)
        if newest is None:
            return
        if late and self.chance.random() < late:
            older = [handed.envelope for handed in self.house.fleet.history[-8:] if handed.point == pod.point]
            if older and self.chance.random() < 0.5 and pod.epoch >= 0:
                pod.offer(self.house, self.chance.choice(older))
            return
        pod.offer(self.house, newest)

    def _tell(self, point: str, pods: list[Pod]) -> None:
        total: dict[tuple[str, str], Row] = {}
        for pod in (*self.gone.get(point, ()), *pods):
            for pair, row in pod.rows.items():
                into = total.setdefault(pair, Row())
                into.pairs += row.pairs
                into.worse += row.worse
                into.better += row.better
                into.errors += row.errors
        document = {
            "version": 1,
            "point": point,
            "epoch": min(pod.epoch for pod in pods),
            "ready": True,
            "refused": [],
            "pairs": [_row(pair, row) for pair, row in total.items()],
            "decisions": {},
            "instances": {
                "live": len(pods),
                "ids": sorted(pod.name for pod in pods),
                "settled": True,
                "inWave": sum(pod.in_wave is True for pod in pods),
                "epochs": {},
                "stable": {},
                "silent": [],
                "silentCount": 0,
            },
        }
        self.house.fleet.told[point] = Statistics(document, self.house.clock.now_ns())


def _row(pair: tuple[str, str], row: Row) -> dict[str, Any]:
    differ = {"newDenials": row.worse, "newAdmits": row.better}
    return {
        "stable": pair[0],
        "candidate": pair[1],
        "pairs": row.pairs,
        "covered": row.pairs,
        "clusters": row.pairs,
        "errors": row.errors,
        "guards": {GUARD: differ},
        "any": differ,
        "samples": {"newDenials": ["ab" * 16] if row.worse else [], "newAdmits": []},
    }
