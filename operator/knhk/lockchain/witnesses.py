"""The event Notarised (formats/signed.md): a log says what others outside said of an entry of its own.

Their bundle is around the very payload that the entry has: the event leaves it out, so that it fits into an entry whatever it is about."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from knhk.lockchain.events import PolicyEvent
from knhk.model.canonical import canonical
from knhk_verify.errors import demand
from knhk_verify.signed import BUNDLE, member, parse_canonical, parse_json

NOTARISED = "Notarised"
MAX_ENTRY = 65_535  # bytes of an entry of the log


def notarised(receipt: str, entry: bytes, index: int, bundle: bytes, actor: str, time: str) -> PolicyEvent:
    """The event: others bear witness by `bundle` to this entry at this index, of which the Receipt NAMESPACE/NAME is. Raises Bad when the
    bundle is around something else."""
    evidence = {"logIndex": index, "bundle": without_payload(entry, bundle), "sha256": sha256(bundle).hexdigest()}
    return PolicyEvent(NOTARISED, (f"receipt/{receipt}", sha256(entry).hexdigest()), actor, time, evidence=evidence)


def without_payload(entry: bytes, bundle: bytes) -> str:
    """What `bundle` says more than `entry` does. Raises Bad."""
    document = _bundle(bundle, "bundle")
    envelope = member(document, "dsseEnvelope", dict, "bundle")
    same = {name: envelope.get(name) for name in ("payload", "payloadType")} == _payload(entry)
    demand(same, "bundle payload", "is another than that of the entry: must be around the same statement")
    rest = {name: value for name, value in envelope.items() if name not in ("payload", "payloadType")}
    return canonical({**document, "dsseEnvelope": rest}).decode()


def bundle_of(entry: bytes, statement: Mapping[str, Any]) -> bytes:
    """The bundle in the statement of an event Notarised, which must be about `entry`; whether it verifies is another question. Raises
    Bad."""
    where = "Notarised"
    digests = [member(subject, "digest.sha256", str, f"{where} subject") for subject in member(statement, "subject", list, where)]
    demand(digests == [sha256(entry).hexdigest()], f"{where} subject", "is another entry")
    text = member(statement, "predicate.evidence.bundle", str, where)
    document = _bundle(text.encode(), f"{where} bundle")
    envelope = member(document, "dsseEnvelope", dict, f"{where} bundle")
    demand(not envelope.keys() & {"payload", "payloadType"}, f"{where} bundle", "must leave out payload and payloadType")
    made = canonical({**document, "dsseEnvelope": envelope | _payload(entry)})
    told = member(statement, "predicate.evidence.sha256", str, where)
    demand(sha256(made).hexdigest() == told, f"{where} sha256", "is of another bundle than what is there makes with the entry's payload")
    return made


def _bundle(data: bytes, where: str) -> dict[str, Any]:
    document = parse_canonical(data, where)
    kind = member(document, "mediaType", str, where)
    demand(kind == BUNDLE, f"{where} mediaType", f"{kind!r}: must be {BUNDLE}")
    return dict(document)


def _payload(entry: bytes) -> dict[str, str]:
    envelope = member(parse_json(entry, "entry"), "dsseEnvelope", dict, "entry")
    return {name: member(envelope, name, str, "entry") for name in ("payload", "payloadType")}


def fits(bundle: bytes) -> bool:
    """Whether an event may be as large as that."""
    return len(bundle) <= MAX_ENTRY
