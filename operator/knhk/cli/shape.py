"""`knhk shape …`: SHACL without a pack of one's own."""

from __future__ import annotations

from pathlib import Path

from knhk.cli.framework import FAULTS, OK, USAGE, Argument, Call, Outcome, command, noun
from knhk.cli.schema import anything, array, boolean, integer, mapping, obj, string

noun("shape", "SHACL shapes: validate RDF")

SUFFIXES = ".ttl, .nt, .nq, .trig, .rdf, .jsonld"


@command(
    ("shape", "validate"),
    summary="Validate RDF against SHACL shapes and print the validation report graph",
    arguments=(
        Argument("--shapes", help=f"file with the shapes graph ({SUFFIXES})", kind=Path, metavar="FILE", required=True),
        Argument("--data", help=f"file with the data graph ({SUFFIXES})", kind=Path, metavar="FILE", required=True),
    ),
    output=obj(
        **{"@context": mapping(anything()), "@type": string()},
        conforms=boolean(),
        result=array(mapping(anything())),
        decided=obj(
            plan=string(),
            guards=obj(R1=integer(), W1=integer(), C1=integer()),
            evaluations=obj(R1=integer(), W1=integer(), C1=integer()),
        ),
    ),
    examples=(
        "knhk shape validate --shapes shapes.ttl --data data.ttl",
        "knhk shape validate --shapes shapes.ttl --data data.jsonld -o json | jq .conforms",
    ),
    detail="The shapes are compiled as those of a pack: constraints of class R1 are decided by its kernels, the others by the cold tier.\n"
    "The base IRI of a file is its file URI; class hierarchy and instances are those of the data graph. JSON is JSON-LD of the same\n"
    "graph; its member `decided` says how many guards, and how many pairs of guard and focus node, each class decided.",
    exits={
        OK: "the data conforms",
        FAULTS: "the data violates the shapes",
        USAGE: "failure: a file, a shape or the command line",
    },
    formats=("turtle",),
    default="turtle",
    failure=USAGE,
)
def validate(call: Call) -> Outcome:
    from knhk.adapters.rdf_files import read
    from knhk.reconcilers import validating
    from knhk.wiring import packs

    shapes, data = read(call.args.shapes, "s"), read(call.args.data, "d")
    made = validating.validate(shapes, data, packs.compiler(), packs.host_arch())
    decided = {"plan": made.plan.digest, "guards": made.guards, "evaluations": made.evaluations}
    document = {**made.report.json_ld(), "decided": decided}
    return Outcome(document, OK if made.report.conforms else FAULTS, texts={"turtle": made.report.turtle()})
