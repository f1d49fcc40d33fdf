"""DataBundle: reference data and role graphs that decisions read."""

from __future__ import annotations

from knhk.api.kinds.common import (
    COLUMNS,
    HISTORY,
    NAME_RULE,
    STATUS_FIELDS,
    digest,
    suspend,
    turtle,
    version,
)
from knhk.api.rules import matches
from knhk.api.shape import Int, Kind, Obj, Str

SPEC = Obj(
    "What the data is.",
    {
        "version": version("Semantic version of the data."),
        "source": turtle("Where the triples come from."),
        "callerTemplate": Str(
            "IRI of the caller, {} being the percent-encoded attribute sub.",
            max=512,
            min=3,
            rules=(
                matches(
                    r"^[A-Za-z][A-Za-z0-9+.-]*:[^ <>{}]*\{\}[^ <>{}]*$",
                    "must be an absolute IRI with exactly one {}, such as https://example.com/users/{}",
                ),
            ),
        ),
        "maxStalenessSeconds": Int("Age beyond which points may no longer decide with the data.", min=1, max=31_536_000),
        "suspend": suspend("Publish nothing new; what is published stays."),
    },
    required=("version", "source"),
)

STATUS = Obj(
    "What is.",
    {
        **STATUS_FIELDS,
        "digest": digest("Digest of the artifact that decisions carry."),
        "image": digest("Digest of the image manifest in the registry."),
        "version": Str("Version that was built.", max=96),
        "triples": Int("Triples after closure.", min=0, max=2**31),
        "subjects": Int("Subjects after closure.", min=0, max=2**31),
        "built": Str("When it was built, RFC 3339.", max=40),
        "history": HISTORY,
    },
)

DATA_BUNDLE = Kind(
    kind="DataBundle",
    plural="databundles",
    short=("db", "bundle"),
    doc="Reference data and role graphs that decisions read: built, signed and swapped like packs.",
    spec=SPEC,
    status=STATUS,
    columns=(
        COLUMNS[0],
        ("Version", "string", ".spec.version", 0),
        COLUMNS[1],
        COLUMNS[2],
        ("Digest", "string", ".status.digest", 1),
    ),
    rules=(NAME_RULE,),
)
