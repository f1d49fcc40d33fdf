"""Asking witnesses to cosign a checkpoint (formats/witness.md): all at once, each by itself, enough when the policy's quorum is there.

Nothing of this holds up an append: a witness that is slow, dead or lying costs its own line and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from knhk_runtime.tlog.policy import Policy
from knhk_verify.errors import Bad
from knhk_verify.note import Verifier, b64, open_note
from knhk_verify.signed import parse_json

ASK_WITHIN_S = 5.0
MAX_LINES_BYTES = 64 << 10
# (URL of a witness, body) → (status, body); raises OSError, TimeoutError included, when no answer came.
Post = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]
Prove = Callable[[int, int], Awaitable[list[bytes]]]  # sizes of two trees → consistency proof; raises OSError


class Refused(Exception):
    """What a witness answered in place of a cosignature, or what is wrong with it."""


@dataclass
class Told:
    """What is known of a witness: the size that it cosigned last, and why it has no line under the newest checkpoint (empty: it has)."""

    size: int = 0
    error: str = "not asked yet"
    busy: bool = field(default=False, repr=False)


class Witnesses:
    """Those of a policy that have a URL, for the checkpoints of one log; one event loop."""

    def __init__(self, policy: Policy, log: Verifier, post: Post, within_s: float = ASK_WITHIN_S) -> None:
        self._policy, self._log, self._post, self._within_s = policy, log, post, within_s
        self._urls = {witness: url.rstrip("/") for witness, url in policy.witnesses.items() if url}
        self.told: Mapping[Verifier, Told] = {witness: Told() for witness in self._urls}
        self._asked = set[asyncio.Task[str]]()

    async def cosigned(self, note: str, size: int, prove: Prove) -> str | None:
        """The checkpoint with lines of witnesses that are a quorum, as soon as they are; None when they are not."""
        if self._policy.holds(()):
            return note
        names = [witness for witness, told in self.told.items() if not told.busy]
        asked = {asyncio.create_task(self._ask(witness, note, size, prove)): witness for witness in names}
        self._asked |= asked.keys()
        lines, left = dict[Verifier, str](), set(asked)
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            self._asked -= done
            lines |= {asked[task]: task.result() for task in done if task.result()}
            if self._policy.holds(lines):
                for task in left:  # what they still answer is of use for the next
                    task.add_done_callback(self._asked.discard)
                return note + "".join(lines[witness] for witness in self._urls if witness in lines)
        return None

    async def close(self) -> None:
        """Gives up on those that have not answered."""
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)

    async def _ask(self, witness: Verifier, note: str, size: int, prove: Prove) -> str:
        """Its line; empty, and said in `told`, when there is none."""
        told = self.told[witness]
        told.busy = True
        try:
            async with asyncio.timeout(self._within_s):
                line = await self._line(witness, told, note, size, prove)
        except TimeoutError:
            told.error, line = f"has not answered within {self._within_s:g} s", ""
        except (OSError, Bad, Refused) as error:
            told.error, line = str(error) or type(error).__name__, ""
        finally:
            told.busy = False
        if line:
            told.size, told.error = size, ""
        return line

    async def _line(self, witness: Verifier, told: Told, note: str, size: int, prove: Prove) -> str:
        status, answer = await self._asks(witness, told.size, note, size, prove)
        if status == 409 and (known := _size(answer)) is not None and known != told.size:
            if known > size:
                raise Refused(f"has cosigned size {known} of this log, which has {size}: another writes it, or it has lost entries")
            told.size = known
            status, answer = await self._asks(witness, known, note, size, prove)
        if status != 200:
            raise Refused(f"answers {status}: {_what(answer)}")
        return self._own(witness, note, answer)

    async def _asks(self, witness: Verifier, old: int, note: str, size: int, prove: Prove) -> tuple[int, bytes]:
        old = min(old, size)
        hashes = await prove(old, size)
        body = f"old {old}\n" + "".join(f"{b64(hash_)}\n" for hash_ in hashes) + f"\n{note}"
        return await self._post(f"{self._urls[witness]}/add-checkpoint", body.encode())

    def _own(self, witness: Verifier, note: str, answer: bytes) -> str:
        """The one line of its answer that is this witness's and good; others may not come into our checkpoint."""
        if len(answer) > MAX_LINES_BYTES:
            raise Refused(f"answers more than {MAX_LINES_BYTES} bytes")
        for line in answer.decode("utf-8", "replace").splitlines(keepends=True):
            try:
                _, signed = open_note(note + line, [witness])
            except Bad:
                continue
            if witness in signed:
                return line
        raise Refused("answers no good cosignature of its key")


def _size(answer: bytes) -> int | None:
    text = answer.removesuffix(b"\n")
    return int(text) if text.isdigit() and len(text) < 19 else None


def _what(answer: bytes) -> str:
    """Our witnesses' words, or the beginning of others'."""
    try:
        return str(parse_json(answer, "answer")["error"])
    except (Bad, KeyError, TypeError):
        return "".join(c for c in answer[:200].decode("utf-8", "replace") if c.isprintable())
