"""A log folder with outboxes beside it, made as the sequencer and agents make them, and an archive that can fail at any step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from knhk.adapters import delta_parquet
from knhk.adapters.log_indexes import LogIndexes
from knhk.adapters.signer_local import establish
from knhk.model.faults import Waiting
from knhk.reconcilers.archiving import Archive
from knhk.wiring.archive import opened_folder
from knhk_runtime.keyfile import load_private_key
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.objects.port import PLAIN, About, Listed, ObjectStore, Stored
from knhk_runtime.outbox.records import DECISION, ENFORCED, REFUSED, Arm, Entries, encode
from knhk_runtime.outbox.segments import Cursor, Position, Segments
from knhk_runtime.sequencer.core import Log, LogKey
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.tiers.action import action_bytes
from knhk_verify.note import parse_vkey

ORIGIN = "knhk.dev/test"
HOUR_NS = 3600 * 10**9
NOON_NS = int(datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()) * 10**9
GUARDS = [{"kind": "payload", "severity": "Violation"}, {"kind": "abac", "severity": "Violation"}, {"kind": "shacl", "severity": "Info"}]
RING = b"RING0001"


def observation(body: bytes, time_ns: int, sub: str = "ann", route: bytes = b"orders") -> bytes:
    """Canonical O (formats/observation.md)."""
    attributes = b"\0\1\0\3sub" + len(sub.encode()).to_bytes(4, "big") + sub.encode()
    head = b"KNO1" + time_ns.to_bytes(8, "big") + b"\0\5local" + len(route).to_bytes(2, "big") + route + bytes(64)
    return head + attributes + len(body).to_bytes(4, "big") + body


def receipt(number: int) -> bytes:
    return RING + number.to_bytes(8, "big")


def decided(
    number: int, *, time_ns: int = NOON_NS, sub: str = "ann", deny: bool = False, arms: int = 1, flags: int = 0, pack: bytes = b"p" * 20
) -> Entries:
    """A record of a decision; a denied one failed guard 1."""
    a = action_bytes(GUARDS, [1] if deny else [])
    found = tuple(Arm(pack, DECISION, 1, 2 if deny else 1, ENFORCED, flags | arm, a) for arm in range(arms))
    return encode(receipt(number), 0, number % 3, observation(b'{"n":%d}' % number, time_ns, sub), found)


def refused(number: int, time_ns: int = NOON_NS) -> Entries:
    """A record of a request that no pack judged."""
    return encode(receipt(number), 0, 0, observation(b"", time_ns, "", b""), (Arm(bytes(20), REFUSED, 0, 2, ENFORCED, 0, b""),))


class Clock:
    """Time that passes when it is slept through."""

    def __init__(self, now_ns: int = NOON_NS + HOUR_NS) -> None:
        self.ns = now_ns

    def now_ns(self) -> int:
        return self.ns

    def monotonic_ns(self) -> int:
        return self.ns

    def sleep(self, duration_s: float) -> None:
        self.ns += int(duration_s * 1e9)


class Crash(BaseException):
    """The process has died."""


@dataclass
class Failing:
    """An object store of which step `at` fails: `after` it was done, or before; by an error or by death of the process."""

    inner: ObjectStore
    at: int
    after: bool
    dies: bool
    step: int = -1

    @property
    def name(self) -> str:
        return self.inner.name

    def _do(self, act: object) -> object:
        self.step += 1
        error: BaseException = Crash() if self.dies else Waiting("Store", "no answer", 0.0)
        if self.step == self.at and not self.after:
            raise error
        found = act()  # type: ignore[operator]
        if self.step == self.at:
            raise error
        return found

    def get(self, key: str) -> Stored:
        return self._do(lambda: self.inner.get(key))  # type: ignore[return-value]

    def get_all(self, keys: Iterable[str]) -> Iterator[bytes]:
        return iter(self._do(lambda: list(self.inner.get_all(keys))))  # type: ignore[call-overload,no-any-return]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._do(lambda: self.inner.get_range(key, start, length))  # type: ignore[return-value]

    def put(self, key: str, data: bytes, about: About = PLAIN) -> str:
        return self._do(lambda: self.inner.put(key, data, about))  # type: ignore[return-value]

    def put_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> None:
        self._do(lambda: self.inner.put_all(items, about))

    def create(self, key: str, data: bytes, about: About = PLAIN) -> str:
        return self._do(lambda: self.inner.create(key, data, about))  # type: ignore[return-value]

    def swap(self, key: str, data: bytes, etag: str, about: About = PLAIN) -> str:
        return self._do(lambda: self.inner.swap(key, data, etag, about))  # type: ignore[return-value]

    def list(self, folder: str = "") -> Iterator[Listed]:
        return iter(self._do(lambda: list(self.inner.list(folder))))  # type: ignore[call-overload,no-any-return]

    def delete(self, keys: Sequence[str]) -> None:
        self._do(lambda: self.inner.delete(keys))


@dataclass
class Beside:
    """An outbox beside the log."""

    segments: Segments
    acked: Cursor | None


@dataclass
class Yard:
    """`log_dir` and an archive in `store`."""

    base: Path
    outboxes: dict[str, Beside] = field(default_factory=dict)

    def __post_init__(self) -> None:
        signer = establish(self.base / "keys", ORIGIN, datetime(2026, 11, 23, tzinfo=UTC))
        key = load_private_key(signer.key_file("log"))
        self.log_dir.mkdir()
        self.log = Log(self.log_dir, LogKey(parse_vkey(signer.vkey(ORIGIN)), key.sign), Disk())
        self.clock = Clock()
        self.store = FolderStore(self.base / "delta")

    @property
    def log_dir(self) -> Path:
        return self.base / "log"

    def outbox(self, source: str, segment_bytes: int = 1 << 20, acked: bool = True) -> Beside:
        if source not in self.outboxes:
            segments = Segments(self.log_dir / "observations" / source, segment_bytes)
            self.outboxes[source] = Beside(segments, Cursor(segments.folder / "acked", segments.start()) if acked else None)
        return self.outboxes[source]

    def record(self, made: Entries, source: str = "erp.orders", acked: bool = True, logged: bool = True) -> Position:
        """Into an outbox, and its leaves into the log."""
        beside = self.outbox(source)
        written = beside.segments.append(made.frames)
        beside.segments.sync(written)
        if logged:
            self.log.commit([parse_append(made.count.to_bytes(4, "big") + made.entries)])
        if acked and beside.acked is not None:
            beside.acked.move(written.end)
        return written.end

    def archive(self, store: ObjectStore | None = None, state: str = "state", **more: object) -> Archive:
        self.log.integrate()
        indexes = LogIndexes(self.base / state / "indexes.db")
        observations = self.log_dir / "observations"
        return Archive(observations, lambda: opened_folder(self.log_dir), indexes, delta_parquet, store or self.store, self.clock, **more)  # type: ignore[arg-type]

    def archived(self, **more: object) -> Archive:
        made = self.archive(**more)  # type: ignore[arg-type]
        while made.round() is not None:
            pass
        return made

    def close(self) -> None:
        for beside in self.outboxes.values():
            beside.segments.close()
        self.log.close()
