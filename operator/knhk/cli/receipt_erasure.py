"""`knhk receipt erase`, `hold`, `release`, `retain`, `reapply`: what is recorded about people ends, or must not (docs/privacy.md)."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.arguments import KUBECONFIG, text
from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, Usage, command
from knhk.cli.key_place import KEY_NAMESPACE, KEY_SERVICE, key_place
from knhk.cli.schema import array, boolean, integer, obj, string
from knhk.model.subjects import SAID
from knhk.wiring.home import Home

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from knhk.reconcilers.erasing import Eraser, Told

TEXT = "the text that the point's rule finds, such as an e-mail address; - reads it from standard input"
NOTHING = "nothing is recorded of this subject: is it written as the rule of the point's spec.privacy finds it?"
SUBJECT = Argument("subject", help=TEXT, kind=text, metavar="SUBJECT")
ARCHIVE = Argument("--archive", help="archive of the Δ log, whose rows are rewritten too: a folder, or s3://BUCKET/PREFIX", metavar="PLACE")
DRY = Argument("--dry-run", help="say what would be erased, change nothing", flag=True)
CLUSTER = (
    KUBECONFIG,
    Argument("--namespace", "-n", help="with --kubeconfig: whose records are meant", metavar="NS"),
    Argument("--account", help="with --kubeconfig: ServiceAccount of NS that erases (default knhk-eraser)", metavar="NAME"),
)
BESIDE = (
    Argument("--erasures", help="with --key-service: https://HOST:PORT beside the log, in place of a home's log", metavar="URL"),
    Argument("--erasures-token", help="with --erasures: token of audience erasures.knhk.dev", kind=Path, metavar="FILE"),
)
AT_SERVICE = (*CLUSTER, *KEY_SERVICE, KEY_NAMESPACE, *BESIDE)
ERASURE = obj(
    erasure=string(),
    state=string("", "dry", "queued", "done"),
    subject=string(),
    basis=string(),
    leaves=integer(),
    targets=array(array(integer())),
    keys=integer(),
    holds=array(string()),
    records=integer(),
    rows=integer(),
    entries=array(integer()),
    unsearched=array(string()),
)
HOLD = obj(hold=string(), subject=string(), reference=string(), standing=boolean())
COLUMNS = ("erasure", "state", "basis", "leaves", "keys", "records", "rows", "holds", "entries")


@command(
    ("receipt", "erase"),
    summary="Erase what is recorded about a subject, and tell the log: keys first, then copies",
    arguments=(
        Argument("subject", help=TEXT, kind=text, metavar="SUBJECT", optional=True),
        Argument("--basis", help="why, such as 'GDPR 17(1)(b)'; stands in the log for ever: never a name", metavar="TEXT"),
        ARCHIVE,
        *AT_SERVICE,
        DRY,
        Argument("--resume", help="no subject: end what an earlier run began", flag=True),
    ),
    output=obj(erasures=array(ERASURE)),
    examples=(
        "knhk receipt erase anna@example.com --basis 'GDPR 17(1)(b)' --dry-run",
        "knhk receipt erase - --basis 'GDPR 17(1)(a)' --archive ./delta",
        "knhk receipt erase --resume",
        "knhk receipt erase - --basis 'GDPR 17(1)(b)' -n erp --kubeconfig risk.conf",
    ),
    detail="The home must be up; with --kubeconfig a namespace of a cluster is meant, with its archive. Keys of the subject are\n"
    "destroyed, so every copy is unreadable; then records in outboxes and rows of the archive lose salt, O and A; then a signed event\n"
    "says which leaves, whose hashes stay as they are. Killed anywhere it is ended by the next run. While a legal hold stands it waits\n"
    "(`queued`) for its release. Nothing is said of copies that this home, or cluster, does not know. `unsearched`: points whose records\n"
    "lie in clear and that have no spec.privacy: nothing says whose those are, and none of them is erased.",
    exits={FAULTS: "it waits for the release of a hold, or points are `unsearched`: what those keep of the subject is still there"},
)
def erase(call: Call) -> Outcome:
    args = call.args
    if args.resume:
        if args.subject is not None or args.dry_run:
            raise Usage("must come alone, or with --archive", "--resume")
        with _eraser(call, args.archive) as eraser:
            return _told(eraser.resume())
    if args.basis is None:
        raise Usage("must be given", "--basis")
    subject, basis = _subject(args.subject), _said(args.basis, "--basis")
    with _eraser(call, args.archive) as eraser:
        told = eraser.erase(subject, basis, dry=args.dry_run)
    outcome = _told([told])
    if told.state in ("", "dry") and not (told.plan.targets or told.plan.keys or told.unsearched):
        return replace(outcome, notes=(NOTHING,))
    return outcome


@command(
    ("receipt", "retain"),
    summary="Erase what is older than the retention of its point, unless it is held",
    arguments=(ARCHIVE, *AT_SERVICE, DRY),
    output=obj(erasures=array(ERASURE)),
    examples=("knhk receipt retain --dry-run", "knhk receipt retain --archive ./delta"),
    detail="spec.privacy.retentionDays of each EnforcementPoint of this home, which must be up, or with --kubeconfig of a namespace.\n"
    "From a timer, once a day.",
)
def retain(call: Call) -> Outcome:
    with _eraser(call, call.args.archive) as eraser:
        return _told(eraser.retain(dry=call.args.dry_run))


@command(
    ("receipt", "hold"),
    summary="Place a legal hold: what is recorded about a subject is not erased until its release",
    arguments=(
        SUBJECT,
        Argument("--reference", help="case or file; stands in the log for ever: never a name", required=True, metavar="TEXT"),
        *AT_SERVICE,
    ),
    output=HOLD,
    examples=("knhk receipt hold anna@example.com --reference 'case 2026/117'",),
    detail="The home must be up, or give --kubeconfig. Repeated with the same reference it changes nothing.",
)
def hold(call: Call) -> Outcome:
    subject, reference = _subject(call.args.subject), _said(call.args.reference, "--reference")
    with _eraser(call, None) as eraser:
        made = eraser.hold(subject, reference)
    return Outcome({"hold": made.id, "subject": made.tag.hex(), "reference": made.reference, "standing": made.standing})


@command(
    ("receipt", "release"),
    summary="End a legal hold, and carry out the erasures that waited for it",
    arguments=(Argument("hold", help="its id, as `knhk receipt hold` said it", metavar="HOLD"), ARCHIVE, *AT_SERVICE),
    output=obj(hold=HOLD, erasures=array(ERASURE)),
    examples=("knhk receipt release 5f2c… --archive ./delta",),
    detail="The hold is over also when an erasure then fails: `knhk receipt erase --resume` goes on with those.",
)
def release(call: Call) -> Outcome:
    from knhk.model.faults import NotFound

    with _eraser(call, call.args.archive) as eraser:
        found = eraser.release(call.args.hold)
    if found is None:
        raise NotFound(f"{call.args.hold}: there is no such hold in this home")
    ended, told = found
    said = {"hold": ended.id, "subject": ended.tag.hex(), "reference": ended.reference, "standing": ended.standing}
    outcome = _told(told)
    return Outcome({"hold": said, **outcome.data}, outcome.exit, outcome.tables)


@command(
    ("receipt", "reapply"),
    summary="After a restore from a backup: erase again all that the log says was erased, and restore holds and what waits for them",
    arguments=(ARCHIVE, *AT_SERVICE),
    output=obj(events=integer(), keys=integer(), records=integer(), rows=integer(), holds=integer(), queued=integer()),
    examples=("knhk receipt reapply --archive ./delta",),
    detail="Walks the events Erased, ErasureQueued, Held and HoldReleased of the log, their signatures verified. Repeated it finds\n"
    "nothing to do. Run it before `knhk receipt erase`, and for each archive. `knhk restore` does it by itself.",
)
def reapply(call: Call) -> Outcome:
    from dataclasses import asdict

    with _eraser(call, call.args.archive) as eraser:
        data = asdict(eraser.reapply())
    return Outcome(data, tables=(Table("", tuple(data), (tuple(map(str, data.values())),)),))


def _eraser(call: Call, archive: str | None) -> AbstractContextManager[Eraser]:
    """Of the home, or of a namespace of a cluster. Raises Usage."""
    args = call.args
    if args.kubeconfig is None and (lost := next((name for name in ("namespace", "account") if getattr(args, name)), None)):
        raise Usage("must come with --kubeconfig: a home is meant as a whole, a key service by --key-namespace", f"--{lost}")
    if args.kubeconfig is None and args.erasures is None:
        from knhk.wiring.erasing import erasing

        return erasing(Home(call.home), archive, key_place(call, args.key_namespace))
    from knhk.adapters.token_client import Whom
    from knhk.wiring.erasing_cluster import erasing_in, erasing_there

    if archive is not None:
        raise Usage("must not be given where a cluster's own archive is rewritten", "--archive")
    if args.kubeconfig is not None:
        if args.erasures is not None or args.key_service is not None:
            raise Usage("must come without --key-service and --erasures", "--kubeconfig")
        if not args.namespace:
            raise Usage("must be given with --kubeconfig", "--namespace")
        return erasing_in(args.kubeconfig, args.namespace, args.account or "knhk-eraser", call.say)
    place = key_place(call, args.key_namespace)
    if place is None or args.erasures_token is None:
        raise Usage("must come with --key-service and --erasures-token", "--erasures")
    return erasing_there(place, Whom(args.erasures, args.erasures_token, place.authority), call.say)


def _subject(given: str | None) -> str:
    if given is None:
        raise Usage("must be given", "SUBJECT")
    name = _line() if given == "-" else given
    if not name:
        raise Usage("must not be empty", "SUBJECT")
    return name


def _line() -> str:
    """The first line of standard input."""
    try:
        return sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise Usage("must be UTF-8 on standard input", "SUBJECT") from error


def _said(text: str, where: str) -> str:
    """What stands in the log for ever."""
    if not re.fullmatch(SAID, text):
        raise Usage("must be at most 128 letters, digits, blanks and . , ( ) / : _ -, and never a name", where)
    return text


def _told(told: Sequence[Told]) -> Outcome:
    rows = [_row(each) for each in told]
    shown = tuple(
        tuple(" ".join(map(str, row[name])) if isinstance(row[name], list) else str(row[name]) for name in COLUMNS) for row in rows
    )
    unsearched = sorted({point for row in rows for point in row["unsearched"]})
    notes = tuple(
        f"{point}: has records in clear and no spec.privacy, so no name was looked for there: declare whose they are, then erase again"
        for point in unsearched
    )
    whole = not unsearched and all(row["state"] != "queued" for row in rows)
    return Outcome({"erasures": rows}, OK if whole else FAULTS, (Table("", COLUMNS, shown),), notes=notes)


def _row(told: Told) -> dict[str, Any]:
    plan = told.plan
    return {
        "erasure": told.erasure,
        "state": told.state,
        "subject": plan.subject,
        "basis": plan.basis,
        "leaves": plan.leaves,
        "targets": [list(each) for each in plan.targets],
        "keys": len(plan.keys),
        "holds": list(plan.holds),
        "records": told.records,
        "rows": told.rows,
        "entries": list(plan.entries),
        "unsearched": list(told.unsearched),
    }
