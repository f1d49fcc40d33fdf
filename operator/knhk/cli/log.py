"""`knhk log …`: serve the lockchain, verify it offline, replay its decisions, show its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.framework import FAILURE, FAULTS, OK, Argument, Call, Outcome, Table, command, noun
from knhk.cli.schema import array, integer, obj, string
from knhk.wiring.home import LOG_ORIGIN, Home

if TYPE_CHECKING:
    from knhk_verify.note import Verifier
    from knhk_verify.signed import Keys

noun("log", "the lockchain: append-only record of receipts and policy events")

DIR = Argument("dir", help="log folder (default HOME/log)", kind=Path, metavar="DIR", optional=True)
VKEY = Argument(
    "--vkey",
    help="trusted checkpoint key in note format (default: the folder's own, which shows damage but no forger)",
)
ROOT = Argument(
    "--root",
    help="pinned root key of keys.json: base64, or a root.pub file (default: root.pub of the folder, or of HOME/keys)",
)
FOUND = array(obj(where=string(), what=string()))


@command(
    ("log", "verify"),
    summary="Recompute a log from its entries up, offline, and list everything that does not fit",
    arguments=(DIR, VKEY, ROOT),
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
    ),
    exits={FAULTS: "something does not verify; each is listed in `bad`"},
)
def verify(call: Call) -> Outcome:
    from knhk_runtime.tlog.audit import report_json, verify_log
    from knhk_runtime.tlog.notes import format_vkey

    folder = _log_dir(call)
    report = verify_log(folder, format_vkey(_verifier(call, folder)), _root(call, folder))
    data = report_json(report)
    summary = tuple((name, str(data[name])) for name in ("size", "root", "receipts", "leaves", "events", "observations", "erased"))
    tables = [Table("", ("", ""), summary)]
    for title, found in (("BAD", report.bad), ("notes", report.notes)):
        if found:
            tables.append(Table(title, ("where", "what"), tuple((row["where"], row["what"]) for row in found)))
    return Outcome(data, FAULTS if report.bad else OK, tuple(tables))


@command(
    ("log", "replay"),
    summary="Decide every recorded observation again with the recorded pack and compare the bytes of A with the log",
    arguments=(
        DIR,
        Argument(
            "--registry",
            help="registry folder (default: `registry` beside the log)",
            kind=Path,
            metavar="DIR",
        ),
        ROOT,
    ),
    output=obj(
        replayed=integer(),
        erased=integer(),
        different=integer(),
        unrecorded=integer(),
        differences=array(obj(where=string(), receipt=string(), reason=string())),
    ),
    examples=("knhk log replay .knhk/log", "knhk log replay ./log --registry ./registry -o json"),
    detail="Packs and data bundles are taken from the registry by the digests in leaf and O, and verified first.\n"
    "`differences` tells the first 100 in words; `unrecorded` counts leaves whose O is not kept here.",
    exits={FAULTS: "a decision came out different, could not be replayed, or has no record here"},
)
def replay(call: Call) -> Outcome:
    from dataclasses import asdict

    from knhk.adapters.evaluators import Evaluator, load
    from knhk.model.faults import NotFound
    from knhk.reconcilers import replaying
    from knhk.wiring import packs
    from knhk_runtime.tiers.digest import evaluator_digest

    folder = _log_dir(call)
    store = packs.store(call.args.registry or folder.parent / "registry")
    keys, arch = _keys(call, folder), packs.host_arch()

    def fetch(pack: bytes, bundle: bytes) -> Evaluator:
        digest = store.find_pack(pack)
        if digest is None:
            raise NotFound(f"pack missing: {store.layout.folder} has no image that begins with {pack.hex()}")
        fetched = store.fetch_pack(digest, arch, keys)
        data = None
        if any(bundle):
            image = store.find_bundle(bundle)
            if image is None:
                raise NotFound(f"data bundle missing: {store.layout.folder} has no file {bundle.hex()}")
            data = store.fetch_bundle(image, keys)
        call.say(f"pack {digest[:23]}…")
        return load(fetched.so, fetched.plan, data)

    result = replaying.replay(folder, fetch, evaluator_digest())
    rows = tuple((d.where, d.receipt, d.reason) for d in result.differences)
    counts = Table(
        "",
        ("replayed", "erased", "different", "unrecorded"),
        ((str(result.replayed), str(result.erased), str(result.different), str(result.unrecorded)),),
    )
    tables = (
        counts,
        *((Table("differences", ("where", "receipt", "reason"), rows),) if rows else ()),
    )
    return Outcome(asdict(result), FAULTS if result.different or result.unrecorded else OK, tables)


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
    note = (folder / "checkpoint").read_text()
    verifier = _verifier(call, folder)
    opened = open_checkpoint(note, verifier)
    data = {
        "origin": opened.origin,
        "size": opened.size,
        "root": opened.root.hex(),
        "vkey": format_vkey(verifier),
        "note": note,
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
            help="Ed25519 private key of role log, PEM, mode 0600 (default HOME/keys/log.key)",
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
    if args.key is None:
        packs.signer(home)
    options: list[str] = ["--dir", str(_log_dir(call)), "--origin", args.origin or LOG_ORIGIN]
    options += [
        "--key",
        str(args.key or home.keys / "log.key"),
        "--socket",
        str(args.socket or home.sequencer_socket),
    ]
    options += ["--read-port", str(args.read_port)] if args.read_port is not None else []
    code = main(options)
    return Outcome({"exit": code}, FAILURE if code else OK)


def _log_dir(call: Call) -> Path:
    return call.args.dir or Home(call.home).log


def _verifier(call: Call, folder: Path) -> Verifier:
    from knhk_runtime.tlog.notes import parse_vkey
    from knhk_verify.errors import Bad
    from knhk_verify.signed import member, parse_json

    given: Any = call.args.vkey
    if given is None:
        given = member(parse_json((folder / "meta.json").read_bytes(), "meta.json"), "vkey", str, "meta.json")
    try:
        return parse_vkey(given)
    except Bad as bad:
        raise bad if call.args.vkey else Bad(f"meta.json: {bad.where}", bad.what) from bad


def _root(call: Call, folder: Path) -> bytes | None:
    """The pinned root: --root, else root.pub of the home that the log lies in, else None (the folder's own)."""
    from knhk.adapters.signer_local import read_root_pub
    from knhk_verify.note import unb64

    given: str | None = call.args.root
    if given is not None:
        return read_root_pub(Path(given)) if Path(given).exists() else unb64(given, "--root")
    beside = folder.parent / "keys" / "root.pub"
    return read_root_pub(beside) if beside.exists() else None


def _keys(call: Call, folder: Path) -> Keys:
    from knhk.wiring import packs

    root = _root(call, folder)
    return packs.keys(folder) if root is None else packs.keys_under(folder, root)
