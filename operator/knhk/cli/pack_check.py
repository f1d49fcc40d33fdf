"""`knhk pack check`: faults of a pack, proof of its translation, and conflicts among several packs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, command
from knhk.cli.pack_review import CHANGES, REVIEWING, refuse_without_git, reviewed
from knhk.cli.schema import FAULTS as FAULT_LIST
from knhk.cli.schema import array, integer, mapping, nullable, obj, string

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from knhk.model.arrows import GuardPlan, PackSources, SharedObject
    from knhk.model.expectations import Case
    from knhk.model.packs import Found
    from knhk.reconcilers.conflicts import Conflict

GUARD = obj(id=string(), kind=string(), **{"class": string("R1", "W1", "C1")}, shape=string(), path=string(), source=string())
PROOF = obj(
    cases=integer(),
    asked=integer(),
    bundle=nullable(string()),
    seed=integer(),
    digest=string(),
    kernels=array(string()),
    judged=mapping(integer()),
    guards=obj(both=integer(), all=integer()),
    slow=obj(both=integer(), all=integer()),
)
CASES = 1000


def _count(text: str) -> int:
    """A number of cases. Raises ValueError."""
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise ValueError("must be a number from 1 to 1000000")
    return int(text)


SEED = Argument("--seed", help="seed of the cases (default 1)", kind=int, default=1, metavar="N")
PROVING = (
    Argument("--prove", help="compare the compiled pack with its sources on generated cases", flag=True),
    Argument("--cases", help=f"how many cases (default {CASES})", kind=_count, metavar="N"),
    SEED,
)
BUILDING = (
    Argument("--prove", help=f"prove on {CASES} cases, not on the fewer of every build", flag=True),
    Argument("--cases", help=f"how many cases (default KNHK_PROOF_CASES, else 150; with --prove {CASES})", kind=_count, metavar="N"),
    SEED,
)
WITNESS = obj(shows=string(), route=string(), attributes=mapping(string()), region=string(), time_ns=integer(), body=string())


@command(
    ("pack", "check"),
    summary="Compile packs and list their guards, or every fault; prove the translation; find conflicts among several packs",
    arguments=(
        Argument(
            "path", help="PolicyPack files, or folders that hold pack.yaml", kind=Path, metavar="DIR_OR_FILE", repeat=True, optional=True
        ),
        *REVIEWING,
        *PROVING,
    ),
    output=obj(
        digest=nullable(string()),
        guards=array(GUARD),
        faults=FAULT_LIST,
        proofs=mapping(PROOF),
        conflicts=array(
            obj(kind=string("contradictory", "shadowed", "never-firing"), guards=array(string()), told=string(), witnesses=array(WITNESS))
        ),
        changes=nullable(CHANGES),
    ),
    examples=(
        "knhk pack check examples/packs/invoice-controls/1.0.0",
        "knhk pack check pack.yaml -o json | jq .faults",
        "knhk pack check examples/packs/candidate --prove",
        "knhk pack check base/pack.yaml region/pack.yaml --cases 2000",
        "knhk pack check --git main...HEAD policies -o markdown",
        "knhk pack check --git origin/main..HEAD -o sarif > policy.sarif",
    ),
    detail="The digest is that of the first GuardPlan: it depends on what the sources say, not on where they lie. --prove decides\n"
    "generated payloads (boundary values, single violations, pairs, changes of the samples beside the pack) by every kernel variant of\n"
    "this machine and from the sources alone; a difference is a bug of the compiler and is shown with a small case. Several packs: rules\n"
    "that contradict each other, that fail only where another does, or that never fail, each with a payload; the first ends with exit 1.\n"
    "--git: every resource of the later commit is parsed; packs that the range touches are compiled, held to their expectations, and\n"
    "compared with what they were before, on the samples of both (docs/gitops.md).",
    exits={FAULTS: "a pack is faulty or misses its expectations, --prove found a difference, or rules contradict each other"},
    formats=("markdown", "sarif"),
)
def check(call: Call) -> Outcome:
    from knhk.adapters.pack_folder import find
    from knhk.api import to_sources
    from knhk.model.faults import Refused
    from knhk.reconcilers.lowering import plan_of

    args = call.args
    if args.git is not None:
        return _reviewed(call)
    refuse_without_git(call)
    found: list[tuple[Found, PackSources, GuardPlan]] = []
    faults: list[dict[str, str]] = []
    proofs: dict[str, Mapping[str, Any]] = {}
    for path in args.path:
        try:
            one = find(path)
            sources = to_sources(one.pack)
            plan = plan_of(sources)
            found.append((one, sources, plan))
            if args.prove:
                proofs[_label(plan, path, proofs)] = proven(call, one, plan, _objects(plan))
        except Refused as refused:
            faults += [{"where": f.where, "value": f.value, "must": f.must} for f in refused.faults]
    if faults:
        rows = tuple((f["where"], f["value"], f["must"]) for f in faults)
        data = {"digest": None, "guards": [], "faults": faults, "proofs": proofs, "conflicts": [], "changes": None}
        return Outcome(data, FAULTS, (Table("faults", ("where", "value", "must"), rows),))
    guards = [_guard_row(sources, guard) for _, sources, plan in found for guard in plan.document["guards"]]
    tables = [
        Table(
            f"plan {plan.digest}",
            ("guard", "kind", "class", "path", "source"),
            tuple((g["id"], g["kind"], g["class"], g["path"], _guard_row(sources, g)["source"]) for g in plan.document["guards"]),
        )
        for _, sources, plan in found
    ]
    tables += [_proof_table(label, proof) for label, proof in proofs.items()]
    conflicts = _conflicts(call, found) if len(found) > 1 else ()
    if len(found) > 1:
        tables.append(_conflict_table(conflicts))
    told = {
        "digest": found[0][2].digest,
        "guards": guards,
        "faults": [],
        "proofs": proofs,
        "conflicts": [
            {"kind": c.kind, "guards": list(c.guards), "told": c.told, "witnesses": [_witness(w.shows, w.case) for w in c.witnesses]}
            for c in conflicts
        ],
        "changes": None,
    }
    return Outcome(told, FAULTS if any(c.kind == "contradictory" for c in conflicts) else OK, tuple(tables))


def _reviewed(call: Call) -> Outcome:
    from knhk.adapters import expectation_files
    from knhk.reconcilers.reviewing import Reviewer
    from knhk.wiring import packs

    def prove(found: Found, plan: GuardPlan) -> Mapping[str, Any]:
        return proven(call, found, plan, _objects(plan), found.file.parents[len(Path(found.pack.path).parts) - 1])

    reviewer = Reviewer(packs.compiler(), packs.host_arch(), expectation_files, prove if call.args.prove else None, call.args.mutants)
    return reviewed(call, reviewer)


def proven(call: Call, found: Found, plan: GuardPlan, objects: Sequence[SharedObject], root: Path | None = None) -> Mapping[str, Any]:
    """What the proof of a pack did; samples lie inside `root`, if given. Raises Refused with the bug that it found."""
    from knhk.api import to_sources
    from knhk.model.faults import Refuted
    from knhk.reconcilers import proving
    from knhk.reconcilers.admission import bundle_bytes
    from knhk.wiring import packs

    data = None if found.bundle is None else bundle_bytes(found.bundle)
    under = proving.loaded(plan, objects, packs.host_arch(), data)
    samples = _samples(found, plan, root)
    count = call.args.cases or (CASES if call.args.prove else packs.proof_budget().cases)
    call.say(f"proving on {count} cases from {len(samples)} samples, by {', '.join(b.kernel for b in under.bindings)}")
    proof = proving.prove(to_sources(found.pack), under, samples, proving.callers(found.bundle), count, call.args.seed)
    if proof.disagreement is not None:
        raise Refuted([proof.disagreement.fault()])
    return proof.document()


def _objects(plan: GuardPlan) -> Sequence[SharedObject]:
    from knhk.wiring import packs
    from knhk_gen.emit import emit

    return packs.compiler().compile(emit(plan))


def _samples(found: Found, plan: GuardPlan, root: Path | None = None) -> Sequence[Case]:
    """The cases of the expectations beside a pack."""
    from knhk.adapters.expectation_files import beside, expectations

    file = beside(found.file)
    return expectations(file, plan.document, root).cases if file.is_file() else ()


def _label(plan: GuardPlan, path: Path, labels: Collection[str] = ()) -> str:
    """NAMESPACE/NAME@VERSION, with the path when another pack has that name."""
    name = "{namespace}/{name}@{version}".format(**plan.document["pack"])
    return f"{name} ({path})" if name in labels else name


def _guard_row(pack: PackSources, guard: Mapping[str, Any]) -> dict[str, Any]:
    from knhk.reconcilers.lowering import place

    row = {key: guard.get(key, "") for key in ("id", "kind", "class", "shape", "path")}
    row["shape"] = guard.get("named") or row["shape"]
    return row | {"source": place(pack, guard["source"])}


def _proof_table(label: str, proof: Mapping[str, Any]) -> Table:
    judged = ", ".join(f"{n} {name}" for name, n in proof["judged"].items() if n)
    rows = (
        ("cases", f"{proof['cases']}: {judged}"),
        ("seed, digest", f"{proof['seed']}, {proof['digest']}"),
        ("kernels", ", ".join(proof["kernels"])),
        ("guards of class R1 seen to fail and to pass", f"{proof['guards']['both']} of {proof['guards']['all']}"),
        ("guards of W1 and C1, where a second engine spoke", f"{proof['slow']['both']} of {proof['slow']['all']}"),
    )
    return Table(f"proof of {label}: tables and sources agree", ("", ""), rows)


def _conflicts(call: Call, found: Sequence[tuple[Found, PackSources, GuardPlan]]) -> tuple[Conflict, ...]:
    from knhk.reconcilers.admission import bundle_bytes
    from knhk.reconcilers.conflicts import conflicts
    from knhk.reconcilers.proving import callers, loaded
    from knhk.wiring import packs

    under: dict[str, Any] = {}
    samples: list[Case] = []
    known: list[str] = []
    for path, (one, _, plan) in zip(call.args.path, found, strict=True):
        data = None if one.bundle is None else bundle_bytes(one.bundle)
        under[_label(plan, path, under)] = loaded(plan, _objects(plan), packs.host_arch(), data)
        samples += _samples(one, plan)
        known += callers(one.bundle)
    made, judged = conflicts(under, samples, list(dict.fromkeys(known)), call.args.cases or CASES, call.args.seed)
    call.say(f"{len(made)} conflicts on {judged} cases")
    return made


def _conflict_table(conflicts: Sequence[Conflict]) -> Table:
    rows = tuple(
        (c.kind, "\n".join(c.guards), "\n".join([c.told, *(f"{w.shows}: {_shown(w.case)}" for w in c.witnesses)])) for c in conflicts
    )
    return Table("conflicts", ("kind", "guards", "why, and a payload"), rows or (("none", "", ""),))


def _shown(case: Case) -> str:
    attributes = " ".join(f"{k}={v}" for k, v in sorted(case.attributes.items()))
    return f"{case.route} {case.body.decode(errors='replace')} {attributes}".strip()


def _witness(shows: str, case: Case) -> dict[str, Any]:
    return {
        "shows": shows,
        "route": case.route,
        "attributes": dict(case.attributes),
        "region": case.region,
        "time_ns": case.time_ns,
        "body": case.body.decode(errors="replace"),
    }
