"""EnforcementPoint: where requests are judged, and what happens to those that no rule knows."""

from __future__ import annotations

from knhk.api.kinds.common import COLUMNS, HISTORY, LOOSENING, NAME_RULE, STATUS_FIELDS, absolute_iri, choice, match_labels, name, suspend
from knhk.api.kinds.kubernetes_objects import ADMISSION
from knhk.api.rules import exactly_one, matches, one_of, refused
from knhk.api.shape import Bool, Int, Kind, List, Map, Obj, Rule, Str
from knhk.model.consents import MAX_PURPOSES

_ATTRIBUTE = r"^[a-z0-9_.-]{1,63}$"
_ATTRIBUTE_MUST = "must be lower-case letters, digits, dots, hyphens and underscores, at most 63"
_HOST = r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$"
_PURPOSE = Obj(
    "One purpose.",
    {
        "name": Str(
            "Rules read attribute consent.NAME: granted, withdrawn, unknown or stale.",
            max=48,
            min=1,
            rules=(matches(r"^[a-z0-9_.-]{1,48}$", "must be lower-case letters, digits, dots, hyphens and underscores, at most 48"),),
        ),
        "purpose": absolute_iri("What the data is used for, as Consents name it."),
    },
    required=("name", "purpose"),
)
_CONSENT = Obj(
    "Whose consent to what the point knows of every request, for rules to ask (docs/consent.md).",
    {
        "subject": Str(
            "Attribute that names the person: sub, peer, a claim, or path.NAME of a route.",
            max=63,
            min=1,
            rules=(matches(_ATTRIBUTE, _ATTRIBUTE_MUST),),
        ),
        "purposes": List("Purposes, each by a name of its own.", _PURPOSE, max=MAX_PURPOSES, min=1, key="name"),
        "maxStalenessSeconds": Int(
            "How long the point goes on with what it knows when it hears nothing; then consents are stale. Default: 60.",
            min=10,
            max=86_400,
            default=60,
        ),
    },
    required=("subject", "purposes"),
)
_RESERVED = ("sub", "iss", "action", "peer", "region")


_MATCH = Obj(
    "Requests of one route.",
    {
        "name": name("Name of the route; packs and receipts name it."),
        "host": Str(
            "Host name; left out: any.",
            max=253,
            min=1,
            rules=(matches(_HOST, "must be a host name without port"),),
        ),
        "method": Str(
            "HTTP method.",
            max=16,
            rules=(one_of("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),),
        ),
        "path": Str(
            "Path template; {name} captures one segment as attribute path.name.",
            max=512,
            min=1,
            rules=(
                matches(
                    r"^/$|^(/([A-Za-z0-9._~!$&'()+,;=:@-]+|\{[a-z0-9_]{1,48}\}))+/?$",
                    "must be a path of plain segments and {captures}, such as /invoices/{id}/approve",
                ),
                Rule(
                    "!self.matches('(^|/)[.]{1,2}(/|$)')",
                    "must not have . or .. as a segment",
                    lambda v: not {".", ".."} & set(v.split("/")),
                ),
            ),
        ),
        "action": Str(
            "What the route does, as attribute action.",
            max=128,
            min=1,
            rules=(
                matches(
                    r"^[A-Za-z0-9_.:/-]+$",
                    "must be letters, digits and _ . : / - only, such as approve",
                ),
            ),
        ),
        "mediaTypes": List(
            "Media types of the body; empty: no body. Default: application/json.",
            Str(
                "A media type without parameters.",
                max=128,
                min=3,
                rules=(
                    matches(
                        r"^[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+$",
                        "must be a lower-case media type without parameters, such as application/json",
                    ),
                ),
            ),
            max=8,
            default=("application/json",),
        ),
    },
    required=("name", "method", "path", "action"),
)

_JWT = Obj(
    "Tokens that Envoy verifies; attributes come from them and nowhere else.",
    {
        "issuer": Str("Issuer (iss) that tokens must name.", max=512, min=1),
        "audiences": List(
            "Audiences (aud), of which a token must name one.",
            Str("An audience.", max=512, min=1),
            max=16,
            min=1,
        ),
        "jwks": Obj(
            "Public keys of the issuer: inline or file.",
            {
                "inline": Str("A JWK set, JSON.", max=65_536, min=2),
                "file": Str("Path of a file with a JWK set at the point.", max=1024, min=1),
            },
            rules=(exactly_one("inline", "file", "must have either inline or file"),),
        ),
        "claims": List(
            "Claims that become attributes, beside sub and iss.",
            Obj(
                "One claim.",
                {
                    "name": Str(
                        "Name of the claim.",
                        max=128,
                        min=1,
                        rules=(matches(r"^[A-Za-z0-9_-]+$", "must be letters, digits, _ and - only"),),
                    ),
                    "attribute": Str(
                        "Name of the attribute.",
                        max=63,
                        min=1,
                        rules=(
                            matches(_ATTRIBUTE, _ATTRIBUTE_MUST),
                            Rule(
                                "!(self in ['sub', 'iss', 'action', 'peer', 'region']) && !self.startsWith('path.')",
                                "must not be sub, iss, action, peer, region or path.…: these come from elsewhere",
                                lambda v: v not in _RESERVED and not v.startswith("path."),
                            ),
                            Rule(
                                "!self.startsWith('consent.')",
                                "must not be consent.…: these come from Consents",
                                lambda v: not v.startswith("consent."),
                            ),
                        ),
                    ),
                },
                required=("name", "attribute"),
            ),
            max=32,
            key="attribute",
            default=(),
        ),
    },
    required=("issuer", "audiences", "jwks"),
)


def _file(doc: str) -> Str:
    return Str(
        doc,
        max=1024,
        min=2,
        rules=(matches(r"^/[A-Za-z0-9._/@+-]+$", "must be an absolute path of letters, digits and . _ / @ + - only"),),
    )


_LISTEN_TLS = Obj(
    "TLS 1.2 or newer; left out: plain HTTP. Files are read when Envoy starts.",
    {
        "certificate": _file("File at the point with the point's certificate chain, PEM."),
        "key": _file("File at the point with its private key, PEM."),
        "clients": _file(
            "File at the point with the authorities, PEM, that sign callers' certificates. With it every caller needs one with one "
            "SPIFFE ID, which becomes attribute peer; left out: callers have no certificate."
        ),
    },
    required=("certificate", "key"),
)

_SUBJECT = Obj(
    "One place.",
    {
        "route": name("Route of match that it is for; left out: any."),
        "attribute": Str("Attribute that says the subject.", max=63, min=1, rules=(matches(_ATTRIBUTE, _ATTRIBUTE_MUST),)),
        "pointer": Str(
            "JSON pointer (RFC 6901) into a body of JSON, to a string or an integer.",
            max=512,
            min=2,
            rules=(matches(r"^(/([^/~]|~[01])*){1,32}$", "must be a JSON pointer such as /customer/email, of at most 32 steps"),),
        ),
    },
    rules=(exactly_one("attribute", "pointer", "must have either attribute or pointer"),),
)

SPEC = Obj(
    "Where and how requests are judged.",
    {
        "mode": Str(
            "Sidecar or Gateway; Connector and Library come later.",
            max=16,
            rules=(
                one_of("Sidecar", "Gateway", "Connector", "Library"),
                refused("Connector", "must be Sidecar or Gateway; Connector is not available yet"),
                refused("Library", "must be Sidecar or Gateway; Library is not available yet"),
            ),
        ),
        "listen": Obj(
            "Where clients connect.",
            {
                "address": Str("IP address. Default: 127.0.0.1.", max=45, min=2, default="127.0.0.1"),
                "port": Int(
                    "TCP port; 0: a free one, named in the status. Default: 0.",
                    min=0,
                    max=65_535,
                    default=0,
                ),
                "tls": _LISTEN_TLS,
            },
            default={},
        ),
        "selector": Obj(
            "On a cluster, which pods of the namespace a point of mode Sidecar is for.",
            {"matchLabels": match_labels("a pod")},
            required=("matchLabels",),
        ),
        "gateway": Obj(
            "On a cluster, how many pods a point of mode Gateway has, and when there are more or fewer: a HorizontalPodAutoscaler of it. "
            "Without a metrics API on the cluster there is the least.",
            {
                "minReplicas": Int("The least. Default: 2.", min=1, max=1000, default=2),
                "maxReplicas": Int("The most, by load. Default: 10.", min=1, max=1000, default=10),
                "cpuPercent": Int(
                    "CPU that its pods use on the average, in percent of what they ask for (70m each), above which there are more. They "
                    "have no limit, so it may be above 100. Default: 300.",
                    min=1,
                    max=10_000,
                    default=300,
                ),
                "scaleInAfterSeconds": Int(
                    "How long fewer must have been enough before there are fewer. Default: 300.", min=0, max=3600, default=300
                ),
            },
            rules=(
                Rule(
                    "self.minReplicas <= self.maxReplicas",
                    "must have minReplicas not above maxReplicas",
                    lambda v: v["minReplicas"] <= v["maxReplicas"],
                    ("minReplicas", "maxReplicas"),
                ),
            ),
        ),
        "upstream": Obj(
            "The application: a Unix socket in a folder that only Envoy's user may enter, or host and port. Who can reach host and port "
            "can go round the point.",
            {
                "socket": Str(
                    "Path of the Unix socket that the application listens on.",
                    max=107,
                    min=2,
                    rules=(matches(r"^/[A-Za-z0-9._/@+-]+$", "must be an absolute path of letters, digits and . _ / @ + - only"),),
                ),
                "host": Str(
                    "Host name or IP address.",
                    max=253,
                    min=1,
                    rules=(matches(r"^[A-Za-z0-9][A-Za-z0-9.:-]*$", "must be a host name or an IP address"),),
                ),
                "port": Int("TCP port.", min=1, max=65_535),
            },
            rules=(
                exactly_one("host", "socket", "must have either socket, or host and port"),
                Rule(
                    "has(self.host) == has(self.port)",
                    "must have host and port together",
                    lambda v: ("host" in v) == ("port" in v),
                    ("host", "port"),
                ),
            ),
        ),
        "admission": ADMISSION,
        "match": List("Routes in order; the first that fits counts.", _MATCH, max=64, min=1, key="name"),
        "unmatched": Str(
            "What happens to requests that no route fits. Default: Deny, and nothing else yet.",
            max=8,
            rules=(
                one_of("Deny", "Admit"),
                refused("Admit", "must be Deny; letting unknown routes through is not available"),
            ),
            default="Deny",
        ),
        "baseline": choice(
            "What happens on matched routes before a first pack is live: Deny or Admit.", "Deny", "Admit", max=8, default="Deny"
        ),
        "attributes": Obj("Where verified attributes come from.", {"jwt": _JWT}, default={}),
        "consent": _CONSENT,
        "stickyAttribute": Str(
            "Attribute whose value keeps a caller in one arm and is the judge's independent unit.",
            max=63,
            min=1,
            rules=(matches(_ATTRIBUTE, _ATTRIBUTE_MUST),),
        ),
        "region": Str(
            "Region of receipts; where the installation lists regions, one of them. Default: local.",
            max=63,
            min=1,
            rules=(
                matches(
                    r"^[a-z0-9-]{1,63}$",
                    "must be lower-case letters, digits and hyphens, at most 63",
                ),
            ),
            default="local",
        ),
        "failure": choice(
            "What happens when no decision can be made.",
            "Closed",
            "Open",
            max=8,
            default="Closed",
            later={"Open": "must be Closed; Open needs an approval, which is not available yet"},
        ),
        "agentGraceSeconds": Int("How long a silent agent is tolerated. Default: 30.", min=1, max=86_400, default=30),
        "parkTimeoutMs": Int(
            "How long a parked request waits before 202. Default: 500.",
            min=1,
            max=60_000,
            default=500,
        ),
        "durableTimeoutMs": Int(
            "How long an answer waits for a receipt that must survive more than the ring, before `failure` counts. Default: 2000.",
            min=1,
            max=60_000,
            default=2000,
        ),
        "maxUnwitnessedSeconds": Int(
            "How long a receipt may wait for a checkpoint with a quorum of witnesses before `failure` counts; 0: for ever. Default: 0.",
            min=0,
            max=31_536_000,
            default=0,
        ),
        "residency": Obj(
            "What is kept in memory: packs and their data are read before the first request, the hottest first.",
            {
                "maxMiB": Int("Budget in MiB; 0: none. Default: 0.", min=0, max=1_048_576, default=0),
                "absent": choice(
                    "What happens to a request whose pack is not in memory: Decide (it waits for the disk) or Park (the agent decides).",
                    "Decide",
                    "Park",
                    max=8,
                    default="Decide",
                ),
            },
            default={},
        ),
        "privacy": Obj(
            "Personal data: O of each record is sealed for its subject before it is written (docs/privacy.md). In embedded homes, for now.",
            {
                "subjects": List(
                    "Where the subject of a record is found: the first that finds a text counts; none: sealed for nobody.",
                    _SUBJECT,
                    max=16,
                    min=1,
                ),
                "retentionDays": Int("How long records stay; 0: no end. Default: 0.", min=0, max=36_500, default=0),
            },
            required=("subjects",),
        ),
        "brownout": Obj(
            "What to shed under overload.",
            {
                "enabled": Bool("Shed candidate judgements first. Default: false.", default=False),
                "maxRingPercent": Int(
                    "Fill of the ring above which it begins. Default: 80.",
                    min=1,
                    max=99,
                    default=80,
                ),
            },
        ),
        "suspend": suspend("Leave its instances as they run; rollouts and rollbacks of packs still reach them."),
    },
    required=("mode", "match"),
    rules=(
        exactly_one("upstream", "admission", "must have either upstream, or admission when objects of Kubernetes are judged"),
        Rule(
            "!has(self.privacy) || self.privacy.subjects.all(s, !has(s.route) || self.match.exists(m, m.name == s.route))",
            "must name in each route of privacy.subjects a route of match",
            lambda v: {s["route"] for s in v.get("privacy", {}).get("subjects", ()) if "route" in s} <= {m["name"] for m in v["match"]},
            ("privacy", "match"),
            at="privacy",
        ),
        Rule(
            "!has(self.admission) || self.mode == 'Gateway'",
            "must be Gateway for a point that has admission",
            lambda v: "admission" not in v or v["mode"] == "Gateway",
            ("mode", "admission"),
            at="mode",
        ),
        Rule(
            "!has(self.admission) || !has(self.listen.tls) && !has(self.attributes.jwt)",
            "must have neither listen.tls nor attributes.jwt beside admission: who asks is our own admission process",
            lambda v: "admission" not in v or ("tls" not in v["listen"] and "jwt" not in v["attributes"]),
            ("admission", "listen", "attributes"),
        ),
    ),
)


def _count(doc: str) -> Int:
    return Int(doc, min=0, max=2**53)


STATUS = Obj(
    "What is.",
    {
        **STATUS_FIELDS,
        "address": Str("Where clients connect, host:port.", max=300),
        "epoch": _count("Epoch of the rollout document that the point runs."),
        "mode": Str("Stable, Shadow or Canary.", max=16),
        "weight": Int("Per mille of callers for whom the candidate is enforced.", min=0, max=1000),
        "stable": Str("Digest of the enforced pack.", max=71),
        "candidate": Str("Digest of the candidate.", max=71),
        "data": Str("Digest of the data bundle.", max=71),
        "flags": Map("Variants of the FeatureFlags that its document carries.", Str("Name of the variant.", max=63), max=64),
        "decisions": Obj(
            "Decisions of the enforced pack.",
            {k: _count(f"Requests: {k}.") for k in ("admit", "deny", "park", "refused")},
        ),
        "absent": _count("Judgements whose pack was not in memory."),
        "heat": List(
            "Predicates that sampled decisions of the enforced pack touch, the hottest first.",
            Obj(
                "One predicate.",
                {
                    "predicate": Str("IRI.", max=2048),
                    "percent": _count("Its triples in 100 decisions."),
                },
                required=("predicate", "percent"),
            ),
            max=16,
        ),
        "instances": Obj(
            "Pods of the point.",
            {
                "live": _count("Those that run and tell so."),
                "current": _count("Those of them that run what is published."),
                "silent": _count("Those that run and tell nothing."),
                "wave": _count("Live ones in the wave of the canary; left out while it is in all of them."),
            },
        ),
        "revisions": List(
            "Live pods by the pack that they enforce, the most first.",
            Obj(
                "One pack.",
                {"digest": Str("Digest.", max=71), "instances": _count("Pods.")},
                required=("digest", "instances"),
            ),
            max=8,
        ),
        "outliers": List(
            "Instances that run something else than they should.",
            Obj(
                "One instance.",
                {"name": Str("Instance.", max=253), "reason": Str("What differs.", max=512)},
                required=("name", "reason"),
            ),
            max=20,
        ),
        "promises": Obj(
            "What the point promises now; what is less in its spec waits for approvals, where the stage of its pack asks for any.",
            {
                "failure": Str("What happens when no decision can be made.", max=8),
                "maxUnwitnessedSeconds": Int(
                    "How long a receipt may wait for a checkpoint with a quorum; 0: for ever.", min=0, max=31_536_000
                ),
                "privacy": Str("sealed, or clear.", max=8),
            },
        ),
        "loosening": LOOSENING,
        "history": HISTORY,
    },
)

ENFORCEMENT_POINT = Kind(
    kind="EnforcementPoint",
    plural="enforcementpoints",
    short=("point",),
    doc="Where requests are judged: routes, application, verified attributes, and what happens without a rule.",
    spec=SPEC,
    status=STATUS,
    columns=(
        COLUMNS[0],
        ("Mode", "string", ".spec.mode", 0),
        COLUMNS[1],
        COLUMNS[2],
        ("Address", "string", ".status.address", 1),
        ("Epoch", "integer", ".status.epoch", 1),
    ),
    rules=(NAME_RULE,),
)
