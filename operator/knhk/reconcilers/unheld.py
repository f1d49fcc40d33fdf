"""Records beside a log that are rewritten for nobody while the log says that their subject is held: who asks may have no key store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from knhk.lockchain.events import PolicyEvent, Said, parse_event
from knhk.model.faults import Fault, Refused
from knhk.model.ranges import Ranges, count
from knhk.reconcilers.erasing import LOOKS, SETTLE_S, Beside, erased_by, is_of
from knhk.reconcilers.lineage import statement_of
from knhk_runtime.record import Record
from knhk_verify.errors import demand


@dataclass
class Unheld(Beside):
    """`namespace`: whose records these are. A hold counts from when the log shows it until it shows its release, which takes a moment."""

    namespace: str = ""

    def free(self, targets: Ranges, held: Collection[bytes]) -> Ranges:
        """See the port. As `rewrite`."""
        self._demand_there(targets)
        return super().free(targets, held)

    def digest(self, targets: Ranges) -> str:
        """See the port. As `rewrite`."""
        self._demand_there(targets)
        return super().digest(targets)

    def rewrite(self, targets: Ranges) -> tuple[int, int]:
        """See the port. Raises Refused while a hold stands on one of these records, and Bad for entries that the log does not have: there
        are more of those than any memory takes."""
        self._demand_there(targets)
        for _ in range(LOOKS):
            if not (held := count(self._held(targets))):
                return super().rewrite(targets)
            self.clock.sleep(SETTLE_S)
        raise Refused([Fault("targets", f"{held} entries", "must be of no subject whose legal hold stands in the log")])

    def _demand_there(self, targets: Ranges) -> None:
        demand(not targets or targets[-1][1] < self.log().size, "targets", "must be entries that the log has")

    def _held(self, targets: Ranges) -> Iterable[tuple[int, int]]:
        tags = standing(self.log().entries(), self.namespace)

        def is_held(point: str, record: Record) -> bool:
            found = self._whose(point, record)
            return isinstance(found, bytes) and found in tags

        return self._found(is_held, among=targets).ranges() if tags else ()


def standing(entries: Iterable[bytes], namespace: str) -> frozenset[bytes]:
    """Tags of whom the events of a log say that a hold stands in a namespace; one of another namespace ends none. Nobody but the operator
    appends events, so signatures are not looked at. Raises Bad and Refused."""
    said = Said()
    statements = ((statement_of(index, entry), f"entry {index}") for index, entry in enumerate(entries) if entry[:1] == b"{")
    told = (parse_event(statement) for statement, where in statements if said.is_new(statement, where))
    return frozenset(hold.tag for hold in erased_by(holding(told, namespace)).holds.values() if hold.standing)


def holding(events: Iterable[PolicyEvent], namespace: str) -> Iterator[PolicyEvent]:
    """Those of holds."""
    return (event for event in events if event.kind in ("Held", "HoldReleased") and is_of(event, namespace))
