"""Which other regions hold the entries: their witnesses are asked how far their mirrors of this log reach (formats/witness.md).

A mirror signs what it holds, with its witness's key: whoever answers in its place lets nothing go on. It is about durability, and says
nothing of other histories."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256

from knhk_runtime.sequencer.witnesses import Told
from knhk_runtime.tlog.notes import is_mirrored
from knhk_runtime.tlog.policy import NOBODY, Policy
from knhk_verify.errors import Bad, demand
from knhk_verify.note import Verifier, open_checkpoint

ASK_WITHIN_S = 15.0  # a mirror answers after 2 s, unless it has much to copy at once
ASK_AGAIN_S = 1.0
MARKS = 1024  # of sizes that were published and are not held yet
Get = Callable[[str], Awaitable[tuple[int, bytes]]]  # URL → (status, body); raises OSError when no answer came


class MirroringRegions:
    """Witnesses of a policy that have a URL, asked all the time, each by itself; one event loop. `root`: of the first so many entries of
    this log, None of more than it has; `on_moved` is told when `size` grew."""

    def __init__(
        self, policy: Policy, log: Verifier, root: Callable[[int], bytes | None], get: Get, on_moved: Callable[[], None] = lambda: None
    ) -> None:
        self._policy, self._log, self._root, self._get, self.on_moved = policy, log, root, get, on_moved
        self._name = sha256(log.name.encode()).hexdigest()
        self._urls = {witness: url.rstrip("/") for witness, url in policy.witnesses.items() if url}
        self.told: Mapping[Verifier, Told] = {witness: Told() for witness in self._urls}
        self._published, self._grown = 0, asyncio.Event()
        self._waiting = deque[tuple[int, float]]()
        self.size = 0  # entries that a quorum of the policy, of regions that mirror, holds

    def published(self, size: int) -> None:
        """There is something to hold."""
        if size > self._published and len(self._waiting) < MARKS:
            self._waiting.append((size, asyncio.get_running_loop().time()))
        self._published = size
        self._grown.set()
        self._grown = asyncio.Event()

    def turned(self, log: Verifier) -> None:
        """The log signs with another key."""
        self._log = log

    def unheld_s(self) -> float:
        """For how long the oldest entry has waited that was published and is held by too few."""
        while self._waiting and self._waiting[0][0] <= self.size:
            self._waiting.popleft()
        return asyncio.get_running_loop().time() - self._waiting[0][1] if self._waiting else 0.0

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for witness in self._urls:
                group.create_task(self._ask_always(witness))

    async def _ask_always(self, witness: Verifier) -> None:
        told = self.told[witness]
        while True:
            grown, wanted = self._grown, self._published
            if told.size >= wanted:
                await grown.wait()
                continue
            before = told.size
            try:
                async with asyncio.timeout(ASK_WITHIN_S):
                    told.size, told.error = max(before, await self._held(witness, wanted)), ""
            except (OSError, Bad) as error:
                told.error = str(error) or type(error).__name__
            if told.size > before:
                self._count()
            else:
                await asyncio.sleep(ASK_AGAIN_S)

    async def _held(self, witness: Verifier, size: int) -> int:
        status, body = await self._get(f"{self._urls[witness]}/mirror/{self._name}?size={size}")
        if status != 200:
            raise OSError(f"answers {status}: it mirrors nothing of this log")
        held = open_checkpoint(body, self._log, "mirror")
        demand(
            is_mirrored(body.decode(), witness), "mirror", f"is not signed by {witness.name}: it must be the witness of the policy, of now"
        )
        if held.size and await asyncio.to_thread(self._root, held.size) != held.root:
            raise Bad(
                "mirror",
                f"holds {held.size} entries of another history of this log, which was brought back from a copy: see `knhk log diff`",
            )
        return held.size

    def _count(self) -> None:
        sizes = sorted({told.size for told in self.told.values()}, reverse=True)
        held = (size for size in sizes if self._policy.holds([key for key, told in self.told.items() if told.size >= size]))
        size = next(held, 0) if self._policy.quorum != NOBODY else 0
        if size > self.size:
            self.size = size
            self.on_moved()
