"""`knhk log replay`, `audit`, `state`: what was decided, decided again; what was admitted, judged again; what was in force."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from knhk.cli.arguments import many, moment
from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, Usage, command
from knhk.cli.key_place import KEY_NAMESPACE, KEY_SERVICE, key_place
from knhk.cli.log import KEYS, PLACE, ROOT, TLS
from knhk.cli.schema import array, integer, mapping, nullable, obj, string
from knhk.wiring.home import Home

if TYPE_CHECKING:
    from knhk.reconcilers.replaying import Replayed, Shard
    from knhk.wiring.log_opening import Opened
    from knhk.wiring.replays import Packs, Proven
    from knhk_runtime.unsealing import Unsealer
    from knhk_verify.signed import Keys

NUMBER = {"type": "number"}
SOURCE = Argument(
    "source",
    help="records: a log folder with its outboxes, or an archive (a folder, s3://BUCKET/PREFIX); default HOME/log",
    metavar="SOURCE",
    optional=True,
)
REGISTRY = Argument("--registry", help="registry folder (default: `registry` beside the log, or of the home)", kind=Path, metavar="DIR")
PULL = (
    Argument("--pull", help="registry to get from what the folder has not: https://HOST[:PORT][/REPOSITORY]", metavar="URL"),
    Argument("--pull-auth", help="docker config.json with credentials for it", kind=Path, metavar="FILE"),
    Argument("--pull-ca", help="authorities of its HTTPS beside the system's (PEM)", kind=Path, metavar="FILE"),
)
SIZE = Argument("--size", help="the log as it was with so many entries (default: now)", kind=int, metavar="N")
SUBJECT_KEYS = Argument(
    "--subject-keys", help="home whose key store opens sealed records (default: this home's, where its user may)", kind=Path, metavar="HOME"
)
REPLAYED = obj(
    replayed=integer(),
    erased=integer(),
    sealed=integer(),
    different=integer(),
    unrecorded=integer(),
    entries=integer(),
    root=string(),
    size=integer(),
    shard=string(),
    differences=array(obj(where=string(), receipt=string(), reason=string())),
)
COMMON = (SOURCE, PLACE, REGISTRY, *PULL, ROOT, KEYS, *TLS, SUBJECT_KEYS, *KEY_SERVICE, KEY_NAMESPACE)


@command(
    ("log", "replay"),
    summary="Decide every recorded observation again with the recorded pack and compare the bytes of A with the log",
    arguments=(*COMMON, Argument("--shard", help="only part I of N, from 0 on; all parts together are the whole", metavar="I/N"), SIZE),
    output=REPLAYED,
    examples=(
        "knhk log replay .knhk/log",
        "knhk log replay ./log --registry ./registry -o json",
        "knhk log replay s3://audit/delta --log https://log.example.com --pull https://registry.example.com/knhk --shard 3/8",
    ),
    detail="Packs and data bundles are taken from the registry by the digests in leaf and O, and verified first.\n"
    "`differences` tells the first 100 in words; `unrecorded` counts leaves whose O is not kept there. Of an archive the log's tiles and\n"
    "root are recomputed from its entries, too: `entries` of this shard, `root` by the first one; --log says where the log is. Of a log\n"
    "that grows, --size (of a checkpoint older than the archive's lag) has every shard see the same, and counts nothing as unrecorded\n"
    "that is only on its way. One that was ended begins anew: of an archive make it in shards and keep what each says, and `knhk log\n"
    "gather` makes one of them.\n"
    "What another evaluator of slower guards decided is told as `evaluator missing`.",
    exits={FAULTS: "a decision came out different, could not be replayed, or has no record here"},
)
def replay(call: Call) -> Outcome:
    from dataclasses import asdict

    from knhk.model.progress import counted
    from knhk.reconcilers import replaying
    from knhk.wiring import replays
    from knhk.wiring.log_opening import opened
    from knhk_runtime.tiers.digest import evaluator_digest

    shard, source = shard_of(call.args.shard or "0/1"), _source(call)
    if replays.is_archive(source):
        log = _log(call)
        then, found = _then(call, log), _packs(call, log, Home(call.home).registry)
        records, opens = replays.kept(source), _unsealer(call)
        result = replaying.replay_segments(records, then.served, found.evaluator, evaluator_digest(), shard, opens, call.far)
    else:
        _whole(call, "shard", "size")
        log = opened(source)
        then, found = _then(call, log), _packs(call, log, Path(source).parent / "registry")
        entries = counted(then.served.entries_under(then.root), call.far, "entries", then.served.size)
        result = replaying.replay(Path(source), entries, found.evaluator, evaluator_digest(), _unsealer(call), call.far)
        result.entries = result.size = then.served.size
        result.root = then.root.hex()
    return Outcome(asdict(result), FAULTS if result.different or result.unrecorded else OK, tables_of(result))


@command(
    ("log", "audit"),
    summary="Judge what was admitted again, from the sources by another implementation: violations admitted in ppm, with an interval",
    arguments=(
        *COMMON,
        Argument(
            "--pack", help="folder or file of a PolicyPack whose sources judge (may be given again)", kind=Path, metavar="PATH", repeat=True
        ),
        Argument("--jobs", help="judge in so many processes side by side (default 1)", kind=many, default=1, metavar="N"),
        Argument("--goal", help="most violations admitted, in ppm, that are no failure (default 10)", kind=float, metavar="PPM"),
        SIZE,
    ),
    output=obj(
        goal_ppm=NUMBER,
        kinds=mapping(
            obj(judged=integer(), violations=integer(), unrecorded=integer(), left=integer(), ppm=NUMBER, low_ppm=NUMBER, high_ppm=NUMBER)
        ),
        unrecorded=integer(),
        erased=integer(),
        packless=integer(),
        sealed=integer(),
        unjudged=mapping(integer()),
        violations=array(obj(where=string(), receipt=string(), kind=string(), guards=array(string()))),
    ),
    examples=(
        "knhk log audit .knhk/log --pack examples/packs/invoice-controls/1.0.0 --jobs 8",
        "knhk log audit s3://audit/delta --pack packs/a -o json",
    ),
    detail="Each admitted, enforced record is mapped and judged by the oracle that also proves builds; it reads the sources, never the\n"
    "compiled tables, and only sources that compile to the very plan in the image count. `kinds` keeps apart what was admitted by\n"
    "fail-open, brownout or from cache. The interval is Clopper and Pearson's, 95 %: with no violation among n it ends at about\n"
    "3.7 million / n ppm, so that 10 ppm need some 370,000 records. `unrecorded` counts admitted leaves of the log without a record\n"
    "there: the interval ends where all of them were violations. Records that are erased, from before their point's first pack\n"
    "(`packless`) or not judged (`left`, of each kind) are counted, and not in it.\n"
    "Of a log that grows, --size (of a checkpoint older than the archive's lag) counts nothing as unrecorded that is only on its way.\n"
    "A processor judges some 500 records a second: --jobs takes more of them. One that was ended begins anew.",
    exits={
        FAULTS: "more violations than the goal were admitted by judged decisions, something admitted has no record here, or of the "
        "judged decisions that there were none could be judged again"
    },
)
def audit(call: Call) -> Outcome:
    from contextlib import nullcontext
    from dataclasses import asdict

    from knhk.adapters.pack_folder import find
    from knhk.api import to_sources
    from knhk.reconcilers import auditing
    from knhk.wiring import judges, replays
    from knhk.wiring.log_opening import opened

    source, goal = _source(call), auditing.GOAL_PPM if call.args.goal is None else call.args.goal
    if not call.args.pack:
        raise Usage("must name the sources that judge", "--pack")
    sources = auditing.Sources([to_sources(find(path).pack) for path in call.args.pack])
    if replays.is_archive(source):
        log, beside = _log(call), Home(call.home).registry
        then = _then(call, log)
        admitted = replays.archived(source, then.served, then.root, call.far)
    else:
        _whole(call, "size")
        log, beside = opened(source), Path(source).parent / "registry"
        then = _then(call, log)
        admitted = replays.recorded(Path(source), then.served, then.root, call.far)
    packs, jobs = _packs(call, log, beside), call.args.jobs
    with judges.side_by_side(sources, packs.parts, jobs) if jobs > 1 else nullcontext(auditing.one_by_one(sources, packs.loaded)) as judge:
        found = auditing.audit(admitted, judge, _unsealer(call))
    kinds = {name: {**asdict(k), "ppm": k.ppm, "low_ppm": k.interval[0], "high_ppm": k.interval[1]} for name, k in found.kinds.items()}
    data = {"goal_ppm": goal, "kinds": kinds, "unjudged": found.unjudged}
    data |= {name: getattr(found, name) for name in ("unrecorded", "erased", "packless", "sealed")}
    data |= {"violations": [{**vars(one), "guards": list(one.guards)} for one in found.violations]}
    rows = tuple(
        (name, str(k.judged), str(k.violations), str(k.unrecorded), f"{k.ppm:.1f}", f"{k.interval[0]:.1f} … {k.interval[1]:.1f}")
        for name, k in found.kinds.items()
    )
    tables = [Table("", ("admitted", "judged", "violations", "unrecorded", "ppm", "95 %"), rows)]
    no_pack = "no pack: the point admits what comes before its first pack"
    closed = (("erased", found.erased), (no_pack, found.packless), ("sealed", found.sealed))
    apart = (*found.unjudged.items(), *(each for each in closed if each[1]))
    tables += [Table("not judged", ("why", "records"), tuple((why, str(count)) for why, count in apart))] if apart else []
    told = tuple((one.where, one.receipt, one.kind, " ".join(one.guards)) for one in found.violations)
    tables += [Table("violations", ("where", "receipt", "admitted", "guards"), told)] if told else []
    failed = found.unrecorded or found.blind or found.kinds[auditing.JUDGED].ppm > goal
    return Outcome(data, FAULTS if failed else OK, tuple(tables))


@command(
    ("log", "state"),
    summary="Which packs, rollouts, flags, data and deny lists were in force at an earlier time, from policy receipts alone",
    arguments=(PLACE, Argument("--at", help="as 2026-11-26T12:00:00Z (default: now)", kind=moment, metavar="TIME"), ROOT, KEYS, *TLS),
    output=obj(
        at=string(),
        events=integer(),
        last=integer(),
        packs=mapping(
            obj(
                version=string(),
                digest=string(),
                index=integer(),
                rolling=nullable(
                    obj(version=string(), digest=string(), stage=string(), arm=string(), step=integer(), weight=integer(), index=integer())
                ),
                denied=mapping(string()),
            )
        ),
        points=mapping(obj(index=integer(), mode=string(), stable=string(), candidate=string(), data=string(), flags=mapping(string()))),
        data=mapping(string()),
    ),
    examples=("knhk log state --at 2026-11-26T12:00:00Z", "knhk log state --log https://log.example.com --root root.pub --keys keys.json"),
    detail="Every event's signature is verified first. `index` is the entry of the log that made it so: `knhk log prove` proves it. A\n"
    "point stands as its own last event said, and as steps of its pack did that came later; weights stand with the packs.",
)
def state(call: Call) -> Outcome:
    from dataclasses import asdict
    from datetime import UTC, datetime

    from knhk.reconcilers.history import points_at, state_at
    from knhk.wiring import replays

    at = call.args.at or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    log = _log(call)
    keys = _keys(call, log)
    stood = state_at(replays.events(log.served, keys, replays.proven(log, keys).root, call.far), at)
    then = asdict(stood) | {"points": {name: asdict(point) for name, point in points_at(stood).items()}}
    del then["images"], then["gone"], then["held"]
    for pack in then["packs"].values():
        del pack["aborted"], pack["signed"], pack["moved"]
    packs = tuple(
        (
            name,
            pack["version"],
            f"{r['version']} {r['stage']} {r['arm']} {r['step']}" if (r := pack["rolling"]) else "",
            str(pack["index"]) if pack["index"] >= 0 else "",
        )
        for name, pack in then["packs"].items()
    )
    points = tuple(
        (
            name,
            p["mode"],
            p["stable"][:19],
            p["candidate"][:19],
            p["data"][:19],
            " ".join(f"{k}={v}" for k, v in p["flags"].items()),
            str(p["index"]),
        )
        for name, p in then["points"].items()
    )
    tables = [
        Table("packs", ("pack", "live", "rolling", "entry"), packs),
        Table("points", ("point", "mode", "stable", "candidate", "data", "flags", "entry"), points),
    ]
    if denied := tuple((name, digest[:19], why) for name, pack in then["packs"].items() for digest, why in pack["denied"].items()):
        tables.append(Table("denied", ("pack", "digest", "why"), denied))
    if then["data"]:
        tables.append(Table("data", ("data", "digest"), tuple((name, digest[:19]) for name, digest in then["data"].items())))
    return Outcome({"at": at, **then}, tables=tuple(tables))


def tables_of(result: Replayed) -> tuple[Table, ...]:
    """For people."""
    names = ("replayed", "erased", "sealed", "different", "unrecorded")
    counts = Table("", names, (tuple(str(getattr(result, name)) for name in names),))
    rows = tuple((d.where, d.receipt, d.reason) for d in result.differences)
    return (counts, *((Table("differences", ("where", "receipt", "reason"), rows),) if rows else ()))


def shard_of(text: str, where: str = "--shard") -> Shard:
    """Raises Usage."""
    from knhk.reconcilers.replaying import Shard

    found = re.fullmatch(r"(0|[1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise Usage(f"is {text!r}, must be I/N with 0 ≤ I < N", where)
    return Shard(int(found[1]), int(found[2]))


def _unsealer(call: Call) -> Unsealer:
    from knhk.wiring import privacy

    if (place := key_place(call, call.args.key_namespace)) is not None:
        return privacy.unsealer(place, needed=True)
    home = call.args.subject_keys
    return privacy.unsealer(Home(home) if home is not None else Home(call.home), needed=home is not None)


def _source(call: Call) -> str:
    return call.args.source or str(Home(call.home).log)


def _log(call: Call) -> Opened:
    from knhk.wiring.log_opening import opened

    return opened(call.args.log or str(Home(call.home).log), call.args.ca_file, call.args.certificate)


def _then(call: Call, log: Opened) -> Proven:
    """The log, as it was with --size entries, under its checkpoint. Raises Usage and Bad."""
    from knhk.wiring.replays import proven

    size = call.args.size
    if size is not None and not 0 < size <= log.served.size:
        raise Usage(f"must be from 1 to {log.served.size}, what the log has", "--size")
    return proven(log, _keys(call, log), size)


def _whole(call: Call, *options: str) -> None:
    """Raises Usage for options that a log folder has no use for."""
    for name in options:
        if getattr(call.args, name) is not None:
            raise Usage("must come with an archive: a log folder is read whole", f"--{name}")


def _keys(call: Call, log: Opened) -> Keys:
    """keys.json under the pinned root: --keys and --root, else of the log, else of the home."""
    from knhk.adapters.signer_local import pinned_root
    from knhk.model.faults import Stalled
    from knhk_verify.signed import verify_keys

    home, folder = Home(call.home), Path(log.served.name)
    beside = [folder.parent / "keys" / "root.pub", home.keys / "root.pub", folder / "root.pub"]
    given: str | None = call.args.root
    at_hand = next((path for path in beside if path.exists()), None)
    if (root := given or at_hand) is None:
        raise Stalled("Root", "no pinned root key is at hand: give --root, a file or base64 text, from a source that you trust")
    public = pinned_root(str(root))
    data = call.args.keys.read_bytes() if call.args.keys else log.fetch("keys.json")
    if data is None:
        raise Stalled("Keys", "no keys.json is with the log: give --keys, the file that is published with it")
    return verify_keys(data, public, where="keys.json")


def _packs(call: Call, log: Opened, beside: Path) -> Packs:
    """`beside`: the registry, where none is given."""
    from knhk.wiring.replays import Packs

    args = call.args
    return Packs(args.registry or beside, _keys(call, log), args.pull, args.pull_auth, args.pull_ca, log.served, call.say)
