"""Three domains of access decisions, each written three times: in RDF, in Rego for OPA, and in Cedar; requests drawn at random."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

HEAD = """@prefix abac: <https://knhk.dev/ns/abac#> . @prefix sh: <http://www.w3.org/ns/shacl#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> . @prefix ex: <https://example.com/ns#> . @prefix user: <https://example.com/users/> .
"""
TEMPLATE = "https://example.com/users/{}"
START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday


@dataclass(frozen=True)
class Request:
    """One access request. `resource` is its body: strings, numbers and booleans, some absent."""

    sub: str
    action: str
    region: str
    at: datetime
    attributes: dict[str, str]
    resource: dict[str, Any]

    @property
    def time_ns(self) -> int:
        return int(self.at.timestamp()) * 10**9

    def body(self) -> bytes:
        return json.dumps({"items": [{"id": "1", **self.resource}]}).encode()

    def document(self) -> dict[str, Any]:
        """What OPA reads as input and Cedar as context."""
        local = self.at.astimezone(timezone(timedelta(hours=1)))
        known = {"time_ns": self.time_ns, "weekday": local.isoweekday(), "local": local.replace(tzinfo=None).isoformat()}
        return {"sub": self.sub, "action": self.action, "region": self.region, "attr": self.attributes, "resource": self.resource, **known}


@dataclass(frozen=True)
class Domain:
    """One domain. `users` hold roles and attributes; `above` says which roles a role includes."""

    name: str
    mapping: str
    rules: str
    bundle: str
    rego: str
    cedar: str
    users: dict[str, dict[str, Any]]
    above: dict[str, tuple[str, ...]]
    draw: Callable[[random.Random], Request]


def _mapping(cls: str, properties: str) -> str:
    return f"""prefixes: {{ex: "https://example.com/ns#"}}
unknownMembers: Deny
maps:
  - id: item
    iterator: "$.items[*]"
    subject: {{template: "https://example.com/items/{{id}}"}}
    class: ex:{cls}
    properties:
{properties}"""


def _bundle(users: dict[str, dict[str, Any]], above: dict[str, tuple[str, ...]], more: str = "") -> str:
    """Turtle of users and roles: strings that begin with `:` are IRIs of the domain."""
    lines = [HEAD, more]
    for role, roles in above.items():
        lines += [f"ex:{role} abac:inherits ex:{other} ." for other in roles]
    for name, facts in users.items():
        lines += [f"user:{name} abac:hasRole ex:{role} ." for role in facts.get("roles", ())]
        for key, value in facts.get("has", {}).items():
            for one in value if isinstance(value, tuple) else (value,):
                lines.append(f"user:{name} ex:{key} {_turtle(one)} .")
    return "\n".join(lines)


def _turtle(value: Any) -> str:
    if isinstance(value, str) and value.startswith(":"):
        return "ex" + value
    return json.dumps(value)


def _some(rng: random.Random, **choices: tuple[Any, ...]) -> dict[str, Any]:
    """One value of each, None meaning absent."""
    drawn = {name: rng.choice(values) for name, values in choices.items()}
    return {name: value for name, value in drawn.items() if value is not None}


def _at(rng: random.Random) -> datetime:
    """Any second of a week, or the very edges of office hours."""
    if rng.random() < 0.3:
        edge = rng.choice((6 * 3600, 18 * 3600)) + rng.choice((-1, 0, 1))
        return START + timedelta(days=rng.randrange(7), seconds=edge)
    return START + timedelta(seconds=rng.randrange(7 * 86400))


# ---- approval of invoices ----

INVOICE_USERS: dict[str, dict[str, Any]] = {
    "carl": {"roles": ("clerk",)},
    "mia": {"roles": ("manager",)},
    "hana": {"roles": ("head",)},
    "cora": {"roles": ("controller",)},
    "tess": {"roles": ("treasurer",)},
    "both": {"roles": ("clerk", "treasurer")},
    "aud": {"roles": ("auditor", "manager")},
    "cfo": {"roles": ("head", "treasurer"), "has": {"approvalLimit": 900000}},
    "none": {},
}
INVOICE_ABOVE: dict[str, tuple[str, ...]] = {"head": ("manager",), "controller": ("clerk",)}
INVOICE = Domain(
    "invoice",
    _mapping(
        "Invoice",
        """      ex:payable: {path: "$.payable", datatype: xsd:decimal}
      ex:enteredBy: "$.enteredBy"
      ex:status: "$.status"
""",
    ),
    HEAD
    + """
ex:Invoices a abac:Policy ; abac:scope "create" , "approve" , "pay" ; abac:exclusive [ abac:role ex:clerk , ex:treasurer ] ;
  abac:rule ex:enter , ex:approve , ex:approveAll , ex:pay , ex:stop , ex:readers .
ex:enter a abac:Permission ; abac:action "create" ; abac:role ex:clerk ; abac:region "eu" , "us" ; abac:resource ex:Invoice .
ex:approve a abac:Permission ; abac:action "approve" ; abac:role ex:manager ; abac:resource ex:Invoice ;
  abac:limit [ abac:path ex:payable ; abac:atMost ex:approvalLimit ] ; abac:separate ex:enteredBy ;
  abac:window [ abac:weekday "Mon" , "Tue" , "Wed" , "Thu" , "Fri" ; abac:from "07:00" ; abac:until "19:00" ; abac:zone "+01:00" ] .
ex:approveAll a abac:Permission ; abac:action "approve" ; abac:role ex:controller ; abac:resource ex:Invoice ;
  abac:limit [ abac:path ex:payable ; abac:atMost 1000000 ] , [ abac:path ex:payable ; abac:atLeast 0 ] ; abac:separate ex:enteredBy .
ex:pay a abac:Permission ; abac:action "pay" ; abac:role ex:treasurer ; abac:resource ex:Invoice ;
  abac:attribute [ abac:name "acr" ; abac:value "mfa" , "hwk" ] ; abac:limit [ abac:path ex:status ; abac:value "approved" ] .
ex:stop a abac:Prohibition ; abac:action "approve" , "pay" ; abac:resource ex:Invoice ;
  abac:when [ abac:path ex:status ; abac:value "disputed" , "blocked" ] .
ex:readers a abac:Prohibition ; abac:action "create" , "approve" , "pay" ; abac:role ex:auditor .
""",
    _bundle(
        INVOICE_USERS,
        INVOICE_ABOVE,
        "ex:approvalLimit abac:inheritable true . ex:manager ex:approvalLimit 5000 . ex:head ex:approvalLimit 250000 .",
    ),
    """package access
import rego.v1
default allow := false
limits contains l if { some r in roles; l := {"manager": 5000, "head": 250000}[r] }
limits contains data.users[input.sub].has.approvalLimit
limit := max(limits)
roles := data.roles[input.sub]
hour := time.clock([input.time_ns + 3600000000000, "UTC"])[0]
workday if not time.weekday([input.time_ns + 3600000000000, "UTC"]) in {"Saturday", "Sunday"}
permitted if { input.action == "create"; "clerk" in roles; input.region in {"eu", "us"} }
permitted if {
  input.action == "approve"; "manager" in roles; input.resource.payable <= limit
  other; workday; hour >= 7; hour < 19
}
permitted if { input.action == "approve"; "controller" in roles; input.resource.payable >= 0; input.resource.payable <= 1000000; other }
permitted if { input.action == "pay"; "treasurer" in roles; input.attr.acr in {"mfa", "hwk"}; input.resource.status == "approved" }
other if { input.resource.enteredBy != input.sub }
forbidden if { input.action in {"approve", "pay"}; input.resource.status in {"disputed", "blocked"} }
forbidden if "auditor" in roles
forbidden if { "clerk" in roles; "treasurer" in roles }
allow if not input.action in {"create", "approve", "pay"}
allow if { permitted; not forbidden }
""",
    """
permit(principal, action, resource) when { ![Action::"create", Action::"approve", Action::"pay"].contains(action) };
permit(principal in Role::"clerk", action == Action::"create", resource) when { ["eu", "us"].contains(context.region) };
permit(principal in Role::"manager", action == Action::"approve", resource) when {
  context.resource has payable && context.resource has enteredBy && context.resource.enteredBy != context.sub && context.weekday <= 5 &&
  datetime(context.local).toTime() >= duration("7h") && datetime(context.local).toTime() < duration("19h") &&
  (context.resource.payable <= 5000 || (principal in Role::"head" && context.resource.payable <= 250000) ||
   (principal has approvalLimit && context.resource.payable <= principal.approvalLimit)) };
permit(principal in Role::"controller", action == Action::"approve", resource) when {
  context.resource has payable && context.resource has enteredBy && context.resource.enteredBy != context.sub &&
  context.resource.payable >= 0 && context.resource.payable <= 1000000 };
permit(principal in Role::"treasurer", action == Action::"pay", resource) when {
  context.attr has acr && ["mfa", "hwk"].contains(context.attr.acr) &&
  context.resource has status && context.resource.status == "approved" };
forbid(principal, action in [Action::"approve", Action::"pay"], resource) when {
  context.resource has status && ["disputed", "blocked"].contains(context.resource.status) };
forbid(principal in Role::"auditor", action in [Action::"create", Action::"approve", Action::"pay"], resource);
forbid(principal in Role::"clerk", action in [Action::"create", Action::"approve", Action::"pay"], resource)
  when { principal in Role::"treasurer" };
""",
    INVOICE_USERS,
    INVOICE_ABOVE,
    lambda rng: Request(
        rng.choice((*INVOICE_USERS, "stranger")),
        rng.choice(("create", "approve", "approve", "approve", "pay", "pay", "list")),
        rng.choice(("eu", "us", "apac")),
        _at(rng),
        _some(rng, acr=("mfa", "hwk", "pwd", None)),
        _some(
            rng,
            payable=(-1, 0, 100, 5000, 5001, 250000, 250001, 900000, 900001, 1000000, 1000001, None),
            enteredBy=("carl", "mia", "hana", "cora", "cfo", None),
            status=("open", "approved", "approved", "disputed", "blocked", None),
        ),
    ),
)

# ---- access to data of candidates ----

CANDIDATE_USERS: dict[str, dict[str, Any]] = {
    "rita": {"roles": ("recruiter",), "has": {"clearance": 2, "assigned": ("R1", "R2")}},
    "rob": {"roles": ("recruiter",), "has": {"clearance": 1, "assigned": ("R1",)}},
    "lead": {"roles": ("lead",), "has": {"clearance": 3, "assigned": ("R2", "R3")}},
    "ida": {"roles": ("interviewer",), "has": {"assigned": ("R1",)}},
    "dora": {"roles": ("dpo",)},
    "none": {},
}
CANDIDATE_ABOVE: dict[str, tuple[str, ...]] = {"lead": ("recruiter",), "recruiter": ("interviewer",)}
CANDIDATE = Domain(
    "candidate",
    _mapping(
        "Candidate",
        """      ex:requisition: "$.requisition"
      ex:consent: "$.consent"
      ex:legalHold: "$.legalHold"
      ex:appliedOn: {path: "$.appliedOn", datatype: xsd:date}
""",
    ),
    HEAD
    + """
ex:Candidates a abac:Policy ; abac:scope abac:any ; abac:rule ex:read , ex:interview , ex:export , ex:bot , ex:withdrawn , ex:old .
ex:read a abac:Permission ; abac:action "read" , "reject" ; abac:role ex:recruiter ; abac:resource ex:Candidate ;
  abac:caller [ abac:path ex:clearance ; abac:atLeast 2 ] ; abac:limit [ abac:path ex:requisition ; abac:equalTo ex:assigned ] .
ex:interview a abac:Permission ; abac:action "read" ; abac:role ex:interviewer ; abac:resource ex:Candidate ;
  abac:limit [ abac:path ex:requisition ; abac:equalTo ex:assigned ] ;
  abac:notBefore "2026-03-03T08:00:00Z"^^xsd:dateTime ; abac:notAfter "2026-03-05T18:00:00Z"^^xsd:dateTime .
ex:export a abac:Permission ; abac:action "export" ; abac:role ex:dpo ; abac:region "eu" ; abac:resource ex:Candidate ;
  abac:attribute [ abac:name "purpose" ; abac:value "dsar" ] , [ abac:name "acr" ; abac:value "mfa" ] .
ex:bot a abac:Permission ; abac:action "erase" ; abac:subject user:eraser ; abac:resource ex:Candidate .
ex:withdrawn a abac:Prohibition ; abac:action "read" , "reject" , "export" ; abac:resource ex:Candidate ;
  abac:when [ abac:path ex:consent ; abac:value "withdrawn" ] ; abac:unless [ abac:path ex:legalHold ; abac:value true ] .
ex:old a abac:Prohibition ; abac:action "read" ; abac:resource ex:Candidate ;
  abac:unless [ abac:path ex:appliedOn ; abac:atLeast "2024-01-01"^^xsd:date ] .
""",
    _bundle(CANDIDATE_USERS, CANDIDATE_ABOVE),
    """package access
import rego.v1
default allow := false
roles := data.roles[input.sub]
mine if input.resource.requisition in data.users[input.sub].has.assigned
permitted if { input.action in {"read", "reject"}; "recruiter" in roles; data.users[input.sub].has.clearance >= 2; mine }
permitted if {
  input.action == "read"; "interviewer" in roles; mine
  input.time_ns >= time.parse_rfc3339_ns("2026-03-03T08:00:00Z"); input.time_ns <= time.parse_rfc3339_ns("2026-03-05T18:00:00Z")
}
permitted if { input.action == "export"; "dpo" in roles; input.region == "eu"; input.attr.purpose == "dsar"; input.attr.acr == "mfa" }
permitted if { input.action == "erase"; input.sub == "eraser" }
forbidden if { input.action in {"read", "reject", "export"}; input.resource.consent == "withdrawn"; not held }
forbidden if { input.action == "read"; not recent }
held if input.resource.legalHold == true
recent if input.resource.appliedOn >= "2024-01-01"
allow if { permitted; not forbidden }
""",
    """
permit(principal in Role::"recruiter", action in [Action::"read", Action::"reject"], resource) when {
  principal has clearance && principal.clearance >= 2 &&
  context.resource has requisition && principal has assigned && principal.assigned.contains(context.resource.requisition) };
permit(principal in Role::"interviewer", action == Action::"read", resource) when {
  context.resource has requisition && principal has assigned && principal.assigned.contains(context.resource.requisition) &&
  datetime(context.local) >= datetime("2026-03-03T09:00:00Z") && datetime(context.local) <= datetime("2026-03-05T19:00:00Z") };
permit(principal in Role::"dpo", action == Action::"export", resource) when {
  context.region == "eu" && context.attr has purpose && context.attr.purpose == "dsar" &&
  context.attr has acr && context.attr.acr == "mfa" };
permit(principal == User::"eraser", action == Action::"erase", resource);
forbid(principal, action in [Action::"read", Action::"reject", Action::"export"], resource) when {
  context.resource has consent && context.resource.consent == "withdrawn" } unless {
  context.resource has legalHold && context.resource.legalHold };
forbid(principal, action == Action::"read", resource) unless {
  context.resource has appliedOn && datetime(context.resource.appliedOn) >= datetime("2024-01-01") };
""",
    CANDIDATE_USERS,
    CANDIDATE_ABOVE,
    lambda rng: Request(
        rng.choice((*CANDIDATE_USERS, "rita", "lead", "eraser", "stranger")),
        rng.choice(("read", "read", "read", "reject", "export", "export", "erase", "list")),
        rng.choice(("eu", "eu", "us")),
        rng.choice(
            (
                _at(rng),
                datetime(2026, 3, 3, 8, tzinfo=UTC),
                datetime(2026, 3, 5, 18, tzinfo=UTC),
                datetime(2026, 3, 5, 18, 0, 1, tzinfo=UTC),
            )
        ),
        _some(rng, purpose=("dsar", "dsar", "sales", None), acr=("mfa", "mfa", None)),
        _some(
            rng,
            requisition=("R1", "R2", "R3", None),
            consent=("given", "given", "withdrawn", None),
            legalHold=(True, False, None),
            appliedOn=("2023-12-31", "2024-01-01", "2025-06-30", "2026-01-01", None),
        ),
    ),
)

# ---- access to clinical records ----

CLINICAL_USERS: dict[str, dict[str, Any]] = {
    "nina": {"roles": ("nurse",), "has": {"department": ":cardiology", "suspended": False}},
    "paul": {"roles": ("physician",), "has": {"department": ":cardiology", "suspended": False}},
    "psy": {"roles": ("physician",), "has": {"department": ":psychiatry", "suspended": False}},
    "head": {"roles": ("chief",), "has": {"department": (":cardiology", ":psychiatry")}},
    "sue": {"roles": ("physician",), "has": {"department": ":cardiology", "suspended": True}},
    "none": {},
}
CLINICAL_ABOVE: dict[str, tuple[str, ...]] = {"chief": ("physician",), "physician": ("clinician",), "nurse": ("clinician",)}
CLINICAL = Domain(
    "clinical",
    _mapping(
        "Record",
        """      ex:department: {template: "https://example.com/ns#{department}", node: iri}
      ex:sensitivity: "$.sensitivity"
      ex:author: {template: "https://example.com/users/{author}", node: iri}
      ex:age: {path: "$.age", datatype: xsd:integer}
      ex:risk: {path: "$.risk", datatype: xsd:decimal}
""",
    ),
    HEAD
    + """
ex:Records a abac:Policy ; abac:scope "read" , "cosign" , "extract" ;
  abac:rule ex:own , ex:emergency , ex:cosign , ex:study , ex:sensitive , ex:suspended , ex:night .
ex:own a abac:Permission ; abac:action "read" ; abac:role ex:clinician ; abac:resource ex:Record ;
  abac:limit [ abac:path ex:department ; abac:equalTo ex:department ] .
ex:emergency a abac:Permission ; abac:action "read" ; abac:role ex:physician ; abac:resource ex:Record ;
  abac:attribute [ abac:name "breakglass" ; abac:value "yes" ] .
ex:cosign a abac:Permission ; abac:action "cosign" ; abac:role ex:physician ; abac:resource ex:Record ;
  abac:separate ex:author ; abac:limit [ abac:path ex:department ; abac:equalTo ex:department ] .
ex:study a abac:Permission ; abac:action "extract" ; abac:subject user:study7 ; abac:resource ex:Record ;
  abac:limit [ abac:path ex:age ; abac:atLeast 18 ] , [ abac:path ex:risk ; abac:atMost 0.5 ] ,
    [ abac:path ex:sensitivity ; abac:value "normal" ] .
ex:sensitive a abac:Prohibition ; abac:action "read" , "extract" ; abac:resource ex:Record ;
  abac:when [ abac:path ex:sensitivity ; abac:value "psychiatric" ] ;
  abac:unless [ abac:path ex:department ; abac:equalTo ex:department ] .
ex:suspended a abac:Prohibition ; abac:action "read" , "cosign" , "extract" ; abac:caller [ abac:path ex:suspended ; abac:value true ] .
ex:night a abac:Prohibition ; abac:action "extract" ;
  abac:window [ abac:from "22:00" ; abac:until "24:00" ] , [ abac:from "00:00" ; abac:until "05:30" ] , [ abac:weekday "Sun" ] .
""",
    _bundle(CLINICAL_USERS, CLINICAL_ABOVE),
    """package access
import rego.v1
default allow := false
roles := data.roles[input.sub]
same if concat("", [":", input.resource.department]) in data.users[input.sub].has.department
permitted if { input.action == "read"; "clinician" in roles; same }
permitted if { input.action == "read"; "physician" in roles; input.attr.breakglass == "yes" }
permitted if { input.action == "cosign"; "physician" in roles; input.resource.author != input.sub; same }
permitted if {
  input.action == "extract"; input.sub == "study7"
  input.resource.age >= 18; input.resource.risk <= 0.5; input.resource.sensitivity == "normal"
}
forbidden if { input.action in {"read", "extract"}; input.resource.sensitivity == "psychiatric"; not same }
forbidden if data.users[input.sub].has.suspended == true
forbidden if { input.action == "extract"; night }
minute := (c[0] * 60) + c[1] if c := time.clock([input.time_ns, "UTC"])
night if minute >= 22 * 60
night if minute < 330
night if time.weekday([input.time_ns, "UTC"]) == "Sunday"
allow if not input.action in {"read", "cosign", "extract"}
allow if { permitted; not forbidden }
""",
    """
permit(principal, action, resource) when { ![Action::"read", Action::"cosign", Action::"extract"].contains(action) };
permit(principal in Role::"clinician", action == Action::"read", resource) when {
  principal has department && context.resource has department && principal.department.contains(context.resource.department) };
permit(principal in Role::"physician", action == Action::"read", resource) when {
  context.attr has breakglass && context.attr.breakglass == "yes" };
permit(principal in Role::"physician", action == Action::"cosign", resource) when {
  context.resource has author && context.resource.author != context.sub &&
  principal has department && context.resource has department && principal.department.contains(context.resource.department) };
permit(principal == User::"study7", action == Action::"extract", resource) when {
  context.resource has age && context.resource.age >= 18 && context.resource has riskTenths && context.resource.riskTenths <= 5 &&
  context.resource has sensitivity && context.resource.sensitivity == "normal" };
forbid(principal, action in [Action::"read", Action::"extract"], resource) when {
  context.resource has sensitivity && context.resource.sensitivity == "psychiatric" } unless {
  principal has department && context.resource has department && principal.department.contains(context.resource.department) };
forbid(principal, action in [Action::"read", Action::"cosign", Action::"extract"], resource) when {
  principal has suspended && principal.suspended };
forbid(principal, action == Action::"extract", resource) when {
  datetime(context.utc).toTime() >= duration("22h") || datetime(context.utc).toTime() < duration("5h30m") || context.utcWeekday == 7 };
""",
    CLINICAL_USERS,
    CLINICAL_ABOVE,
    lambda rng: Request(
        rng.choice((*CLINICAL_USERS, "paul", "study7", "study7", "stranger")),
        rng.choice(("read", "read", "cosign", "cosign", "extract", "extract", "list")),
        "eu",
        rng.choice((_at(rng), START + timedelta(days=rng.randrange(7), seconds=rng.choice((79199, 79200, 19799, 19800))))),
        _some(rng, breakglass=("yes", "no", None)),
        _some(
            rng,
            department=("cardiology", "psychiatry", "surgery", None),
            sensitivity=("normal", "normal", "psychiatric", None),
            author=("nina", "paul", "psy", "head", None),
            age=(17, 18, 40, None),
            risk=(0.4, 0.5, 0.6, None),
        ),
    ),
)

DOMAINS = (INVOICE, CANDIDATE, CLINICAL)
