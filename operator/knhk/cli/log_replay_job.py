"""`knhk log job`, `gather`: the replay of an archive by pods of a cluster, a shard each, and what they said as one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, Usage, command
from knhk.cli.log_replay import REPLAYED, SIZE, shard_of, tables_of
from knhk.cli.schema import array, integer, obj, string

if TYPE_CHECKING:
    from knhk.reconcilers.replaying import Replayed

HTTPS, REGISTRY = 443, 5000
CLAIMED = "/var/lib/knhk"


@command(
    ("log", "job"),
    summary="Write the replay of an archive as an Indexed Job for a cluster, a shard for each index",
    arguments=(
        Argument("source", help="the archive as the pods see it: s3://BUCKET/PREFIX, or a folder below /var/lib/knhk", metavar="SOURCE"),
        Argument("--log", help="the log: a store that it is published in, or a folder below /var/lib/knhk", metavar="PLACE", required=True),
        Argument("--pull", help="registry of packs and data: https://HOST[:PORT][/REPOSITORY]", metavar="URL", required=True),
        Argument(
            "--pull-secret",
            help="Secret with ca.crt, its authority, and .dockerconfigjson, credentials that may read (default: the operator's, if any)",
            default="knhk-registry-operator",
            metavar="NAME",
        ),
        Argument("--image", help="image of the control plane, by digest", metavar="IMAGE", required=True),
        SIZE,
        Argument("--shards", help="shards, and pods in all (default 8)", kind=int, default=8, metavar="N"),
        Argument("--parallel", help="pods at the same time (default: all)", kind=int, metavar="N"),
        Argument("--secret", help="Secret with AWS_*, for the store", metavar="NAME"),
        Argument(
            "--port", help="further port that its pods may reach: of the store, where it is not 443", kind=int, repeat=True, metavar="N"
        ),
        Argument(
            "--keys-secret",
            help="default knhk-keys-log; where keys turn by themselves knhk-keys-now",
            default="knhk-keys-log",
            metavar="NAME",
        ),
        Argument("--claim", help="PersistentVolumeClaim at /var/lib/knhk, read only (the log's: data-knhk-log-0)", metavar="NAME"),
        Argument("--name", help="of the Job (default knhk-replay)", default="knhk-replay", metavar="NAME"),
        Argument("--namespace", "-n", help="default knhk-system", default="knhk-system", metavar="NAME"),
    ),
    output=obj(apiVersion=string(), kind=string(), items=array({"type": "object"})),
    examples=(
        "knhk log job s3://audit/delta --log s3://audit/log --pull https://registry.example.com/knhk --image knhk-operator@sha256:…",
        "knhk log job /var/lib/knhk/delta --log /var/lib/knhk/log --claim data-knhk-log-0 --pull https://r.example.com --image …",
    ),
    detail="Pipe it: knhk log job … -o json | kubectl apply -f -. Each pod answers by its exit code and, in its log, by JSON; the\n"
    "Job is complete when every shard came out as recorded, and `knhk log gather` makes one of what its pods say. Of the Secret of\n"
    "keys they get keys.json and root.pub alone. Of a log that grows give --size, of a checkpoint older than the archive's lag. A\n"
    "NetworkPolicy lets these pods out to registry, store and DNS.",
)
def job(call: Call) -> Outcome:
    from knhk_templates.kubernetes import render

    args = call.args
    if args.shards < 1 or (args.parallel or 1) < 1:
        raise Usage("must be at least 1", "--shards" if args.shards < 1 else "--parallel")
    for where, place in (("SOURCE", args.source), ("--log", args.log)):
        if "://" not in place and not (args.claim and place.startswith(f"{CLAIMED}/")):
            raise Usage(f"must be a store, s3://BUCKET/PREFIX, or a folder below {CLAIMED} with --claim", where)
    own = _port(args.pull)
    ports = sorted({HTTPS, REGISTRY, *(args.port or ()), *([own] if own else [])})
    items = render(
        "replay",
        name=args.name,
        namespace=args.namespace,
        image=args.image,
        shards=args.shards,
        parallelism=args.parallel or args.shards,
        source=args.source,
        log=args.log,
        pull=args.pull,
        pull_secret=args.pull_secret,
        size=args.size,
        ports=ports,
        secret=args.secret,
        keys=args.keys_secret,
        claim=args.claim,
    )
    rows = tuple((item["kind"], f"{item['metadata']['namespace']}/{item['metadata']['name']}") for item in items)
    return Outcome({"apiVersion": "v1", "kind": "List", "items": items}, tables=(Table("", ("kind", "object"), rows),))


def _port(url: str) -> int | None:
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts.port
    raise Usage("must be https://HOST[:PORT][/REPOSITORY]", "--pull")


@command(
    ("log", "gather"),
    summary="Make one answer of what the pods of a replay Job said: sums, root, and shards that are missing",
    arguments=(
        Argument("files", help="what its pods said; default: standard input", kind=Path, metavar="FILE", repeat=True, optional=True),
    ),
    output=obj(shards=integer(), missing=array(integer()), **REPLAYED["properties"]),
    examples=("knhk log gather said.txt", "knhk log gather shard-*.json -o json"),
    detail="With kubectl: kubectl logs -n knhk-system -l batch.kubernetes.io/job-name=knhk-replay --tail=-1 | knhk log gather\n"
    "Lines that are no answers of `knhk log replay` are passed over. Of several tries of a shard the one counts that confirmed\n"
    "most, as the Job takes it. `root` is that of the log with `size` entries: compare it with a checkpoint that you trust.",
    exits={FAULTS: "a decision came out different, has no record, or a shard is missing"},
)
def gather(call: Call) -> Outcome:
    import sys
    from dataclasses import asdict

    from knhk.reconcilers.gathering import gathered

    texts = [(str(path), path.read_text()) for path in call.args.files] or [("<stdin>", sys.stdin.read())]
    tries = [one for name, text in texts for one in _answers(name, text)]
    if not tries:
        raise Usage("holds no answer of `knhk log replay` of an archive", ", ".join(name for name, _ in texts))
    found = gathered(tries)
    data = {"shards": found.shards, "missing": list(found.missing), **asdict(found.whole)}
    parts = Table("", ("shards", "missing"), ((str(found.shards), " ".join(map(str, found.missing))),))
    return Outcome(data, OK if found.confirmed else FAULTS, (parts, *tables_of(found.whole)))


def _answers(name: str, text: str) -> Iterator[Replayed]:
    """Raises Bad for one that is malformed."""
    from knhk.reconcilers.replaying import Difference, Replayed
    from knhk_verify.signed import member

    for number, line in enumerate(text.splitlines(), 1):
        said = _object(line)
        if "shard" not in said:
            continue
        where = f"{name}:{number}"
        told = [
            Difference(*(member(row, part, str, where) for part in ("where", "receipt", "reason"))) for row in said.pop("differences", ())
        ]
        kinds = {field: type(value) for field, value in vars(Replayed()).items() if field != "differences"}
        found = Replayed(**{field: member(said, field, kind, where) for field, kind in kinds.items()}, differences=told)
        shard_of(found.shard, f"{where}: shard")
        yield found


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line) if line.startswith("{") else {}
    except ValueError:
        return {}  # the end of a log that was cut off
    return found if isinstance(found, dict) else {}
