"""Approval: a person lets one revision of a pack be enforced in one stage. Immutable."""

from __future__ import annotations

from knhk.api.kinds.common import COLUMNS, DIGEST, NAME_RULE, STATUS_FIELDS, name
from knhk.api.rules import immutable, listed, matches, one_of
from knhk.api.shape import Bool, Kind, Obj, Str
from knhk.model.rollout import STAGES

SPEC = Obj(
    "Who approves what; it never changes.",
    {
        "pack": name("Name of the PolicyPack in the same namespace."),
        "revision": Str(
            "Digest of the pack image: status.revision.digest of the pack. Or of what is to promise less: status.loosening.digest of the "
            "pack or of one of its points.",
            max=71,
            rules=(matches(DIGEST, "must be sha256: and 64 hexadecimal digits: status.revision.digest of the pack"),),
        ),
        "stage": Str(f"Name of the stage: {listed(STAGES)}.", max=63, min=1, rules=(one_of(*STAGES),)),
        "approver": Str(
            "The user who approves. On a cluster it must be the one who creates the Approval; embedded it is local: and the user's name.",
            max=253,
            min=1,
        ),
        "comment": Str("What was looked at, for auditors.", max=1024),
    },
    required=("pack", "revision", "stage", "approver"),
    rules=(immutable("must not change: an Approval is immutable; delete it, and create another"),),
)

APPROVAL = Kind(
    kind="Approval",
    plural="approvals",
    short=("appr",),
    doc="A person lets one revision of a pack be enforced in one stage: who, what, and the receipt of it.",
    spec=SPEC,
    status=Obj(
        "What is.",
        {
            **{k: v for k, v in STATUS_FIELDS.items() if k != "faults"},
            "unreviewed": Bool("Given in the embedded home, which knows no other user."),
        },
    ),
    columns=(
        ("Pack", "string", ".spec.pack", 0),
        ("Stage", "string", ".spec.stage", 0),
        ("Approver", "string", ".spec.approver", 0),
        *COLUMNS,
        ("Revision", "string", ".spec.revision", 1),
    ),
    rules=(NAME_RULE,),
)
