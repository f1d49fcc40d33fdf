"""HookRegistry: guard templates with a name, that packs take by selectors."""

from __future__ import annotations

from knhk.api.kinds.common import COLUMNS, HISTORY, MAX_INLINE, NAME_RULE, STATUS_FIELDS, absolute_iri, digest, name, suspend
from knhk.api.kinds.policy_pack import MESSAGE, SEVERITY, TARGET, TARGET_RULES
from knhk.api.rules import one_of
from knhk.api.shape import Int, Kind, List, Obj, Rule, Str

_HOOK = Obj(
    "One guard template.",
    {
        "name": name("Name of the hook; packs select it, receipts name its guards by it."),
        "owner": Str("Who answers for it: a team or a person.", max=253, min=1),
        "domain": Str("Part of the business that it belongs to, such as accounts-payable.", max=63, min=1),
        "class": Str(
            "Class that its guards must reach, on the slowest: R1, W1 or C1.",
            max=2,
            rules=(one_of("R1", "W1", "C1"),),
        ),
        "description": Str("What it guards against, for people.", max=1024),
        "kind": Str("shapes (SHACL), ask (SPARQL ASK) or abac (access rules).", max=16, rules=(one_of("shapes", "ask", "abac"),)),
        "inline": Str("The text itself.", max=MAX_INLINE, min=1),
        "target": TARGET,
        "message": MESSAGE,
        "severity": SEVERITY,
        "terms": List(
            "Schema terms that it depends on, beside those that its text names.",
            absolute_iri("IRI of a term."),
            max=32,
            default=(),
        ),
    },
    required=("name", "owner", "domain", "class", "kind", "inline"),
    rules=TARGET_RULES,
)

SPEC = Obj(
    "Which hooks there are.",
    {
        "hooks": List(
            "Guard templates; at most 96 KiB of text in all.",
            _HOOK,
            max=64,
            min=1,
            key="name",
            rules=(
                Rule(
                    f"self.map(h, size(h.inline)).sum() <= {MAX_INLINE}",
                    f"must be at most {MAX_INLINE} characters of inline text in all",
                    lambda items: sum(len(item["inline"]) for item in items) <= MAX_INLINE,
                ),
            ),
        ),
        "suspend": suspend("Index nothing anew; packs wait for hooks that are not indexed."),
    },
    required=("hooks",),
)


def _count(doc: str) -> Int:
    return Int(doc, min=0, max=2**31)


def _names(doc: str, item: str) -> List:
    return List(doc, Str(item, max=253), max=256)


STATUS = Obj(
    "What is.",
    {
        **STATUS_FIELDS,
        "digest": digest("Digest of the index: names, owners, domains, classes, terms and texts."),
        "counts": Obj(
            "How many there are.",
            {
                "hooks": _count("Hooks."),
                "guards": _count("Guards that they make."),
                **{c: _count(f"Guards of class {c}.") for c in ("R1", "W1", "C1")},
            },
        ),
        "index": List(
            "Hooks with what was found in their texts.",
            Obj(
                "One hook.",
                {
                    "name": name("The hook."),
                    "class": Str("The slowest class of its guards.", max=2),
                    "guards": _count("Guards that it makes."),
                    "terms": List("Schema terms that it depends on.", Str("IRI.", max=512), max=64),
                    "packs": List("PolicyPacks that are built with it.", name("A PolicyPack."), max=64),
                },
                required=("name", "class", "guards"),
            ),
            max=64,
            key="name",
        ),
        "coverage": Obj(
            "Who uses what.",
            {
                "used": _count("Hooks that a pack is built with."),
                "unused": _names("Hooks that no pack is built with.", "A hook."),
                "packs": _count("PolicyPacks of the namespace that are built."),
                "uncovered": List(
                    "PolicyPacks with guards that come from no hook.",
                    Obj(
                        "One pack.",
                        {"name": name("The pack."), "guards": _count("Its guards."), "uncovered": _count("Those that come from no hook.")},
                        required=("name", "guards", "uncovered"),
                    ),
                    max=64,
                    key="name",
                ),
            },
        ),
        "broken": List(
            "Hooks that speak of a term that a SchemaVersion breaks.",
            Obj(
                "One hook and one schema.",
                {
                    "hook": name("The hook."),
                    "schema": name("The SchemaVersion."),
                    "terms": List("The terms.", Str("IRI.", max=512), max=16),
                },
                required=("hook", "schema"),
            ),
            max=128,
        ),
        "history": HISTORY,
    },
)

HOOK_REGISTRY = Kind(
    kind="HookRegistry",
    plural="hookregistries",
    short=("hr", "hooks"),
    doc="Named guard templates with owner, domain, class and schema terms: which there are, who uses them, which schema breaks them.",
    spec=SPEC,
    status=STATUS,
    columns=(
        COLUMNS[0],
        ("Hooks", "integer", ".status.counts.hooks", 0),
        ("Used", "integer", ".status.coverage.used", 0),
        COLUMNS[1],
        COLUMNS[2],
        ("Digest", "string", ".status.digest", 1),
    ),
    rules=(NAME_RULE,),
)
