"""Records beside a log that are rewritten for nobody while the log says that their subject is held: who asks may have no key store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from knhk.lockchain.events import parse_event
from knhk.model.faults import Fault, Refused
from knhk.ports.recorded import Ranges
from knhk.reconcilers.delta import indexes_of
from knhk.reconcilers.erasing import LOOKS, SETTLE_S, Beside, erased_by
from knhk_runtime.record import Record
from knhk_verify.note import unb64
from knhk_verify.signed import parse_json


@dataclass
class Unheld(Beside):
    """A hold counts from when the log shows it until it shows its release, which takes a moment."""

    def rewrite(self, targets: Ranges) -> tuple[int, int]:
        """See the port. Raises Refused while a hold stands on one of these records."""
        for _ in range(LOOKS):
            if not (held := self._held(targets)):
                return super().rewrite(targets)
            self.clock.sleep(SETTLE_S)
        raise Refused([Fault("targets", f"{len(held)} entries", "must be of no subject whose legal hold stands in the log")])

    def _held(self, targets: Ranges) -> set[int]:
        tags = standing(self.log().entries())

        def is_held(point: str, record: Record) -> bool:
            found = self._whose(point, record)
            return isinstance(found, bytes) and found in tags

        return set(indexes_of(targets)) & self._found(is_held) if tags else set()


def standing(entries: Iterable[bytes]) -> frozenset[bytes]:
    """Tags of whom the events of a log say that a hold stands. Nobody but the operator appends events, so signatures are not looked at.
    Raises Bad and Refused."""
    events = (parse_event(_statement(entry, f"entry {index}")) for index, entry in enumerate(entries) if entry[:1] == b"{")
    return frozenset(hold.tag for hold in erased_by(events).holds.values() if hold.standing)


def _statement(entry: bytes, where: str) -> dict[str, object]:
    found: dict[str, object] = parse_json(unb64(parse_json(entry, where)["dsseEnvelope"]["payload"], where), where)
    return found
