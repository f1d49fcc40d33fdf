"""`knhk keys …`: which keys the root vouches for, and new ones in their place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from knhk.cli.framework import Argument, Call, Outcome, Table, command, noun
from knhk.cli.schema import array, integer, nullable, obj, string

if TYPE_CHECKING:
    from knhk_verify.signed import Key

noun("keys", "Role keys: which are vouched for, and new ones in their place")

FOLDER = Argument("--folder", help="folder of `knhk cluster keys` (default: the home's keys)", kind=Path, metavar="DIR")
TIME = "%Y-%m-%dT%H:%M:%SZ"
ROW = obj(role=string(), keyid=string(), state=string("signs", "verifies", "ended"), until=nullable(string()))


@command(
    ("keys", "show"),
    summary="Show what keys.json names: role, key, and until when each may sign",
    arguments=(FOLDER,),
    output=obj(serial=integer(), expires=string(), root=string(), keys=array(ROW)),
    examples=("knhk keys show", "knhk keys show --folder ./keys"),
    detail="States: signs, the key of its role; verifies, replaced and still within its overlap; ended, good for what it signed before.",
)
def show(call: Call) -> Outcome:
    from knhk.adapters.signer_roles import read_root_pub
    from knhk.wiring import packs
    from knhk_verify.signed import keyid

    folder, now = _folder(call), datetime.now(UTC)
    named = packs.keys(folder)
    rows = [_row(role, id_, key, now) for role, keys in named.roles.items() for id_, key in keys.items()]
    root = keyid(read_root_pub(folder / "root.pub"))
    data = {"serial": named.serial, "expires": f"{named.expires:{TIME}}", "root": root, "keys": rows}
    told = tuple((row["role"] or "", (row["keyid"] or "")[:16], row["state"] or "", row["until"] or "") for row in rows)
    return Outcome(data, tables=(Table(f"serial {named.serial}, expires {data['expires']}", ("role", "keyid", "state", "until"), told),))


@command(
    ("keys", "rotate"),
    summary="Put a new key in place of a role's, vouched for by the root",
    arguments=(
        Argument("role", help="whose key: build, rollout, data or log", choices=("build", "rollout", "data", "log")),
        FOLDER,
        Argument("--overlap-hours", help="so long what the old key signs counts, too (default 0)", kind=int, default=0, metavar="N"),
        Argument("--checkpoint", help="of the log, by its key of now: to turn that again with --folder", kind=Path, metavar="FILE"),
        Argument("--dry-run", help="look whether it can be done, change nothing", flag=True),
    ),
    output=obj(
        role=string(),
        old=string(),
        new=nullable(string()),
        until=string(),
        serial=integer(),
        receipt=nullable(integer()),
        waits=nullable(string()),
    ),
    examples=("knhk keys rotate rollout --dry-run", "knhk keys rotate build --folder ./keys --overlap-hours 24"),
    detail="Needs root.key, or a token that holds the root. In a home, which must run, it leaves a receipt, KeyRotated, signed with the\n"
    "rollout key from before. For a cluster: give --folder, and an overlap in which the new Secrets reach all processes; then run\n"
    "`knhk cluster keys` and apply them. Its receipt waits in the folder (rotated.json) and comes with them: the operator that leads\n"
    "brings it into the log. A log signs with both keys in the overlap, once it has been started again: a home that runs does that\n"
    "within a minute. Its key turns again only after that, for it knows the last two: with --folder a checkpoint by the newer one\n"
    "shows it (--checkpoint: that of any receipt of now). Tell its witnesses the new key in the overlap;\n"
    "proofs by the old key alone must be fetched anew afterwards.",
)
def rotate(call: Call) -> Outcome:
    from knhk.adapters import signer_roles
    from knhk.adapters.keys_ahead import demand_no_turns
    from knhk.adapters.log_sequencer import SequencerLog
    from knhk.adapters.rotation_receipts import FILE
    from knhk.model.faults import Fault, Refused
    from knhk.wiring import packs
    from knhk.wiring.embedded import signer_of
    from knhk.wiring.home import Home, local_user
    from knhk.wiring.rotating import demand_used, rotated, rotated_apart
    from knhk.wiring.signing import keys_in, signer_in

    args, folder, home = call.args, _folder(call), Home(call.home)
    if args.overlap_hours < 0:
        raise Refused([Fault("--overlap-hours", str(args.overlap_hours), "must be 0 or more")])
    if args.role == "log" and not args.overlap_hours:
        raise Refused(
            [Fault("--overlap-hours", "0", "must be 1 or more for a log: those who know it by its old key must learn the new one")]
        )
    demand_no_turns(folder, "they do so daily")
    named, keys, signer = packs.keys(folder), keys_in(folder), signer_in(folder)
    signer_roles.root_key(folder, keys)
    log = None if args.folder else SequencerLog(home.sequencer_socket)
    if log is not None:
        log.checkpoint()  # no key changes where no receipt can be left
    elif args.role == "log":
        demand_used(folder, args.checkpoint)
    now, overlap = datetime.now(UTC), timedelta(hours=args.overlap_hours)
    until = f"{now + overlap:{TIME}}"
    data: dict[str, object] = {"role": args.role, "old": signer.keyid(args.role), "new": None, "until": until, "serial": named.serial + 1}
    data |= {"receipt": None, "waits": None}
    if args.dry_run:
        return Outcome(data)
    if log is None:
        made = rotated_apart(folder, args.role, now, overlap, local_user())
        data["waits"] = str(folder / FILE)
    else:
        made, data["receipt"] = rotated(folder, args.role, now, overlap, local_user(), log)
        signer_of(home)
    return Outcome(data | {"old": made.old, "new": made.new})


@command(
    ("keys", "trust"),
    summary="Pin a sigstore's trusted root, vouched for by the root",
    arguments=(Argument("file", help="trusted_root.json of the sigstore", kind=Path, metavar="FILE"), FOLDER),
    output=obj(
        digest=string(),
        serial=integer(),
        keys=array(obj(role=string(), keyid=string(), file=string())),
        receipt=nullable(integer()),
        waits=nullable(string()),
    ),
    examples=("knhk keys trust trusted_root.json", "knhk keys trust trusted_root.json --folder ./keys"),
    detail="Needs root.key, or a token that holds the root. keys.json names the file's digest from then on, and a P-256 key of each role\n"
    "that signs for sigstore; another trusted root, an older one too, is refused until this is said again. The public keys are\n"
    "written beside as PEM, ROLE.sigstore.pub, for cosign. sigstore.json (formats/signed.md) says which servers are asked.\n"
    "A home must run, for it leaves a receipt in its log, TrustedRootPinned. With --folder that waits in the folder (rotated.json), as\n"
    "one of a rotation does: the operator that leads brings it into the log, when `knhk cluster keys` has made Secrets with it.",
)
def trust(call: Call) -> Outcome:
    from knhk.adapters import signer_roles
    from knhk.adapters.keys_ahead import demand_no_turns
    from knhk.adapters.log_sequencer import SequencerLog
    from knhk.adapters.rotation_receipts import FILE
    from knhk.adapters.sigstore_root import parse_trusted_root
    from knhk.model.faults import Fault, Refused
    from knhk.wiring import packs
    from knhk.wiring.embedded import signer_of
    from knhk.wiring.home import Home, local_user
    from knhk.wiring.rotating import pinned, pinned_apart
    from knhk_verify.errors import Bad
    from knhk_verify.signed import keyid

    folder = _folder(call)
    demand_no_turns(folder, "a trusted root is pinned before turns are made")
    try:
        data = call.args.file.read_bytes()
        digest = parse_trusted_root(data, str(call.args.file)).digest
    except OSError as error:
        raise Refused([Fault("FILE", str(call.args.file), f"must be a trusted root: {error.strerror}")]) from error
    except Bad as error:
        raise Refused([Fault("FILE", error.where, error.what)]) from error
    receipt, waits, home, now = None, False, Home(call.home), datetime.now(UTC)
    if call.args.folder is None:
        receipt = pinned(folder, data, now, local_user(), SequencerLog(home.sequencer_socket))
        signer_of(home)
    else:
        waits = pinned_apart(folder, data, now, local_user())
    named = signer_roles.outside_of(folder)
    rows = []
    for role, (key, *_) in named.keys.items():
        path = folder / f"{role}{signer_roles.OUTSIDE}.pub"
        path.write_bytes(signer_roles.pem_of(key.public))
        rows.append({"role": role, "keyid": keyid(key.public), "file": str(path)})
    told = {"receipt": receipt, "waits": str(folder / FILE) if waits else None}
    return Outcome({"digest": digest, "serial": packs.keys(folder).serial, "keys": rows, **told})


def _folder(call: Call) -> Path:
    from knhk.wiring.home import Home

    return call.args.folder or Home(call.home).keys


def _row(role: str, id_: str, key: Key, now: datetime) -> dict[str, str | None]:
    state = "signs" if key.until is None else "verifies" if now <= key.until else "ended"
    return {"role": role, "keyid": id_, "state": state, "until": None if key.until is None else f"{key.until:{TIME}}"}
