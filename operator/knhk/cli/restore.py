"""`knhk restore`: a lost control plane, made anew from Git, registry and log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, Usage, command
from knhk.cli.log import TLS
from knhk.cli.schema import array, boolean, integer, mapping, nullable, obj, string
from knhk.wiring.home import Home

if TYPE_CHECKING:
    from knhk.wiring.restore import Done, Left, Plan

PLACE = obj(
    place=string(),
    state=string("would", "reapplied", "unreached"),
    why=string(),
    keys=integer(),
    records=integer(),
    rows=integer(),
    holds=integer(),
    queued=integer(),
)
ROLLING = obj(version=string(), digest=string(), stage=string(), arm=string(), step=integer(), weight=integer(), index=integer())


@command(
    "restore",
    summary="Make a lost control plane anew from Git, registry and log: same digests, flags, deny lists and epochs",
    arguments=(
        Argument("--git", help="checkout or bare repository that has the resources", kind=Path, required=True, metavar="DIR"),
        Argument("--commit", help="the merged commit: branch, tag or id (default HEAD)", default="HEAD", metavar="REV"),
        Argument("--path", help="only what lies there in the repository (default: all)", repeat=True, metavar="PATH"),
        Argument("--file", "-f", help="resources that are in no commit, such as PolicyRepositories", kind=Path, repeat=True),
        Argument("--log", help="log folder, s3://BUCKET/PREFIX, or the URL of a log (default HOME/log)", metavar="PLACE"),
        Argument("--registry", help="registry folder (default HOME/registry)", kind=Path, metavar="DIR"),
        Argument("--pull", help="registry to get from what the folder has not: https://HOST[:PORT][/REPOSITORY]", metavar="URL"),
        Argument("--pull-auth", help="docker config.json with credentials for it", kind=Path, metavar="FILE"),
        Argument("--keys", help="folder of keys, as it was kept (default HOME/keys)", kind=Path, metavar="DIR"),
        Argument("--root", help="pinned root key: base64, or a root.pub file (default: root.pub of the keys)"),
        Argument("--guard", help="folder of a guard that runs on: the log must not be behind it", kind=Path, repeat=True, metavar="DIR"),
        Argument("--checkpoint", help="checkpoint that somebody kept: the log must be a later one", kind=Path, repeat=True, metavar="FILE"),
        Argument(
            "--subjects",
            help="key store from a backup, or folder of a key service, whose key is among --keys (default HOME/subjects)",
            kind=Path,
            metavar="DIR",
        ),
        Argument("--archive", help="archive of the log: a folder, or s3://BUCKET/PREFIX; all of them", repeat=True, metavar="PLACE"),
        Argument("--allow-missing", help="leave away what the log knows in force and nothing at hand says", flag=True),
        Argument("--kubeconfig", help="make it in this cluster, whose operator must not run", kind=Path, metavar="FILE"),
        Argument("--out", help="write it as manifests instead (new folder)", kind=Path, metavar="DIR"),
        Argument("--dry-run", help="verify everything and print what would be made", flag=True),
        *TLS,
    ),
    output=obj(
        origin=string(),
        entries=integer(),
        root=string(),
        commit=string(),
        held=integer(),
        epoch=nullable(integer()),
        packs=mapping(
            obj(
                live=nullable(obj(version=string(), digest=string(), points=array(string()), entry=integer())),
                rolling=nullable(ROLLING),
                denied=mapping(string()),
            )
        ),
        flags=mapping(integer()),
        data=mapping(string()),
        images=array(string()),
        notes=array(string()),
        made=array(string()),
        there=array(string()),
        receipts=integer(),
        erased=obj(events=integer(), keys=integer(), leaves=integer(), places=array(PLACE)),
        consents=array(obj(namespace=string(), consent=string(), subject=string(), purpose=string(), index=integer())),
        dry_run=boolean(),
    ),
    examples=(
        "knhk restore --git policies --commit main --dry-run",
        "knhk restore --git policies --log mirror --registry registry --keys /mnt/keys --guard /srv/point",
        "knhk restore --git policies --log https://log.example.com --pull https://registry.example.com/knhk --keys keys --out manifests",
    ),
    detail="Everything that the log says is verified under the root first: its checkpoint, every entry, every event's signature; an\n"
    "altered one is refused with its place. A log behind what a --guard has seen, or another than a --checkpoint is of, is refused.\n"
    "Images that guards run must be in the registry, whole and signed. Nothing is brought before all of it is good; a second run\n"
    "changes nothing. Afterwards `knhk up`: each pack leaves the receipt `Restored`. Lost role keys are made anew where root.key is.\n"
    "What the log says was erased is erased again, in the key store, beside the log and in each --archive; exit status 1 when one of\n"
    "them cannot be reached, which is told, and run again. Consents that only the log has are told by tag.",
)
def restore(call: Call) -> Outcome:
    from knhk.wiring import restore as wiring

    args, home = call.args, Home(call.home)
    if args.kubeconfig and args.out:
        raise Usage("must not come with --kubeconfig", "--out")
    left, elsewhere = _left(call, home), bool(args.kubeconfig or args.out)
    if args.dry_run:
        left = left if elsewhere else wiring.at_home(left, home)
        done = wiring.Done(wiring.planned(left, elsewhere, call.say))
        done.reached = wiring.erased_again(left, done.plan, None if elsewhere else home, dry=True)
        return _told(done, dry=True)
    if elsewhere:
        from knhk.wiring import restore_cluster

        make = restore_cluster.applied if args.kubeconfig else restore_cluster.written
        return _told(make(args.kubeconfig or args.out, left, call.say))
    return _told(wiring.restore_home(home, left, call.say))


def _left(call: Call, home: Home) -> Left:
    from knhk.wiring.restore import Left

    args = call.args
    return Left(
        git=args.git,
        revision=args.commit,
        paths=tuple(args.path or ()),
        files=tuple(args.file or ()),
        log=args.log or str(home.log),
        registry=args.registry or home.registry,
        keys=args.keys or home.keys,
        root=args.root,
        pull=args.pull,
        pull_auth=args.pull_auth,
        guards=tuple(args.guard or ()),
        checkpoints=tuple(args.checkpoint or ()),
        ca_file=args.ca_file,
        certificate=args.certificate,
        allow_missing=args.allow_missing,
        subjects=args.subjects,
        archives=tuple(args.archive or ()),
    )


def _told(done: Done, *, dry: bool = False) -> Outcome:
    from knhk.model.ranges import count
    from knhk.reconcilers.erasing import erased_by
    from knhk.wiring.reapplying import UNREACHED, told

    plan, seen = done.plan, done.plan.verified
    packs = {name: _pack(plan, name) for name in sorted(plan.told.packs)}
    erased = erased_by(event for _, _, event in seen.events)
    places = [told(each) for each in done.reached]
    data = {
        "origin": seen.origin,
        "entries": seen.size,
        "root": seen.root.hex(),
        "commit": plan.commit,
        "held": plan.held,
        "epoch": plan.epoch if plan.epoch >= 0 else None,
        "packs": packs,
        "flags": {name: index for name, (index, _) in sorted(plan.told.flags.items())},
        "data": {name: row["digest"] for name, row in sorted(plan.told.data.items())},
        "images": list(plan.images),
        "notes": list(plan.notes),
        "made": done.made,
        "there": done.there,
        "receipts": done.receipts,
        "erased": {"events": erased.events, "keys": len(erased.keys), "leaves": count(erased.targets), "places": places},
        "consents": list(plan.consents),
        "dry_run": dry,
    }
    objects = [(str(each.key), "would be made") for each in plan.resources] if dry else [(key, "made") for key in done.made]
    rows = tuple((name, *_row(pack)) for name, pack in packs.items())
    tables = [
        Table("packs", ("pack", "live", "at", "rolling", "denied"), rows),
        Table("objects", ("object", ""), (*objects, *((key, "there") for key in done.there))),
    ]
    tables += [Table("notes", ("",), tuple((note,) for note in plan.notes))] if plan.notes else []
    named = [("erased again", places), ("consents that only the log has", plan.consents)]
    tables += [Table(name, tuple(rows[0]), tuple(tuple(map(str, row.values())) for row in rows)) for name, rows in named if rows]
    return Outcome(data, FAULTS if any(row["state"] == UNREACHED for row in places) else OK, tuple(tables))


def _pack(plan: Plan, name: str) -> dict[str, Any]:
    from dataclasses import asdict

    from knhk.reconcilers.restoring import live_points

    told, then = plan.told.packs[name], plan.told.then[name]
    live = told.live and {"version": told.live["version"], "digest": told.live["digest"], "entry": then.index}
    return {
        "live": live and {**live, "points": live_points(plan.told, name)},
        "rolling": asdict(then.rolling) if then.rolling else None,
        "denied": dict(then.denied),
    }


def _row(pack: dict[str, Any]) -> tuple[str, str, str, str]:
    live, rolling = pack["live"] or {"version": "", "points": ()}, pack["rolling"]
    step = f"{rolling['version']} {rolling['stage']} {rolling['arm']} {rolling['weight']} %" if rolling else ""
    return live["version"], " ".join(live["points"]), step, " ".join(digest[:19] for digest in pack["denied"])
