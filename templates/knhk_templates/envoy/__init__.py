"""Envoy's configuration for one enforcement point: its bootstrap. The guard's discovery file is the agent's (knhk_runtime.exchange).

The templates hold wording only. Every value is printed as JSON by the environment itself (`finalize`), so that no
value of a person can become syntax; the result is parsed again before it is returned.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import jinja2

ADMISSION: Final = "spiffe://knhk.dev/component/knhk-admission"  # who may ask a point that judges objects
MAX_CAPTURES: Final = 5  # of Envoy's uri_template
_ATTRIBUTE: Final = re.compile(r"[a-z0-9_.-]{1,63}")
_PATH: Final = re.compile(r"/|(/([A-Za-z0-9._~!$&'()+,;=:@%-]+|\{[a-z0-9_]{1,48}\}))+/?")
_CAPTURE: Final = re.compile(r"\{([a-z0-9_]+)\}")
_CLAIM: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MEDIA: Final = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
# Names that Envoy or every application needs: an attribute may be called so, its header stays.
_KEPT_HEADERS: Final = frozenset(
    {"host", "content-type", "content-length", "content-encoding", "authorization", "accept", "user-agent", "date"}
)

# Headers that frameworks or Envoy take for another method, path, host, caller or number of tries than those that were judged.
_STEERING: Final = frozenset(
    f"x-{name}"
    for name in (
        *("http-method-override", "http-method", "method-override", "original-method", "forwarded-method"),
        *("original-url", "rewrite-url", "original-uri", "forwarded-uri", "forwarded-path", "forwarded-prefix", "script-name"),
        *("host", "forwarded-host", "original-host", "forwarded-server", "http-host-override"),
        *("user", "remote-user", "forwarded-user", "auth-request-user", "authenticated-user", "webauth-user"),
        *(f"{kind}-{what}" for kind in ("forwarded", "auth-request") for what in ("email", "groups", "preferred-username", "access-token")),
        *("ssl-client-verify", "ssl-client-s-dn", "client-verify", "client-dn", "client-cert", "ms-client-principal"),
    )
) | {"remote-user", "forwarded", "ssl-client-verify", "ssl-client-cert", "client-cert", "client-cert-chain"}

_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("knhk_templates", "envoy"),
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # JSON, not HTML
    finalize=lambda value: json.dumps(value, ensure_ascii=True),
)


def render_bootstrap(point: Mapping[str, Any]) -> str:
    """Envoy's bootstrap (JSON) for an enforcement point.

    `point` is the spec of the EnforcementPoint with its defaults (listen, upstream, match, attributes) and:
    `name` (NAMESPACE/NAME), `local`: {`ecds`: path of the discovery file, `agentSocket`, `adminSocket`: path or None, `serving`: paths of
    `identity` and `authorities`, secrets that Envoy follows, or absent}.
    `upstream` may be {`socket`: path} instead of host and port. Without it (a point that has `admission`) Envoy itself answers what is
    admitted, with 200, and says what a candidate would deny of it; with `serving` it answers our own admission alone, over TLS. A match may
    have `query`: true, then the route accepts a query, which no policy judges. Raises ValueError that names every fault, one a line.
    """
    faults = point_faults(point)
    if faults:
        raise ValueError("\n".join(faults))
    jwt = point.get("attributes", {}).get("jwt")
    local, application = point["local"], point.get("upstream")
    onward = _TO_APP if application else _ADMITTED
    return _render(
        "bootstrap.json.j2",
        name=point["name"],
        listen_address=point["listen"]["address"],
        listen_port=point["listen"]["port"],
        transport_socket=_transport_socket(point["listen"].get("tls")) if application else _admission_only(local.get("serving")),
        admin_socket=local.get("adminSocket"),
        agent_socket=local["agentSocket"],
        ecds_path=local["ecds"],
        max_connections=10_000,
        max_waiting=1024,
        mutations=_header_mutations(attribute_sources(point)),
        routes=[*(_route(match, application) for match in point["match"]), {"name": "unmatched", "match": {"prefix": "/"}, **onward}],
        jwt_provider=None if jwt is None else _jwt_provider(jwt),
        filter_states=[_filter_state(name, value) for name, value in _sources(point)],
        application=application and {"discovery": _discovery(application), "address": _address(application)},
    )


def attribute_sources(point: Mapping[str, Any]) -> list[dict[str, str]]:
    """`attributes` of the shim's configuration: which filter state holds which verified attribute."""
    return [{"name": name, "filterState": _state_key(name)} for name, _ in _sources(point)]


def _render(template: str, **values: Any) -> str:
    text = _TEMPLATES.get_template(template).render(**values)
    return json.dumps(json.loads(text), indent=1) + "\n"


# ---- faults ----------------------------------------------------------------------------------------


def point_faults(point: Mapping[str, Any]) -> list[str]:
    """Everything about `point` that Envoy or the shim would not take, as `path: value must …`."""
    faults: list[str] = []
    faults += _upstream_faults(point["upstream"]) if "upstream" in point else []
    for key in ("ecds", "agentSocket"):
        faults += _unless(str(point["local"][key]).startswith("/"), f"local.{key}", point["local"][key], "be an absolute path")
    for key, file in point["local"].get("serving", {}).items():
        faults += _unless(file.startswith("/"), f"local.serving.{key}", file, "be an absolute path")
    for key, file in point["listen"].get("tls", {}).items():
        faults += _unless(file.startswith("/"), f"listen.tls.{key}", file, "be an absolute path")
    faults += _unless(_is_ip(point["listen"]["address"]), "listen.address", point["listen"]["address"], "be an IP address")
    for number, match in enumerate(point["match"]):
        faults += _match_faults(f"match[{number}]", match)
    for name, claim in _claims(point):
        faults += _unless(_ATTRIBUTE.fullmatch(name) is not None, "attributes.jwt.claims", name, "be an attribute name")
        faults += _unless(_CLAIM.fullmatch(claim) is not None, "attributes.jwt.claims", claim, "be letters, digits, _ and - only")
    return faults


def _unless(fine: bool, path: str, value: object, must: str) -> list[str]:
    return [] if fine else [f"{path}: {value!r} must {must}"]


def _upstream_faults(upstream: Mapping[str, Any]) -> list[str]:
    if "socket" in upstream:
        return _unless(str(upstream["socket"]).startswith("/"), "upstream.socket", upstream["socket"], "be an absolute path")
    host = str(upstream["host"])
    return _unless(_is_ip(host) or _HOST.fullmatch(host) is not None, "upstream.host", host, "be a host name or an IP address")


def _match_faults(path: str, match: Mapping[str, Any]) -> list[str]:
    template = match["path"]
    names = _CAPTURE.findall(template)
    faults = _unless(_PATH.fullmatch(template) is not None, f"{path}.path", template, "be a path of plain segments and {captures}")
    faults += _unless(len(names) <= MAX_CAPTURES, f"{path}.path", template, f"have at most {MAX_CAPTURES} captures")
    faults += _unless(len(set(names)) == len(names), f"{path}.path", template, "name each capture once")
    faults += _unless(match["method"] in _METHODS, f"{path}.method", match["method"], f"be one of {', '.join(sorted(_METHODS))}")
    faults += _unless(
        "host" not in match or _HOST.fullmatch(match["host"]) is not None, f"{path}.host", match.get("host"), "be a host name"
    )
    for media in match.get("mediaTypes", ()):
        faults += _unless(_MEDIA.fullmatch(media) is not None, f"{path}.mediaTypes", media, "be a lower-case media type without parameters")
    return faults


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# ---- routes ----------------------------------------------------------------------------------------

_TO_APP: Final = {"route": {"cluster": "app", "timeout": "30s"}}
_ADMITTED: Final = {"direct_response": {"status": 200}}


def _route(match: Mapping[str, Any], application: object) -> dict[str, Any]:
    """One route; its metadata is all that the shim knows of it (formats/agent.md)."""
    headers = [{"name": ":method", "string_match": {"exact": match["method"]}}]
    if "host" in match:
        regex = f"(?i){re.escape(match['host'])}(:[0-9]+)?"
        headers.append({"name": ":authority", "string_match": {"safe_regex": {"regex": regex}}})
    metadata = {"route": match["name"], "action": match["action"], "media": ",".join(match.get("mediaTypes", ("application/json",)))}
    if match.get("query"):
        metadata["query"] = "Allow"
    if not application:
        metadata["candidate"] = "Tell"
    segments = match["path"].split("/")[1:]
    metadata |= {f"capture.{segment[1:-1]}": str(number) for number, segment in enumerate(segments) if segment.startswith("{")}
    return {
        "name": match["name"],
        "match": {**_path_match(match["path"]), "headers": headers},
        **(_TO_APP if application else _ADMITTED),
        "metadata": {"filter_metadata": {"knhk": metadata}},
    }


def _path_match(template: str) -> dict[str, Any]:
    """Captures are renamed: Envoy bounds the length of their names, and only their places matter to us."""
    if "{" not in template:
        return {"path": template}
    numbers = iter(range(MAX_CAPTURES))
    return {
        "path_match_policy": {
            "name": "envoy.path.match.uri_template.uri_template_matcher",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                "path_template": _CAPTURE.sub(lambda _: f"{{v{next(numbers)}}}", template),
            },
        }
    }


# ---- identity --------------------------------------------------------------------------------------


def _claims(point: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(attribute, claim) pairs in order of attribute."""
    jwt = point.get("attributes", {}).get("jwt")
    if jwt is None:
        return []
    return sorted([("sub", "sub"), ("iss", "iss"), *((c["attribute"], c["name"]) for c in jwt.get("claims", ()))])


def _sources(point: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(attribute, Envoy's name of its verified value) pairs in order of attribute. A certificate's URI names come joined by commas: the
    shim refuses a caller with more than one."""
    claims = [(name, f"%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:pl:{claim})%") for name, claim in _claims(point)]
    peer = [("peer", "%DOWNSTREAM_PEER_URI_SAN%")] if "clients" in point["listen"].get("tls", {}) else []
    return sorted(claims + peer)


def _state_key(attribute: str) -> str:
    return f"knhk.{attribute}"


def _filter_state(attribute: str, value: str) -> dict[str, Any]:
    return {
        "object_key": _state_key(attribute),
        "factory_key": "envoy.string",
        "format_string": {"text_format_source": {"inline_string": value}, "omit_empty_values": True},
        "skip_if_empty": True,
    }


_TLS: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


def _transport_socket(tls: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """TLS 1.2 or newer; with `clients`, only callers whose certificate that authority signed and that names a SPIFFE ID."""
    if tls is None:
        return None
    common: dict[str, Any] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [{"certificate_chain": {"filename": tls["certificate"]}, "private_key": {"filename": tls["key"]}}],
    }
    if "clients" in tls:
        spiffe = [{"san_type": "URI", "matcher": {"prefix": "spiffe://"}}]
        common["validation_context"] = {"trusted_ca": {"filename": tls["clients"]}, "match_typed_subject_alt_names": spiffe}
    context = {"@type": _TLS, "require_client_certificate": "clients" in tls, "common_tls_context": common}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _admission_only(serving: Mapping[str, str] | None) -> dict[str, Any] | None:
    """TLS by secrets that are followed: what is shown, and the authorities of the one caller."""
    if serving is None:
        return None
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["http/1.1"],
        "tls_certificate_sds_secret_configs": [_followed(serving["identity"])],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": ADMISSION}}]},
            "validation_context_sds_secret_config": _followed(serving["authorities"]),
        },
    }
    context = {"@type": _TLS, "require_client_certificate": True, "common_tls_context": common}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _followed(path: str) -> dict[str, Any]:
    """A secret by the name of its file."""
    source = {"path_config_source": {"path": path}, "resource_api_version": "V3"}
    return {"name": PurePosixPath(path).stem, "sds_config": source}


def _jwt_provider(jwt: Mapping[str, Any]) -> dict[str, Any]:
    jwks = jwt["jwks"]
    return {
        "issuer": jwt["issuer"],
        "audiences": list(jwt["audiences"]),
        "local_jwks": {"filename": jwks["file"]} if "file" in jwks else {"inline_string": jwks["inline"]},
        "from_headers": [{"name": "Authorization", "value_prefix": "Bearer "}],
        "payload_in_metadata": "pl",
        "forward": False,
        "require_expiration": True,
    }


def _header_mutations(sources: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Client headers that could be taken for ours, or that steer past what was judged: removed before any filter sees them. Underscore
    spellings are refused by the connection manager."""
    attributes = {"action", "peer", *(source["name"] for source in sources)}
    spellings = {f"{prefix}{name.replace('_', '-')}" for name in attributes for prefix in ("", "x-", "x-jwt-")}
    ours: list[dict[str, Any]] = [{"safe_regex": {"regex": _all_but("knhk-", "decision")}}, {"prefix": "path."}, {"prefix": "x-envoy-"}]
    named: list[dict[str, Any]] = [{"exact": name, "ignore_case": True} for name in sorted((spellings | _STEERING) - _KEPT_HEADERS)]
    return [{"remove_on_match": {"key_matcher": matcher}} for matcher in ours + named]


def _all_but(prefix: str, exempt: str) -> str:
    """A regular expression (RE2 has no look-ahead) for every name with `prefix` but prefix + exempt."""
    shorter = [f"{exempt[:n]}([^{exempt[n]}].*)?" for n in range(len(exempt))]
    return f"{prefix}({'|'.join([*shorter, f'{exempt}.+'])})"


# ---- the application --------------------------------------------------------------------------------


def _discovery(upstream: Mapping[str, Any]) -> str:
    return "STATIC" if "socket" in upstream or _is_ip(upstream["host"]) else "STRICT_DNS"


def _address(upstream: Mapping[str, Any]) -> dict[str, Any]:
    if "socket" in upstream:
        return {"pipe": {"path": upstream["socket"]}}
    return {"socket_address": {"address": upstream["host"], "port_value": upstream["port"]}}
