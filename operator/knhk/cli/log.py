"""`knhk log …`: serve the lockchain, verify it offline, replay its decisions, show its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from knhk.cli.arguments import many, moment
from knhk.cli.framework import FAILURE, FAULTS, OK, Argument, Call, Outcome, Table, Usage, command, noun
from knhk.cli.schema import array, boolean, integer, nullable, obj, string
from knhk.wiring.home import LOG_ORIGIN, Home

if TYPE_CHECKING:
    from collections.abc import Iterable

    from knhk_verify.evidence import Step
    from knhk_verify.note import Verifier

noun("log", "the lockchain: append-only record of receipts and policy events")

DIR = Argument("dir", help="log folder (default HOME/log)", kind=Path, metavar="DIR", optional=True)
VKEY = Argument(
    "--vkey",
    help="trusted checkpoint key in note format (default: the folder's own, which shows damage but no forger)",
)
ROOT = Argument(
    "--root",
    help="pinned root key of keys.json: base64, or a root.pub file (default: root.pub of the folder keys beside the log, or of the log)",
)
KEYS = Argument(
    "--keys", help="keys.json as it is published with the log (default: that of the folder, or of the home)", kind=Path, metavar="FILE"
)
AT = Argument("--at", help="time at which keys must be valid, as 2027-01-01T00:00:00Z (default: now)", kind=moment, metavar="TIME")
PLACE = Argument("--log", help="log folder, or the URL of a log (default HOME/log)", metavar="PLACE")
TLS = (
    Argument("--ca-file", help="authority of the log's server, PEM (default: those of this machine)", kind=Path, metavar="FILE"),
    Argument("--certificate", help="our certificate and its key for a log behind mutual TLS, PEM", kind=Path, metavar="FILE"),
)
OUT = Argument("--out", help="folder to write an audit bundle into, which knhk_verify takes (new or empty)", kind=Path, metavar="DIR")
STEPS = array(obj(what=string(), key=string(), ok=nullable(boolean()), detail=string()))
ENTRY = {
    "index": integer(),
    "receipt": string(),
    "kind": string(),
    "verdict": string(),
    "class": string(),
    "mode": string(),
    "flags": array(string()),
    "time": string(),
    "pack": string(),
    "subject": string(),
}
SELECTORS = (
    Argument("--namespace", "-n", help="only of this namespace", metavar="NS"),
    Argument("--pack", help="only of packs of this name", metavar="NAME"),
    Argument(
        "--kind",
        help="only this kind",
        choices=("DECISION", "PARK", "UNAVAILABLE", "REFUSED", "POLICY"),
    ),
    Argument("--verdict", help="only this verdict", choices=("ADMIT", "DENY")),
    Argument("--field-selector", help="as kubectl takes it: verdict=DENY,mode!=OBSERVED", default="", metavar="SELECTOR"),
    Argument("--selector", "-l", help="as kubectl takes it: 'pack in (a, b),verdict=DENY'", default="", metavar="SELECTOR"),
)
FOUND = array(obj(where=string(), what=string()))


@command(
    ("log", "verify"),
    summary="Recompute a log from its entries up, offline, and list everything that does not fit",
    arguments=(
        DIR,
        VKEY,
        ROOT,
        KEYS,
        Argument(
            "--witnesses", help="tlog-policy, of whose witnesses a quorum must have cosigned the checkpoint", kind=Path, metavar="FILE"
        ),
    ),
    output=obj(
        size=integer(),
        root=string(),
        receipts=integer(),
        leaves=integer(),
        events=integer(),
        observations=integer(),
        erased=integer(),
        bad=FOUND,
        notes=FOUND,
    ),
    examples=(
        "knhk log verify .knhk/log",
        "knhk log verify ./log --vkey 'knhk.dev/local+0123abcd+AQ…' --root root.pub -o json | jq .bad",
        "knhk log verify ./mirror --root root.pub --keys keys.json --witnesses policy",
    ),
    detail="It changes nothing, and one that was ended begins anew.",
    exits={FAULTS: "something does not verify; each is listed in `bad`"},
)
def verify(call: Call) -> Outcome:
    from knhk_runtime.tlog.audit import report_json, verify_log
    from knhk_runtime.tlog.notes import format_vkey
    from knhk_runtime.tlog.policy import read_policy

    folder = _log_dir(call)
    policy = read_policy(call.args.witnesses) if call.args.witnesses else None
    keys = _published(call, folder)
    trusted = call.args.vkey is not None and call.args.root is None  # the key itself: a log without keys.json needs no root
    root = None if trusted and keys is None and not (folder / "keys.json").exists() else _root(call, folder)
    report = verify_log(folder, format_vkey(_verifier(call, folder)), root, policy, keys, call.far)
    data = report_json(report)
    summary = tuple((name, str(data[name])) for name in ("size", "root", "receipts", "leaves", "events", "observations", "erased"))
    tables = [Table("", ("", ""), summary)]
    for title, found in (("BAD", report.bad), ("notes", report.notes)):
        if found:
            tables.append(Table(title, ("where", "what"), tuple((row["where"], row["what"]) for row in found)))
    return Outcome(data, FAULTS if report.bad else OK, tuple(tables))


@command(
    ("log", "archive"),
    summary="Write the records beside a log as Parquet segments, once: what is there already stays as it is",
    arguments=(
        DIR,
        Argument("--to", help="the archive: a folder, or s3://BUCKET/PREFIX (default HOME/delta)", metavar="PLACE"),
    ),
    output=obj(to=string(), commits=integer(), rows=integer(), waiting_bytes=integer(), unmatched=integer()),
    examples=("knhk log archive", "knhk log archive ./log --to s3://audit/delta"),
    detail="The layout is formats/delta.md: DuckDB, pyarrow and others read it as it is. `waiting_bytes` the log has not acknowledged, or\n"
    "not shown yet; `unmatched` records are none of the log's. One that was ended goes on after its last commit. On a cluster\n"
    "`python -m knhk.archive` does so all the time.",
)
def archive(call: Call) -> Outcome:
    from knhk.wiring.archive import Options, opened_folder, run_once

    folder = _log_dir(call)
    opened_folder(folder)  # beside what is no log nothing is made
    to = call.args.to or str(Home(call.home).root / "delta")
    found = run_once(Options(folder, to, folder / "archive"), call.far).progress
    told = {"commits": found.commits, "rows": found.rows, "waiting_bytes": found.waiting_bytes, "unmatched": found.unmatched}
    return Outcome({"to": to} | told, tables=(Table("", ("", ""), tuple((name, str(value)) for name, value in told.items())),))


@command(
    ("log", "compact"),
    summary="Make few segments of many in an archive: the same rows, quicker to read",
    arguments=(
        Argument("place", help="the archive: a folder, or s3://BUCKET/PREFIX (default HOME/delta)", metavar="PLACE", optional=True),
        Argument("--target-mib", help="size of a segment, MiB (default 32)", kind=int, default=32, metavar="N"),
        Argument("--open-hours", help="also of hours that are not over", flag=True),
        Argument("--keep-s", help="what was merged stays aside so long for those who read it (default 21600)", kind=int, metavar="S"),
    ),
    output=obj(place=string(), before=integer(), after=integer(), merged=integer(), commits=integer()),
    examples=("knhk log compact", "knhk log compact s3://audit/delta --target-mib 64 -o json"),
    detail="`python -m knhk.archive` does so by itself, ten minutes after an hour is over. Rows, hashes and envelopes stay what they are.\n"
    "One that was ended goes on, a crash is mended by the next run, and of two that write one is refused. How others read meanwhile:\n"
    "formats/delta.md.",
)
def compact(call: Call) -> Outcome:
    from knhk.reconcilers.compacting import Policy
    from knhk.reconcilers.ledger import KEEP_S
    from knhk.wiring import archive as wired

    if call.args.target_mib < 1:
        raise Usage("must be at least 1", "--target-mib")
    place = call.args.place or str(Home(call.home).root / "delta")
    settle_s = None if call.args.open_hours else Policy.settle_s
    policy = Policy(call.args.target_mib << 20, settle_s=settle_s, few=2)
    keep_s = KEEP_S if call.args.keep_s is None else call.args.keep_s
    found = vars(wired.compact(place, policy, keep_s, call.far))
    return Outcome({"place": place} | found, tables=(Table("", ("", ""), tuple((name, str(value)) for name, value in found.items())),))


@command(
    ("log", "prove"),
    summary="Prove entries of a log, and that it only grew, as an audit bundle that knhk_verify takes",
    arguments=(
        Argument(
            "receipt", help="receipt ids (32 hexadecimal digits) or indexes of entries", metavar="RECEIPT", repeat=True, optional=True
        ),
        *SELECTORS,
        Argument("--limit", help="of those that selectors choose at most so many, the newest (default 1000)", kind=many, default=1000),
        PLACE,
        Argument(
            "--since", help="an older checkpoint, kept from last time: proves that the log only grew since", kind=Path, metavar="FILE"
        ),
        OUT,
        ROOT,
        KEYS,
        AT,
        *TLS,
    ),
    output=obj(out=string(), size=integer(), files=array(string()), not_judged=array(string()), steps=STEPS),
    examples=(
        "knhk log prove 5f2c… 17 --out evidence",
        "knhk log prove -n erp --field-selector verdict=DENY,pack=invoice-controls --out denied",
        "knhk log prove --log https://log.example.com --since checkpoint.old --out evidence",
    ),
    detail="Everything is verified before it is written; nothing is written when something does not verify. What cannot be judged with\n"
    "what is at hand is neither: its step has `ok` null, and `not_judged` names it. The network is asked only when --log is a URL.",
    exits={FAULTS: "something does not verify: `steps` say what and where"},
)
def prove(call: Call) -> Outcome:
    from knhk.reconcilers import evidence
    from knhk.wiring import evidence as wiring
    from knhk.wiring import receipt_reading, witnesses
    from knhk.wiring.log_opening import opened

    args, home = call.args, Home(call.home)
    if args.out is None:
        raise Usage("must name a folder to write to", "--out")
    place = args.log or str(home.log)
    log, bundle = opened(place, args.ca_file, args.certificate), evidence.Bundle()
    trust = wiring.trust(home, args.root, args.keys, args.at, wiring.folder(place))
    for word in args.receipt:
        wiring.prove(log, word, bundle)
    for index in receipt_reading.chosen(args, home, log, place):
        if f"{index}.json" not in bundle.receipts:
            bundle.prove(log.served, index, log.note)
    outside = bool(bundle.entries) and witnesses.are_named(trust)
    if outside:
        witnesses.in_log(receipt_reading.index_of_log(home, log, place), log, bundle)
    if args.since is not None:
        evidence.grown(log.served, log.note, args.since.read_text("utf-8", "replace"), bundle, f"--since {args.since}")
    if not bundle.files():
        bundle.checkpoints[str(log.served.size)] = log.note
    judged = trust.evidence()
    evidence.judge(judged, bundle.files())
    if outside:
        found = [(name, text.encode()) for name, text in bundle.files().items()]
        judged.steps += witnesses.steps(found, trust, None, witnesses.whom(home, None, None))
    proven = all(step.ok is not False for step in judged.steps)
    if proven:
        evidence.write(args.out, bundle, trust.keys_json, witnesses.pinned_root(trust) if outside else None)
    files = sorted(bundle.files()) if proven else []
    apart = [step.what for step in judged.steps if step.ok is None]
    data = {"out": str(args.out), "size": log.served.size, "files": files, "not_judged": apart}
    data["steps"] = [step._asdict() for step in judged.steps]
    return Outcome(data, OK if proven else FAULTS, (steps_table(judged.steps),))


@command(
    ("log", "diff"),
    summary="Compare two logs, or checkpoints of one: equal, ahead, behind, or forked, with the first entry that differs",
    arguments=(
        Argument("a", help="log folder, URL of a log, or a checkpoint file", metavar="A"),
        Argument("b", help="the same, of what should be the same log", metavar="B"),
        OUT,
        ROOT,
        KEYS,
        AT,
        *TLS,
    ),
    output=obj(
        relation=string("equal", "ahead", "behind", "fork", "unverified"),
        a_size=integer(),
        b_size=integer(),
        first=nullable(integer()),
        entries=array(obj(file=string(), **ENTRY)),
        steps=STEPS,
    ),
    examples=("knhk log diff .knhk/log ./mirror", "knhk log diff https://log.example.com checkpoint.old --root root.pub --keys keys.json"),
    detail="`relation` says how A stands to B. Of a fork --out gets both signed checkpoints and, when both logs are at hand, a receipt of\n"
    "the first entry that differs under each: the log's key has signed both, and knhk_verify tells the split view.",
    exits={FAULTS: "the log has forked, or a checkpoint does not verify"},
)
def diff(call: Call) -> Outcome:
    from knhk.reconcilers import evidence
    from knhk.wiring import evidence as wiring

    args, home = call.args, Home(call.home)
    a, b = (wiring.side(place, args.ca_file, args.certificate) for place in (args.a, args.b))
    trust = wiring.trust(home, args.root, args.keys, args.at, wiring.folder(args.a) or wiring.folder(args.b))
    found = evidence.diff(a, b, trust.evidence)
    if args.out is not None and found.relation != "unverified":
        evidence.write(args.out, found.bundle, trust.keys_json)
    data = {"relation": found.relation, "a_size": found.sizes[0], "b_size": found.sizes[1], "first": found.first}
    data |= {"entries": [{"file": name, **told} for name, told in found.bundle.told], "steps": [step._asdict() for step in found.steps]}
    summary = tuple((name, "" if value is None else str(value)) for name, value in data.items() if name not in ("entries", "steps"))
    entries = tuple((name, told["kind"], told["verdict"], told["receipt"] or told["subject"]) for name, told in found.bundle.told)
    tables = [Table("", ("", ""), summary), steps_table(found.steps)]
    tables += [Table("the first entry that differs", ("file", "kind", "verdict", "of"), entries)] if entries else []
    return Outcome(data, OK if found.relation in ("equal", "ahead", "behind") else FAULTS, tuple(tables))


@command(
    ("log", "checkpoint"),
    summary="Show the newest checkpoint of a log, its signature verified",
    arguments=(DIR, VKEY),
    output=obj(origin=string(), size=integer(), root=string(), vkey=string(), note=string()),
    examples=("knhk log checkpoint .knhk/log", "knhk log checkpoint -o json | jq -r .note"),
)
def checkpoint(call: Call) -> Outcome:
    from knhk_runtime.tlog.notes import format_vkey
    from knhk_verify.note import open_checkpoint

    folder = _log_dir(call)
    verifier = _verifier(call, folder)
    opened = open_checkpoint(note := (folder / "checkpoint").read_bytes(), verifier)
    data = {
        "origin": opened.origin,
        "size": opened.size,
        "root": opened.root.hex(),
        "vkey": format_vkey(verifier),
        "note": note.decode(),
    }
    return Outcome(data, tables=(Table("", ("", ""), tuple((k, str(v).rstrip()) for k, v in data.items())),))


@command(
    ("log", "serve"),
    summary="Run the sequencer of a log until it is interrupted",
    arguments=(
        DIR,
        Argument("--origin", help="name of the log (default knhk.dev/local)"),
        Argument(
            "--key",
            help="Ed25519 private key of role log, PEM, mode 0600, or token.json (default: the home's)",
            kind=Path,
            metavar="FILE",
        ),
        Argument(
            "--socket",
            help="Unix socket to serve on (default: the home's)",
            kind=Path,
            metavar="PATH",
        ),
        Argument("--read-port", help="also serve reading on 127.0.0.1:PORT", kind=int, metavar="PORT"),
        Argument("--witnesses", help="publish checkpoints only with the quorum of this tlog-policy", kind=Path, metavar="FILE"),
        Argument("--region", help="regions that leaf.region counts, in order, by commas (default: as they are)", metavar="NAMES"),
    ),
    output=obj(exit=integer()),
    examples=(
        "knhk log serve",
        "knhk log serve ./log --origin example.com/log --key log.key --socket ./seq.sock --read-port 8090",
    ),
)
def serve(call: Call) -> Outcome:
    from knhk.wiring import packs
    from knhk_runtime.sequencer.__main__ import main

    args, home = call.args, Home(call.home)
    key = args.key or packs.signer(home).key_file("log")
    options: list[str] = ["--dir", str(_log_dir(call)), "--origin", args.origin or LOG_ORIGIN]
    options += [
        "--key",
        str(key),
        "--socket",
        str(args.socket or home.sequencer_socket),
    ]
    options += ["--read-port", str(args.read_port)] if args.read_port is not None else []
    options += ["--witnesses", str(args.witnesses)] if args.witnesses is not None else []
    options += ["--region", args.region] if args.region is not None else []
    code = main(options)
    return Outcome({"exit": code}, FAILURE if code else OK)


@command(
    ("log", "witness"),
    summary="Run a witness until it is interrupted: it cosigns checkpoints of its policy's logs, and one history of each",
    arguments=(
        Argument("dir", help="folder of the witness; never bring it back from a backup", kind=Path, metavar="DIR"),
        Argument("--name", help="name in its cosignatures, a URL without a scheme"),
        Argument("--key", help="Ed25519 private key of this witness alone, PEM, mode 0600", kind=Path, metavar="FILE"),
        Argument("--policy", help="c2sp.org/tlog-policy file; its `log` lines are served", kind=Path, metavar="FILE"),
        Argument("--listen", help="where to serve", metavar="HOST:PORT"),
        Argument("--roots", help="root keys of logs, whose keys.json then says by which keys they sign", kind=Path, metavar="FILE"),
        Argument("--log-ca", help="authorities of the logs' HTTPS beside the system's (PEM)", kind=Path, metavar="PEM"),
        Argument("--follow-s", help="look at the policy's logs that have a URL every S seconds (default: never)", kind=float, metavar="S"),
        Argument("--mirror", help="keep copies of these logs there: s3://BUCKET/PREFIX or a folder", metavar="ADDRESS"),
        Argument("--vkey", help="print the verifier key that others need, and end", flag=True),
    ),
    output=obj(exit=integer()),
    examples=(
        "knhk log witness ./witness --name example.org/eu --key witness.key --vkey",
        "knhk log witness ./witness --name example.org/eu --key witness.key --policy policy --listen 127.0.0.1:8446",
    ),
)
def witness(call: Call) -> Outcome:
    from knhk_runtime.witness.__main__ import main

    args = call.args
    given = {
        "--name": args.name,
        "--key": args.key,
        "--policy": args.policy,
        "--listen": args.listen,
        "--roots": args.roots,
        "--log-ca": args.log_ca,
        "--follow-s": args.follow_s,
        "--mirror": args.mirror,
    }
    for option in ("--name", "--key") if args.vkey else ("--name", "--key", "--policy", "--listen"):
        if given[option] is None:
            raise Usage("must be given", option)
    options = [word for option, value in given.items() if value is not None for word in (option, str(value))]
    code = main(["--dir", str(args.dir), *options, *(["--vkey"] if args.vkey else [])])
    return Outcome({"exit": code}, FAILURE if code else OK)


def steps_table(steps: Iterable[Step]) -> Table:
    """Steps of a verification for people."""
    said = {True: "ok", False: "BAD", None: "not judged"}
    return Table("", ("", "what", "key", "result"), tuple((said[s.ok], s.what, s.key, s.detail) for s in steps))


def _log_dir(call: Call) -> Path:
    return call.args.dir or Home(call.home).log


def _verifier(call: Call, folder: Path) -> Verifier:
    from knhk.wiring.log_opening import no_log
    from knhk_verify.errors import Bad
    from knhk_verify.note import parse_vkey
    from knhk_verify.signed import member, parse_json

    given: Any = call.args.vkey
    if not any((folder / name).exists() for name in ("meta.json", "checkpoint")):
        raise no_log(str(folder))
    if given is None:
        given = member(parse_json((folder / "meta.json").read_bytes(), "meta.json"), "vkey", str, "meta.json")
    try:
        return parse_vkey(given)
    except Bad as bad:
        raise bad if call.args.vkey else Bad(f"meta.json: {bad.where}", bad.what) from bad


def _root(call: Call, folder: Path) -> bytes | None:
    """The pinned root: --root, else root.pub of the home that the log lies in, else None (the folder's own)."""
    from knhk.adapters.signer_local import pinned_root, read_root_pub

    given: str | None = call.args.root
    if given is not None:
        return pinned_root(given)
    beside = folder.parent / "keys" / "root.pub"
    return read_root_pub(beside) if beside.exists() else None


def _published(call: Call, folder: Path) -> bytes | None:
    """--keys, else keys.json of the home that the log lies in, where that home alone says what is trusted; None: the folder has it."""
    from knhk_runtime.keys_folder import read_keys_json

    beside = folder.parent / "keys" / "keys.json"
    if call.args.keys is not None:
        return cast(Path, call.args.keys).read_bytes()
    at_home = call.args.root is None and call.args.vkey is None and not (folder / "keys.json").exists() and beside.exists()
    return read_keys_json(beside) if at_home else None
