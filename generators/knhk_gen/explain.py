"""What each guard of a plan costs and touches: kernels of its rows, terms, and the graph of it all for people. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from knhk_gen import table
from knhk_gen.emit_guards import KERNELS, Guards, Pool, Program
from knhk_gen.emit_rows import COSTED_AS
from knhk_gen.emit_terms import Strings
from knhk_gen.plan_dump import target_text

Doc = Mapping[str, Any]

COLOURS: Final[Mapping[str, str]] = {"R1": "palegreen", "W1": "khaki", "C1": "lightsalmon"}
_PREFIX: Final = re.compile(r"PREFIX\s+([\w-]*):\s*<([^>]*)>", re.IGNORECASE)
_NAME: Final = re.compile(r"<([^<>\s]+)>|(?<![\w:<?$\"])([\w-]*):([A-Za-z_][\w.-]*)")


@dataclass(frozen=True)
class Explained:
    """One guard. `kernels`: rows of its own for each kernel, in the order of the engine; `folds` and `tests`: steps over registers and
    masks; all for one focus node. Guards outside of the tables have none."""

    kernels: Mapping[str, int]
    folds: int
    tests: int
    terms: tuple[str, ...]

    @property
    def cost(self) -> str:
        """The work for one focus node, in few words."""
        if not self.kernels and not self.folds:
            return ""
        parts = [_many(sum(self.kernels.values()), "row"), _many(self.folds, "fold"), _many(self.tests, "test")]
        cycles = "" if self.cycles is None else f"{self.cycles:g} cycles"
        return ", ".join(part for part in (*parts, cycles) if part)

    @property
    def cycles(self) -> float | None:
        """Cycles of its kernels over one chunk each, by the committed cost table; None where a kernel has no figure there."""
        known = table.kernel_cycles()
        costs = [known.get(COSTED_AS.get(kernel, kernel)) for kernel in self.kernels for _ in range(self.kernels[kernel])]
        return round(sum(cost for cost in costs if cost is not None), 1) if costs and None not in costs else None


def explain(plan: Doc) -> tuple[Explained, ...]:
    """One entry for each guard. A row that several guards share is counted with each of them."""
    return tuple(_explained(plan, guard) for guard in plan["guards"])


def _explained(plan: Doc, guard: Doc) -> Explained:
    terms = _terms(plan, guard)
    if guard["kind"] == "payload" or guard.get("expr") is None:
        return Explained({}, 0, 0, terms)
    tables = Guards(plan, Strings(), Pool())
    tables.add(1, guard)
    programs: list[Program] = [*tables.globals, *tables.programs.values()]
    rows = Counter({name: sum(len(p.rows[i]) for p in programs) for i, name in enumerate(KERNELS)})
    return Explained({k: n for k, n in rows.items() if n}, sum(len(p.folds) for p in programs), len(tables.tests), terms)


def _many(n: int, word: str) -> str:
    return "" if n == 0 else f"1 {word}" if n == 1 else f"{n} {word}s"


def _terms(plan: Doc, guard: Doc) -> tuple[str, ...]:
    """IRIs and constants that decide: of the target, of the expression or of the query, each once."""
    found = [*_of_target(plan["targets"][guard["target"]])]
    if guard.get("expr") is not None:
        found += _of_expr(plan, guard["expr"])
    elif guard["id"] in plan["cold"]["asks"]:
        found += _of_query(plan["cold"]["asks"][guard["id"]])
    elif guard["kind"] == "construct":
        found += _of_expr(plan, plan.get("constructs", {}).get(guard["id"], []))
        found += _of_query(plan["cold"].get("constructs", {}).get(guard["id"], ""))
    elif guard["kind"] == "shacl":
        found += _of_shape(plan["cold"]["shapes"], guard["shape"])
    return tuple(dict.fromkeys(found))


def _of_target(target: Doc) -> Iterator[str]:
    yield from target.get("classes", ())
    if "predicate" in target:
        yield target["predicate"]
    if "node" in target:
        yield target["node"]["v"]


def _of_expr(plan: Doc, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "k" in value and "v" in value:
            yield str(value["v"])
            return
        for name, part in value.items():
            if name in ("p", "q") and part is not None:
                yield part
            elif name == "target":
                yield from _of_target(plan["targets"][part])
            elif name == "allowed":
                yield from part
            else:
                yield from _of_expr(plan, part)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from _of_expr(plan, part)


def _of_query(query: str) -> Iterator[str]:
    prefixes = dict(_PREFIX.findall(query))
    for iri, prefix, local in _NAME.findall(_PREFIX.sub("", re.sub(r'"(?:[^"\\]|\\.)*"', '""', query))):
        if iri or prefix in prefixes:
            yield iri or prefixes[prefix] + local


def _of_shape(shapes: str, node: str) -> Iterator[str]:
    """Objects of the shape's triples, and of the blank nodes below it (paths, lists, inner shapes)."""
    lines = [line.removesuffix(" .").split(" ", 2) for line in shapes.splitlines()]
    todo, seen = [node if node.startswith("_:") else f"<{node}>"], set()
    while todo:
        subject = todo.pop()
        if subject in seen:
            continue
        seen.add(subject)
        for s, p, o in lines:
            if s != subject or p.endswith(("#message>", "#name>", "#description>", "#severity>", "#type>")):
                continue
            if o.startswith("_:"):
                todo.append(o)
            elif not o.startswith(("<http://www.w3.org/ns/shacl#", "<http://www.w3.org/1999/02/22-rdf-syntax-ns#")):
                yield o.strip("<>") if o.startswith("<") else o


def dot(plan: Doc, told: Sequence[Explained], sources: Sequence[str]) -> str:
    """The plan as a graph for Graphviz: targets lead to guards, guards to what they read; colours are classes."""
    lines = [
        "digraph plan {",
        "  rankdir=LR;",
        '  node [fontname="sans-serif", fontsize=10];',
        f"  label={_quoted('{namespace}/{name}@{version}'.format(**plan['pack']))};",
    ]
    targets = [target_text(target) for target in plan["targets"]]
    lines += [f"  t{i} [shape=oval, label={_quoted(text)}];" for i, text in enumerate(targets)]
    terms = {term: f"x{i}" for i, term in enumerate(dict.fromkeys(term for each in told for term in each.terms))}
    lines += [f"  {name} [shape=plaintext, label={_quoted(term)}];" for term, name in terms.items()]
    for i, (guard, each, source) in enumerate(zip(plan["guards"], told, sources, strict=True)):
        head = f"{guard['id']}\n{guard['class']}: {', '.join(each.kernels) or guard['kind']}\n{source}"
        style = f"shape=box, style=filled, fillcolor={COLOURS[guard['class']]}"
        lines.append(f"  g{i} [{style}, label={_quoted(head)}, tooltip={_quoted(guard['why'])}];")
        lines.append(f"  t{guard['target']} -> g{i};")
        lines += [f"  g{i} -> {terms[term]};" for term in each.terms]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
