"""Receipt: one policy event with its proof. Immutable, but for what others outside say to it later."""

from __future__ import annotations

from knhk.api.kinds.common import NAME_RULE, STATUS_FIELDS, name
from knhk.api.rules import immutable, matches
from knhk.api.shape import Int, Kind, Obj, Str

SPEC = Obj(
    "The event and its proof; it never changes.",
    {
        "event": Str(
            "Kind of the policy event, such as Promoted or RolledBack.",
            max=32,
            min=1,
            rules=(matches(r"^[A-Z][A-Za-z]+$", "must be a CamelCase word such as Promoted"),),
        ),
        "pack": name("PolicyPack that it speaks of."),
        "point": name("EnforcementPoint that it speaks of."),
        "stage": Str("Stage of the rollout that it speaks of.", max=63, min=1),
        "verdict": Str("What the judge said then: Pass, Fail or Undecided.", max=63, min=1),
        "actor": Str("Who acted, whole; label actor has as much of it as a label may have.", max=1024, min=1),
        "bundle": Str("The signed event: a sigstore bundle v0.3, JSON.", max=262_144, min=2),
        "logIndex": Int("Index in the log.", min=0, max=2**53),
        "proof": Str("Inclusion proof, c2sp.org/tlog-proof text.", max=16_384, min=1),
        "checkpoint": Str("Signed checkpoint that the proof leads to.", max=16_384, min=1),
    },
    required=("event", "bundle", "logIndex"),
    rules=(immutable("must not change: a Receipt is immutable"),),
)

RECEIPT = Kind(
    kind="Receipt",
    plural="receipts",
    short=("rcpt",),
    doc="A policy event with its signature, log index and proof; anyone can verify it offline.",
    spec=SPEC,
    status=Obj(
        "What is.",
        {
            **{k: v for k, v in STATUS_FIELDS.items() if k != "faults"},
            "sigstore": Str(
                "The same statement as sigstore's tools take it: a bundle v0.3, JSON, with an entry of Rekor and a timestamp.",
                max=262_144,
                min=2,
            ),
            "sigstoreIndex": Int("Index in the log of the event Notarised, which has that bundle.", min=0, max=2**53),
            "sigstoreEvent": Str(
                "SHA-256 of that event, hexadecimal.",
                max=64,
                min=64,
                rules=(matches(r"^[0-9a-f]+$", "must be hexadecimal digits"),),
            ),
        },
    ),
    columns=(
        ("Event", "string", ".spec.event", 0),
        ("Pack", "string", ".spec.pack", 0),
        ("Stage", "string", ".spec.stage", 0),
        ("Verdict", "string", ".spec.verdict", 0),
        ("Actor", "string", ".spec.actor", 0),
        ("Index", "integer", ".spec.logIndex", 0),
        ("Point", "string", ".spec.point", 1),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    ),
    rules=(NAME_RULE,),
    awaited=False,
)
