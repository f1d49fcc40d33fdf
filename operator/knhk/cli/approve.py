"""`knhk approve`: this user lets the present revision of a pack be enforced in a stage."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from knhk.cli.arguments import KUBECONFIG
from knhk.cli.framework import Argument, Call, Outcome, command
from knhk.cli.schema import boolean, obj, string

if TYPE_CHECKING:
    from knhk.model.resource import Resource


@command(
    "approve",
    summary="Approve the present revision of a PolicyPack for a stage, as this user",
    arguments=(
        Argument("pack", help="NAMESPACE/NAME of the PolicyPack"),
        Argument("--stage", help="name of the stage", required=True),
        Argument("--revision", help="instead of the present one: what status.loosening of the pack, or of one of its points, says"),
        Argument("--comment", help="what was looked at, for auditors"),
        KUBECONFIG,
    ),
    output=obj(
        approval=string(), pack=string(), version=string(), revision=string(), stage=string(), approver=string(), unreviewed=boolean()
    ),
    examples=("knhk approve erp/invoice-controls --stage production --comment '214 pairs in shadow, no new denial'",),
    detail="Writes an Approval. The embedded home knows one user, so what is approved in it is marked unreviewed. On a cluster a person\n"
    "approves with --kubeconfig, or creates the Approval with kubectl, under the name that the API server knows.",
)
def approve(call: Call) -> Outcome:
    from knhk.api import to_document
    from knhk.api.parse import from_document
    from knhk.cli.get import key_of
    from knhk.model.faults import Fault, Refused
    from knhk.wiring.home import Home
    from knhk.wiring.places import place

    args = call.args
    with place(Home(call.home), args.kubeconfig) as there:
        store, approver = there.store, there.user()
        pack = store.get(key_of("PolicyPack", args.pack))
        revision = pack.status.get("revision") or {}
        digest = args.revision or revision.get("digest")
        if digest is None:
            raise Refused([Fault(str(pack.key), "no revision", "must be built first: there is nothing to look at yet")])
        spec = {"pack": pack.name, "revision": digest, "stage": args.stage, "approver": approver}
        spec |= {"comment": args.comment} if args.comment else {}
        made = from_document(to_document(_approval(pack, spec)))
        made = store.apply(made)
    return Outcome(
        {
            "approval": f"{made.namespace}/{made.name}",
            "pack": f"{pack.namespace}/{pack.name}",
            "version": revision.get("version", pack.spec["version"]),
            "revision": digest,
            "stage": args.stage,
            "approver": approver,
            "unreviewed": args.kubeconfig is None,
        }
    )


def _approval(pack: Resource, spec: dict[str, str]) -> Resource:
    """One of each pack, revision, stage and user: to approve twice is to approve once."""
    from knhk.model.resource import Resource

    user = re.sub(r"[^a-z0-9]+", "-", spec["approver"].lower()).strip("-")
    digest = spec["revision"].removeprefix("sha256:")[:8]
    stage = re.sub(r"[^a-z0-9]+", "-", spec["stage"].lower()).strip("-")
    name = f"{pack.name[:24].rstrip('-')}-{digest}-{stage[:10]}-{user[:16]}".strip("-")
    return Resource("Approval", pack.namespace, name, spec)
