"""`knhk pack explain`: for each guard the class that decides it and why, its kernels, cost, terms and source line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.framework import Argument, Call, Outcome, Table, command
from knhk.cli.schema import array, integer, mapping, nullable, obj, string

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from knhk_gen.explain import Explained


@command(
    ("pack", "explain"),
    summary="Say for each guard where it was written, which class decides it and why, its kernels, cost and terms",
    arguments=(Argument("path", help="a PolicyPack file, or a folder that holds pack.yaml", kind=Path, metavar="DIR_OR_FILE"),),
    output=obj(
        digest=string(),
        classes=mapping(integer()),
        guards=array(
            obj(
                id=string(),
                kind=string(),
                **{"class": string("R1", "W1", "C1")},
                why=string(),
                source=string(),
                target=string(),
                path=string(),
                component=string(),
                severity=string(),
                message=string(),
                kernels=mapping(integer()),
                cost=obj(rows=integer(), folds=integer(), tests=integer(), cycles=nullable({"type": "number"})),
                terms=array(string()),
            )
        ),
    ),
    examples=(
        "knhk pack explain examples/packs/invoice-controls/1.2.0",
        "knhk pack explain pack.yaml -o dot | dot -Tsvg > pack.svg",
        "knhk pack explain pack.yaml -o json | jq '.guards[] | select(.class != \"R1\") | {id, why}'",
    ),
    detail="Classes: R1 is decided by tables and kernels, W1 needs one more hop or a scan of text, C1 a query engine. Cost is for one\n"
    "focus node: rows of kernels over chunks of 8 lanes, folds of registers, tests of masks; guards that say the same share rows.\n"
    "Cycles are those of its kernels in knhk_gen/tables/kernel-cost.tsv, for the core that is named there; null where one is not in it.",
    formats=("dot",),
)
def explain(call: Call) -> Outcome:
    from collections import Counter

    from knhk.adapters.pack_folder import find
    from knhk.api import to_sources
    from knhk.reconcilers.lowering import place, plan_of
    from knhk_gen import explain as explaining
    from knhk_gen.plan_dump import target_text

    pack = to_sources(find(call.args.path).pack)
    plan = plan_of(pack)
    document = plan.document
    told = explaining.explain(document)
    sources = [place(pack, guard["source"]) for guard in document["guards"]]
    guards = [
        {key: guard.get(key, "") for key in ("id", "kind", "class", "why", "path", "component", "severity", "message")}
        | {
            "source": source,
            "target": target_text(document["targets"][guard["target"]]),
            "kernels": dict(each.kernels),
            "cost": {"rows": sum(each.kernels.values()), "folds": each.folds, "tests": each.tests, "cycles": each.cycles},
            "terms": list(each.terms),
        }
        for guard, each, source in zip(document["guards"], told, sources, strict=True)
    ]
    classes = Counter(guard["class"] for guard in guards)
    data = {"digest": plan.digest, "classes": {k: classes[k] for k in ("R1", "W1", "C1")}, "guards": guards}
    dot = explaining.dot(document, told, sources)
    return Outcome(data, tables=_tables(guards, told), texts={"dot": dot})


def _tables(guards: Sequence[Mapping[str, Any]], told: Sequence[Explained]) -> tuple[Table, ...]:
    rows = tuple(
        (
            guard["id"],
            guard["class"],
            ", ".join(f"{name} ×{n}" if n > 1 else name for name, n in each.kernels.items()),
            each.cost,
            ", ".join(_local(term) for term in each.terms),
            guard["source"].rpartition("/")[2],
        )
        for guard, each in zip(guards, told, strict=True)
    )
    reasons: dict[tuple[str, str], list[str]] = {}
    for guard in guards:
        reasons.setdefault((guard["class"], guard["why"]), []).append(guard["id"])
    slow_first = sorted(reasons.items(), key=lambda item: ("C1", "W1", "R1").index(item[0][0]))
    why = tuple(
        (klass, text, "\n".join(ids[:4]) + (f"\nand {len(ids) - 4} more" if len(ids) > 4 else "")) for (klass, text), ids in slow_first
    )
    return (
        Table("guards", ("guard", "class", "kernels", "cost", "terms", "source"), rows),
        Table("why", ("class", "reason", "guards"), why),
    )


def _local(term: str) -> str:
    """The end of an IRI; other terms as they are."""
    return re.split(r"[#/]", term)[-1] or term if "://" in term and not term.startswith('"') else term
