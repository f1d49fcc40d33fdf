"""SchemaVersion: one version of an ontology with its shapes, and whether data and guards of the versions before still hold."""

from __future__ import annotations

from knhk.api.kinds.common import (
    COLUMNS,
    HISTORY,
    NAME_RULE,
    STATUS_FIELDS,
    absolute_iri,
    choice,
    digest,
    name,
    reference,
    suspend,
    turtle,
    version,
)
from knhk.api.rules import unchanged
from knhk.api.shape import Bool, Int, Kind, List, Obj, Str

MODES = ("NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")

SPEC = Obj(
    "What the schema is, and what it must not break.",
    {
        "ontology": absolute_iri("IRI of the ontology that this is a version of."),
        "version": version("Semantic version of the schema."),
        "source": turtle("Ontology and shapes, in one text."),
        "previous": reference("The SchemaVersion before this one; left out: this is the first."),
        "compatibility": choice(
            "What must hold against the version before (…_TRANSITIVE: all before): BACKWARD, its data are valid and its questions true "
            "under this one; FORWARD, the other way round; FULL, both; NONE, nothing.",
            *MODES,
            max=20,
            default="BACKWARD",
        ),
        "renames": List(
            "Terms that have another IRI now.",
            Obj(
                "One term.",
                {"from": absolute_iri("IRI in the version before."), "to": absolute_iri("IRI in this version.")},
                required=("from", "to"),
            ),
            max=512,
            key="from",
            default=(),
        ),
        "override": Obj(
            "Accept it although it breaks something; the receipt carries the reason.",
            {"reason": Str("Why, for people and auditors.", max=1024, min=1)},
            required=("reason",),
        ),
        "suspend": suspend("Judge nothing anew; what was accepted stays so."),
    },
    required=("ontology", "version", "source"),
    rules=(
        unchanged(
            ("ontology", "version", "source"),
            "must keep ontology, version and source: a changed schema is a new SchemaVersion",
        ),
    ),
)

_CHANGE = Obj(
    "One difference.",
    {
        "term": Str("IRI of the term or shape.", max=512),
        "change": Str("What changed.", max=512),
        "effect": Str("Widens, Narrows, Neutral, Unknown, Adds or Removes.", max=16),
        "breaks": Str("BACKWARD, FORWARD, FULL or empty.", max=16),
        "against": Str("The SchemaVersion that it was compared with.", max=63),
    },
    required=("term", "change", "effect"),
)


def _count(doc: str) -> Int:
    return Int(doc, min=0, max=2**31)


STATUS = Obj(
    "What is.",
    {
        **STATUS_FIELDS,
        "digest": digest("SHA-256 of the triples, whatever order and prefixes they are written in."),
        "accepted": Bool("Whether packs may be built with it."),
        "verdict": Str("Compatible, Incompatible, Overridden, First or Unchecked.", max=16),
        "terms": _count("Classes, properties, datatypes, members of enumerations and shapes that it declares."),
        "difference": Obj(
            "How it differs from the version before.",
            {
                "previous": digest("Digest of the version before."),
                "added": _count("Terms that are new."),
                "removed": _count("Terms that are gone."),
                "renamed": _count("Terms that have another IRI."),
                "widened": _count("Changes by which more data are valid."),
                "narrowed": _count("Changes by which fewer data are valid."),
                "unknown": _count("Changes that may be either."),
                "changes": List("Changes, those that break something first.", _CHANGE, max=64),
            },
        ),
        "affected": Obj(
            "What speaks of a term whose meaning changed in a way that breaks something.",
            {
                "hooks": List("Hooks, REGISTRY/HOOK.", Str("A hook.", max=127), max=256),
                "packs": List("PolicyPacks.", name("A PolicyPack."), max=256),
            },
        ),
        "history": HISTORY,
    },
)

SCHEMA_VERSION = Kind(
    kind="SchemaVersion",
    plural="schemaversions",
    short=("sv", "schema"),
    doc="A version of an ontology with its shapes: its difference to the version before, and whether that breaks anything.",
    spec=SPEC,
    status=STATUS,
    columns=(
        COLUMNS[0],
        ("Version", "string", ".spec.version", 0),
        ("Verdict", "string", ".status.verdict", 0),
        COLUMNS[1],
        COLUMNS[2],
        ("Mode", "string", ".spec.compatibility", 1),
        ("Digest", "string", ".status.digest", 1),
    ),
    rules=(NAME_RULE,),
)
