"""`knhk receipt lineage`: everything that happened about one person or business key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.arguments import KUBECONFIG, pointer, text
from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, Usage, command
from knhk.cli.key_place import KEY_SERVICE, key_place
from knhk.cli.log import AT, KEYS, PLACE, ROOT, STEPS, steps_table
from knhk.cli.schema import array, obj, string
from knhk.wiring.home import Home

if TYPE_CHECKING:
    from argparse import Namespace
    from contextlib import AbstractContextManager

    from knhk.wiring.exporting_cluster import Exporter
    from knhk.wiring.lineage import Asked, Exported, Found

NAMESPACE = Argument(
    "--namespace", "-n", help="whose key makes tags of names (default: default); with --kubeconfig where receipts are (any)", metavar="NS"
)
TAG = Argument("--tag", help="SUBJECT is a tag (64 hexadecimal digits) and no name", flag=True)
POINTER = Argument(
    "--pointer", help="the name may stand at this place of a JSON body, too (RFC 6901)", kind=pointer, repeat=True, metavar="/A/B"
)
ARCHIVE = Argument("--archive", help="read records of this archive (formats/delta.md), not the outboxes beside the log", metavar="PLACE")
ACCOUNT = Argument("--account", help="with --kubeconfig: ServiceAccount of NS that exports (default knhk-exporter)", metavar="NAME")
BESIDE = (
    Argument("--erasures", help="with --key-service: https://HOST:PORT beside the log, in place of a log at hand", metavar="URL"),
    Argument("--erasures-token", help="with --erasures: token of audience erasures.knhk.dev", kind=Path, metavar="FILE"),
)
NAMED = "a subject is named as attributes hold it, or with --pointer as a body does; a decision by its receipt id"
AT_HAND = ("log", "archive")
COLUMNS = ("entry", "time", "what", "of", "approved by", "consents then", "record", "verified")


@command(
    ("receipt", "lineage"),
    summary="All that happened about one person, business key or receipt, in the order of the log",
    arguments=(
        Argument("subject", help="a name as attributes hold it, a tag with --tag, or a receipt id", kind=text, metavar="SUBJECT|RECEIPT"),
        NAMESPACE,
        TAG,
        POINTER,
        PLACE,
        ARCHIVE,
        Argument("--verify", help="hold every row against signatures, proofs and kept records", flag=True),
        ROOT,
        KEYS,
        AT,
        *KEY_SERVICE,
        KUBECONFIG,
        ACCOUNT,
        *BESIDE,
    ),
    output=obj(rows=array({"type": "object"}), verified={"type": ["boolean", "null"]}, missing=array(string()), steps=STEPS),
    examples=(
        "knhk receipt lineage c-117 -n ats",
        "knhk receipt lineage c-117 -n ats --verify -o json",
        "knhk receipt lineage INV-2026-17 --pointer /invoice/number --archive ./delta",
        "knhk receipt lineage 5f2c…",
        "knhk receipt lineage c-117 -n ats --kubeconfig risk.conf",
        "knhk receipt lineage 5f2c… -n erp --kubeconfig risk.conf",
    ),
    detail="Decisions with pack, data, who approved the pack, when it went live and which consents held then; consents and their\n"
    "withdrawals; erasures, legal holds and exports. Each row is an entry of the log: `knhk receipt verify ENTRY` verifies one alone.\n"
    "With --kubeconfig a receipt wants the right to read receipts alone: its `record` is `unread` then; with --account it is a name.\n"
    "`missing`: which rows cannot be here for want of a key, and why; they are told on standard error, too.",
    exits={FAULTS: "something does not verify: `steps` say what and where; or rows are `missing`"},
)
def lineage(call: Call) -> Outcome:
    from knhk.wiring import evidence
    from knhk.wiring import lineage as wiring

    args, home = call.args, Home(call.home)
    exporting, asked = exporter(call, args.namespace or "default"), asked_of(call, args.subject)
    if exporting is None:
        found, folder, keys_json = wiring.find(asked, home), evidence.folder(asked.log), None
    else:
        found, keys_json = _on_cluster(args, asked, exporting)
        folder = None
    steps = []
    if args.verify:
        steps = wiring.verified(found, evidence.trust(home, args.root, args.keys, args.at, folder, keys_json))
    good = all(step.ok for step in steps)
    verified = good if args.verify else None
    data = {
        "rows": list(found.rows),
        "verified": verified,
        "missing": list(found.missing),
        "steps": [step._asdict() for step in steps],
    }
    table = Table("", COLUMNS, tuple(_cells(row) for row in found.rows))
    bad = [step for step in steps if not step.ok]
    whole = good and not found.missing
    notes = found.missing if found.rows or found.missing else (f"{args.subject}: nothing was found about it: {NAMED}",)
    return Outcome(data, OK if whole else FAULTS, (table, *([steps_table(bad)] if bad else [])), notes=notes)


def _on_cluster(args: Namespace, asked: Asked, exporting: AbstractContextManager[Exporter]) -> tuple[Found, bytes | None]:
    """A receipt by its API, else what is about a name or a tag; with keys.json where it came along."""
    from knhk.model.faults import NotFound, Stalled, Waiting
    from knhk.wiring import lineage_served
    from knhk.wiring.exporting_cluster import Subject

    as_receipt = asked.is_receipt and args.kubeconfig is not None and args.account is None
    if as_receipt and (found := lineage_served.of_receipt(args.kubeconfig, args.namespace, asked.subject)) is not None:
        return found, None
    try:
        with exporting as there:
            found, _, begun = there.find(Subject(asked.subject, asked.is_tag, asked.pointers))
    except (NotFound, Stalled, Waiting) as error:
        if not as_receipt:
            raise
        told = f"no receipt {asked.subject} in the cluster's log, and as a name: {error}"
        if isinstance(error, Waiting):
            raise Waiting(error.reason, told, error.retry_after_s) from error
        raise (Stalled(error.reason, told) if isinstance(error, Stalled) else NotFound(told)) from error
    return found, begun.keys_json


def asked_of(call: Call, subject: str) -> Asked:
    """Raises Usage."""
    import re

    from knhk.wiring.lineage import Asked

    args = call.args
    if args.tag and not re.fullmatch("[0-9a-f]{64}", subject):
        raise Usage("must be 64 hexadecimal digits with --tag", "subject")
    namespace, log = args.namespace or "default", args.log or str(Home(call.home).log)
    return Asked(subject, namespace, args.tag, tuple(args.pointer), log, args.archive, key_place(call, namespace))


def exporter(call: Call, namespace: str | None) -> AbstractContextManager[Exporter] | None:
    """Of a namespace of a cluster; None where a log is at hand. Raises Usage."""
    args = call.args
    if args.kubeconfig is None and args.erasures is None:
        if lost := next((name for name in ("account", "erasures_token") if getattr(args, name)), None):
            raise Usage("must come with --kubeconfig or --erasures", f"--{lost.replace('_', '-')}")
        return None
    from knhk.adapters.token_client import Whom
    from knhk.wiring.exporting_cluster import exporting_in, exporting_there

    if lost := next((name for name in AT_HAND if getattr(args, name, None)), None):
        raise Usage("must not be given where a cluster is asked: its own log and archive are read", f"--{lost}")
    if args.kubeconfig is not None:
        if args.erasures is not None or args.key_service is not None:
            raise Usage("must come without --key-service and --erasures", "--kubeconfig")
        if not namespace:
            raise Usage("must be given with --kubeconfig", "--namespace")
        return exporting_in(args.kubeconfig, namespace, args.account or "knhk-exporter")
    place = key_place(call, namespace)
    if place is None or args.erasures_token is None:
        raise Usage("must come with --key-service and --erasures-token", "--erasures")
    return exporting_there(place, Whom(args.erasures, args.erasures_token, place.authority))


def export_subject(call: Call) -> Outcome:
    """`knhk receipt export --subject`."""
    from knhk.wiring import evidence
    from knhk.wiring import lineage as wiring
    from knhk.wiring.home import local_user

    args, home = call.args, Home(call.home)
    out: Path = args.out
    asked = asked_of(call, args.subject)
    if (exporting := exporter(call, args.namespace)) is not None:
        from knhk.wiring.exporting_cluster import Subject

        wiring.demand_new(out)
        with exporting as there:
            return _exported(there.export(Subject(asked.subject, asked.is_tag, asked.pointers), out, args.reason))
    made = wiring.export(asked, home, evidence.trust(home, None, None, None, evidence.folder(asked.log)), out, args.reason, local_user())
    return _exported(made)


def _exported(made: Exported) -> Outcome:
    data = {"out": str(made.folder), "written": made.rows, "records": made.records, "unreadable": made.unreadable, "receipt": made.receipt}
    return Outcome({**data, "missing": list(made.missing)}, FAULTS if made.missing else OK, notes=made.missing)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    verified = {True: "ok", False: "BAD"}.get(row.get("verified"), "")  # type: ignore[arg-type]
    if row["what"] != "decision":
        of = row["evidence"].get("purpose", row["subject"])
        return (str(row["index"]), row["time"], row["kind"], of, row["actor"], "", "", verified)
    pack = row["pack"]["name"] if row["pack"] else ""
    approvers = ", ".join(sorted({one["approver"] for one in row["approvals"]}))
    held = ", ".join(f"{one['purpose']}: {one['state']}" for one in row["consents"])
    what = f"{row['verdict'] or row['kind']} {row['mode'].lower()}"
    return (str(row["index"]), row["time"][:19] + "Z", what, pack, approvers, held, row["record"], verified)
