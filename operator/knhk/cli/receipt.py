"""`knhk receipt …`: list, show and verify receipts of a log folder, without any server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.arguments import many, text
from knhk.cli.framework import FAILURE, FAULTS, OK, Argument, Call, Outcome, Table, Usage, command, noun
from knhk.cli.key_place import KEY_SERVICE
from knhk.cli.log import AT, ENTRY, KEYS, PLACE, ROOT, SELECTORS, STEPS, TLS, steps_table
from knhk.cli.receipt_lineage import ACCOUNT, ARCHIVE, BESIDE, POINTER, TAG, export_subject
from knhk.cli.schema import array, boolean, integer, nullable, obj, string
from knhk.wiring.home import Home

if TYPE_CHECKING:
    from collections.abc import Iterable

    from knhk.reconcilers.evidence import Bundle

noun("receipt", "what was decided, and which policy events happened")

ID = Argument(
    "receipt",
    help="receipt id (32 hexadecimal digits, header knhk-receipt), or the index of an entry",
    metavar="RECEIPT",
)
ROW = obj(**ENTRY)
COLUMNS = ("index", "kind", "verdict", "class", "mode", "time", "pack", "receipt", "subject")


KUBECONFIG = Argument("--kubeconfig", help="ask this cluster, as its user may, and no log", kind=Path, metavar="FILE")
NAMESPACE = Argument("--namespace", "-n", help="in which namespace (default: of decisions any, of Receipts default)", metavar="NS")


@command(
    ("receipt", "list"),
    summary="List entries of a log, the newest first, page by page",
    arguments=(
        PLACE,
        *SELECTORS,
        Argument("--limit", help="at most so many (default 50)", kind=many, default=50),
        Argument("--continue", help="`continue` of the page before", metavar="TOKEN"),
        *TLS,
        KUBECONFIG,
    ),
    output=obj(total=nullable(integer()), size=integer(), **{"continue": nullable(string())}, receipts=array(ROW)),
    examples=(
        "knhk receipt list",
        "knhk receipt list --verdict DENY --limit 10",
        "knhk receipt list --kind POLICY -o json",
        "knhk receipt list -n erp --field-selector verdict=DENY,pack=invoice-controls,mode=ENFORCED",
        "knhk receipt list --log https://log.example.com --certificate me.pem --ca-file ca.crt",
        "knhk receipt list --kubeconfig risk.conf -n erp --verdict DENY",
    ),
    detail="Pages come from an index that is made from the log and follows it (HOME/receipts.db; of other logs in the cache): it is no\n"
    "evidence, and removed it is made anew. Fields: metadata.name, metadata.namespace, receipt, event, pack, version, packDigest, kind,\n"
    "class, verdict, mode, arm, region, stale, cached, brownout, failOpen, resumed. `total` counts all that fit (null: not told);\n"
    "pages of one list are of the log as it was when the first was asked for. Of policy events (--kind POLICY) also stage, point, actor\n"
    "and time, of which a part will do: time=2026-11. With --kubeconfig: decisions, or policy events, through the cluster's API, as its\n"
    "user may.",
    exits={FAILURE: "the environment failed; where a page after the first did, with what there is, and `continue`"},
)
def list_(call: Call) -> Outcome:
    from knhk.reconcilers import receipts
    from knhk.wiring import receipt_reading

    page = receipt_reading.listed(call.args, Home(call.home), call.args.limit)
    rows = [receipts.describe_row(row) for row in page.rows]
    data = {"total": page.total, "size": page.size, "continue": page.more, "receipts": rows}
    if page.unread is None:
        return Outcome(data, tables=(_table(rows),))
    return Outcome(data, FAILURE, (_table(rows),), notes=(f"there may be more: --continue {page.more} goes on: {page.unread}",))


TO = ("csv", "jsonl", "parquet")


@command(
    ("receipt", "query"),
    summary="Ask receipts by SQL: decisions, policy events, what was live when, overrides",
    arguments=(
        Argument(
            "sql", help="one SELECT over decisions, events, live, overrides, and observations with --archive", kind=text, metavar="SQL"
        ),
        PLACE,
        *SELECTORS,
        *TLS,
        KUBECONFIG,
        Argument(
            "--archive",
            help="an archive of the Δ log (formats/delta.md), a folder or s3://BUCKET/PREFIX: table observations, without payloads",
            metavar="PLACE",
        ),
        Argument("--out", help="write the answer into a file: .csv, .jsonl or .parquet, or of --format", kind=Path, metavar="FILE"),
        Argument("--format", help="of --out; ocsf: events of OCSF 1.7, one a line (default: by its ending)", choices=(*TO, "ocsf")),
    ),
    output=obj(columns=array(string()), rows=array(array({})), written=integer()),
    examples=(
        "knhk receipt query 'SELECT verdict, count(*) FROM decisions GROUP BY ALL'",
        "knhk receipt query --kubeconfig risk.conf -n erp 'FROM overrides ORDER BY log_index'",
        "knhk receipt query 'SELECT actor, count(*) FROM observations GROUP BY ALL' --archive ./delta --out by.csv",
        "knhk receipt query 'SELECT point, count(*) FROM observations WHERE hour = 9 GROUP BY ALL' --archive s3://audit/delta",
        "knhk receipt query 'FROM decisions WHERE brownout OR fail_open' --out lenient.ocsf.jsonl --format ocsf",
    ),
    detail="Selectors choose the decisions that are read; the namespace counts for policy events too.\n"
    "DuckDB answers, in memory: it can read nothing but receipts (and the archive), and write nothing. OCSF wants the columns of\n"
    "decisions, or of events, and has no hashes of O and A, which `receipt export` has. `live`: which version of a pack was live from\n"
    "`since` until `until`; `overrides`: flags, aborts, drift, what was enforced unreviewed, and what was decided by failing open, in\n"
    "brownout or under a stale document. No evidence: `knhk receipt verify`, `knhk log prove`.\n"
    "Of an archive in a store a segment is fetched each time that a question reads it, and held against its commit: what is asked of\n"
    "region, date and hour leaves out the others.",
)
def query(call: Call) -> Outcome:
    from knhk.adapters import receipt_query
    from knhk.reconcilers import exporting_answers
    from knhk.wiring import receipt_reading, replays

    args = call.args
    if args.out is None and args.format is not None:
        raise Usage("must come with --out", "--format")
    form = args.format or (args.out.suffix[1:] if args.out is not None else "")
    if args.out is not None and form not in (*TO, "ocsf"):
        raise Usage(f"must end in {', '.join(f'.{form}' for form in TO)}, or come with --format", "--out")
    decisions, events = receipt_reading.asked(args, Home(call.home))
    archive = None if args.archive is None else replays.asked(args.archive)
    found = receipt_query.query(args.sql, decisions, events, archive)
    if args.out is not None:
        if form == "ocsf":
            exporting_answers.write_ocsf(args.out, receipt_query.columns(found), found.to_pylist())
        else:
            receipt_query.save(found, args.out, form)
        return Outcome({"columns": found.column_names, "rows": [], "written": found.num_rows})
    rows = receipt_query.plain(found)
    table = Table("", tuple(found.column_names), tuple(tuple("" if cell is None else str(cell) for cell in row) for row in rows))
    return Outcome({"columns": found.column_names, "rows": rows, "written": 0}, tables=(table,))


OF_A_SUBJECT = ("reason", "tag", "pointer", "archive", "key_service", "account", "erasures", "erasures_token")
OF_DECISIONS = ("format", "pack", "kind", "verdict", "field_selector", "selector", "ca_file", "certificate")


@command(
    ("receipt", "export"),
    summary="Export decisions for other tools: CSV, JSON Lines, Parquet, OCSF; policy events as OCSF",
    arguments=(
        Argument("--format", help="ocsf: events of OCSF 1.7, one a line", choices=("csv", "jsonl", "ocsf", "parquet")),
        Argument("--out", help="file to write; with --subject a new or empty folder", kind=Path, metavar="FILE"),
        Argument("--subject", help="all about this person: records, proofs, consents; leaves a receipt", kind=text, metavar="SUBJECT"),
        Argument("--reason", help="why it may be read, with --subject; it is recorded", kind=text, metavar="TEXT"),
        TAG,
        POINTER,
        ARCHIVE,
        *KEY_SERVICE,
        ACCOUNT,
        *BESIDE,
        PLACE,
        *SELECTORS,
        *TLS,
        KUBECONFIG,
    ),
    output=obj(
        out=string(),
        written=integer(),
        records=nullable(integer()),
        unreadable=nullable(integer()),
        receipt=nullable(integer()),
        missing=array(string()),
    ),
    examples=(
        "knhk receipt export --format ocsf --out decisions.ocsf.jsonl --field-selector mode=ENFORCED",
        "knhk receipt export --format ocsf --out changes.ocsf.jsonl --kind POLICY --field-selector time=2026-11",
        "knhk receipt export --format parquet --out denied.parquet -n erp --verdict DENY",
        "knhk receipt export --subject c-117 -n ats --reason 'access request 2026-17' --out ./c-117",
        "knhk receipt export --subject c-117 -n ats --reason 'access request 2026-17' --out ./c-117 --kubeconfig risk.conf",
    ),
    detail="OCSF: a decision is of class API Activity (6003), a policy event (--kind POLICY) of Entity Management (3004), whose entity is\n"
    "a policy, named as decisions name it, a point, data and so on. Policy events as tables: `knhk receipt query 'FROM events' --out`.\n"
    "--subject: `written` rows of `knhk receipt lineage` with their proofs, an audit bundle that verifies without the product,\n"
    "and `records` payloads in clear; of `unreadable` decisions the payload is sealed, erased or not kept here. Needs the key of the\n"
    "namespace's tags and the rollout key: the event SubjectExported is in the log (`receipt`) before anything is written.",
    exits={FAULTS: "it is written, and what is `missing` could not be found for want of a key"},
)
def export(call: Call) -> Outcome:
    from knhk.reconcilers import exporting
    from knhk.wiring import receipt_reading

    args = call.args
    for name in ("reason", "out") if args.subject else ("format", "out"):
        if getattr(args, name) is None:
            raise Usage("must be given", f"--{name}")
    for name in OF_DECISIONS if args.subject else OF_A_SUBJECT:
        if getattr(args, name):
            raise Usage(f"must not be given {'with' if args.subject else 'without'} --subject", f"--{name.replace('_', '-')}")
    if args.subject:
        return export_subject(call)
    if args.kind == "POLICY" and args.format != "ocsf":
        raise Usage("must be ocsf with --kind POLICY: for tables ask knhk receipt query 'FROM events' --out FILE", "--format")
    written = exporting.write(args.out, args.format, receipt_reading.selected(args, Home(call.home)))
    return Outcome({"out": str(args.out), "written": written, "records": None, "unreadable": None, "receipt": None, "missing": []})


@command(
    ("receipt", "show"),
    summary="Show what a receipt says, and what is kept of its observation, without payloads",
    arguments=(ID, Argument("--namespace", "-n", help="only of this namespace", metavar="NS"), PLACE, *TLS, KUBECONFIG),
    output=obj(
        entries=array(ROW),
        observations=array(
            obj(
                where=string(),
                erased=boolean(),
                sealed=boolean(),
                route=string(),
                region=string(),
                attributes=array(string()),
                body_bytes=integer(),
            )
        ),
    ),
    examples=(
        "knhk receipt show 5f2c…",
        "knhk receipt show 17 --log ./log",
        "knhk receipt show 5f2c… --kubeconfig risk.conf -n erp",
    ),
    detail="Observations are looked for beside a log folder only.",
)
def show(call: Call) -> Outcome:
    from knhk.reconcilers import receipts
    from knhk.wiring import evidence, receipt_reading

    args, home = call.args, Home(call.home)
    found = receipt_reading.looked_up(args, home, args.receipt)
    folder = None if args.kubeconfig is not None else evidence.folder(args.log or str(home.log))
    decided = [receipts.Entry(row.number, row.data) for row in found if row.traits["kind"] != "POLICY"] if folder else []
    records = {where: record for entry in decided if folder for where, record in receipts.records_of(folder, entry)}
    return Outcome(
        {
            "entries": [receipts.describe_row(row) for row in found],
            "observations": [dict(receipts.observed(record, where)) for where, record in records.items()],
        }
    )


TRUSTED_ROOT = Argument(
    "--trusted-root", help="trusted_root.json of the sigstore (default: beside keys.json, if keys.json names it)", kind=Path, metavar="FILE"
)
CERTIFIED = (
    Argument("--certificate-identity", help="whom a certificate of Fulcio must name (default: as HOME/keys/sigstore.json)", metavar="WHO"),
    Argument("--certificate-oidc-issuer", help="by whose word", metavar="URL"),
)
SOURCE = Argument(
    "source",
    help="a file (a Receipt in JSON or YAML, the receipt of a decision, a checkpoint, a consistency proof), the folder of an audit bundle, "
    "- for standard input; a receipt id (32 hexadecimal digits) or the index of an entry, looked up in the log, or with --kubeconfig and "
    "without --log on the cluster; else [NAMESPACE/]NAME of a Receipt in the home, or with --kubeconfig on the cluster",
    metavar="SOURCE",
    repeat=True,
)


@command(
    ("receipt", "verify"),
    summary="Verify receipts down to the pinned root: each step, the key that it was held against, and the result",
    arguments=(
        SOURCE,
        PLACE,
        ROOT,
        KEYS,
        AT,
        *TLS,
        KUBECONFIG,
        NAMESPACE,
        TRUSTED_ROOT,
        *CERTIFIED,
    ),
    output=obj(verified=boolean(), not_judged=array(string()), steps=STEPS),
    examples=(
        "knhk receipt verify 5f2c…",
        "knhk receipt verify receipt.yaml --root root.pub --keys keys.json",
        "knhk receipt verify - --root root.pub --keys keys.json -o json",
        "knhk receipt verify erp/promoted-17 --kubeconfig admin.conf --root root.pub --keys keys.json",
        "knhk receipt verify 5f2c… --log https://log.example.com --root root.pub --keys keys.json",
        "knhk receipt verify 5f2c… --kubeconfig risk.conf -n erp --root root.pub --keys keys.json",
    ),
    detail="From a pipe: kubectl get receipt -n erp promoted-17 -o yaml | knhk receipt verify - …\n"
    "Nothing is asked of a network unless --log is a URL or --kubeconfig is given. Several sources are held against one another:\n"
    "their checkpoints must be of one log. A receipt without a proof gets one from the log; one whose checkpoint key was replaced needs a\n"
    "fresh one: `knhk log prove`. Records of O and A that are kept beside a log folder are held against the leaf.\n"
    "What a sigstore said of a policy event (formats/signed.md) is found in a Receipt's status, among the sources, or in the log, and\n"
    "judged offline by trusted_root.json, when keys.json names that: statement, who signed, timestamp, entry of the transparency log.\n"
    "What cannot be judged with what is at hand is neither ok nor bad: its step has `ok` null, and `not_judged` names it. The receipt\n"
    "itself verifies without, for it needs no sigstore.",
    exits={FAULTS: "something does not verify: `steps` say what and where"},
)
def verify(call: Call) -> Outcome:
    import sys
    from functools import cache, partial

    from knhk.wiring import evidence as wiring
    from knhk.wiring import receipt_reading, witnesses
    from knhk.wiring.log_opening import Opened, opened

    args, home = call.args, Home(call.home)
    place = args.log or str(home.log)
    beside = next((Path(word) for word in args.source if Path(word).is_dir()), wiring.folder(place))
    trust = wiring.trust(home, args.root, args.keys, args.at, beside)

    def told(log: Opened, bundle: Bundle) -> None:
        if witnesses.are_named(trust):
            witnesses.in_log(receipt_reading.index_of_log(home, log, place), log, bundle)

    in_log = args.kubeconfig is None or args.log
    if args.namespace is not None and in_log and (word := next(filter(wiring.is_entry, args.source), None)) is not None:
        raise Usage(f"must not be given for {word}, which is looked up in a log: that is of all namespaces", "--namespace")
    api = None if args.kubeconfig is None else cache(partial(receipt_reading.client, args.kubeconfig))
    where = wiring.Where(
        home,
        lambda: opened(place, args.ca_file, args.certificate),
        api,
        None if args.log else api,
        args.namespace,
        told,
    )
    found = wiring.sources(args.source, where, sys.stdin.buffer.read)
    evidence = trust.evidence()
    for name, data in found:
        evidence.add(data, name)
    evidence.together()
    whom = witnesses.whom(home, args.certificate_identity, args.certificate_oidc_issuer)
    outside = witnesses.steps(found, trust, args.trusted_root, whom)
    steps = [*evidence.steps, *wiring.kept(found, wiring.folder(place)), *outside]
    verified = all(step.ok is not False for step in steps)
    apart = [step.what for step in steps if step.ok is None]
    answer = {"verified": verified, "not_judged": apart, "steps": [step._asdict() for step in steps]}
    return Outcome(answer, OK if verified else FAULTS, (steps_table(steps),))


def _table(rows: Iterable[dict[str, Any]]) -> Table:
    return Table(
        "",
        COLUMNS,
        tuple(tuple(str(row[column])[:24] if column == "pack" else str(row[column]) for column in COLUMNS) for row in rows),
    )
