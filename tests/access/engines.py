"""OPA and Cedar with a domain's rules: each says whether it admits a request."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC
from typing import Any

import cedarpy
from bench.anchors import fetch_opa, opa_engine
from domains import Domain, Request

Decide = Callable[[Request], bool]


def _closed(domain: Domain, roles: tuple[str, ...]) -> list[str]:
    found: dict[str, None] = {}
    todo = list(roles)
    while todo:
        role = todo.pop()
        found[role] = None
        todo += domain.above.get(role, ())
    return sorted(found)


def _facts(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _many(name: str, value: Any) -> Any:
    """What rules of a domain ask membership of is a list, also when it holds one value."""
    return [_facts(value)] if name == "department" and not isinstance(value, tuple) else _facts(value)


def opa(domain: Domain) -> Decide:
    """OPA's own engine. It is fetched by name and digest where it is not yet in the cache."""
    try:
        engine: Any = opa_engine()
    except ImportError:
        fetch_opa()
        engine = opa_engine()
    engine.add_policy("access.rego", domain.rego)
    users = {name: {"has": {k: _many(k, v) for k, v in facts.get("has", {}).items()}} for name, facts in domain.users.items()}
    engine.add_data({"users": users, "roles": {name: _closed(domain, facts.get("roles", ())) for name, facts in domain.users.items()}})
    return lambda request: bool(engine.eval_document("access.allow", request.document()))


def cedar(domain: Domain) -> Decide:
    """Cedar by cedarpy, with roles as entities; an error in a policy is a bug of the table and fails."""
    roles = {*domain.above, *(r for rs in domain.above.values() for r in rs)} | {
        r for facts in domain.users.values() for r in facts.get("roles", ())
    }
    entities = [
        {"uid": {"type": "Role", "id": role}, "attrs": {}, "parents": [{"type": "Role", "id": r} for r in domain.above.get(role, ())]}
        for role in sorted(roles)
    ]
    for name, facts in domain.users.items():
        attrs = {k: _plain(_many(k, v)) for k, v in facts.get("has", {}).items()}
        parents = [{"type": "Role", "id": role} for role in facts.get("roles", ())]
        entities.append({"uid": {"type": "User", "id": name}, "attrs": attrs, "parents": parents})
    policies, known = cedarpy.PolicySet.from_str(domain.cedar), cedarpy.Entities.from_json_str(json.dumps(entities))

    def decide(request: Request) -> bool:
        document = request.document()
        resource = {k: v for k, v in request.resource.items() if not isinstance(v, float)}
        resource |= {f"{k}Tenths": round(v * 10) for k, v in request.resource.items() if isinstance(v, float)}
        utc = request.at.astimezone(UTC)
        context = {**document, "resource": resource, "local": document["local"] + "Z"}
        context |= {"utc": utc.strftime("%Y-%m-%dT%H:%M:%SZ"), "utcWeekday": utc.isoweekday()}
        asked = {
            "principal": f'User::"{request.sub}"',
            "action": f'Action::"{request.action}"',
            "resource": 'Item::"1"',
            "context": context,
        }
        result = cedarpy.is_authorized(asked, policies, known)
        assert not result.diagnostics.errors, result.diagnostics.errors
        return bool(result.allowed)

    return decide


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value.removeprefix(":") if isinstance(value, str) else value
