"""Copies of other regions' logs, kept by this region's witness, and how far each reaches: what its checkpoint covers is durable here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from knhk.model.faults import AlreadyExists, Conflict, Corrupt, NotFound, Stalled, Waiting
from knhk_runtime.log import log
from knhk_runtime.objects.port import ObjectStore
from knhk_runtime.tlog.follow import follow
from knhk_runtime.tlog.served import Fetch
from knhk_verify.errors import Bad
from knhk_verify.note import Verifier

PAUSE_S = 0.05  # between two looks at a log that has not published yet what somebody waits for
_AMISS = (OSError, Bad, ValueError, IndexError, NotFound, AlreadyExists, Conflict, Corrupt, Stalled, Waiting)


KeysNow = tuple[Sequence[Verifier], Sequence[Verifier]]


class Mirror:
    """Of one log, in a store of its own, whose only writer it is; one event loop. `keys`: of the log, those that
    count, the newest first, and those that are over. `error`: what was wrong at the last look, empty when nothing was."""

    def __init__(self, origin: str, source: Callable[[], Fetch], store: ObjectStore, keys: Callable[[], KeysNow]) -> None:
        self._origin, self._source, self._store, self._keys = origin, source, store, keys
        self._thread = ThreadPoolExecutor(1, "mirror")
        self._looking = asyncio.Lock()
        self.size, self.error = 0, "not looked at yet"

    async def reach(self, size: int, within_s: float) -> int:
        """How many entries it holds: as soon as it holds so many, and whatever it holds when the time is over."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        while self.size < size and loop.time() < until_s:
            async with self._looking:
                if self.size < size:
                    await loop.run_in_executor(self._thread, self._look)
            if self.size < size:
                await asyncio.sleep(PAUSE_S)
        return self.size

    def checkpoint(self) -> bytes:
        """Of the mirror. Raises OSError when there is none."""
        try:
            return self._store.get("checkpoint").data
        except (NotFound, Waiting, Stalled, Corrupt) as error:
            raise OSError(f"the mirror has no checkpoint: {self.error or error}") from error

    def _look(self) -> None:
        before, self.error = self.error, self._amiss()
        if self.error not in ("", before):
            log("mirror", origin=self._origin, what=self.error)

    def _amiss(self) -> str:
        try:
            (newest, *others), over = self._keys()
            found = follow(self._origin, self._source(), self._store, newest, others, over)
        except _AMISS as error:
            return f"{type(error).__name__}: {error}"
        if found.relation == "fork":
            return f"has forked: both checkpoints are kept, {', '.join(found.kept)}"
        self.size = found.size
        return ""


Mirrors = Mapping[str, Mirror]  # by origin
