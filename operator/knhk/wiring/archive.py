"""The Δ log: who writes it beside a log, and from where it is read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

from knhk.adapters import delta_parquet, log_reading
from knhk.adapters.health_http import served
from knhk.adapters.log_indexes import LogIndexes
from knhk.adapters.system import SystemClock
from knhk.model.faults import Corrupt, KnhkError, NotFound, Stalled, Waiting
from knhk.model.progress import Far, unheard
from knhk.ports.clock import Clock
from knhk.reconcilers.archiving import COMMIT_BYTES, Archive, Opened
from knhk.reconcilers.compacting import Policy
from knhk.reconcilers.evidence import size_of
from knhk.reconcilers.ledger import KEEP_S, Ledger
from knhk_runtime.objects.opening import open_store
from knhk_runtime.tlog.served import Fetch, Served
from knhk_verify.errors import Bad
from knhk_verify.signed import member, parse_json

RETRY_S = 5.0


@dataclass(frozen=True)
class Options:
    """`log_dir` with its `observations`; `store`: the archive's address; `state`: a folder for what can be made again; `published`: the
    store that the log's tiles are in, when they are not in its folder."""

    log_dir: Path
    store: str
    state: Path
    remove: bool = False
    interval_s: float = 60.0
    health: str | None = None
    commit_bytes: int = COMMIT_BYTES
    published: str | None = None
    policy: Policy = field(default_factory=Policy)
    keep_s: float = KEEP_S


def opened_folder(log_dir: Path) -> Opened:
    """A log folder as it is now. Raises NotFound and Bad."""
    return opened(str(log_dir), log_reading.of_folder(log_dir))


def opened(name: str, fetch: Fetch) -> Opened:
    """A log as it is now. Raises NotFound and Bad, and as `fetch`."""
    if (data := fetch("meta.json")) is None:
        raise NotFound(f"{name}: is no log: it must have a meta.json")
    meta = parse_json(data, "meta.json")
    note = fetch("checkpoint")
    size = size_of(note.decode("utf-8", "replace"), "checkpoint") if note else 0
    return Opened(member(meta, "origin", str, "meta.json"), tuple(member(meta, "regions", list, "meta.json")), Served(name, fetch, size))


def archive(options: Options, clock: Clock | None = None) -> Archive:
    """Raises Stalled for an address that is none, or is read by other regions."""
    _demand_apart(options)
    name = options.published or str(options.log_dir)
    fetch = log_reading.of_place(name)
    return Archive(
        options.log_dir / "observations",
        lambda: opened(name, fetch),
        LogIndexes(options.state / "indexes.db"),
        delta_parquet,
        open_store(options.store),
        clock or SystemClock(),
        remove=options.remove,
        commit_bytes=options.commit_bytes,
        keep_s=options.keep_s,
    )


def _demand_apart(options: Options) -> None:
    """Records stay in their region: what is below the store of the published log is everybody's to read. Raises Stalled."""
    if options.published and (around := _place(options.published)) == _place(options.store)[: len(around)]:
        must = "must be a store of its own: what is published is read in other regions, and records stay in theirs"
        raise Stalled("Store", f"{options.store}: is within {options.published}, where the log is published: {must}")


def _place(address: str) -> tuple[str, ...]:
    """Of two addresses the first holds the second when its parts are the first ones of that."""
    scheme, separator, rest = address.partition("://")
    if not separator or scheme == "file":
        return ("file", *Path(rest if separator else address).resolve().parts)
    return (scheme, *(part for part in rest.split("/") if part))


def _demand_unpublished(options: Options) -> None:
    """The same where nobody says where the log is published: a store within which one lies is that of a published log. Raises Stalled."""
    scheme, *parts = _place(options.store)
    for count in range(1, len(parts) + 1):
        around = str(Path(*parts[:count])) if scheme == "file" else f"{scheme}://{'/'.join(parts[:count])}"
        if around != str(options.log_dir.resolve()) and _holds_log(around):
            must = "must be a store of its own: what is published is read in other regions, and records stay in theirs"
            raise Stalled("Store", f"{options.store}: is within {around}, where a log is published: {must}")


def _holds_log(place: str) -> bool:
    """As far as we may read there: a role for a prefix alone sees nothing above it, and then nothing is known."""
    with suppress(NotFound, Stalled):
        return bool(open_store(place).get("checkpoint")) and bool(open_store(place).get("meta.json"))
    return False


def run_once(options: Options, far: Far = unheard) -> Archive:
    """Rounds until nothing waits that the log shows. Raises as `archive`, and Stalled for a store within a published log."""
    _demand_unpublished(options)
    made = archive(options)
    whole = made.waiting()
    far("bytes of records", 0, whole)
    while made.round() is not None:
        left = made.waiting()
        whole = max(whole, left)  # agents go on meanwhile
        far("bytes of records", whole - left, whole)
    made.waiting()
    return made


@dataclass(frozen=True)
class Compacted:
    """Segments before and after, and how many of them were merged in so many commits."""

    before: int
    after: int
    merged: int
    commits: int


def compact(place: str, policy: Policy, keep_s: float = KEEP_S, far: Far = unheard) -> Compacted:
    """Merges until nothing is to be merged. Raises Waiting for records that another writer has begun to archive, and NotFound."""
    made = Ledger(open_store(place), delta_parquet, SystemClock(), keep_s=keep_s)
    if made.followed().number < 0:
        raise NotFound(f"{place}: is no archive: nothing was ever archived there")
    before = len(made.contents().files)
    while made.compact(policy) is not None:
        far("segments merged", made.progress.merged, None)
    made.tidy()
    return Compacted(before, len(made.contents().files), made.progress.merged, made.progress.commits)


Guest = Callable[[Archive], AbstractContextManager[Callable[[], None]]]
"""Who else works on the archive while it is written: gives what is called between rounds, by the thread that writes."""


def nobody(_: Archive) -> AbstractContextManager[Callable[[], None]]:
    """No guest."""
    return nullcontext(lambda: None)


def serve(options: Options, stop: threading.Event, tell: Callable[[str], None], guest: Guest = nobody) -> None:
    """Until `stop`: a commit when enough waits, at the latest after `interval_s`; between them, segments of hours that are over become few.
    What fails is told and tried again. Raises Corrupt."""
    made, clock, metrics = archive(options), SystemClock(), Metrics()
    fault, blamed = "", set[str]()

    def ready() -> str:
        return fault

    with served(options.health or "127.0.0.1:0", {"healthz": lambda: "", "readyz": ready}, metrics.text), guest(made) as look:
        tell(f"archives {options.log_dir} to {options.store}")
        due_ns = tidy_ns = 0
        while not stop.is_set():
            pause = min(1.0, options.interval_s)
            look()
            try:
                waiting = made.waiting()
                metrics.see(made, clock.now_ns())
                if waiting and (waiting >= options.commit_bytes or clock.monotonic_ns() >= due_ns):
                    more = made.round() is not None
                    due_ns = clock.monotonic_ns() + int(options.interval_s * 1e9)
                    pause = 0.0 if more and waiting >= options.commit_bytes else pause
                elif clock.monotonic_ns() >= tidy_ns:
                    pause = 0.0 if made.compact(options.policy) is not None else pause
                    if pause:
                        made.tidy()
                        tidy_ns = clock.monotonic_ns() + int(options.interval_s * 1e9)
                for source in sorted(made.progress.broken - blamed):
                    tell(f"{source} holds what is no record: it is left out, and where frames are none, all that follows in this copy")
                blamed |= made.progress.broken
                fault = ""
            except Corrupt:
                raise
            except (KnhkError, Bad, OSError) as error:
                if str(error) != fault:
                    tell(f"waits: {error}")
                fault = str(error)
                metrics.failures.inc()
                pause = error.retry_after_s if isinstance(error, Waiting) else RETRY_S
            stop.wait(pause)


class Metrics:
    """Of one writer."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        r = self._registry
        self._lag = Gauge("knhk_archive_lag_seconds", "Age of the oldest decision that is not in the archive yet; 0: all are", registry=r)
        self._bytes = Gauge("knhk_archive_waiting_bytes", "Bytes of outboxes that are not in the archive yet", registry=r)
        self._commits = Gauge("knhk_archive_commits", "Commits since the start of this process", registry=r)
        self._rows = Gauge("knhk_archive_rows", "Rows that were written since the start of this process", registry=r)
        self._merged = Gauge("knhk_archive_merged", "Segments that became part of greater ones since the start of this process", registry=r)
        self._segments = Gauge("knhk_archive_segments", "Segments that are in the archive", registry=r)
        self._unmatched = Gauge("knhk_archive_unmatched", "Records whose leaf the log does not show, since the start", registry=r)
        self._untrue = Gauge("knhk_archive_untrue", "Rows whose O or A is not what their leaf commits to, since the start", registry=r)
        self._broken = Gauge("knhk_archive_broken", "Copies of outboxes with what is no record, since the start", registry=r)
        self.failures = Counter("knhk_archive_failures", "Rounds that failed and are tried again", registry=r)

    def see(self, made: Archive, now_ns: int) -> None:
        progress = made.progress
        self._lag.set(max(0, now_ns - progress.oldest_ns) / 1e9 if progress.oldest_ns else 0)
        self._bytes.set(progress.waiting_bytes)
        self._commits.set(progress.commits)
        self._rows.set(progress.rows)
        self._merged.set(progress.merged)
        self._segments.set(len(made.contents().files))
        self._unmatched.set(progress.unmatched)
        self._untrue.set(progress.untrue)
        self._broken.set(len(progress.broken))

    def text(self) -> bytes:
        return generate_latest(self._registry)
