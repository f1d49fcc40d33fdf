"""Steps of a rollout by waves, and a point of one process that such steps come to."""

from __future__ import annotations

from typing import Any

from rollout_world import World

from knhk.model.waves import is_in

WAVES = "steps: [{weight: 50, minPairs: 20, wave: 25}, {weight: 50, minPairs: 20, wave: 50}, {weight: 90, minPairs: 20}]"


class OneProcess(World):
    """An embedded home: the agent of p1 knows itself by the point's name."""

    def _statistics(self, name: str, epoch: int) -> dict[str, Any]:
        document = self.document(name)
        in_wave = is_in(document["salt"], name, document["wave"]) if "wave" in document else None
        return super()._statistics(name, epoch) | {"inWave": in_wave}
