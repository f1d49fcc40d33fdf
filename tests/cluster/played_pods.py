"""Pods of points that no node runs, many in this process: objects of the API server with tokens of their own, a courier for each as in a
guard, and agents that judge as told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "reconcilers"))
from fleet_world import PER_LOOK, Agents, pair_row
from guarded_pods import end_pod, make_pod, token_of
from rollout_world import payload, short

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.signer_local import read_root_pub
from knhk.model.waves import is_in
from knhk_runtime.courier.courier import Courier
from knhk_runtime.courier.identity import Identity
from knhk_runtime.courier.mirror import Mirror
from knhk_runtime.exchange.watch import Folders
from knhk_runtime.http1 import Https

TRUST = "/api/v1/namespaces/erp/configmaps/knhk-trust"
LAST_WORD_S = 10.0
NO_PACK = "0" * 40


@dataclass
class Pod:
    """`uid`: another one each time that a pod of this name is made. `ran`: every version that it enforced for somebody."""

    name: str
    point: str
    uid: str
    folders: Folders
    life: Future[None]
    end: asyncio.Event
    document: dict[str, Any] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)
    counts: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    ending: bool = False

    @property
    def in_wave(self) -> bool | None:
        return is_in(self.document["salt"], self.uid, self.document["wave"]) if "wave" in self.document else None

    @property
    def candidate(self) -> dict[str, Any] | None:
        """As the agent reads the document."""
        found: dict[str, Any] | None = None if self.in_wave is False else self.document.get("candidate")
        return found

    @property
    def pair(self) -> tuple[str, str]:
        """As statistics name it."""
        return short(self.document.get("stable")) or NO_PACK, short(self.candidate)

    @property
    def stands(self) -> tuple[str, str]:
        """The stable version, and the one that is enforced for some callers."""
        stable = (self.document.get("stable") or {}).get("version", "")
        canary = self.candidate if self.document.get("mode") == "Canary" else None
        return stable, canary["version"] if canary else ""


@dataclass
class PlayedPods(Agents):
    """`exchange`: HOST:PORT. `bad`: versions that deny a third of what was admitted where they are enforced, at point `bad_at`. `idle`:
    nobody calls."""

    client: KubeClient = field(kw_only=True)
    exchange: str = field(kw_only=True)
    pods: dict[str, Pod] = field(default_factory=dict)
    bad_at: str = ""
    idle: bool = False

    def __post_init__(self) -> None:
        self._turn = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    # ---- what a cluster does ---------------------------------------------------------------------

    def add(self, name: str, point: str) -> Pod:
        """A pod with the label that injection gives it; its courier begins."""
        uid = make_pod(self.client, name, point)
        trust = self.client.call("GET", TRUST)["data"]
        base = self.folder / "pods" / uid
        base.mkdir(parents=True)
        for file, text in (("token", token_of(self.client, name, uid)), *trust.items()):
            (base / file).write_text(text)
        folders = Folders(base / "point")
        folders.state.mkdir(parents=True)
        identity = Identity(base / "token", base / "ca.crt", folders.state)
        mirror = Mirror(folders, read_root_pub(base / "root.pub"), self.folder / "registry", "amd64", None)
        courier, end = (
            Courier(Https.of(f"https://{self.exchange}", identity.trusting), identity, mirror, random.Random(uid).random),
            asyncio.Event(),
        )
        life = asyncio.run_coroutine_threadsafe(_live(courier, end), self._loop)
        self.pods[uid] = Pod(name, f"erp/{point}", uid, folders, life, end)
        return self.pods[uid]

    def drain(self, pod: Pod) -> None:
        """As a node's drain ends it: the agent says its last word, then the pod is gone."""
        with self._turn:
            pod.ending = True
            self._tell(pod)
        self._loop.call_soon_threadsafe(pod.end.set)
        pod.life.result()
        end_pod(self.client, pod.name)
        del self.pods[pod.uid]

    def close(self) -> None:
        for pod in self.pods.values():
            self._loop.call_soon_threadsafe(pod.end.set)
        for pod in self.pods.values():
            pod.life.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ---- what agents do --------------------------------------------------------------------------

    def at(self, point: str) -> list[Pod]:
        return [pod for pod in list(self.pods.values()) if pod.point == f"erp/{point}"]

    def judged(self, point: str) -> int:
        """Pairs of the packs that the point's document names."""
        return sum(pod.counts.get(pod.pair, [0])[0] for pod in self.at(point))

    def look(self) -> None:
        for pod in list(self.pods.values()):
            with self._turn, suppress(FileNotFoundError):  # the courier has brought nothing yet
                self._take(pod, (pod.folders.desired / "rollout.json").read_bytes())
                self._judge_of(pod)
                self._tell(pod)

    def _take(self, pod: Pod, envelope: bytes) -> None:
        if self.met.setdefault(pod.uid, [b""])[-1] != envelope:
            self.met[pod.uid].append(envelope)
        pod.document = payload(envelope)
        pod.ran |= set(pod.stands) - {""}

    def _judge_of(self, pod: Pod) -> None:
        if pod.candidate is None or self.idle:
            return
        row = pod.counts.setdefault(pod.pair, [0, 0])
        row[0] += PER_LOOK
        enforced = pod.stands[1]
        row[1] += PER_LOOK // 3 if enforced in self.bad and pod.point == self.bad_at else 0

    def _tell(self, pod: Pod) -> None:
        running = {name: (row or {}).get("digest") for name, row in (("stable", pod.document["stable"]), ("candidate", pod.candidate))}
        word = {
            "version": 1, "point": pod.point, "boot": hashlib.sha256(pod.uid.encode()).hexdigest()[:16], "epoch": pod.document["epoch"],
            "evaluator": "", "ready": True, "listening": True, "counted": True, "ending": pod.ending, "inWave": pod.in_wave,
            "running": {**running, "data": None}, "refused": [], "drained": 0, "durable": 1 << 40, "acked": 0, "ringFull": 0,
            "pairs": [pair_row(*pair, *counted) for pair, counted in pod.counts.items()], "decisions": {}, "absent": 0, "heat": {},
        }  # fmt: skip
        temporary = pod.folders.stats.with_suffix(".tmp")
        temporary.write_text(json.dumps(word))
        temporary.rename(pod.folders.stats)


async def _live(courier: Courier, end: asyncio.Event) -> None:
    running = asyncio.create_task(courier.run())
    await end.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await courier.last_word(LAST_WORD_S)
