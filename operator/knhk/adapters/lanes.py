"""Threads for what reaches out: each server has its own, so that one that does not answer delays nobody else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

WIDTH = 2
MOST = 32


@dataclass
class Lanes:
    """For one thread that asks. At most MOST servers have threads of their own; the others share the last."""

    _executors: dict[str, ThreadPoolExecutor] = field(default_factory=dict)

    def of(self, url: str) -> ThreadPoolExecutor:
        """The threads for the server of an address."""
        server = urlsplit(url).netloc.rpartition("@")[2]
        if server not in self._executors and len(self._executors) >= MOST:
            server = next(reversed(self._executors))
        if server not in self._executors:
            self._executors[server] = ThreadPoolExecutor(WIDTH, thread_name_prefix="git")
        return self._executors[server]

    def close(self) -> None:
        """What did not begin never will."""
        for executor in self._executors.values():
            executor.shutdown(wait=False, cancel_futures=True)
