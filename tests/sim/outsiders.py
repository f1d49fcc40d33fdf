"""Who bears witness outside to Receipts: late, in any order, seldom, and each time by another bundle."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from random import Random

from knhk.model.canonical import canonical
from knhk.model.faults import Stalled, Waiting

AWAY, BROKEN = Waiting("Sigstore", "does not answer", 0.5), Stalled("Sigstore", "must be mended")


@dataclass
class Outsiders:
    """knhk.ports.notary.Notary for receipts: what is asked is answered by `answer`. `rate`: of those that wait, so many are."""

    chance: Random
    rate: float
    fails: bool = True
    _left: list[tuple[Future[bytes], bytes]] = field(default_factory=list)
    _made: count[int] = field(default_factory=count)

    def notarised(self, role: str, bundle: bytes) -> bytes:
        document = json.loads(bundle)
        material = {"publicKey": {"hint": role}, "tlogEntries": [{"logIndex": str(next(self._made))}]}
        return canonical({**document, "verificationMaterial": material})

    def ask(self, role: str, bundle: bytes) -> Future[bytes]:
        asked: Future[bytes] = Future()
        self._left.append((asked, bundle))
        return asked

    def answer(self) -> None:
        """Some of those that wait get what they asked for, or hear that it cannot be had."""
        waiting, self._left = self._left, []
        self.chance.shuffle(waiting)
        for asked, bundle in waiting:
            if self.fails and self.chance.random() >= self.rate:
                self._left.append((asked, bundle))
            elif self.fails and self.chance.random() < 0.3:
                asked.set_exception(
                    self.chance.choice((Waiting("Sigstore", "does not answer", 0.5), Stalled("Sigstore", "must be mended")))
                )
            else:
                asked.set_result(self.notarised("rollout", bundle))
