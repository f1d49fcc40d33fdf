"""`knhk pack …`: build, build again, decide, status, abort."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from knhk.cli.framework import FAULTS, Argument, Call, Outcome, Table, command, noun
from knhk.cli.pack_check import BUILDING, PROOF, proven
from knhk.cli.schema import anything, array, boolean, integer, mapping, nullable, obj, string
from knhk.wiring.home import Home

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from knhk.model.packs import Found
    from knhk.model.resource import Key
    from knhk.packaging.builds import Step

T = TypeVar("T")
MAX_BODY_BYTES = 1 << 20

noun("pack", "PolicyPacks: check, build, decide, follow")

WHERE = Argument(
    "path",
    help="a PolicyPack file, or a folder that holds pack.yaml",
    kind=Path,
    metavar="DIR_OR_FILE",
)
REGISTRY = Argument(
    "--registry",
    help="registry folder, an OCI layout (default HOME/registry)",
    kind=Path,
    metavar="DIR",
)
NAME = Argument("name", help="the PolicyPack", metavar="NAMESPACE/NAME")
DIGEST = Argument(
    "digest",
    help="digest of the image index, sha256:…, or its tag NAMESPACE/NAME:VERSION",
    metavar="DIGEST",
)


@command(
    ("pack", "build"),
    summary="Compile, link, prove, sign and publish a pack, and the data bundle that it reads",
    arguments=(WHERE, REGISTRY, *BUILDING),
    output=obj(
        name=string(),
        version=string(),
        digest=string(),
        plan=string(),
        keyid=string(),
        tag=string(),
        registry=string(),
        bundle=nullable(obj(name=string(), digest=string(), file=string())),
        proof=PROOF,
    ),
    examples=(
        "knhk pack build examples/packs/invoice-controls/1.0.0",
        "knhk pack build pack.yaml --registry ./registry -o json | jq -r .digest",
        "knhk pack build pack.yaml --cases 20000",
    ),
    detail="Same sources and same tools give the same digest, in any folder and on any machine. Nothing is published or signed before the\n"
    "compiled pack agrees with its sources on generated cases; their count, seed and digest are in the signed provenance.",
    exits={FAULTS: "the pack is faulty, or tables and sources differ: a bug of the compiler"},
)
def build(call: Call) -> Outcome:
    from knhk.adapters.pack_folder import find
    from knhk.api import to_sources
    from knhk.packaging.image import tag_of
    from knhk.reconcilers import building
    from knhk.reconcilers.admission import bundle_bytes
    from knhk.wiring import packs

    found = find(call.args.path)
    registry_dir = _registry_dir(call)
    registry, signer = packs.registry(registry_dir), packs.signer(Home(call.home))
    data = bundle = None
    if found.bundle is not None:
        data = building.Data(found.bundle.namespace, found.bundle.name, bundle_bytes(found.bundle))
        image = data.image
        bundle = {"name": data.name, "digest": image.digest, "file": image.blobs[-1].digest}

    def prove(made: building.Made) -> Mapping[str, Any]:
        return proven(call, found, made.plan, made.objects)

    signed = _finish(call, building.build(to_sources(found.pack), packs.compiler(), registry, signer, prove, data))
    made = signed.image
    return Outcome(
        {
            "name": f"{made.namespace}/{made.name}",
            "version": made.version,
            "digest": made.digest,
            "plan": made.plan_digest,
            "keyid": signed.keyid,
            "tag": tag_of(made.namespace, made.name, made.version),
            "registry": str(registry_dir),
            "bundle": bundle,
            "proof": dict(signed.proof),
        }
    )


@command(
    ("pack", "decide"),
    summary="Decide one payload with a pack, by the same compiled evaluator that Envoy runs",
    arguments=(
        WHERE,
        Argument(
            "--payload",
            help="file with the body of the request (default: an empty body)",
            kind=Path,
            metavar="FILE",
        ),
        Argument("--route", help="route of the request (default: the first one of the pack that has a body)"),
        Argument(
            "--attr",
            help="a verified attribute, for example sub=alice or action=approve",
            repeat=True,
            metavar="NAME=VALUE",
        ),
        Argument(
            "--bundle",
            help="data bundle file, DataBundle YAML or Turtle (default: the DataBundle that the pack names)",
            kind=Path,
            metavar="FILE",
        ),
        Argument("--time", help="decision time, RFC 3339 (default: now)", metavar="TIME"),
    ),
    output=obj(
        verdict=string("ADMIT", "DENY"),
        **{"class": string("R1", "W1", "C1")},
        failing=array(obj(guard=string(), shape=string(), path=string(), value=string(), message=string())),
        o_hash=string(),
        a_hash=string(),
        pack=string(),
    ),
    examples=(
        "knhk pack decide examples/packs/invoice-controls/1.0.0 --payload invoice.json --attr sub=alice",
        "knhk pack decide pack.yaml --payload po.json --route approve --attr action=approve --time 2026-01-01T00:00:00Z -o json",
    ),
    detail="Both verdicts end with exit 0; read `verdict`. `o_hash` and `a_hash` are H(O) and H(A) of formats/ with a salt of 16 zero\n"
    "bytes, so that equal decisions have equal hashes; in the log the salt is random. `pack` is the digest of the image that\n"
    "`pack build` makes of the same sources.",
    exits={FAULTS: "the pack or the request is faulty; nothing was decided"},
)
def decide(call: Call) -> Outcome:
    from knhk.adapters.pack_folder import find
    from knhk.api import to_sources
    from knhk.cli import arguments
    from knhk.model.canonical import sha256_hex
    from knhk.model.observation import ZEROS, Observation
    from knhk.reconcilers import building, deciding
    from knhk.reconcilers.evaluators import load
    from knhk.wiring import packs
    from knhk_runtime.tiers.digest import evaluator_digest

    args = call.args
    found = find(args.path)
    body = _payload(args.payload)
    attributes, time_ns = arguments.attributes(args.attr), arguments.time_ns(args.time)
    data = _bundle_data(args.bundle, found)
    made = _finish(call, building.assemble(to_sources(found.pack), packs.compiler()))
    route = _route(args.route, found.pack.spec["routes"])
    observation = Observation(
        time_ns,
        route,
        body,
        attributes,
        region="local",
        bundle=ZEROS if data is None else bytes.fromhex(sha256_hex(data)),
        evaluator=evaluator_digest(),
    )
    so = next(shared.data for shared in made.objects if shared.arch == packs.host_arch())
    answer = deciding.decide(load(so, made.plan.document, data), observation)
    rows = tuple((f["guard"], f["path"], f["value"], f["message"]) for f in answer.failing)
    title = f"{answer.verdict} by {answer.klass}, {made.image.digest}"
    return Outcome(
        {
            "verdict": answer.verdict,
            "class": answer.klass,
            "failing": [dict(row) for row in answer.failing],
            "o_hash": answer.o_hash,
            "a_hash": answer.a_hash,
            "pack": made.image.digest,
        },
        tables=(Table(title, ("failing guard", "path", "value", "message"), rows),),
    )


@command(
    ("pack", "rebuild"),
    summary="Build a pack again from the materials that its signed provenance names, and compare",
    arguments=(
        DIGEST,
        REGISTRY,
        Argument(
            "--materials",
            help="take the sources from this folder, files named by SHA-256",
            kind=Path,
            metavar="DIR",
        ),
    ),
    output=obj(digest=string(), rebuilt=string(), same=boolean()),
    examples=(
        "knhk pack rebuild erp/invoice-controls:1.0.0",
        "knhk pack rebuild sha256:… --materials ./materials",
    ),
    detail="A material that is missing or different is named and ends it with exit 1.",
    exits={FAULTS: "a material is missing or different, or another digest came out"},
)
def rebuild(call: Call) -> Outcome:
    from knhk.reconcilers import building
    from knhk.wiring import packs

    registry_dir = _registry_dir(call)
    digest = _digest(call, registry_dir)
    steps = building.rebuild(
        packs.store(registry_dir),
        digest,
        packs.compiler(),
        packs.keys(Home(call.home).keys),
        call.args.materials,
    )
    rebuilt = _finish(call, steps)
    same = rebuilt == digest
    return Outcome({"digest": digest, "rebuilt": rebuilt, "same": same}, 0 if same else FAULTS)


@command(
    ("pack", "materials"),
    summary="List the materials of a pack as its signed provenance names them, and copy its sources",
    arguments=(
        DIGEST,
        REGISTRY,
        Argument("--out", help="write the sources here, files named by SHA-256", kind=Path, metavar="DIR"),
    ),
    output=obj(
        digest=string(),
        materials=array(obj(name=string(), sha256=string(), uri=string(), version=string())),
    ),
    examples=(
        "knhk pack materials erp/invoice-controls:1.0.0",
        "knhk pack materials sha256:… --out ./materials",
    ),
)
def materials(call: Call) -> Outcome:
    from dataclasses import asdict

    from knhk.packaging.materials import SOURCE
    from knhk.reconcilers import building
    from knhk.wiring import packs

    registry_dir = _registry_dir(call)
    digest, store = _digest(call, registry_dir), packs.store(registry_dir)
    told = building.provenance_of(store, digest, packs.keys(Home(call.home).keys))
    if call.args.out is not None:
        call.args.out.mkdir(parents=True, exist_ok=True)
        for material in told.materials:
            if material.name.startswith(SOURCE):
                (call.args.out / material.sha256).write_bytes(store.layout.read(f"sha256:{material.sha256}"))
    return Outcome({"digest": digest, "materials": [asdict(m) for m in told.materials]})


@command(
    ("pack", "status"),
    summary="Show what the control plane says about a pack",
    arguments=(NAME,),
    output=obj(
        name=string(),
        generation=integer(),
        version=string(),
        phase=string(),
        status=mapping(anything()),
        heat=mapping(array(obj(predicate=string(), percent=integer()))),
    ),
    examples=("knhk pack status erp/invoice-controls",),
    detail="heat: of each point that enforces the pack, the predicates that its sampled decisions touch, hottest first, in triples of 100\n"
    "decisions. What is hot is read into memory first (spec.residency of the point).",
)
def status(call: Call) -> Outcome:
    from knhk.wiring import packs

    key = _key(call.args.name)
    with packs.resources(Home(call.home)) as store:
        pack = store.get(key)
        points = store.list("EnforcementPoint", key.namespace).resources
    live = (pack.status.get("live") or {}).get("points", ())
    revision = pack.status.get("revision", {})
    data: dict[str, Any] = {
        "name": call.args.name,
        "generation": pack.generation,
        "version": pack.spec["version"],
        "phase": revision.get("phase", "Pending"),
        "status": dict(pack.status),
        "heat": {point.name: point.status["heat"] for point in points if point.name in live and "heat" in point.status},
    }
    return Outcome(data)


@command(
    ("pack", "abort"),
    summary="Ask the control plane to end the rollout of a pack; what is live stays",
    arguments=(
        NAME,
        Argument("--reason", help="why, for the receipt", default="asked for by a person"),
    ),
    output=obj(name=string(), generation=integer(), asked=string()),
    examples=("knhk pack abort erp/invoice-controls --reason 'wrong limits'",),
    detail="Sets the annotation knhk.dev/abort to the generation that is to end and the reason.",
)
def abort(call: Call) -> Outcome:
    from dataclasses import replace

    from knhk.wiring import packs

    key = _key(call.args.name)
    with packs.resources(Home(call.home)) as store:
        pack = store.get(key)
        asked = f"{pack.generation} {call.args.reason}"
        store.update(replace(pack, annotations={**pack.annotations, "knhk.dev/abort": asked}))
    return Outcome({"name": call.args.name, "generation": pack.generation, "asked": asked})


def _finish(call: Call, steps: Generator[Step, None, T]) -> T:
    while True:
        try:
            step = next(steps)
        except StopIteration as done:
            made: T = done.value
            return made
        call.say(f"{step.name}: {step.made}")


def _registry_dir(call: Call) -> Path:
    return call.args.registry or Home(call.home).registry


def _digest(call: Call, registry_dir: Path) -> str:
    from knhk.model.faults import Fault, Refused
    from knhk.model.oci import DIGEST as FORM
    from knhk.wiring import packs

    given: str = call.args.digest
    if FORM.fullmatch(given):
        return given
    tags = packs.registry(registry_dir).tags()
    if given not in tags:
        known = ", ".join(list(tags)[:8]) or "none yet"
        raise Refused(
            [
                Fault(
                    str(registry_dir),
                    given,
                    f"must be sha256: and 64 hexadecimal digits, or a tag (known: {known})",
                )
            ]
        )
    return tags[given]


def _key(name: str) -> Key:
    from knhk.cli.framework import Usage
    from knhk.model.resource import Key

    namespace, slash, rest = name.partition("/")
    if not slash or not namespace or not rest or "/" in rest:
        raise Usage(f"{name!r} must be NAMESPACE/NAME, such as erp/invoice-controls", "name")
    return Key("PolicyPack", namespace, rest)


def _payload(file: Path | None) -> bytes:
    from knhk.model.faults import Fault, Refused

    if file is None:
        return b""
    with file.open("rb") as opened:
        data = opened.read(MAX_BODY_BYTES + 1)
    if len(data) > MAX_BODY_BYTES:
        raise Refused(
            [Fault(str(file), f"more than {MAX_BODY_BYTES} bytes", "must have at most 1 MiB: enforcement points refuse larger bodies")]
        )
    return data


def _route(given: str | None, routes: Sequence[Mapping[str, Any]]) -> str:
    """The route that was asked for; by default the first one of the pack whose body is mapped, else its first."""
    from knhk.cli.arguments import route

    names = [str(row["name"]) for row in routes]
    if given is None:
        return next((str(row["name"]) for row in routes if row.get("mapping")), names[0])
    return route(given, names)


def _bundle_data(given: Path | None, found: Found) -> bytes | None:
    from knhk.adapters.pack_folder import data_bundle
    from knhk.model.faults import Fault, Refused
    from knhk.reconcilers.admission import bundle_bytes
    from knhk_gen.bundle import build as closure
    from knhk_hot.perfect import place

    if given is None:
        return None if found.bundle is None else bundle_bytes(found.bundle)
    data = given.read_bytes()
    if data.startswith(b"KNHKBND"):
        return data
    if given.suffix in (".yaml", ".yml"):
        return bundle_bytes(data_bundle(given))
    template = found.bundle.spec.get("callerTemplate", "") if found.bundle is not None else ""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{data[error.start]:02x}"
        raise Refused(
            [Fault(f"{given} offset {error.start}", wrong, "must be UTF-8: Turtle, DataBundle YAML, or a built bundle")]
        ) from error
    return closure(text, str(given), template, place)
