"""`spec.admission` of an EnforcementPoint: which objects of Kubernetes its guards judge before an API server stores them."""

from __future__ import annotations

from knhk.api.kinds.common import choice, match_labels
from knhk.api.rules import matches, one_of, refused
from knhk.api.shape import List, Obj, Str

_GROUP = r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$"
_PLURAL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_CONDITION = r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"

_RULE = Obj(
    "Objects of some resources. Each is one that lies in a namespace; of others a webhook could lock a cluster out.",
    {
        "apiGroups": List(
            'API groups; "": the core group.',
            Str(
                "A group.",
                max=253,
                rules=(
                    matches(_GROUP, 'must be an API group, such as apps, or "" for the core group'),
                    refused("knhk.dev", "must be of others: what says who may do what must stay changeable when nothing answers"),
                    refused("coordination.k8s.io", "must be of others: without leases nothing leads and no node is alive"),
                ),
            ),
            max=8,
            min=1,
        ),
        "apiVersions": List(
            "Versions; objects of other versions are judged as these.",
            Str("A version.", max=63, rules=(matches(r"^v[0-9a-z]{1,62}$", "must be a version, such as v1"),)),
            max=4,
            min=1,
        ),
        "resources": List(
            "Resources by their plural names.",
            Str(
                "A resource.",
                max=63,
                rules=(
                    matches(_PLURAL, "must be one resource by its plural name, without subresource, such as deployments"),
                    refused("secrets", "must be another resource: what is judged is recorded, and a Secret must not be"),
                ),
            ),
            max=16,
            min=1,
        ),
        "operations": List(
            "What is asked about: CREATE, UPDATE, DELETE.",
            Str("An operation.", max=8, rules=(one_of("CREATE", "UPDATE", "DELETE"),)),
            max=3,
            min=1,
        ),
    },
    required=("apiGroups", "apiVersions", "resources", "operations"),
)

ADMISSION = Obj(
    "On a cluster, which objects of Kubernetes are judged here, in place of an application's requests: an API server asks before it stores "
    "them. Counts while the namespace of the point has label knhk.dev/admission=allow.",
    {
        "rules": List("Which objects; those that one of the rules names.", _RULE, max=8, min=1),
        "namespaceSelector": Obj(
            "Whose objects: of namespaces with these labels; never of kube-system, nor of our processes' or the point's own namespace.",
            {"matchLabels": match_labels("a namespace")},
            required=("matchLabels",),
        ),
        "matchConditions": List(
            "Further conditions in CEL, all of which must hold; of object, oldObject, request and authorizer.",
            Obj(
                "One condition.",
                {
                    "name": Str("Its name.", max=63, min=1, rules=(matches(_CONDITION, "must be letters, digits and inner _ . -"),)),
                    "expression": Str("A CEL expression that is true or false.", max=1024, min=1),
                },
                required=("name", "expression"),
            ),
            max=16,
            key="name",
            default=(),
        ),
        "failurePolicy": choice(
            "What the API server does with an object when no answer comes: Fail (refuse it) or Ignore (store it).",
            "Fail",
            "Ignore",
            max=8,
            default="Fail",
        ),
    },
    required=("rules", "namespaceSelector"),
)
