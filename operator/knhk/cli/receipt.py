"""`knhk receipt …`: list, show and verify receipts of a log folder, without any server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.framework import Argument, Call, Outcome, Table, command, noun
from knhk.cli.log import ROOT, VKEY, _keys, _verifier
from knhk.cli.schema import array, boolean, integer, obj, string
from knhk.wiring.home import Home

if TYPE_CHECKING:
    from collections.abc import Iterable

noun("receipt", "what was decided, and which policy events happened")

LOG = Argument("--log", help="log folder (default HOME/log)", kind=Path, metavar="DIR")
ID = Argument(
    "receipt",
    help="receipt id (32 hexadecimal digits, header knhk-receipt), or the index of an entry",
    metavar="RECEIPT",
)
ROW = obj(
    index=integer(),
    receipt=string(),
    kind=string(),
    verdict=string(),
    **{"class": string()},
    mode=string(),
    flags=array(string()),
    time=string(),
    pack=string(),
    subject=string(),
)
COLUMNS = ("index", "kind", "verdict", "class", "mode", "time", "pack", "receipt", "subject")


@command(
    ("receipt", "list"),
    summary="List the newest entries of a log",
    arguments=(
        LOG,
        Argument(
            "--kind",
            help="only this kind",
            choices=("DECISION", "PARK", "UNAVAILABLE", "REFUSED", "POLICY"),
        ),
        Argument("--verdict", help="only this verdict", choices=("ADMIT", "DENY")),
        Argument("--limit", help="at most so many (default 50)", kind=int, default=50),
    ),
    output=obj(total=integer(), receipts=array(ROW)),
    examples=(
        "knhk receipt list",
        "knhk receipt list --verdict DENY --limit 10",
        "knhk receipt list --kind POLICY -o json",
    ),
)
def list_(call: Call) -> Outcome:
    from collections import deque

    from knhk.reconcilers import receipts

    args = call.args
    kept: deque[dict[str, Any]] = deque(maxlen=max(0, args.limit))
    total = 0
    for entry in receipts.entries(_log_dir(call)):
        row = receipts.describe(entry)
        if (args.kind is None or row["kind"].split()[0] == args.kind) and args.verdict in (
            None,
            row["verdict"],
        ):
            kept.append(row)
            total += 1
    return Outcome({"total": total, "receipts": list(kept)}, tables=(_table(kept),))


@command(
    ("receipt", "show"),
    summary="Show what a receipt says, and what is kept of its observation, without payloads",
    arguments=(ID, LOG),
    output=obj(
        entries=array(ROW),
        observations=array(
            obj(
                where=string(),
                erased=boolean(),
                route=string(),
                region=string(),
                attributes=array(string()),
                body_bytes=integer(),
            )
        ),
    ),
    examples=("knhk receipt show 5f2c…", "knhk receipt show 17 --log ./log"),
)
def show(call: Call) -> Outcome:
    from knhk.reconcilers import receipts

    folder = _log_dir(call)
    found = receipts.of_receipt(folder, call.args.receipt)
    rows = [receipts.describe(entry) for entry in found]
    records = {where: record for entry in found if entry.is_leaf for where, record in receipts.records_of(folder, entry)}
    return Outcome(
        {
            "entries": rows,
            "observations": [dict(receipts.observed(record, where)) for where, record in records.items()],
        }
    )


@command(
    ("receipt", "verify"),
    summary="Prove that a receipt is in the log: inclusion, checkpoint signature, hashes of what is kept",
    arguments=(ID, LOG, VKEY, ROOT),
    output=obj(
        receipt=string(),
        entries=array(
            obj(
                index=integer(),
                kind=string(),
                verdict=string(),
                size=integer(),
                root=string(),
                kept=integer(),
            )
        ),
    ),
    examples=(
        "knhk receipt verify 5f2c…",
        "knhk receipt verify 5f2c… --log ./log --vkey 'knhk.dev/local+0123abcd+AQ…'",
    ),
    detail="Exit 0 means that it verifies. `kept`: records of this leaf whose O and A hash to what it says; 0 after erasure elsewhere.",
)
def verify(call: Call) -> Outcome:
    from knhk.reconcilers import receipts

    folder = _log_dir(call)
    verifier = _verifier(call, folder)
    rows = []
    for entry in receipts.of_receipt(folder, call.args.receipt):
        covered = receipts.verify(folder, entry, verifier, None if entry.is_leaf else _keys(call, folder))
        kept = len(receipts.records_of(folder, entry)) if entry.is_leaf else 0
        told = receipts.describe(entry)
        row = {
            "index": entry.index,
            "kind": told["kind"],
            "verdict": told["verdict"],
            "size": covered.size,
            "root": covered.root.hex(),
        }
        rows.append(row | {"kept": kept})
    return Outcome({"receipt": call.args.receipt, "entries": rows})


def _log_dir(call: Call) -> Path:
    return call.args.log or Home(call.home).log


def _table(rows: Iterable[dict[str, Any]]) -> Table:
    return Table(
        "",
        COLUMNS,
        tuple(tuple(str(row[column])[:24] if column == "pack" else str(row[column]) for column in COLUMNS) for row in rows),
    )
