"""Namespaces and names of the vocabularies that the compiler reads."""

from __future__ import annotations

import re
from typing import Final

SH: Final = "http://www.w3.org/ns/shacl#"
RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
RDFS: Final = "http://www.w3.org/2000/01/rdf-schema#"
OWL: Final = "http://www.w3.org/2002/07/owl#"
XSD: Final = "http://www.w3.org/2001/XMLSchema#"
KNHK: Final = "https://knhk.dev/ns#"
ATTR: Final = "https://knhk.dev/ns/attr#"
ABAC: Final = "https://knhk.dev/ns/abac#"
RR: Final = "http://www.w3.org/ns/r2rml#"
RML: Final = "http://semweb.mmlab.be/ns/rml#"
QL: Final = "http://semweb.mmlab.be/ns/ql#"
RML_CORE: Final = "http://w3id.org/rml/"
FN: Final = "https://knhk.dev/ns/fn#"

TYPE: Final = RDF + "type"
LANG_STRING: Final = RDF + "langString"
REQUEST: Final = KNHK + "request"
CALLER: Final = KNHK + "caller"

PREFIXES: Final = {
    "sh": SH,
    "rdf": RDF,
    "rdfs": RDFS,
    "xsd": XSD,
    "knhk": KNHK,
    "attr": ATTR,
    "abac": ABAC,
}
"""Prefixes that queries and short mappings may use without declaring them."""

NOT_IRI = re.compile(r'[\x00-\x20<>"{}|^`\\\x7f]')
"""Characters that IRIs exclude."""


def local(iri: str) -> str:
    """What follows the last `#`, `/` or `:` of an IRI; the IRI itself when that is empty."""
    cut = max(iri.rfind("#"), iri.rfind("/"), iri.rfind(":"))
    return iri[cut + 1 :] or iri
