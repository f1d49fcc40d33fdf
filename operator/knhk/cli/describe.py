"""`knhk describe`: one resource with its conditions, history and events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from knhk.cli.arguments import KUBECONFIG
from knhk.cli.framework import Argument, Call, Outcome, Table, command
from knhk.cli.schema import anything, array, integer, obj, string

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from knhk.ports.store import Event


@command(
    "describe",
    summary="Show one resource: its conditions, what it was before, and what happened to it",
    arguments=(
        Argument("kind", help="a kind such as policypack, or a short name"),
        Argument("name", help="NAMESPACE/NAME"),
        KUBECONFIG,
    ),
    output=obj(resource=anything(), events=array(obj(time=string(), type=string(), reason=string(), message=string(), count=integer()))),
    examples=("knhk describe policypack erp/invoice-controls", "knhk describe schema erp/invoice-1-1"),
)
def describe(call: Call) -> Outcome:
    from knhk.api import to_document
    from knhk.cli.get import key_of, kind_of
    from knhk.wiring.home import Home
    from knhk.wiring.places import place

    with place(Home(call.home), call.args.kubeconfig) as there:
        key = key_of(kind_of(call.args.kind), call.args.name)
        found = there.store.get(key)
        events = there.store.events(key)
    status = found.status
    rows = [{"time": e.time, "type": e.type, "reason": e.reason, "message": e.message, "count": e.count} for e in events]
    tables = (
        _spec(f"{key}, generation {found.generation}", found.spec),
        _table("conditions", ("type", "status", "reason", "message"), status.get("conditions", ())),
        _table("faults", ("where", "value", "must"), status.get("faults", ())),
        _table("history", ("time", "outcome", "digest", "reason"), status.get("history", ())),
        _events(events),
    )
    return Outcome({"resource": to_document(found), "events": rows}, tables=tuple(table for table in tables if table.rows))


def _spec(title: str, spec: Mapping[str, Any]) -> Table:
    plain = {name: value for name, value in spec.items() if not isinstance(value, dict | list)}
    held = {name: f"{len(value)} items" for name, value in spec.items() if isinstance(value, list) and value}
    return Table(title, ("field", ""), tuple((name, str(value)) for name, value in {**plain, **held}.items()))


def _table(title: str, columns: tuple[str, ...], rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(title, columns, tuple(tuple(str(row.get(column, "")) for column in columns) for row in rows))


def _events(events: Sequence[Event]) -> Table:
    columns = ("time", "type", "reason", "message", "count")
    return Table("events", columns, tuple((e.time, e.type, e.reason, e.message, str(e.count)) for e in events))
