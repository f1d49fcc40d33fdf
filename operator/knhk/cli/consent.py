"""`knhk consent …`: record what a person agreed to, or agrees to no more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.arguments import KUBECONFIG, text
from knhk.cli.framework import Argument, Call, Outcome, Table, Usage, command, noun
from knhk.cli.schema import array, integer, nullable, obj, string
from knhk.model.consents import BASES, EVENTS, GRANTED, WITHDRAWN
from knhk.wiring.home import Home

if TYPE_CHECKING:
    from knhk.model.resource import Resource

noun("consent", "who agreed to which purpose")

SUBJECT = Argument(
    "subject", help="the person, as the point knows it: a value of the attribute spec.consent.subject", kind=text, metavar="SUBJECT"
)
TAG = Argument("--tag", help="SUBJECT is a tag (64 hexadecimal digits) and no name", flag=True)
NAMESPACE = Argument("--namespace", "-n", help="namespace of the point (default: default)", default="default")
PURPOSE = Argument("--purpose", help="what the data is used for", kind=text, metavar="IRI", required=True)
WITHIN = Argument("--within-s", help="wait so long until it is in the log (default 30)", kind=float, default=30.0, metavar="S")
EVIDENCE = Argument("--evidence", help="what the person signed, heard or clicked: its SHA-256 is recorded", kind=Path, metavar="FILE")
CONTROLLER = Argument("--controller", help="who is responsible for the use (default: as recorded before)", kind=text)
ROW: dict[str, Any] = {
    "consent": string(),
    "subject": string(),
    "purpose": string(),
    "state": string(),
    "controller": string(),
    "basis": string(),
    "recorded": nullable(string()),
    "index": nullable(integer()),
    "actor": string(),
}
COLUMNS = ("subject", "purpose", "state", "controller", "basis", "recorded", "index", "actor")


@command(
    ("consent", "grant"),
    summary="Record that a person consents to a purpose",
    arguments=(
        SUBJECT,
        PURPOSE,
        CONTROLLER,
        Argument("--basis", help="Article 6 (1) of the GDPR (default: consent)", choices=BASES, default="consent"),
        EVIDENCE,
        NAMESPACE,
        TAG,
        WITHIN,
        KUBECONFIG,
    ),
    output=obj(**ROW),
    examples=(
        "knhk consent grant c-117 -n ats --purpose https://example.com/purposes/recruiting --controller 'Example Ltd' --evidence form.pdf",
    ),
    detail="Answers when the event is in the log. The name is hashed with the key of the namespace (secret knhk-subjects) before it\n"
    "leaves this process: store, log and guards know a tag.",
)
def grant(call: Call) -> Outcome:
    return _record(call, GRANTED)


@command(
    ("consent", "withdraw"),
    summary="Record that a person consents no more: guards deny within a second",
    arguments=(SUBJECT, PURPOSE, CONTROLLER, EVIDENCE, NAMESPACE, TAG, WITHIN, KUBECONFIG),
    output=obj(**ROW),
    examples=("knhk consent withdraw c-117 -n ats --purpose https://example.com/purposes/recruiting",),
)
def withdraw(call: Call) -> Outcome:
    return _record(call, WITHDRAWN)


@command(
    ("consent", "list"),
    summary="List consents as they are now",
    arguments=(
        Argument("subject", help="only this person", kind=text, metavar="SUBJECT", optional=True),
        TAG,
        Argument("--purpose", help="only this purpose", kind=text, metavar="IRI"),
        Argument("--state", help="only these", choices=tuple(EVENTS)),
        NAMESPACE,
        KUBECONFIG,
    ),
    output=obj(consents=array(obj(**ROW))),
    examples=("knhk consent list -n ats", "knhk consent list c-117 -n ats -o json"),
    detail="What was before is in the log: knhk receipt lineage SUBJECT.",
)
def list_(call: Call) -> Outcome:
    from knhk.wiring.consenting import desk

    args = call.args
    with desk(Home(call.home), args.kubeconfig) as found:
        tag = None if args.subject is None else _tag(call, found.key)
        listed = found.store.list("Consent", args.namespace).resources
    wanted = {"subject": tag, "purpose": args.purpose, "state": args.state}
    rows = [_row(one) for one in listed if all(value is None or one.spec[name] == value for name, value in wanted.items())]
    return Outcome({"consents": rows}, tables=(Table("", COLUMNS, tuple(tuple(str(row[name] or "") for name in COLUMNS) for row in rows)),))


def _record(call: Call, state: str) -> Outcome:
    import hashlib

    from knhk.api import to_document
    from knhk.api.parse import from_document
    from knhk.model.consents import consent_name
    from knhk.model.faults import NotFound
    from knhk.model.resource import Key, Resource
    from knhk.wiring.consenting import desk

    args = call.args
    with desk(Home(call.home), args.kubeconfig) as found:
        tag = _tag(call, found.key)
        key = Key("Consent", args.namespace, consent_name(tag, args.purpose))
        try:
            before = found.store.get(key).spec
        except NotFound:
            before = {}
        controller = args.controller or before.get("controller")
        if controller is None:
            raise Usage("must be given: nothing is recorded yet of this person and purpose", "--controller")
        basis = getattr(args, "basis", before.get("basis", "consent"))
        spec = {"subject": tag, "purpose": args.purpose, "state": state, "controller": controller, "basis": basis, "actor": found.actor}
        if args.evidence is not None:
            spec["document"] = f"sha256:{hashlib.sha256(args.evidence.read_bytes()).hexdigest()}"
        same = spec | {name: before[name] for name in ("actor", "document") if name in before}
        if same == before and args.evidence is None:
            spec = same  # what holds already is recorded once
        made = found.store.apply(from_document(to_document(Resource("Consent", key.namespace, key.name, spec))))
        call.say("waiting until it is in the log")
        made = found.recorded(key, made.generation, args.within_s)
    row = _row(made)
    return Outcome(row)


def _tag(call: Call, key: Any) -> str:
    import re

    from knhk.model.subjects import tag_of

    args = call.args
    if not args.tag:
        return tag_of(key(args.namespace), args.subject)
    if not re.fullmatch("[0-9a-f]{64}", args.subject):
        raise Usage("must be 64 hexadecimal digits with --tag", "subject")
    return str(args.subject)


def _row(one: Resource) -> dict[str, Any]:
    """`state` is what is asked for; it is in the log when there is an index for it."""
    spec, status = one.spec, one.status
    done = status.get("state") == spec["state"]
    told = {name: spec[name] for name in ("subject", "purpose", "state", "controller", "basis", "actor")}
    return {
        "consent": f"{one.namespace}/{one.name}",
        **told,
        "recorded": status.get("recorded") if done else None,
        "index": status.get("index") if done else None,
    }
