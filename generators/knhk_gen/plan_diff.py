"""What two plans say differently: guards added, removed and changed, routes and mappings. Pure; blind to numbering and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from knhk.model.canonical import canonical
from knhk_gen.plan_dump import target_text

Doc = Mapping[str, Any]

SAID: Final = ("class", "severity", "path", "component", "message", "kind", "named")


@dataclass(frozen=True)
class Change:
    """One field of a guard, before and after, in words."""

    what: str
    before: str
    after: str


@dataclass(frozen=True)
class PlanDiff:
    """`changed`: guard id → what changed; `mappings`, `routes`: name → added, removed or changed."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: Mapping[str, tuple[Change, ...]]
    mappings: Mapping[str, str]
    routes: Mapping[str, str]

    @property
    def empty(self) -> bool:
        """Whether nothing differs that a decision or a reader could notice."""
        return not (self.added or self.removed or self.changed or self.mappings or self.routes)


def diff(before: Doc, after: Doc) -> PlanDiff:
    """From one plan to another, guards by id."""
    old, new = _guards(before), _guards(after)
    changes = {name: _changes(before, old[name], after, new[name]) for name in old.keys() & new.keys()}
    return PlanDiff(
        tuple(sorted(new.keys() - old.keys())),
        tuple(sorted(old.keys() - new.keys())),
        {name: made for name, made in sorted(changes.items()) if made},
        _named({m["id"]: m for m in before["mappings"]}, {m["id"]: m for m in after["mappings"]}),
        _named(before["routes"], after["routes"]),
    )


def _guards(plan: Doc) -> dict[str, Doc]:
    return {guard["id"]: guard for guard in plan["guards"]}


def _named(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    told = dict.fromkeys(old.keys() - new.keys(), "removed") | dict.fromkeys(new.keys() - old.keys(), "added")
    both = old.keys() & new.keys()
    return dict(sorted((told | {name: "changed" for name in both if canonical(old[name]) != canonical(new[name])}).items()))


def _changes(before: Doc, old: Doc, after: Doc, new: Doc) -> tuple[Change, ...]:
    found = [Change(name, str(old.get(name, "")), str(new.get(name, ""))) for name in SAID if old.get(name, "") != new.get(name, "")]
    targets = target_text(before["targets"][old["target"]]), target_text(after["targets"][new["target"]])
    if targets[0] != targets[1]:
        found.append(Change("target", *targets))
    rules = rule_text(before, old), rule_text(after, new)
    if rules[0] != rules[1]:
        found.append(Change("rule", *rules))
    return tuple(found)


def rule_text(plan: Doc, guard: Doc) -> str:
    """What the guard demands, the same for the same rule whatever the numbers and labels around it: an expression in short form, the
    query, or the shape."""
    if guard.get("expr") is not None:
        return expr_text(plan, guard["expr"])
    if guard["id"] in plan["cold"]["asks"]:
        return " ".join(plan["cold"]["asks"][guard["id"]].split())
    if guard["kind"] == "construct":
        query = plan["cold"].get("constructs", {}).get(guard["id"])
        return " ".join(query.split()) if query else canonical(plan["constructs"][guard["id"]]).decode()
    return _shape_text(plan["cold"]["shapes"], guard["shape"]) if guard["kind"] == "shacl" else ""


def expr_text(plan: Doc, e: Any) -> str:
    """E, V or a TERM in short form: operator, then its arguments in parentheses."""
    if isinstance(e, Mapping):
        if "k" in e and "v" in e:
            return f'"{e["v"]}"' if e["k"] == "lit" else _short(e["v"])
        head = str(e.get("op") or e.get("t"))
        rest = {k: v for k, v in e.items() if not (k == "op" and v == head) and k != "t"}
        parts = [_part(plan, name, value) for name, value in rest.items() if value is not None]
        return f"{head}({', '.join(parts)})"
    if isinstance(e, (list, tuple)):
        return "[" + ", ".join(expr_text(plan, item) for item in e) + "]"
    return _short(e) if isinstance(e, str) else str(e)


def _part(plan: Doc, name: str, value: Any) -> str:
    if name == "target":
        return f"of {target_text(plan['targets'][value])}"
    if name in ("min", "max"):
        return f"{name} {value}"
    if name == "op":
        return str(value)
    return expr_text(plan, value)


def _short(iri: str) -> str:
    return iri.replace("http://www.w3.org/2001/XMLSchema#", "xsd:").replace("https://knhk.dev/ns#", "knhk:")


def _shape_text(shapes: str, node: str) -> str:
    """The triples of a shape, blank nodes written out in brackets."""
    triples: dict[str, list[tuple[str, str]]] = {}
    for line in shapes.splitlines():
        s, p, o = line.removesuffix(" .").split(" ", 2)
        triples.setdefault(s, []).append((p, o))

    def told(subject: str, above: tuple[str, ...]) -> str:
        if subject in above or subject not in triples:
            return "[]"
        pairs = [f"{p} {told(o, (*above, subject)) if o.startswith('_:') else o}" for p, o in triples[subject]]
        return "[" + " ; ".join(sorted(pairs)) + "]"

    return told(node if node.startswith("_:") else f"<{node}>", ()).replace("http://www.w3.org/ns/shacl#", "sh:")
