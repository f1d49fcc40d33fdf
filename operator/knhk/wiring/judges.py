"""An audit's judges as processes, side by side: cases go out in batches, and their outcomes come back in the order of the cases."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from knhk.model.arrows import PackSources
from knhk.model.faults import KnhkError, Stalled, Waiting
from knhk.reconcilers.auditing import Case, Judge, Loaded, Outcome, Sources, outcome
from knhk.wiring.replays import Parts
from knhk_gen.turtle import ill_formed_is_no_news

BATCH, AHEAD = 64, 4  # cases at once; batches on their way for each process
Key = tuple[bytes, bytes]
Get = Callable[[bytes, bytes], Parts]


@contextmanager
def side_by_side(sources: Sources, get: Get, jobs: int) -> Iterator[Judge]:
    """Judges in `jobs` processes; what they know of keys and logs is nothing: each has the sources, and of a pack what `get` gives (raises
    KnhkError with the reason), which is asked once. Raises Stalled where a process ends, and Waiting as `get` does."""
    with TemporaryDirectory(prefix="knhk-audit-") as folder:
        pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (sources.packs(), Path(folder)))
        try:
            yield lambda cases: _judged(cases, pool, jobs, _Shelf(Path(folder), get))
        except BrokenProcessPool as error:
            must = "where memory was short, fewer --jobs take less of it"
            raise Stalled("Judges", f"a process that judges ended before its work was done: {must}: {error}") from error
        finally:
            pool.shutdown(cancel_futures=True)


class _Shelf:
    """Packs for the processes: a file for each, or the reason why there is none."""

    def __init__(self, folder: Path, get: Get) -> None:
        self._folder, self._get, self._known = folder, get, set[Key]()

    def put(self, key: Key) -> None:
        if key in self._known:
            return
        try:
            found: Parts | str = self._get(*key)
        except Waiting:
            raise  # what could not be asked for now says nothing of a decision
        except KnhkError as error:
            found = str(error)
        _file(self._folder, key).write_bytes(pickle.dumps(found))
        self._known.add(key)


def _file(folder: Path, key: Key) -> Path:
    return folder / f"{key[0].hex()}-{key[1].hex()}"


def _judged(cases: Iterator[Case], pool: ProcessPoolExecutor, jobs: int, shelf: _Shelf) -> Iterator[tuple[Case, Outcome]]:
    waiting = deque[tuple[list[Case], Future[list[Outcome]]]]()
    while batch := list(islice(cases, BATCH)):
        for case in batch:
            shelf.put(case.key)
        waiting.append((batch, pool.submit(_outcomes, [(case.key, case.observation) for case in batch])))
        if len(waiting) >= AHEAD * jobs:
            yield from _answered(*waiting.popleft())
    while waiting:
        yield from _answered(*waiting.popleft())


def _answered(batch: list[Case], answer: Future[list[Outcome]]) -> Iterator[tuple[Case, Outcome]]:
    return zip(batch, answer.result(), strict=True)


# ---- in a process -------------------------------------------------------------------------------


class _Bench:
    """The sources, and packs that were met."""

    def __init__(self, packs: Sequence[PackSources], folder: Path) -> None:
        self.sources, self._folder, self._met = Sources(packs), folder, dict[Key, Loaded | str]()

    def load(self, pack: bytes, bundle: bytes) -> Loaded:
        """Raises KnhkError."""
        key = pack, bundle
        if key not in self._met:
            found: Parts | str = pickle.loads(_file(self._folder, key).read_bytes())  # our own, in a folder of ours alone
            self._met[key] = found if isinstance(found, str) else found.loaded()
        if isinstance(met := self._met[key], str):
            raise KnhkError(met)
        return met


_BENCH: list[_Bench] = []


def _begin(packs: Sequence[PackSources], folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who interrupts an audit ends its processes by its pool
    _BENCH.append(_Bench(packs, folder))


def _outcomes(cases: list[tuple[Key, bytes]]) -> list[Outcome]:
    (bench,) = _BENCH
    with warnings.catch_warnings(), ill_formed_is_no_news():
        return [outcome(key, observation, bench.sources, bench.load) for key, observation in cases]
