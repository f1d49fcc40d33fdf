"""`knhk get`: resources and their status, as kubectl shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from knhk.cli.arguments import KUBECONFIG
from knhk.cli.framework import Argument, Call, Outcome, Table, Usage, command
from knhk.cli.schema import array, obj

if TYPE_CHECKING:
    from knhk.model.resource import Key, Resource


def kind_of(word: str) -> str:
    """The kind that a user means by `PolicyPack`, `policypacks`, `pp` … Raises Usage with all of them."""
    from knhk.api import KINDS

    wanted = word.lower()
    for kind in KINDS.values():
        if wanted in {kind.kind.lower(), kind.plural, *kind.short}:
            return kind.kind
    known = ", ".join(f"{kind.plural} ({', '.join(kind.short)})" for kind in KINDS.values())
    raise Usage(f"{word}: must be one of {known}", "kind")


def key_of(kind: str, text: str) -> Key:
    """NAMESPACE/NAME, or NAME in the namespace default."""
    from knhk.model.resource import Key

    namespace, slash, name = text.rpartition("/")
    return Key(kind, namespace if slash else "default", name)


def _rows(kind: str, resources: list[Resource]) -> Table:
    from knhk.api import KINDS

    columns = [column for column in KINDS[kind].columns if column[0] != "Age"]
    rows = []
    for resource in resources:
        cells = [f"{resource.namespace}/{resource.name}"]
        cells += [_cell(resource, path) for _, _, path, _ in columns]
        rows.append(tuple(cells))
    return Table("", ("Name", *(name for name, _, _, _ in columns)), tuple(rows))


def _cell(resource: Resource, path: str) -> str:
    """The value of a printer column: `.spec.a.b` or `.status.conditions[?(@.type=="T")].f`."""
    node: Any = {"spec": resource.spec, "status": resource.status}
    if "[?" in path:
        wanted = path.split('"')[1]
        conditions = node["status"].get("conditions", [])
        node = next((c for c in conditions if c["type"] == wanted), {})
        return str(node.get(path.rpartition(".")[2], ""))
    for step in path.strip(".").split("."):
        node = node.get(step, {}) if isinstance(node, dict) or hasattr(node, "get") else {}
    return "" if node == {} else str(node)


@command(
    "get",
    summary="Show resources and their status",
    arguments=(
        Argument("kind", help="a kind such as policypacks, or a short name"),
        Argument("name", help="NAMESPACE/NAME; all when left out", optional=True),
        Argument("--namespace", "-n", help="only this namespace"),
        KUBECONFIG,
    ),
    output=obj(items=array(obj())),
    examples=("knhk get policypacks", "knhk get policypack erp/invoice-controls -o json", "knhk get pp --kubeconfig admin.conf"),
)
def get(call: Call) -> Outcome:
    from knhk.api import to_document
    from knhk.wiring.home import Home
    from knhk.wiring.places import place

    kind = kind_of(call.args.kind)
    with place(Home(call.home), call.args.kubeconfig) as there:
        if call.args.name:
            found = there.store.get(key_of(kind, call.args.name))
            return Outcome(to_document(found), tables=(_rows(kind, [found]),))
        listed = list(there.store.list(kind, call.args.namespace).resources)
    return Outcome({"items": [to_document(r) for r in listed]}, tables=(_rows(kind, listed),))
