"""Erasing on a cluster, the part beside the log: the process that archives finds and rewrites what was recorded, for it alone has all of
that, and nobody else writes there."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from knhk.adapters import log_reading
from knhk.adapters.certificate_files import CertificateFiles
from knhk.adapters.certificates import Pair
from knhk.adapters.erasure_server import ErasureServer
from knhk.adapters.exchange_server import serving
from knhk.adapters.system import SystemClock
from knhk.model.delta import Row
from knhk.model.faults import Stalled, Waiting
from knhk.reconcilers.archiving import Archive
from knhk.reconcilers.subject_pages import PagesBeside
from knhk.reconcilers.unheld import Unheld
from knhk.wiring import replays
from knhk.wiring.archive import Options, opened
from knhk_runtime.doors import Bounds
from knhk_runtime.http1 import Https
from knhk_runtime.subjects import Privacy, parse_privacy
from knhk_verify.errors import demand

BOUNDS = Bounds(connections=64, of_one=16)
Act = Callable[[], tuple[int, int]]
B = TypeVar("B", Unheld, PagesBeside)


@dataclass(frozen=True)
class Erasures:
    """Where it listens, its certificate, and the exchange (https://HOST:PORT) that says who may, signs and tells."""

    host: str
    port: int
    files: CertificateFiles
    exchange: str


class Turns:
    """What others ask of the one thread that writes, between two of its rounds."""

    def __init__(self) -> None:
        self._asked = SimpleQueue[tuple[Act, Future[tuple[int, int]]]]()
        self._ended = False

    def ask(self, act: Act) -> tuple[int, int]:
        """Its result, when it was its turn."""
        future = Future[tuple[int, int]]()
        self._asked.put((act, future))
        if self._ended:
            self.end()
        return future.result()

    def take(self) -> None:
        """Whoever waits has his turn."""
        for act, future in self._waiting():
            try:
                future.set_result(act())
            except BaseException as error:
                future.set_exception(error)
                if not isinstance(error, Exception):
                    raise

    def end(self) -> None:
        """Nobody has a turn any more."""
        self._ended = True
        for _, future in self._waiting():
            future.set_exception(Waiting("Ending", "this process ends", 1.0))

    def _waiting(self) -> Iterator[tuple[Act, Future[tuple[int, int]]]]:
        while True:
            try:
                yield self._asked.get_nowait()
            except Empty:
                return


@contextmanager
def erasures(said: Erasures, options: Options, tell: Callable[[str], None], made: Archive) -> Iterator[Callable[[], None]]:
    """Serves while the context lasts, as soon as its certificate is there; gives what is to be called between rounds. Raises Stalled."""
    turns, clock, fetch = Turns(), SystemClock(), log_reading.of_place(options.published or str(options.log_dir))
    name = options.published or str(options.log_dir)
    trusted: tuple[bytes, ssl.SSLContext] | None = None

    def context() -> ssl.SSLContext:
        """Made anew when the authority is another one."""
        nonlocal trusted
        authority = said.files.current().authority
        if trusted is None or trusted[0] != authority:
            trusted = authority, ssl.create_default_context(cadata=authority.decode())
        return trusted[1]

    def rows() -> Iterator[Row]:
        segments = replays.kept(options.store)
        for each in segments.names():
            yield from segments.rows(each)

    def beside(kind: type[B], namespace: str, privacy: Mapping[str, Any], **more: Any) -> B:
        return kind(
            observations=options.log_dir / "observations",
            archive=made,
            log=lambda: opened(name, fetch).served,
            closed=lambda _: nullcontext(False),
            clock=clock,
            rows=rows,
            privacy=_parsed(privacy),
            is_here=lambda point: point.startswith(f"{namespace}/"),
            namespace=namespace,
            **more,
        )

    def pages(namespace: str, privacy: Mapping[str, Any]) -> tuple[PagesBeside, str]:
        note = fetch("checkpoint")
        demand(note is not None, "log", "must have a checkpoint")
        kept = partial(replays.kept, options.store)
        return beside(PagesBeside, namespace, privacy, kept=kept), (note or b"").decode()

    def shown() -> Pair:
        found = said.files.current()
        return Pair(found.chain, found.key)

    server = ErasureServer(Https.of(said.exchange, context), partial(beside, Unheld), pages, turns.ask)
    with ExitStack() as stack:
        stack.callback(turns.end)
        begin: Callable[[], int] | None = partial(
            lambda: stack.enter_context(serving(server, said.host, said.port, shown, BOUNDS, "--erasures"))
        )
        why = ""

        def look() -> None:
            nonlocal begin, why
            if begin is not None:
                try:
                    tell(f"erases for whom {said.exchange} says that may, at {said.host}:{begin()}")
                    begin = None
                except Stalled as error:
                    if str(error) != why:
                        tell(f"erases for nobody yet: {error}")
                    why = str(error)
            turns.take()

        yield look


def _parsed(documents: Mapping[str, Any]) -> dict[str, Privacy]:
    return {point: found for point, document in documents.items() if (found := parse_privacy(document)) is not None}
