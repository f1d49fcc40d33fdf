"""A log with sealed records beside it, an archive, and a key store: made as agents, sequencer and archive make them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "delta"))

from delta_world import NOON_NS, Crash, Yard, observation, receipt

from knhk.adapters import delta_parquet
from knhk.adapters.key_stores import established
from knhk.adapters.signer_local import LocalSigner
from knhk.adapters.wrapping_keys import FileWrapping
from knhk.lockchain.events import PolicyEvent, statement
from knhk.reconcilers.archiving import Archive
from knhk.reconcilers.erasing import Beside, Eraser, Surroundings
from knhk.reconcilers.ledger import Kept
from knhk.reconcilers.replaying import BASELINE_ADMIT, NO_PACK, Replayed, replay, replay_segments
from knhk.wiring import replays
from knhk.wiring.archive import opened_folder
from knhk_runtime.envelope import tag_of
from knhk_runtime.outbox.records import DECISION, ENFORCED, Arm, Entries, encode
from knhk_runtime.sealing import Sealer, Sealing
from knhk_runtime.sequencer.wire import parse_event as parse_wire_event
from knhk_runtime.subject_keys import KeyStore
from knhk_runtime.subjects import Privacy, Rule
from knhk_runtime.tlog.folder import log_entries
from knhk_runtime.unsealing import NO_ACCESS, Unsealer
from knhk_verify.signed import verify_keys

POINT, SOURCE = "erp/orders", "erp.orders"
PRIVACY = Privacy((Rule("orders", pointer="/who"),))
ANNA, BOB = "anna.planted@example.com", "bob.planted@example.com"
EVALUATOR = bytes(32)


def plain(number: int, who: str, time_ns: int = NOON_NS, arms: int = 1) -> Entries:
    """A record of a request about somebody, at a point that has no pack yet: replay needs none."""
    found = tuple(Arm(NO_PACK, DECISION, 0, 1, ENFORCED, arm, BASELINE_ADMIT) for arm in range(arms))
    return encode(receipt(number), 0, 1 + number % 3, observation(b'{"n":%d,"who":"%s"}' % (number, who.encode()), time_ns, who), found)


class Chance:
    """Bytes that nobody had before."""

    def bytes(self, count: int) -> bytes:
        return os.urandom(count)


@dataclass
class Steps:
    """Dies at call number `at` that changes something, before it is done or `after` it."""

    at: int = -1
    after: bool = False
    taken: int = 0
    CHANGES = ("destroy", "put_work", "put_hold", "erase")

    def wrapped(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            self.taken += 1
            if self.taken - 1 == self.at and not self.after:
                raise Crash
            found = act(*args)
            if self.taken - 1 == self.at:
                raise Crash
            return found

        return called

    def of(self, thing: object) -> object:
        return _Stepped(thing, self)


class _Stepped:
    def __init__(self, thing: object, steps: Steps) -> None:
        self._thing, self._steps = thing, steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        return self._steps.wrapped(found) if name in Steps.CHANGES else found


@dataclass
class Vault:
    """`yard` with records of `POINT`; `names`: who was recorded under which number."""

    yard: Yard
    privacy: Privacy = PRIVACY
    names: dict[int, str] = field(default_factory=dict)
    appends: bool = True

    def __post_init__(self) -> None:
        self.folder = self.yard.base / "subjects"
        self.wrapping = FileWrapping(self.yard.base / "keys")
        self.open()

    def open(self) -> None:
        """The key store, and an agent's sealer on it."""
        self.keys = KeyStore(self.folder, established(self.folder, self.wrapping))
        self.sealer = Sealer(lambda _: KeyStore(self.folder, established(self.folder, self.wrapping)))

    def shut(self) -> None:
        """Nobody has the key store open."""
        self.keys.close()
        self.sealer.close()

    def record(self, who: str, time_ns: int = NOON_NS, arms: int = 1, source: str = SOURCE, sealed: bool = True) -> int:
        """Into outbox and log; its number."""
        number = len(self.names)
        made = plain(number, who, time_ns, arms)
        if sealed:
            made = self.sealer.entries(made, Sealing(POINT, self.privacy))
        self.yard.record(made, source)
        self.names[number] = who
        return number

    def tag(self, who: str) -> bytes:
        return tag_of(self.keys.tags_key, who)

    def kept(self) -> Kept:
        return Kept(self.yard.store, delta_parquet)

    def replay(self, unsealer: Unsealer | None = None) -> Replayed:
        """Of the outboxes; by default with access to the key store."""
        self.yard.log.integrate()
        return replay(
            self.yard.log_dir, log_entries(self.yard.log_dir), _no_pack, EVALUATOR, Unsealer(self.keys) if unsealer is None else unsealer
        )

    def replay_archive(self, unsealer: Unsealer | None = None) -> Replayed:
        log = opened_folder(self.yard.log_dir).served
        return replay_segments(self.kept(), log, _no_pack, EVALUATOR, unsealer=Unsealer(self.keys) if unsealer is None else unsealer)

    def files_with(self, text: str, below: str = ".") -> list[str]:
        """Files of outboxes, log, archive and key store in which this text stands, as UTF-8."""
        found = (path for path in (self.yard.base / below).rglob("*") if path.is_file())
        return [str(path.relative_to(self.yard.base)) for path in found if text.encode() in path.read_bytes()]

    def eraser(self, steps: Steps | None = None, *, archive: bool = True, privacy: Privacy | None = None) -> Eraser:
        """As `knhk receipt erase` has it, on this log; `steps` lets it die at one."""
        self.yard.log.integrate()
        steps = steps or Steps()
        signer = LocalSigner(self.yard.base / "keys")

        def append(bundle: bytes) -> int:
            found = self.yard.log.commit([parse_wire_event(bundle)])[0]
            self.yard.log.integrate()
            return int(found[0])

        def events() -> Iterator[tuple[int, PolicyEvent]]:
            keys = verify_keys(signer.keys_json(), signer.root_public())
            return replays.events(opened_folder(self.yard.log_dir).served, keys)

        around = Surroundings(
            keys=cast(KeyStore, steps.of(self.keys)),
            recorded=Beside(
                observations=self.yard.log_dir / "observations",
                archive=cast(Archive, steps.of(self.yard.archive(state="erasing"))) if archive else None,
                log=lambda: opened_folder(self.yard.log_dir).served,
                closed=self.closed,
                clock=self.yard.clock,
                rows=lambda: (row for name in self.kept().names() for row in self.kept().rows(name)) if archive else iter(()),
                privacy={POINT: privacy or self.privacy},
                tags_key=lambda: self.keys.tags_key,
            ),
            events=events,
            sign=lambda event: signer.bundle("rollout", statement(event)),
            append=steps.wrapped(append),
            clock=self.yard.clock,
            chance=Chance(),
            actor="local:tests",
            privacy={POINT: privacy or self.privacy},
        )
        return Eraser(around)

    @contextmanager
    def closed(self, source: str) -> Iterator[bool]:
        """This process appends, and begins a new segment as an agent does that sees keys destroyed."""
        if self.appends:
            self.yard.outboxes[source].segments.rotate()
        yield not self.appends

    def events(self, kind: str) -> list[PolicyEvent]:
        """Of the log, verified."""
        self.yard.log.integrate()
        signer = LocalSigner(self.yard.base / "keys")
        keys = verify_keys(signer.keys_json(), signer.root_public())
        return [event for _, event in replays.events(opened_folder(self.yard.log_dir).served, keys) if event.kind == kind]

    def close(self) -> None:
        self.shut()
        self.yard.close()


def counts(found: Replayed) -> tuple[int, int, int, int, int]:
    """(replayed, erased, sealed, different, unrecorded)."""
    return found.replayed, found.erased, found.sealed, found.different, found.unrecorded


def _no_pack(pack: bytes, bundle: bytes) -> NoReturn:
    raise AssertionError("no record here is of a pack")


__all__ = ["ANNA", "BOB", "NOON_NS", "NO_ACCESS", "POINT", "SOURCE", "Crash", "Steps", "Vault", "counts", "plain"]
