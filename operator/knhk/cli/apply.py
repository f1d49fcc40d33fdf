"""`knhk apply`, `knhk delete`: the same YAML that kubectl takes, checked whole before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    from pathlib import Path

    from knhk.api import parse
    from knhk.cli.framework import Failure
    from knhk.model.faults import Fault, Refused
    from knhk.reconcilers.admission import admit

    faults: list[Fault] = []
    resources: list[Resource] = []
    for path in paths:
        try:
            text = sys.stdin.read() if path == "-" else Path(path).read_bytes()
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
    ),
    output=_RESULT,
    examples=("knhk apply -f pack.yaml", "knhk apply -f a.yaml -f b.yaml --dry-run"),
)
def apply(call: Call) -> Outcome:
    from dataclasses import replace

    from knhk.api import with_origin
    from knhk.wiring.embedded import open_store
    from knhk.wiring.home import Home

    resources = [with_origin(r) for r in read_resources(call.args.file)]
    results: list[dict[str, Any]] = []
    with open_store(Home(call.home), must_exist=not call.args.dry_run) as store:
        for resource in resources:
            before = find(store, resource.key)
            if call.args.dry_run:
                after = before
                result = "would create" if before is None else "would configure"
            else:
                after = store.apply(replace(resource, status={}))
                same = before is not None and after.resource_version == before.resource_version
                result = "unchanged" if same else "created" if before is None else "configured"
            results.append(
                {
                    "kind": resource.kind,
                    "namespace": resource.namespace,
                    "name": resource.name,
                    "result": result,
                }
            )
    return Outcome({"resources": results})


@command(
    "delete",
    summary="Remove a resource; what runs because of it is stopped",
    arguments=(
        Argument("kind", help="PolicyPack, DataBundle, EnforcementPoint"),
        Argument("name", help="NAMESPACE/NAME"),
    ),
    output=_RESULT,
    examples=("knhk delete policypack erp/invoice-controls",),
)
def delete(call: Call) -> Outcome:
    from knhk.cli.get import kind_of, key_of
    from knhk.wiring.embedded import open_store
    from knhk.wiring.home import Home

    key = key_of(kind_of(call.args.kind), call.args.name)
    if key.kind == "Receipt":
        raise Usage("a Receipt must stay: it is immutable", "kind")
    with open_store(Home(call.home), must_exist=True) as store:
        store.delete(key)
    row = {"kind": key.kind, "namespace": key.namespace, "name": key.name, "result": "deleted"}
    return Outcome({"resources": [row]})
