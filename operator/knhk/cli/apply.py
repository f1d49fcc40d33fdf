"""`knhk apply`, `knhk delete`: the same YAML that kubectl takes, checked whole before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from knhk.cli.arguments import KUBECONFIG
from knhk.cli.framework import Argument, Call, Outcome, Usage, command
from knhk.cli.schema import array, obj, string

if TYPE_CHECKING:
    from knhk.model.resource import Key, Resource
    from knhk.ports.store import Store

_RESULT = obj(resources=array(obj(kind=string(), namespace=string(), name=string(), result=string())))


def read_resources(paths: tuple[str, ...]) -> list[Resource]:
    """Resources of all files (`-`: standard input), parsed and, for packs and bundles, lowered: every fault of every file at once.

    This is admission: the same checks run in front of a cluster's API server. Raises Refused, Failure."""
    import sys
    from collections import Counter
    from contextlib import nullcontext
    from pathlib import Path

    from knhk.api import parse
    from knhk.api.document import MAX_TEXT
    from knhk.cli.framework import Failure
    from knhk.model.faults import Fault, Refused
    from knhk.reconcilers.admission import admit

    faults: list[Fault] = []
    resources: list[Resource] = []
    for path in paths:
        try:
            with nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as opened:
                text = opened.read(MAX_TEXT + 1)  # a byte more is refused by the parser: no input is read without end
        except OSError as error:
            why = error.strerror or "unreadable"
            raise Failure(path, why, "must be a readable YAML file") from error
        try:
            found = parse(text, "<stdin>" if path == "-" else path)
        except Refused as refused:
            faults += refused.faults
            continue
        resources += found
    for resource in resources:
        faults += admit(resource)
    for key, count in Counter(resource.key for resource in resources).items():
        if count > 1:
            faults.append(Fault(f"{key}", f"{count} times", "must be given once"))
    if faults:
        raise Refused(faults)
    return resources


def find(store: Store, key: Key) -> Resource | None:
    """The object, or None when there is none."""
    from knhk.model.faults import NotFound

    try:
        return store.get(key)
    except NotFound:
        return None


@command(
    "apply",
    summary="Create or change resources from YAML files; refused whole when anything in them is wrong",
    arguments=(
        Argument("--file", "-f", help="YAML file, - for standard input", repeat=True, required=True),
        Argument("--dry-run", help="check everything, write nothing", flag=True),
        KUBECONFIG,
    ),
    output=_RESULT,
    examples=("knhk apply -f pack.yaml", "knhk apply -f a.yaml -f b.yaml --dry-run", "knhk apply -f pack.yaml --kubeconfig admin.conf"),
)
def apply(call: Call) -> Outcome:
    from knhk.api import check_update, with_origin
    from knhk.model.faults import Refused
    from knhk.wiring.home import Home
    from knhk.wiring.places import place

    resources, home = [with_origin(r) for r in read_resources(call.args.file)], Home(call.home)
    if call.args.dry_run and call.args.kubeconfig is None and not home.store.exists():
        return Outcome({"resources": [_row(resource, "would create") for resource in resources]})
    with place(home, call.args.kubeconfig) as there:
        store = there.store
        before = [find(store, resource.key) for resource in resources]
        faults = [fault for old, new in zip(before, resources, strict=True) if old is not None for fault in check_update(old, new)]
        if faults:
            raise Refused(faults)
        write = _would if call.args.dry_run else _write
        return Outcome({"resources": [_row(new, write(store, old, new)) for old, new in zip(before, resources, strict=True)]})


def _row(resource: Resource, result: str) -> dict[str, str]:
    return {"kind": resource.kind, "namespace": resource.namespace, "name": resource.name, "result": result}


def _would(store: Store, before: Resource | None, resource: Resource) -> str:
    if before is None:
        return "would create"
    same = (before.spec, before.labels, before.annotations) == (resource.spec, resource.labels, resource.annotations)
    return "unchanged" if same else "would configure"


def _write(store: Store, before: Resource | None, resource: Resource) -> str:
    from dataclasses import replace

    after = store.apply(replace(resource, status={}))
    if before is None:
        return "created"
    return "unchanged" if after.resource_version == before.resource_version else "configured"


@command(
    "delete",
    summary="Remove a resource; what runs because of it is stopped",
    arguments=(
        Argument("kind", help="any kind but Receipt, such as policypack, or a short name"),
        Argument("name", help="NAMESPACE/NAME"),
        KUBECONFIG,
    ),
    output=_RESULT,
    examples=("knhk delete policypack erp/invoice-controls",),
)
def delete(call: Call) -> Outcome:
    from knhk.cli.get import key_of, kind_of
    from knhk.wiring.home import Home
    from knhk.wiring.places import place

    key = key_of(kind_of(call.args.kind), call.args.name)
    if key.kind == "Receipt":
        raise Usage("a Receipt must stay: it is immutable", "kind")
    with place(Home(call.home), call.args.kubeconfig) as there:
        there.store.delete(key)
    row = {"kind": key.kind, "namespace": key.namespace, "name": key.name, "result": "deleted"}
    return Outcome({"resources": [row]})
