"""A log with sealed records beside it, an archive, and a key store: made as agents, sequencer and archive make them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "delta"))

from delta_world import NOON_NS, Yard, observation, receipt

from knhk.adapters import delta_parquet
from knhk.adapters.wrapping_keys import FileWrapping
from knhk.reconcilers.archiving import Kept
from knhk.reconcilers.replaying import BASELINE_ADMIT, NO_ACCESS, NO_PACK, Replayed, replay, replay_segments
from knhk.wiring.archive import opened_folder
from knhk.wiring.privacy import established
from knhk_runtime.envelope import tag_of
from knhk_runtime.outbox.records import DECISION, ENFORCED, Arm, Entries, encode
from knhk_runtime.sealing import Sealer, Sealing
from knhk_runtime.subject_keys import KeyStore
from knhk_runtime.subjects import Privacy, Rule
from knhk_runtime.unsealing import Unsealer

POINT, SOURCE = "erp/orders", "erp.orders"
PRIVACY = Privacy((Rule("orders", pointer="/who"),))
ANNA, BOB = "anna.planted@example.com", "bob.planted@example.com"
EVALUATOR = bytes(32)


def plain(number: int, who: str, time_ns: int = NOON_NS, arms: int = 1) -> Entries:
    """A record of a request about somebody, at a point that has no pack yet: replay needs none."""
    found = tuple(Arm(NO_PACK, DECISION, 0, 1, ENFORCED, arm, BASELINE_ADMIT) for arm in range(arms))
    return encode(receipt(number), 0, 1 + number % 3, observation(b'{"n":%d,"who":"%s"}' % (number, who.encode()), time_ns, who), found)


@dataclass
class Vault:
    """`yard` with records of `POINT`; `names`: who was recorded under which number."""

    yard: Yard
    privacy: Privacy = PRIVACY
    names: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.yard.base / "subjects"
        self.wrapping = FileWrapping(self.yard.base / "keys")
        self.keys = KeyStore(self.folder, established(self.folder, self.wrapping))
        self.sealer = Sealer(lambda: KeyStore(self.folder, established(self.folder, self.wrapping)))

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
        return replay(self.yard.log_dir, _no_pack, EVALUATOR, Unsealer(self.keys) if unsealer is None else unsealer)

    def replay_archive(self, unsealer: Unsealer | None = None) -> Replayed:
        log = opened_folder(self.yard.log_dir).served
        return replay_segments(self.kept(), log, _no_pack, EVALUATOR, unsealer=Unsealer(self.keys) if unsealer is None else unsealer)

    def files_with(self, text: str, below: str = ".") -> list[str]:
        """Files of outboxes, log, archive and key store in which this text stands, as UTF-8."""
        found = (path for path in (self.yard.base / below).rglob("*") if path.is_file())
        return [str(path.relative_to(self.yard.base)) for path in found if text.encode() in path.read_bytes()]

    def close(self) -> None:
        self.keys.close()
        self.sealer.close()
        self.yard.close()


def counts(found: Replayed) -> tuple[int, int, int, int, int]:
    """(replayed, erased, sealed, different, unrecorded)."""
    return found.replayed, found.erased, found.sealed, found.different, found.unrecorded


def _no_pack(pack: bytes, bundle: bytes) -> None:
    raise AssertionError("no record here is of a pack")


__all__ = ["ANNA", "BOB", "NOON_NS", "NO_ACCESS", "POINT", "SOURCE", "Vault", "counts", "plain"]
