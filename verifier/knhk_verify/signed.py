"""Signed documents (formats/signed.md): canonical JSON, DSSE, keys.json, sigstore bundles with a public-key hint."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

from knhk_verify.errors import Bad, demand
from knhk_verify.note import ed25519_ok, unb64

KEYS, IN_TOTO = "application/vnd.knhk.keys.v1+json", "application/vnd.in-toto+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT, POLICY_EVENT = "https://in-toto.io/Statement/v1", "https://knhk.dev/policy-event/v1"
ROLES, MAX_BYTES, TIME = ("build", "rollout", "log", "data"), 1 << 20, "%Y-%m-%dT%H:%M:%SZ"


def canonical(value: object) -> bytes:
    """Canonical JSON: UTF-8, keys sorted, no white space. Raises ValueError or TypeError for what JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    demand(len(members) == len(pairs), "object", "repeats a member")
    return members


def parse_json(data: bytes | str, where: str) -> Any:
    """JSON without floats or repeated members, at most 1 MiB; raises Bad."""
    demand(len(data) <= MAX_BYTES, where, f"has more than {MAX_BYTES} bytes")
    try:
        return json.loads(data, parse_float=int, parse_constant=int, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise Bad(where, f"is not JSON of integers and strings: {error}") from error


def parse_canonical(data: bytes, where: str) -> Any:
    """JSON value whose canonical form is `data` to the byte; raises Bad."""
    value = parse_json(data, where)
    try:
        demand(canonical(value) == data, where, "differs from its canonical form")
    except (ValueError, RecursionError) as error:  # text that is not Unicode, too deep
        raise Bad(where, "is not canonical JSON") from error
    return value


def member(value: object, path: str, kind: type, where: str) -> Any:
    """Member at the dotted `path` of nested objects; raises Bad unless it is there and of type `kind`."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    demand(type(value) is kind, f"{where} {path}", f"must be there, of type {kind.__name__}")
    return value


def parse_time(text: str, where: str) -> datetime:
    """UTC time of `YYYY-MM-DDTHH:MM:SSZ`; raises Bad."""
    try:
        return datetime.strptime(text, TIME).replace(tzinfo=UTC)
    except ValueError as error:
        raise Bad(where, f"{text!r} must be a time like 2027-01-01T00:00:00Z") from error


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE pre-authentication encoding: what a signature covers."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def keyid(public: bytes) -> str:
    """SHA-256 of the raw public key, hexadecimal."""
    return sha256(public).hexdigest()


def verify_envelope(envelope: object, payload_type: str, keys: Mapping[str, bytes], where: str) -> bytes:
    """Payload of a DSSE envelope signed by one of `keys` (keyid → raw key), and wrongly by none of them; raises Bad."""
    found = member(envelope, "payloadType", str, where)
    demand(found == payload_type, f"{where} payloadType", f"{found!r}: must be {payload_type!r}")
    payload = unb64(member(envelope, "payload", str, where), f"{where} payload")
    named = {member(entry, "keyid", str, f"{where} signatures"): entry for entry in member(envelope, "signatures", list, where)[:16]}
    known = named.keys() & keys.keys()
    demand(bool(known), f"{where} signatures", f"by keyid {', '.join(named) or 'none'}: none is a key allowed here")
    for id_ in known:
        signature = unb64(member(named[id_], "sig", str, f"{where} signatures"), f"{where} sig")
        right = ed25519_ok(keys[id_], signature, pae(payload_type, payload))
        demand(right, f"{where} signatures", f"the signature by {id_[:16]}… is wrong: payload or signature was altered")
    return payload


class Key(NamedTuple):
    """A key of a role: raw public key, name (role log: the origin), and until when it may sign (None: as long as keys.json)."""

    public: bytes
    name: str = ""
    until: datetime | None = None


class Keys(NamedTuple):
    """keys.json: serial number, expiry, and role → keyid → key."""

    serial: int
    expires: datetime
    roles: Mapping[str, Mapping[str, Key]]

    def of(self, role: str, at: datetime | None = None) -> dict[str, bytes]:
        """keyid → raw key of `role`, valid `at` (None: at any time)."""
        return {id_: key.public for id_, key in self.roles.get(role, {}).items() if at is None or key.until is None or at <= key.until}


def _key(value: Any, where: str) -> tuple[str, Key]:
    public = unb64(member(value, "pub", str, where), f"{where} pub")
    demand(member(value, "keyid", str, where) == keyid(public), f"{where} keyid", "must be the SHA-256 of pub")
    until = parse_time(member(value, "until", str, where), f"{where} until") if "until" in value else None
    return keyid(public), Key(public, member(value, "name", str, where) if "name" in value else "", until)


def verify_keys(data: bytes, root_public: bytes, now: datetime | None = None, min_serial: int = 0, where: str = "keys.json") -> Keys:
    """Keys of keys.json signed by the pinned root; raises Bad when altered, expired at `now`, or older than `min_serial`."""
    payload = verify_envelope(parse_json(data, where), KEYS, {keyid(root_public): root_public}, where)
    document = parse_canonical(payload, f"{where} payload")
    demand(member(document, "version", int, where) == 1, f"{where} version", "must be 1")
    serial = member(document, "serial", int, where)
    expires = parse_time(member(document, "expires", str, where), f"{where} expires")
    demand(serial >= max(1, min_serial), f"{where} serial", f"{serial}: must be at least {max(1, min_serial)}; an older file is refused")
    demand(now is None or now < expires, f"{where} expires", f"expired at {expires:{TIME}}: sign a new keys.json with the root")
    roles = member(document, "roles", dict, where)
    keys, has = dict[str, dict[str, Key]](), {keyid(root_public): "root"}
    for role in sorted(roles):
        demand(role in ROLES, f"{where} roles", f"{role!r}: must be one of {', '.join(ROLES)}")
        keys[role] = dict(_key(k, f"{where} roles.{role}") for k in member(roles, role, list, f"{where} roles"))
        for id_ in keys[role]:
            other = has.setdefault(id_, role)
            demand(other == role, f"{where} roles.{role}", f"keyid {id_[:16]}… is a key of {other} too: must serve one role")
    return Keys(serial, expires, keys)


def verify_bundle(data: bytes, keys: Mapping[str, bytes], where: str = "bundle") -> dict[str, Any]:
    """in-toto statement of a sigstore bundle v0.3 signed by the key that its hint names, one of `keys`; raises Bad."""
    bundle = parse_json(data, where)
    demand(member(bundle, "mediaType", str, where) == BUNDLE, f"{where} mediaType", f"must be {BUNDLE!r}")
    hint = member(bundle, "verificationMaterial.publicKey.hint", str, where)
    demand(hint in keys, f"{where} verificationMaterial", f"keyid {hint}: is not a key allowed here")
    demand(len(member(bundle, "dsseEnvelope.signatures", list, where)) == 1, f"{where} signatures", "must be one, by the key of the hint")
    named = {hint: keys[hint], "": keys[hint]}  # the keyid in the envelope is empty or repeats the hint
    statement = parse_canonical(verify_envelope(bundle["dsseEnvelope"], IN_TOTO, named, where), f"{where} payload")
    demand(member(statement, "_type", str, where) == STATEMENT, f"{where} _type", f"must be {STATEMENT}")
    for subject in member(statement, "subject", list, where):
        member(subject, "digest.sha256", str, f"{where} subject")
    member(statement, "predicateType", str, where)
    return dict(statement)


def verify_event(data: bytes, keys: Keys, where: str = "event") -> tuple[dict[str, Any], str]:
    """(statement, keyid) of a policy event (a log entry), signed by a key of role rollout that was valid at its time; raises Bad."""
    hint = member(parse_json(data, where), "verificationMaterial.publicKey.hint", str, where)
    role = next((role for role in keys.roles if hint in keys.roles[role]), "no role")
    demand(hint in keys.roles.get("rollout", {}), f"{where} verificationMaterial", f"keyid {hint} is a key of {role}: must be of rollout")
    key = keys.roles["rollout"][hint]
    statement = verify_bundle(data, {hint: key.public}, where)
    demand(statement["predicateType"] == POLICY_EVENT, f"{where} predicateType", f"must be {POLICY_EVENT}")
    member(statement, "predicate.kind", str, where)
    at = parse_time(member(statement, "predicate.time", str, where), f"{where} predicate.time")
    demand(key.until is None or at <= key.until, f"{where} predicate.time", "is after its key was replaced, see `until` in keys.json")
    return statement, hint
