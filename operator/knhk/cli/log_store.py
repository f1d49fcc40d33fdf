"""`knhk log fsck` and `knhk log follow`: logs in folders and object stores, checked from the bytes up, and mirrored."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, command
from knhk.cli.log import KEYS, ROOT, TLS, VKEY
from knhk.cli.schema import array, boolean, integer, obj, string
from knhk.wiring.home import Home

if TYPE_CHECKING:
    from knhk_runtime.tlog.follow import Followed
    from knhk_runtime.tlog.fsck import Finding

FINDINGS = array(obj(where=string(), what=string(), mendable=boolean()))


@command(
    ("log", "fsck"),
    summary="Check the storage of a log from the bytes up, in a folder or an object store, and mend what is safely derivable",
    arguments=(
        Argument("place", help="log folder, or s3://BUCKET/PREFIX (default HOME/log)", metavar="PLACE", optional=True),
        Argument("--repair", help="write tiles anew that the entries give, and remove what is in the way", flag=True),
        VKEY,
    ),
    output=obj(size=integer(), root=string(), tiles=integer(), bad=FINDINGS, notes=FINDINGS, mended=array(string())),
    examples=("knhk log fsck .knhk/log", "knhk log fsck s3://bucket/log --repair"),
    detail="Without --repair nothing is changed. --repair needs the sequencer to be stopped. Entries and checkpoints are never made:\n"
    "what they lack must come from a mirror (`knhk log follow`) or a backup. Keys and endpoint of S3 come from AWS_… in the environment.\n"
    "One that was ended begins anew.",
    exits={FAULTS: "something does not fit and was not mended; each is listed in `bad`"},
)
def fsck(call: Call) -> Outcome:
    from contextlib import nullcontext

    from knhk.wiring import log_stores
    from knhk_runtime.objects.opening import open_store
    from knhk_runtime.tlog.fsck import fsck, mend
    from knhk_verify.note import parse_vkey

    place = call.args.place or str(Home(call.home).log)
    store = open_store(place)
    verifier = parse_vkey(call.args.vkey) if call.args.vkey else log_stores.own_verifier(store)
    with log_stores.alone(store, place) if call.args.repair else nullcontext():
        found, mended = fsck(store, verifier, call.far), list[str]()
        if call.args.repair and found.mendable():
            mended = [one.where for one in mend(store, found)]
            found = fsck(store, verifier, call.far)
        mended += log_stores.swept(store) if call.args.repair else []
    data = {"size": found.size, "root": found.root, "tiles": found.tiles}
    data |= {"bad": _rows(found.bad), "notes": _rows(found.notes), "mended": mended}
    tables = [Table("", ("", ""), tuple((name, str(data[name])) for name in ("size", "root", "tiles")))]
    for title, findings in (("BAD", found.bad), ("notes", found.notes)):
        if findings:
            rows = tuple((one.where, one.what, "--repair" if one.mend is not None else "") for one in findings)
            tables.append(Table(title, ("where", "what", "mended by"), rows))
    if mended:
        tables.append(Table("mended", ("where",), tuple((where,) for where in mended)))
    return Outcome(data, FAULTS if found.bad else OK, tuple(tables))


def _rows(found: list[Finding]) -> list[dict[str, object]]:
    return [{"where": one.where, "what": one.what, "mendable": one.mend is not None} for one in found]


@command(
    ("log", "follow"),
    summary="Mirror a log, verifying signature and consistency of each checkpoint; refuse a fork and keep its evidence",
    arguments=(
        Argument("source", help="URL of a log, log folder, or s3://BUCKET/PREFIX", metavar="SOURCE"),
        Argument("dest", help="folder or s3://BUCKET/PREFIX of the mirror", metavar="DEST"),
        Argument("--once", help="look once and end", flag=True),
        Argument("--every-s", help="seconds between two looks (default 5)", kind=float, default=5.0, metavar="S"),
        Argument("--vkey", help="trusted checkpoint key in note format (default: the one of role log in keys.json)"),
        ROOT,
        KEYS,
        *TLS,
    ),
    output=obj(relation=string("equal", "ahead", "behind", "fork"), size=integer(), before=integer(), kept=array(string())),
    examples=(
        "knhk log follow https://log.example.com ./mirror --vkey 'example.com/log+0123abcd+AQ…'",
        "knhk log follow .knhk/log s3://bucket/log --once",
    ),
    detail="`relation` says how SOURCE stands to DEST; what is ahead has been mirrored when this says so. The mirror is a log in a store\n"
    "of its own: `knhk log verify`, `fsck`, `diff` and any reader of C2SP tiles take it. Of a fork both signed checkpoints are kept in\n"
    "DEST/evidence; `knhk log diff SOURCE DEST --out` proves it. One follower at a time writes a mirror. Keys of the log that turn are\n"
    "followed by keys.json, signed by the pinned root: --keys is read again at each look, and so is what the log has of it. One that\n"
    "was ended goes on after the last checkpoint that it mirrored: a first one begins anew.",
    exits={FAULTS: "the log has forked, or what it serves does not verify: nothing of it is in the mirror"},
)
def follow(call: Call) -> Outcome:
    from knhk.adapters import log_reading
    from knhk.model.faults import Waiting
    from knhk.wiring import log_stores
    from knhk_runtime.objects.opening import open_store
    from knhk_runtime.tlog.follow import follow

    args = call.args
    fetch = log_reading.of_place(args.source, args.ca_file, args.certificate)
    mirror = open_store(args.dest)
    while True:
        try:
            log_stores.demand_mirror(mirror)
            (newest, *others), over = log_stores.verifiers_for(fetch, args.source, Home(call.home), args.vkey, args.root, args.keys)
            found = follow(args.source, fetch, mirror, newest, others, over, call.far)
        except Waiting as error:
            if args.once:
                raise
            call.say(str(error))
        else:
            call.say(f"{found.relation}: {found.before} entries here before, {found.size} now")
            if args.once or found.relation == "fork":
                return _followed(found)
        time.sleep(args.every_s)


def _followed(found: Followed) -> Outcome:
    data = {"relation": found.relation, "size": found.size, "before": found.before, "kept": list(found.kept)}
    return Outcome(data, FAULTS if found.relation == "fork" else OK, (Table("", ("", ""), tuple((k, str(v)) for k, v in data.items())),))
