"""Consent: what one person, known by a tag, agreed to for one purpose, or agrees to no more."""

from __future__ import annotations

from knhk.api.kinds.common import COLUMNS, NAME_RULE, STATUS_FIELDS, absolute_iri, digest
from knhk.api.rules import listed, matches, one_of, unchanged
from knhk.api.shape import Int, Kind, Obj, Str
from knhk.model.consents import BASES, EVENTS

SPEC = Obj(
    "Whose consent, to what, and whether it holds; each change is a receipt.",
    {
        "subject": Str(
            "Tag of the person: a keyed hash, and never a name (formats/consent.md).",
            max=64,
            rules=(matches(r"^[0-9a-f]{64}$", "must be a tag of 64 hexadecimal digits: `knhk consent` makes it of a name"),),
        ),
        "purpose": absolute_iri("What the data is used for."),
        "state": Str(f"{listed(tuple(EVENTS))}.", max=16, rules=(one_of(*EVENTS),)),
        "controller": Str("Who is responsible for the use.", max=253, min=1),
        "basis": Str(
            f"Legal basis, Article 6 (1) of the GDPR: {listed(BASES)}. Default: consent.",
            max=32,
            rules=(one_of(*BASES),),
            default="consent",
        ),
        "document": digest("Digest of what the person signed, heard or clicked, which stays with the controller."),
        "actor": Str(
            "The user who records it. On a cluster it must be the one who writes the Consent; embedded it is local: and the user's name.",
            max=253,
            min=1,
        ),
    },
    required=("subject", "purpose", "state", "controller", "actor"),
    rules=(unchanged(("subject", "purpose"), "must keep subject and purpose: another consent is another Consent"),),
)

CONSENT = Kind(
    kind="Consent",
    plural="consents",
    short=("cons",),
    doc="What one person, known by a tag, agreed to for one purpose, or agrees to no more; each change is a receipt, and reaches guards.",
    spec=SPEC,
    status=Obj(
        "What is.",
        {
            **{k: v for k, v in STATUS_FIELDS.items() if k != "faults"},
            "state": Str("What is in the log and, unless that is Ready, on its way to guards.", max=16),
            "recorded": Str("When it was recorded, RFC 3339.", max=40),
            "index": Int("Index of its event in the log.", min=0, max=2**53),
        },
    ),
    columns=(
        ("Subject", "string", ".spec.subject", 0),
        ("Purpose", "string", ".spec.purpose", 0),
        ("State", "string", ".spec.state", 0),
        *COLUMNS,
        ("Index", "integer", ".status.index", 1),
    ),
    rules=(NAME_RULE,),
)
