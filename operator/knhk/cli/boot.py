"""`knhk boot init`: a new policy repository from an ontology and invariants."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.framework import Argument, Call, Outcome, Table, Usage, command, noun
from knhk.cli.schema import array, boolean, integer, obj, string

if TYPE_CHECKING:
    from knhk.model.arrows import PackSources
    from knhk.reconcilers.testing import Seen
    from knhk_gen.boot import Draft

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
MAX_BYTES = 96 * 1024
ROUTE = "submit"

noun("boot", "Beginnings: a new policy repository")


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError("must be lower-case letters, digits and inner hyphens, such as invoice-controls")
    return text


@command(
    ("boot", "init"),
    summary="Make a policy repository that compiles: pack, expectations, CI and CODEOWNERS, from an ontology and invariants",
    arguments=(
        Argument("schema", help="classes and properties, Turtle (RDFS, OWL or SHACL)", kind=Path, metavar="SCHEMA.TTL"),
        Argument("invariants", help="ASK queries that must be true of every payload", kind=Path, metavar="INVARIANTS.SPARQL"),
        Argument("--out", help="the folder (default: here)", kind=Path, default=Path("."), metavar="DIR"),
        Argument("--name", help="name of the pack (default: that of the folder)", kind=_name),
        Argument("--namespace", "-n", help="its namespace (default: default)", kind=_name, default="default"),
        Argument("--owner", help="who must approve (default: @policy-owners)", default="@policy-owners"),
        Argument("--dry-run", help="compile and show, write nothing", flag=True),
    ),
    output=obj(
        folder=string(),
        pack=string(),
        digest=string(),
        written=boolean(),
        files=array(obj(path=string(), state=string("create", "unchanged"))),
        guards=integer(),
        cases=array(obj(name=string(), verdict=string(), failing=array(string()))),
        next=array(string()),
    ),
    examples=(
        "knhk boot init schema.ttl invariants.sparql",
        "knhk boot init schema.ttl invariants.sparql --out policies --name order-policy --owner @acme/policy --dry-run",
    ),
    detail="In INVARIANTS.SPARQL each ASK { … } becomes a rule. PREFIX lines hold for all that follow; comments before a query say more:\n"
    "  # name: a-name   # target: ex:Order (what $this ranges over)   # message: what a denied caller reads\n"
    "A schema without SHACL shapes gets first ones from its datatypes. Nothing is written unless all of it compiles; the same call again\n"
    "changes nothing; a file that is there and differs is never overwritten.",
)
def init(call: Call) -> Outcome:
    from knhk.adapters import new_files
    from knhk.model.arrows import PackSources
    from knhk.model.expectations import TESTS_FILE
    from knhk.reconcilers.lowering import plan_of
    from knhk_gen.boot import draft
    from knhk_templates.boot import render

    args = call.args
    folder: Path = args.out
    name = args.name or _name_of(folder)
    made = draft(_text(args.schema), str(args.schema), _text(args.invariants), str(args.invariants))
    pack = PackSources(args.namespace, name, "0.1.0", made.sources, {ROUTE: "payload"})
    plan = plan_of(pack)
    call.say(f"{len(plan.document['guards'])} guards")
    cases = _cases(pack, made)
    texts = render(
        {"name": name, "namespace": args.namespace, "owner": args.owner, "version": _version(), "route": ROUTE}
        | {"sources": made.sources, "cases": cases}
    )
    files = {path: text.encode() for path, text in texts.items()} | {"payloads/example.json": _payload(made)}
    _as_written(files["pack.yaml"], plan.digest)
    state = new_files.planned(folder, files) if args.dry_run else new_files.write(folder, files)
    told = {
        "folder": str(folder),
        "pack": f"{args.namespace}/{name}@0.1.0",
        "digest": plan.digest,
        "written": not args.dry_run,
        "files": [{"path": path, "state": what} for path, what in state.items()],
        "guards": len(plan.document["guards"]),
        "cases": [{key: case[key] for key in ("name", "verdict", "failing")} for case in cases],
        "next": [f"look at the verdicts in {folder / TESTS_FILE}", f"knhk pack test {folder}", f"knhk pack explain {folder}"],
    }
    return Outcome(told, tables=_tables(told))


def _text(file: Path) -> str:
    from knhk.model.faults import Fault, Refused

    data = file.read_bytes()
    if len(data) > MAX_BYTES:
        raise Refused([Fault(str(file), f"{len(data)} bytes", f"must have at most {MAX_BYTES} bytes: a pack carries its sources")])
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Refused([Fault(f"{file}:{line}", f"byte 0x{data[error.start]:02x}", "must be UTF-8")]) from error


def _name_of(folder: Path) -> str:
    made = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")[:63].strip("-")
    if not made:
        raise Usage("must be given: the folder has no name to take", "--name")
    return made


def _version() -> str:
    from importlib.metadata import version

    return version("reflex-enterprise")


def _payload(made: Draft) -> bytes:
    import json

    return json.dumps(made.payload, indent=2, ensure_ascii=False).encode() + b"\n"


def _cases(pack: PackSources, made: Draft) -> list[dict[str, Any]]:
    """What the pack decides of the first payloads."""
    from knhk.api.expectations import DEFAULT_REGION, DEFAULT_TIME, time_ns
    from knhk.model.expectations import Case
    from knhk.reconcilers.lowering import plan_of
    from knhk.reconcilers.testing import subject
    from knhk.wiring import packs

    tested = subject(plan_of(pack), packs.compiler(), packs.host_arch(), None)

    def seen(name: str, body: bytes) -> Seen:
        return tested.decide(
            Case(name, {"": name}, ROUTE, body, False, {"sub": "someone"}, time_ns(DEFAULT_TIME), DEFAULT_REGION, "ADMIT", None)
        )

    def told(name: str, body: bytes, payload: str) -> dict[str, Any]:
        found = seen(name, body)
        failing = [tested.plan["guards"][i]["id"] for i in sorted(found.failing)]
        return {"name": name, "payload": payload, "body": body.decode(), "verdict": found.verdict, "failing": failing}

    return [
        told("an example that follows the schema", _payload(made), "payloads/example.json"),
        told("an empty object", b"{}", ""),
        told("a body that is no JSON", b"{", ""),
    ]


def _as_written(text: bytes, digest: str) -> None:
    """The pack as it will lie in the file must be the pack that was compiled."""
    from knhk.api import parse, to_sources
    from knhk.model.faults import Fault, Refused
    from knhk.reconcilers.lowering import plan_of

    (resource,) = parse(text, "pack.yaml")
    if plan_of(to_sources(resource)).digest != digest:
        raise Refused([Fault("pack.yaml", "another plan", "must hold the sources as they are: are there tabs or odd line ends in them?")])


def _tables(told: dict[str, Any]) -> tuple[Table, ...]:
    title = f"{told['pack']}: {told['guards']} guards" + ("" if told["written"] else ", nothing was written")
    files = tuple((row["path"], row["state"]) for row in told["files"])
    cases = tuple((row["name"], row["verdict"], "\n".join(row["failing"])) for row in told["cases"])
    return (
        Table(title, ("file", ""), files),
        Table("what it decides", ("case", "verdict", "failing"), cases),
        Table("next", ("",), tuple((line,) for line in told["next"])),
    )
