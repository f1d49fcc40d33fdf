"""FeatureFlag: a switch for the candidate of a pack, flagd's words, evaluated for each point by the control plane."""

from __future__ import annotations

from knhk.api.kinds.common import COLUMNS, HISTORY, NAME_RULE, STATUS_FIELDS, choice, name, suspend
from knhk.api.rules import known_to, named_in, one_of
from knhk.api.shape import Bool, Int, Kind, List, Map, Obj, Rule, Str

VARS = ("targetingKey", "point", "namespace", "region", "mode")
OPERATORS = ("==", "!=", "in", "starts_with", "ends_with")
# Operators of flagd's targeting that a point cannot answer: named, so that they are refused in plain words.
LATER = {
    "fractional": "must be ==, !=, in, starts_with or ends_with: shares of callers are the weights of the rollout's steps",
    "sem_ver": "must be ==, !=, in, starts_with or ends_with; sem_ver is not available",
}


def _variant(doc: str) -> Str:
    return Str(doc, max=63, min=1)


_TARGETING = Obj(
    "One rule: points for which it holds get its variant.",
    {
        "var": Str(
            "What is looked at: targetingKey (NAMESPACE/NAME of the point), point, namespace, region or mode. Flags are evaluated for each "
            "point, not for each request.",
            max=64,
            rules=(one_of(*VARS),),
        ),
        "op": choice("How it is compared: ==, !=, in, starts_with or ends_with.", *OPERATORS, *LATER, max=16, default="==", later=LATER),
        "values": List("What it is compared with; one of them is enough, for != none may be equal.", _variant("A value."), max=64, min=1),
        "variant": _variant("Name of a variant."),
    },
    required=("var", "values", "variant"),
)

SPEC = Obj(
    "What is switched, and how it stands.",
    {
        "pack": name("PolicyPack whose candidate is switched: true, its canary is enforced; false, it is judged and not enforced."),
        "state": choice(
            "ENABLED, or DISABLED: as if there were no flag.",
            "ENABLED",
            "DISABLED",
            max=8,
            default="ENABLED",
        ),
        "variants": Map(
            "Values by name, such as on: true and off: false.",
            Bool("Whether the candidate is enforced."),
            max=16,
            rules=(Rule("size(self) >= 1", "must have at least 1 entry", lambda v: len(v) >= 1),),
        ),
        "defaultVariant": _variant("Variant of points that no rule of targeting is for."),
        "targeting": List("Rules in order; the first that holds counts.", _TARGETING, max=32, default=()),
        "suspend": suspend("Leave each point the variant that it has."),
    },
    required=("pack", "variants", "defaultVariant"),
    rules=(
        known_to("variants", "defaultVariant", "must be the name of a variant"),
        named_in("variants", "targeting", "variant", "must name in each variant one of variants"),
    ),
)

STATUS = Obj(
    "What is.",
    {
        **STATUS_FIELDS,
        "points": List(
            "The variant of each point that runs the pack, or is to run it.",
            Obj(
                "One point.",
                {
                    "name": name("The EnforcementPoint."),
                    "variant": Str("Name of the variant; empty while the flag is disabled.", max=63),
                    "reason": Str("OpenFeature's reason: STATIC, DEFAULT, TARGETING_MATCH or DISABLED.", max=16),
                    "enforced": Bool("Whether a canary is enforced there."),
                    "epoch": Int("Epoch of the document that carries it; 0: none does yet.", min=0, max=2**53),
                },
                required=("name", "reason", "enforced"),
            ),
            max=64,
            key="name",
        ),
        "history": HISTORY,
    },
)

FEATURE_FLAG = Kind(
    kind="FeatureFlag",
    plural="featureflags",
    short=("ff", "flag"),
    doc="A switch for the candidate of a pack, in flagd's words: it holds a canary back without a build, and leaves a receipt.",
    spec=SPEC,
    status=STATUS,
    columns=(
        COLUMNS[0],
        ("Pack", "string", ".spec.pack", 0),
        ("State", "string", ".spec.state", 0),
        ("Default", "string", ".spec.defaultVariant", 0),
        COLUMNS[1],
        COLUMNS[2],
    ),
    rules=(NAME_RULE,),
)
