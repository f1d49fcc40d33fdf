"""PolicyPack: rules, where they apply, and how they are rolled out."""

from __future__ import annotations

from knhk.api.kinds.common import (
    COLUMNS,
    IRI,
    LATER_FORMS,
    LOOSENING,
    MAX_INLINE,
    NAME_RULE,
    SOURCE,
    STATUS_FIELDS,
    choice,
    decimal,
    digest,
    name,
    reference,
    version,
)
from knhk.api.rules import forbids_unless, growing, larger, latency_ratio, listed, matches, one_of
from knhk.api.shape import Bool, Int, Kind, List, Obj, Rule, Shape, Str
from knhk.model.rollout import PRODUCTION, STAGES

_GUARD_GLOB = r"^[A-Za-z0-9_.*?:/#-]{1,256}$"

TARGET = Str(
    "IRI of the class that $this ranges over; only for kinds ask and construct.",
    max=512,
    rules=(matches(IRI, "must be an absolute IRI such as https://example.com/ns#Invoice"),),
)
MESSAGE = Str("What a denied caller reads; only for kinds ask and construct.", max=512)
SEVERITY = choice("Violation denies, Warning and Info only mark.", "Violation", "Warning", "Info", max=16, default="Violation")
TARGET_RULES = (
    forbids_unless("kind", ("ask", "construct"), "target", "must be left out unless kind is ask or construct"),
    forbids_unless(
        "kind",
        ("ask", "construct"),
        "message",
        "must be left out unless kind is ask or construct (shapes carry sh:message)",
    ),
)

_SOURCE = Obj(
    "One text of rules or of a mapping.",
    {
        "name": Str(
            "Name of the source; faults, guards and routes name it.",
            max=63,
            min=1,
            rules=(
                matches(
                    r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$",
                    "must be lower-case letters, digits, inner dots, hyphens and underscores, at most 63",
                ),
            ),
        ),
        "kind": Str(
            "shapes (SHACL), ask (SPARQL ASK), abac (access rules), mapping (payload to RDF) or construct (SPARQL CONSTRUCT).",
            max=16,
            rules=(one_of("shapes", "ask", "abac", "mapping", "construct"),),
        ),
        "inline": Str(
            "The text itself. Other forms (ConfigMap, OCI artifact, Git) come later.",
            max=MAX_INLINE,
            min=1,
        ),
        "target": TARGET,
        "message": MESSAGE,
        "severity": SEVERITY,
        "media": Str(
            "Media type of the text; by default what the kind is usually written in.",
            max=64,
            rules=(
                one_of(
                    "text/turtle",
                    "application/sparql-query",
                    "application/yaml",
                    "application/ld+json",
                    "application/json",
                ),
            ),
        ),
    },
    required=("name", "kind", "inline"),
    later=LATER_FORMS,
    rules=TARGET_RULES,
)

_ROUTE = Obj(
    "A route of the enforcement points and the mapping of its body.",
    {
        "name": name("Name of a match of the EnforcementPoint."),
        "mapping": Str("Name of a source of kind mapping; left out when the route has no body.", max=63, min=1),
    },
    required=("name",),
)


def _some_of(doc: str, item: Str) -> List:
    return List(f"{doc}; empty: all.", item, max=64, default=())


_HOOKS = Obj(
    "Which hooks of one registry: those that meet every list that is not empty.",
    {
        "registry": name("Name of a HookRegistry in the same namespace."),
        "names": _some_of("Names of hooks", name("Name of a hook.")),
        "domains": _some_of("Domains", Str("A domain.", max=63, min=1)),
        "owners": _some_of("Owners", Str("An owner.", max=253, min=1)),
        "classes": _some_of("Classes", Str("R1, W1 or C1.", max=2, rules=(one_of("R1", "W1", "C1"),))),
    },
    required=("registry",),
)

_TOLERANCES = Obj(
    "What may differ between the old and the new pack: shares of callers or requests, and a ratio, as decimal strings.",
    {
        "maxNewDenials": decimal("Share that the new pack may deny where the old one admits.", "0", "0.5", default="0.01"),
        "maxNewAdmits": decimal("Share that the new pack may admit where the old one denies.", "0", "0.5", default="0.01"),
        "maxParked": decimal(
            "Share of requests that the new pack may leave undecided beyond the time-out (202). 1: no limit.", "0", "1", default="0.01"
        ),
        "maxR1Drop": decimal("Share of requests that may leave class R1 for a slower tier. 1: no limit.", "0", "1", default="0.1"),
        "maxLatencyRatio": Str(
            "How many times as long as the old pack the new one may take, up to the 99th percentile. 0: no limit. Default: 2.",
            max=16,
            rules=latency_ratio(),
            default="2",
        ),
        "latencyFloorMicroseconds": Int(
            "Decisions shorter than this are never called slow. Default: 1000.",
            min=1,
            max=4_000_000,
            default=1000,
        ),
    },
    default={},
)

_ANALYSIS = Obj(
    "What the judge compares, and how sure it must be (docs/judge.md).",
    {
        "tolerances": _TOLERANCES,
        "effect": decimal("Share of callers that a bad pack would hit; it is found with error beta.", "0.0001", "1", default="0.05"),
        "alpha": decimal("Allowed probability to roll back a good pack.", "0.000001", "0.2", default="0.01"),
        "beta": decimal("Allowed probability to promote a pack with the declared effect.", "0.000001", "0.2", default="0.005"),
        "intended": List(
            "Guards that are meant to decide differently, as glob patterns of guard ids.",
            Str(
                "Glob pattern: * any characters, ? one character.",
                max=256,
                min=1,
                rules=(matches(_GUARD_GLOB, "must be a guard id, in which * and ? may stand for characters"),),
            ),
            max=64,
            default=(),
        ),
        "maxErrors": Int("Evaluation errors that are tolerated. Default: 0.", min=0, max=1_000_000, default=0),
    },
    rules=(
        larger("effect", "tolerances.maxNewDenials", "must be larger than tolerances.maxNewDenials"),
        larger("effect", "tolerances.maxNewAdmits", "must be larger than tolerances.maxNewAdmits"),
    ),
    default={},
)


def _min_pairs(doc: str, default: int) -> Int:
    return Int(f"{doc} Default: {default}.", min=1, max=1_000_000_000, default=default)


_APPROVALS = Obj(
    "Whom a stage waits for before anything of it is enforced; its shadow needs nobody.",
    {
        "stage": Str(f"Name of the stage: {listed(STAGES)}.", max=63, min=1, rules=(one_of(*STAGES),)),
        "count": Int("Approvals by different people. Default: 1.", min=1, max=16, default=1),
        "approvers": List(
            "Users whose approval counts; empty: all who may create Approvals.",
            Str("User name, as the API server knows it.", max=253, min=1),
            max=64,
            default=(),
        ),
        "notAuthor": Bool(
            "The author's own approval does not count, and while the author is not known none does. Default: true.", default=True
        ),
        "deadlineSeconds": Int(
            "Time to approve, after shadow has passed. Default: 604800 (a week).", min=1, max=31_536_000, default=604_800
        ),
    },
    required=("stage",),
)

_ROLLOUT = Obj(
    "How a new version reaches its points: shadow, canary steps, then promotion; or back by itself.",
    {
        "shadow": Obj(
            "Both versions judge every request, only the old one is enforced.",
            {"minPairs": _min_pairs("Requests that both must have judged.", 200)},
            default={},
        ),
        "steps": List(
            "Canary steps in order. Default: 5, 25, 50 percent with 100 pairs each.",
            Obj(
                "One canary step.",
                {
                    "weight": Int("Percent of callers for whom the new version is enforced.", min=1, max=100),
                    "minPairs": _min_pairs("Requests that both must have judged in this step.", 100),
                    "wave": Int(
                        "Percent of a point's pods, rounded up, in which the step is; the others stay as they were. Default: 100.",
                        min=1,
                        max=100,
                        default=100,
                    ),
                },
                required=("weight",),
            ),
            max=20,
            rules=growing(
                "weight",
                "wave",
                100,
                "must have weights that grow from step to step, or that stay while waves grow",
                "must have waves that do not shrink from step to step",
            ),
            default=(
                {"weight": 5, "minPairs": 100, "wave": 100},
                {"weight": 25, "minPairs": 100, "wave": 100},
                {"weight": 50, "minPairs": 100, "wave": 100},
            ),
        ),
        "analysis": _ANALYSIS,
        "deadlineSeconds": Int(
            "Time that shadow and each step may take. Default: 3600.",
            min=1,
            max=2_592_000,
            default=3600,
        ),
        "approvals": List(
            "Stages whose step from shadow to enforcement waits for people.",
            _APPROVALS,
            max=8,
            key="stage",
            default=(),
        ),
        "onNoData": choice(
            "What to do when the deadline passes with too few pairs: Abort, Hold or Promote.",
            "Abort",
            "Hold",
            "Promote",
            max=16,
            default="Abort",
        ),
    },
    default={},
)


def _park(doc: str) -> Str:
    must = "must be Wait; denying what a slower tier must decide is not available yet"
    return choice(doc, "Wait", "Deny", max=8, default="Wait", later={"Deny": must})


SPEC = Obj(
    "What the author wants.",
    {
        "version": version("Semantic version; a changed spec should carry a new one."),
        "sources": List(
            "Texts of the pack; at most 96 KiB in all.",
            _SOURCE,
            max=64,
            min=1,
            key="name",
            rules=(
                Rule(
                    f"self.map(s, size(s.inline)).sum() <= {MAX_INLINE}",
                    f"must be at most {MAX_INLINE} characters of inline text in all",
                    lambda items: sum(len(item["inline"]) for item in items) <= MAX_INLINE,
                ),
            ),
        ),
        "routes": List("Routes whose requests the pack judges.", _ROUTE, max=64, min=1, key="name"),
        "dataBundles": List(
            "Reference data that the rules read.",
            reference("A DataBundle."),
            max=8,
            key="name",
            rules=(
                Rule(
                    "size(self) <= 1",
                    "must name at most one DataBundle for now",
                    lambda v: len(v) <= 1,
                ),
            ),
            default=(),
        ),
        "schemas": List(
            "SchemaVersions that must be accepted before the pack is built.",
            reference("A SchemaVersion."),
            max=16,
            key="name",
            default=(),
        ),
        "hooks": List(
            "Guard templates that the pack takes from HookRegistries, beside its own sources.",
            _HOOKS,
            max=8,
            key="registry",
            default=(),
        ),
        "targets": List(
            "Enforcement points that run the pack.",
            Obj(
                "One target.",
                {
                    "point": name("Name of an EnforcementPoint in the same namespace."),
                    "stage": choice(
                        "When the version reaches it: canary, staging and production follow one another.",
                        *STAGES,
                        max=16,
                        default=PRODUCTION,
                    ),
                },
                required=("point",),
            ),
            max=64,
            min=1,
            key="point",
        ),
        "rollout": _ROLLOUT,
        "receipts": Obj(
            "How sure receipts must be before a request goes on.",
            {
                "durability": Str(
                    "What the receipt of a decision must survive before the request is answered. ring: the death of Envoy or the agent. "
                    "disk: that of the node's memory. log: that of the node. region: that of its region. Default: ring.",
                    max=16,
                    rules=(one_of("ring", "disk", "log", "region"),),
                    default="ring",
                ),
            },
            default={},
        ),
        "onPark": Obj(
            "What a caller gets while a slower tier decides: Wait (for the answer or 202) or Deny.",
            {
                "W1": _park("For guards of class W1."),
                "C1": _park("For guards of class C1."),
            },
            default={},
        ),
        "suspend": Bool("Stop advancing; rollback and abort still work. Default: false.", default=False),
    },
    required=("version", "sources", "routes", "targets"),
    rules=(
        Rule(
            "self.routes.all(r, !has(r.mapping) || self.sources.exists(s, s.name == r.mapping && s.kind == 'mapping'))",
            "must name in each mapping a source of kind mapping",
            lambda spec: all(
                "mapping" not in r or any(s["name"] == r["mapping"] and s["kind"] == "mapping" for s in spec["sources"])
                for r in spec["routes"]
            ),
            ("routes", "sources"),
            "routes",
        ),
        Rule(
            f"!has(self.rollout.approvals) || self.rollout.approvals.all(a, !(a.stage in {list(STAGES)}) || self.targets.exists(t, "
            f"(has(t.stage) ? t.stage : '{PRODUCTION}') == a.stage))",
            f"must have a point of each stage in rollout.approvals (its stage is {PRODUCTION} where left out), or nobody is asked",
            lambda spec: (
                {row["stage"] for row in spec["rollout"].get("approvals", ())} <= {row.get("stage", PRODUCTION) for row in spec["targets"]}
            ),
            ("rollout", "targets"),
            "targets",
        ),
    ),
)

_FINDING = Obj(
    "What the judge measured against which tolerance.",
    {
        "tolerance": Str("Name of the tolerance.", max=64),
        "guard": Str("Guard id; empty for all together.", max=256),
        "direction": Str("newDenials, newAdmits or empty.", max=16),
        "value": Str("What was measured, a decimal string.", max=32),
        "threshold": Str("What was allowed, a decimal string.", max=32),
        "pairs": Int("Requests that both versions judged.", min=0, max=2**53),
        "clusters": Int("Independent callers among them.", min=0, max=2**53),
        "samples": List("Receipt ids to look at.", Str("Receipt id.", max=32), max=5),
    },
    required=("tolerance", "value", "threshold"),
)

_REVISION: dict[str, Shape] = {
    "version": Str("Version of the spec.", max=96),
    "generation": Int("Generation of the spec.", min=0, max=2**53),
    "inputs": Str("SHA-256 of what the revision is made of, hexadecimal.", max=64),
    "durability": Str("What its receipts must survive before the answer, where that is more than the ring.", max=16),
    "points": List("Enforcement points it is meant for.", name("An EnforcementPoint."), max=64),
    "stages": List(
        "Its stages in order, where there are several.",
        Obj(
            "One stage.",
            {"name": Str("canary, staging or production.", max=16), "points": List("Its points.", name("A point."), max=64)},
            required=("name", "points"),
        ),
        max=3,
        key="name",
    ),
    "data": Str("DataBundle that it reads.", max=63),
    "hooks": List("Hooks that it was built with, REGISTRY/HOOK.", Str("A hook.", max=127), max=1024),
    "schemas": List(
        "SchemaVersions that were accepted when it was built.",
        Obj(
            "One schema.",
            {"name": name("A SchemaVersion."), "digest": digest("Its digest.")},
            required=("name", "digest"),
        ),
        max=16,
    ),
    "approvedBy": List("Users whose approval let it be enforced.", Str("User name.", max=253), max=64),
    "unreviewed": Bool("Nobody but this machine's user approved it: the embedded home knows no other."),
    "source": SOURCE,
    "digest": digest("Digest of the pack image."),
    "planDigest": Str("Digest of the GuardPlan, hexadecimal.", max=71),
    "phase": Str("Phase of this revision.", max=16),
    "phaseSince": Str("When it entered the phase or step, RFC 3339 with nanoseconds.", max=40),
    "stage": Int("Index of the rollout stage.", min=0, max=64),
    "arm": Str("Shadow or Canary.", max=8),
    "step": Int("Index of the canary step.", min=0, max=20),
    "weight": Int("Percent now enforced.", min=0, max=100),
    "wave": Int("Percent of a point's pods in which the step is; left out: all.", min=1, max=100),
    "waves": List(
        "What was drawn for the wave, for each point.",
        Obj(
            "The wave at one point.",
            {
                "point": name("An EnforcementPoint."),
                "below": Int("Pods whose position is less are in the wave.", min=0, max=2**32),
            },
            required=("point", "below"),
        ),
        max=64,
        key="point",
    ),
    "deadline": Str("When the phase or step must be over, RFC 3339.", max=40),
    "pairsAtStart": Int("Judged pairs when the step began.", min=0, max=2**53),
    "pairs": Int("Judged pairs so far.", min=0, max=2**53),
    "guards": Int("Number of guards.", min=0, max=65_535),
    "held": Str("Which flags keep its canary from being enforced.", max=1024),
    "reason": Str("Why it is where it is.", max=1024),
    "judged": Str("When the judge or a person ended it, RFC 3339 with nanoseconds.", max=40),
    "findings": List("What the judge found, the worst first.", _FINDING, max=16),
}

STATUS = Obj(
    "What is.",
    {
        **STATUS_FIELDS,
        "revision": Obj("The revision that is being worked on, or was last.", _REVISION),
        "live": Obj("The revision that is enforced.", _REVISION),
        "promises": Obj(
            "What stays promised, whatever the spec says, until less is let.",
            {
                "approvals": List(
                    "Whom a version waits for before it is enforced at a point.",
                    Obj(
                        "One point.",
                        {
                            "point": name("An EnforcementPoint."),
                            "count": Int("How many people.", min=1, max=64),
                            "notAuthor": Bool("Not counting the author."),
                            "approvers": List("Of whom; none: of all.", Str("A user.", max=253), max=64),
                        },
                        required=("point", "count", "notAuthor"),
                    ),
                    max=128,
                ),
                "durability": Str("What receipts must survive, until a version is live.", max=16),
            },
        ),
        "loosening": LOOSENING,
        "denyList": List(
            "Digests that were rolled back or aborted; not tried again until the spec changes.",
            Obj(
                "One rejected digest.",
                {
                    "digest": digest("Digest of the pack image."),
                    "generation": Int("Generation of the spec it came from.", min=0, max=2**53),
                    "reason": Str("Why.", max=1024),
                },
                required=("digest", "generation"),
            ),
            max=32,
            key="digest",
        ),
        "history": List(
            "The last revisions, newest first.",
            Obj(
                "One revision that came to an end.",
                {
                    "version": Str("Version of the spec.", max=96),
                    "digest": digest("Digest of the pack image."),
                    "outcome": Str("Phase in which it ended.", max=16),
                    "time": Str("When, RFC 3339.", max=40),
                    "reason": Str("Why.", max=1024),
                },
                required=("version", "outcome", "time"),
            ),
            max=16,
        ),
    },
)

POLICY_PACK = Kind(
    kind="PolicyPack",
    plural="policypacks",
    short=("pp", "pack"),
    doc="Rules as RDF, the mapping of payloads, where they are enforced and how they are rolled out.",
    spec=SPEC,
    status=STATUS,
    columns=(
        COLUMNS[0],
        ("Version", "string", ".spec.version", 0),
        COLUMNS[1],
        COLUMNS[2],
        ("Live", "string", ".status.live.version", 1),
        ("Phase", "string", ".status.revision.phase", 1),
        ("Digest", "string", ".status.revision.digest", 1),
    ),
    rules=(NAME_RULE,),
)
