"""Who may do what, said once: the tests ask the real API server for exactly this, and docs/roles/matrix.md is written from it.

A right is (namespace, resource, verbs): namespace `*` is every one, resource is PLURAL[.GROUP][/SUBRESOURCE][=NAME].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

READ = frozenset({"get", "list", "watch"})
WRITE = frozenset({"create", "update", "patch", "delete"})
OWN = "knhk-system"
KINDS = (
    "policypacks",
    "hookregistries",
    "schemaversions",
    "databundles",
    "enforcementpoints",
    "featureflags",
    "approvals",
    "consents",
    "policyrepositories",
    "receipts",
)
Rights = tuple[tuple[str, str, frozenset[str]], ...]


def ours(kinds: Iterable[str], verbs: Iterable[str], part: str = "") -> Rights:
    return tuple(("*", f"{kind}.knhk.dev{part}", frozenset(verbs)) for kind in kinds)


def everywhere(resources: Iterable[str], verbs: Iterable[str]) -> Rights:
    return tuple(("*", resource, frozenset(verbs)) for resource in resources)


def here(resources: Iterable[str], verbs: Iterable[str]) -> Rights:
    return tuple((OWN, resource, frozenset(verbs)) for resource in resources)


def secrets(names: Iterable[str]) -> Rights:
    return (*here((f"secrets={name}" for name in names), ("get", "update", "patch")), *here(("secrets",), ("create",)))


SERVED = ("decisionreceipts", "policyreceipts")  # by the server of receipts
APPROVES = ours(("approvals",), ("create",))
EVENTS = everywhere(("events",), READ)
# Bound in a namespace; here as if bound in every one.
PEOPLE: Mapping[str, Rights] = {
    "policy-engineering": (*ours(KINDS, READ), *ours(("policypacks", "hookregistries", "policyrepositories"), WRITE), *APPROVES, *EVENTS),
    "ontology-ops": (*ours(KINDS, READ), *ours(("schemaversions", "databundles", "hookregistries"), WRITE), *APPROVES, *EVENTS),
    "sre": (*ours(KINDS, READ), *ours(("enforcementpoints", "featureflags"), WRITE), *APPROVES, *EVENTS),
    "privacy": (*ours(("consents", "receipts", "enforcementpoints"), READ), *ours(("consents",), ("create", "update", "patch"))),
    "risk": (*ours(KINDS, READ), *APPROVES, *everywhere((f"{name}.receipts.knhk.dev" for name in SERVED), READ)),
    "key-reader": everywhere(("subjectkeys.knhk.dev",), ("open",)),
    "key-eraser": everywhere(("subjectkeys.knhk.dev",), ("open", "erase")),
    "key-exporter": everywhere(("subjectkeys.knhk.dev",), ("open", "export")),
    "eraser": (*everywhere(("serviceaccounts/token=knhk-eraser",), ("create",)), *everywhere(("configmaps=knhk-trust",), ("get",))),
    "exporter": (*everywhere(("serviceaccounts/token=knhk-exporter",), ("create",)), *everywhere(("configmaps=knhk-trust",), ("get",))),
    "eraser-way": here((f"pods/portforward={pod}" for pod in ("knhk-keys-0", "knhk-log-0")), ("get", "create")),  # a Role, too
    "sre-control-plane": (  # a Role, bound in our own namespace
        *here(("pods", "pods/log", "services", "events", "leases.coordination.k8s.io"), READ),
        *here((f"{kind}.apps" for kind in ("deployments", "statefulsets", "replicasets")), READ),
    ),
}
CHILDREN = (
    "services",
    "configmaps",
    "deployments.apps",
    "networkpolicies.networking.k8s.io",
    "poddisruptionbudgets.policy",
    "horizontalpodautoscalers.autoscaling",
)
BROUGHT = tuple(kind for kind in KINDS if kind not in ("approvals", "consents", "receipts"))
ACCOUNTS: Mapping[str, Rights] = {
    "knhk-operator": (
        *ours(KINDS, READ),
        *ours(BROUGHT, WRITE),
        *ours(KINDS, ("update", "patch"), "/status"),
        *ours(("approvals", "consents"), ("patch",)),
        *ours(("receipts",), ("create", "delete")),
        *everywhere(("events",), ("get", "list", "create", "patch")),
        *everywhere(("namespaces", "customresourcedefinitions.apiextensions.k8s.io", "pods"), READ),
        *everywhere(("tokenreviews.authentication.k8s.io", "subjectaccessreviews.authorization.k8s.io"), ("create",)),
        *everywhere(CHILDREN, (*READ, "create", "patch", "delete")),
        *everywhere(("validatingwebhookconfigurations.admissionregistration.k8s.io",), ("get", "list", "create", "patch", "delete")),
        *here(("leases.coordination.k8s.io",), (*READ, "create", "update", "patch")),
        *here(("leaders.knhk.dev",), ("get", "create", "update")),
        *here(("endpointslices.discovery.k8s.io=knhk-exchange",), ("patch",)),
        *here(("configmaps",), ("update",)),
        *secrets(
            (
                "knhk-ca",
                "knhk-exchange-tls",
                "knhk-builder-tls",
                "knhk-log-tls",
                "knhk-admission-tls",
                "knhk-admission-client",
                "knhk-receipts-tls",
                "knhk-receipts-client",
                "knhk-keys-tls",
                "knhk-erasures-tls",
            )
        ),
    ),
    "knhk-builder": (),
    "knhk-log": (),
    "knhk-witness": (),
    "knhk-admission": (
        *ours(("enforcementpoints",), ("get", "list")),
        *everywhere(
            (f"{kind}webhookconfigurations.admissionregistration.k8s.io=knhk-admission" for kind in ("mutating", "validating")),
            ("get", "patch"),
        ),
    ),
    "knhk-keys": (
        *everywhere(("tokenreviews.authentication.k8s.io", "subjectaccessreviews.authorization.k8s.io"), ("create",)),
        *everywhere(("pods", "namespaces"), ("get",)),
    ),
    "knhk-turning": (*here(("secrets=knhk-keys-ahead",), ("get",)), *here(("secrets=knhk-keys-now",), ("get", "update"))),
    "knhk-receipts": (
        *everywhere(("subjectaccessreviews.authorization.k8s.io",), ("create",)),
        *everywhere(("apiservices.apiregistration.k8s.io=v1alpha1.receipts.knhk.dev",), ("get", "patch")),
        ("kube-system", "configmaps=extension-apiserver-authentication", frozenset(("get",))),
    ),
}


def in_namespace(rights: Rights, namespace: str) -> dict[str, frozenset[str]]:
    """Resource → verbs that count there."""
    found: dict[str, frozenset[str]] = {}
    for where, resource, verbs in rights:
        if where in ("*", namespace):
            found[resource] = found.get(resource, frozenset()) | verbs
    return found


def told(status: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The same of what a SelfSubjectRulesReview says, all of it."""
    found: dict[str, frozenset[str]] = {}
    for resource, verbs in _rules(status["resourceRules"]):
        found[resource] = found.get(resource, frozenset()) | verbs
    return found


def _rules(rules: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, frozenset[str]]]:
    for rule in rules:
        for group in rule.get("apiGroups") or ("",):
            for resource in rule.get("resources") or ():
                plural, slash, part = resource.partition("/")
                for name in rule.get("resourceNames") or ("",):
                    yield f"{plural}{'.' if group else ''}{group}{slash}{part}{'=' if name else ''}{name}", frozenset(rule["verbs"])
