"""knhk.ports.together.Together by threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from knhk.ports.together import Act


class Threads:
    """Promises as the port. `close` ends them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._pool = ThreadPoolExecutor(most, "together")

    def __call__(self, acts: Sequence[Act]) -> None:
        if len(acts) == 1:
            acts[0]()
            return
        running = [self._pool.submit(act) for act in acts]
        wait(running)
        for done in running:
            done.result()

    def close(self) -> None:
        self._pool.shutdown()
