"""IRIs of RDF, RDFS, XSD and SHACL that the cold tier reads."""

from __future__ import annotations

from pyoxigraph import NamedNode

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
RDFS = "http://www.w3.org/2000/01/rdf-schema#"
XSD = "http://www.w3.org/2001/XMLSchema#"
SH = "http://www.w3.org/ns/shacl#"
KNHK = "https://knhk.dev/ns#"


def rdf(name: str) -> NamedNode:
    return NamedNode(RDF + name)


def rdfs(name: str) -> NamedNode:
    return NamedNode(RDFS + name)


def sh(name: str) -> NamedNode:
    return NamedNode(SH + name)


def component(name: str) -> str:
    """IRI of a constraint component: component("MinCount") is sh:MinCountConstraintComponent."""
    return f"{SH}{name}ConstraintComponent"


RDF_TYPE = rdf("type")
RDF_FIRST = rdf("first")
RDF_REST = rdf("rest")
RDF_NIL = rdf("nil")
RDF_LIST = rdf("List")
SUBCLASS_OF = rdfs("subClassOf")
RDFS_CLASS = rdfs("Class")
OWL_CLASS = NamedNode("http://www.w3.org/2002/07/owl#Class")
