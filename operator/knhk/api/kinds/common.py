"""Pieces that several kinds share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from knhk.api.rules import matches, one_of, refused, share
from knhk.api.shape import Bool, Int, List, Map, Obj, Rule, Shape, Str

NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
NAME_MUST = "must be lower-case letters, digits and inner hyphens, at most 63 characters, such as invoice-controls"
DIGEST = r"^sha256:[0-9a-f]{64}$"
COMMIT = r"^[0-9a-f]{40}([0-9a-f]{24})?$"
SEMVER = r"^(0|[1-9][0-9]{0,8})[.](0|[1-9][0-9]{0,8})[.](0|[1-9][0-9]{0,8})(-[0-9A-Za-z.-]{1,64})?$"
SEMVER_MUST = "must be a semantic version such as 1.0.0 or 1.1.0-rc.1"
IRI = r"^[A-Za-z][A-Za-z0-9+.-]*:[^ <>\"{}|^`\\\\]*$"
MAX_INLINE = 98_304
# The status of what nobody has worked on yet, as an API server tells it.
UNSEEN: Mapping[str, int] = MappingProxyType({"observedGeneration": -1})
# Other forms of a source: named, so that they are refused in plain words.
LATER_FORMS = {
    form: f"must be inline for now; {form} is not available yet" for form in ("configMap", "configMapRef", "oci", "git", "file", "url")
}


def name(doc: str) -> Str:
    """A name as in metadata.name."""
    return Str(doc, max=63, min=1, rules=(matches(NAME, NAME_MUST),))


def version(doc: str) -> Str:
    """A semantic version."""
    return Str(doc, max=96, min=1, rules=(matches(SEMVER, SEMVER_MUST),))


def digest(doc: str) -> Str:
    """sha256:… of an artifact."""
    return Str(doc, max=71, min=71, rules=(matches(DIGEST, "must be sha256: and 64 hexadecimal digits"),))


def decimal(doc: str, low: str, high: str, default: str) -> Str:
    """A share from `low` to `high`, as a decimal string."""
    return Str(f"{doc} Default: {default}.", max=16, rules=share(low, high), default=default)


def choice(doc: str, *values: str, max: int, default: str, later: Mapping[str, str] = MappingProxyType({})) -> Str:
    """One of `values`; those of `later` are known, and refused in these words until they are there."""
    rules = (one_of(*values), *(refused(value, must) for value, must in later.items()))
    return Str(f"{doc} Default: {default}.", max=max, rules=rules, default=default)


def reference(doc: str) -> Obj:
    """An object of the same namespace by name."""
    return Obj(doc, {"name": name("Name of the object in the same namespace.")}, required=("name",))


def match_labels(whose: str) -> Map:
    """matchLabels of a selector: at least one, for one of none would choose everything."""
    some = Rule("size(self) > 0", "must have at least one label", lambda v: len(v) > 0)
    return Map(f"Labels that {whose} must have, all of them.", Str("Value of the label.", max=63), max=16, rules=(some,))


def suspend(doc: str) -> Bool:
    """Whether work on the object rests; `doc` says what goes on."""
    return Bool(f"{doc} Default: false.", default=False)


def absolute_iri(doc: str) -> Str:
    """An IRI with its scheme."""
    return Str(doc, max=512, min=1, rules=(matches(IRI, "must be an absolute IRI such as https://example.com/ns#Invoice"),))


def turtle(doc: str) -> Obj:
    """A text of Turtle."""
    inline = Str("Turtle text. Other forms (ConfigMap, OCI artifact, Git) come later.", max=MAX_INLINE, min=1)
    return Obj(doc, {"inline": inline}, required=("inline",), later=LATER_FORMS)


def commit(doc: str) -> Str:
    """The id of a Git commit."""
    return Str(doc, max=64, rules=(matches(COMMIT, "must be the hexadecimal digits of a commit"),))


NAME_RULE = Rule(
    f"self.metadata.name.matches('{NAME}')",
    f"metadata.name {NAME_MUST}",
    lambda _: True,  # the parser judges metadata by its own shape
)

FAULT = Obj(
    "One thing that a person must mend.",
    {
        "where": Str("File and line, or field path.", max=512),
        "value": Str("What was found.", max=512),
        "must": Str("What it must be.", max=1024),
    },
    required=("where", "value", "must"),
)

CONDITION = Obj(
    "One aspect of the state, in the form that kubectl wait, Flux and Argo CD read.",
    {
        "type": Str("Name of the aspect, CamelCase.", max=64, min=1),
        "status": Str("True, False or Unknown.", max=7, min=4),
        "reason": Str("Why, one CamelCase word for programs.", max=128, min=1),
        "message": Str("Why, for people.", max=4096),
        "lastTransitionTime": Str("When status last changed, RFC 3339.", max=40, min=1),
        "observedGeneration": Int("Generation of the spec that this speaks of.", min=0, max=2**53),
    },
    required=("type", "status", "reason", "message", "lastTransitionTime"),
)

LOOSENING = Obj(
    "What the spec promises less than what is live, while that waits; it stays as it was until then.",
    {
        "digest": digest("What people approve: spec.revision of an Approval."),
        "changes": List("Each field, what it is to be and what it was.", Str("One field.", max=256), max=8),
    },
    required=("digest", "changes"),
)

STATUS_FIELDS: dict[str, Shape] = {
    "conditions": List("Ready always; Reconciling and Stalled while they are True.", CONDITION, max=16, key="type"),
    "observedGeneration": Int("Generation of the spec that was last worked on; -1: none yet.", min=-1, max=2**53),
    "lastHandledRequestedAt": Str("Value of the annotation knhk.dev/requestedAt that was last acted on.", max=64),
    "faults": List("All faults of the present spec.", FAULT, max=64),
    "pending": List(
        "Policy events that belong to this status and have no Receipt yet, oldest first.",
        Obj(
            "One signed event.",
            {"bundle": Str("A sigstore bundle v0.3, JSON.", max=65_535, min=2)},
            required=("bundle",),
        ),
        max=64,
    ),
}

SOURCE = Obj(
    "The commit that brought a resource as it is, and who stands behind it.",
    {
        "repository": Str("PolicyRepository, NAMESPACE/NAME.", max=127),
        "commit": commit("The commit."),
        "url": Str("Address of the repository.", max=1024),
        "branch": Str("Branch that carries it.", max=255),
        "author": Str("Author that the commit names.", max=253),
        "signer": Str("Whose key signed it, of those that an administrator named.", max=253),
        "user": Str("The user that the signer is.", max=253),
        "pullRequest": Str("Address of the pull request that was merged by it.", max=1024),
        "pullRequestAuthor": Str("User who opened the pull request.", max=253),
        "approvers": List("Users of the forge who approved it.", Str("User name.", max=253), max=64),
        "writers": List("E-mail addresses of all who wrote it, as commits say.", Str("Address.", max=253), max=64),
    },
    required=("repository", "commit"),
)

HISTORY = List(
    "What it was before and is now, newest first.",
    Obj(
        "One state that it came to.",
        {
            "digest": Str("Digest of what it came to.", max=71),
            "outcome": Str("What it came to, one CamelCase word.", max=64),
            "time": Str("When, RFC 3339.", max=40),
            "reason": Str("Why, for people.", max=1024),
        },
        required=("digest", "outcome", "time"),
    ),
    max=16,
)

COLUMNS = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
    ("Status", "string", '.status.conditions[?(@.type=="Ready")].message', 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
)
