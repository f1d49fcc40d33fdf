"""Signed documents (formats/signed.md): canonical JSON, DSSE, keys.json, sigstore bundles with a public-key hint."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

from knhk_verify.errors import Bad, demand
from knhk_verify.note import ed25519_ok, unb64

KEYS, STATEMENT, POLICY_EVENT = "application/vnd.knhk.keys.v1+json", "https://in-toto.io/Statement/v1", "https://knhk.dev/policy-event/v1"
IN_TOTO, BUNDLE = "application/vnd.in-toto+json", "application/vnd.dev.sigstore.bundle.v0.3+json"
ROLES, TIME, MAX_BYTES, MAX_KEYS_BYTES, MAX_PARTS = ("build", "rollout", "log", "data"), "%Y-%m-%dT%H:%M:%SZ", 1 << 20, 1 << 24, 1 << 17


def canonical(value: object) -> bytes:
    """Canonical JSON: UTF-8, keys sorted, no white space. Raises ValueError or TypeError for what JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    demand(len(members := dict(pairs)) == len(pairs), "object", "repeats a member")
    return members


def parse_json(data: bytes | str, where: str, limit: int = MAX_BYTES) -> Any:
    """JSON in UTF-8, without floats or repeated members, at most `limit` bytes; raises Bad."""
    demand(len(data) <= limit, where, f"has more than {limit} bytes")
    try:
        return json.loads(data.decode() if type(data) is bytes else data, parse_float=int, parse_constant=int, object_pairs_hook=_distinct)
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
        time = datetime.strptime(text, TIME).replace(tzinfo=UTC)
        demand(f"{time:{TIME}}" == text, where, "is written in another way")
        return time
    except ValueError as error:
        raise Bad(where, f"{text!r} must be a time like 2027-01-01T00:00:00Z") from error


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE pre-authentication encoding: what a signature covers."""
    return b"DSSEv1 %d %b %d %b" % (len(kind := payload_type.encode()), kind, len(payload), payload)


def keyid(public: bytes) -> str:
    """SHA-256 of the raw public key, hexadecimal."""
    return sha256(public).hexdigest()


def verify_envelope(envelope: object, payload_type: str, keys: Mapping[str, bytes], where: str) -> bytes:
    """Payload of a DSSE envelope signed by one of `keys` (keyid → raw key), and wrongly by none of them; raises Bad."""
    demand(member(envelope, "payloadType", str, where) == payload_type, f"{where} payloadType", f"must be {payload_type!r}")
    payload = unb64(member(envelope, "payload", str, where), f"{where} payload")
    named = {member(entry, "keyid", str, f"{where} signatures"): entry for entry in member(envelope, "signatures", list, where)[:16]}
    by = ", ".join(id_[:64] for id_ in named) or "none"
    demand(not named.keys().isdisjoint(keys), f"{where} signatures", f"by keyid {by}: none is a key allowed here")
    for id_ in named.keys() & keys.keys():
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
    """keys.json: serial number, expiry, role → keyid → key, and how many of its chapters of former keys are not with it."""

    serial: int
    expires: datetime
    roles: Mapping[str, Mapping[str, Key]]
    away: int = 0

    def of(self, role: str, at: datetime | None = None) -> dict[str, bytes]:
        """keyid → raw key of `role`, valid `at` (None: at any time)."""
        return {id_: key.public for id_, key in self.roles.get(role, {}).items() if at is None or key.until is None or at <= key.until}


def _keys(document: Any, envelope: Any, where: str) -> Iterator[tuple[str, Key]]:
    """(role, key): former keys, of the chapters that are there, and then those that the document names itself; raises Bad."""
    digests, chapters = (member({"chapters": []} | part, "chapters", list, where) for part in (document, envelope))
    for number, text in enumerate(chapters):
        place, data = f"{where} chapters[{number}]", str(text).encode("utf-8", "replace")
        demand((digest := sha256(data).hexdigest()) in digests, place, f"has SHA-256 {digest}, which keys.json does not name: was altered")
        for part in member(parse_canonical(data, place), "keys", list, place):
            role, name, rows = (member(part, told, str, place) for told in ("role", "name", "rows"))
            for row in (unb64(rows[at : at + 48], place) for at in range(0, len(rows), 48)):  # until (u32, seconds since 1970), key
                yield role, Key(row[4:], name, datetime.fromtimestamp(int.from_bytes(row[:4]), UTC))
    for role, place in ((role, f"{where} roles.{role}") for role in member(document, "roles", dict, where)):
        demand(role in ROLES, f"{where} roles", f"{role!r}: must be one of {', '.join(ROLES)}")
        for value in member(document["roles"], role, list, place):
            public = unb64(member(value, "pub", str, place), f"{place} pub")
            demand(member(value, "keyid", str, place) == keyid(public), f"{place} keyid", "must be the SHA-256 of pub")
            until = parse_time(member(value, "until", str, place), f"{place} until") if "until" in value else None
            yield role, Key(public, member({"name": ""} | value, "name", str, place), until)


def verify_keys(data: bytes, root_public: bytes, now: datetime | None = None, min_serial: int = 0, where: str = "keys.json") -> Keys:
    """Keys of keys.json signed by the pinned root; raises Bad when altered, expired at `now`, or older than `min_serial`."""
    demand(sum(map(data.count, b"[{,")) <= MAX_PARTS, where, f"has more than {MAX_PARTS} brackets, braces and commas")
    envelope = parse_json(data, where, MAX_KEYS_BYTES)
    document = parse_canonical(verify_envelope(envelope, KEYS, {keyid(root_public): root_public}, where), f"{where} payload")
    demand(member(document, "version", int, where) == 1, f"{where} version", "must be 1")
    serial = member(document, "serial", int, where)
    expires = parse_time(member(document, "expires", str, where), f"{where} expires")
    demand(serial >= max(1, min_serial), f"{where} serial", f"{serial}: must be at least {max(1, min_serial)}; an older file is refused")
    demand(now is None or now < expires, f"{where} expires", f"expired at {expires:{TIME}}: sign a new keys.json with the root")
    roles, has = dict[str, dict[str, Key]](), {keyid(root_public): "root"}
    for role, key in _keys(document, envelope, where):
        one = has.setdefault(id_ := keyid(key.public), role) == role
        demand(one, f"{where} roles.{role}", f"keyid {id_[:16]}… is a key of {has[id_]} too: must serve one role")
        roles.setdefault(role, {})[id_] = key
    return Keys(serial, expires, roles, len(document.get("chapters", ())) - len(set(envelope.get("chapters", ()))))


def verify_bundle(data: bytes, keys: Mapping[str, bytes], where: str = "bundle") -> dict[str, Any]:
    """in-toto statement of a sigstore bundle v0.3 signed by the key that its hint names, one of `keys`; raises Bad."""
    bundle = parse_canonical(data, where)
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
    role = next((r for r in keys.roles if hint in keys.roles[r]), f"no role; {keys.away} chapters are not here" if keys.away else "no role")
    demand(hint in keys.roles.get("rollout", {}), f"{where} verificationMaterial", f"keyid {hint} is a key of {role}: must be of rollout")
    key = keys.roles["rollout"][hint]
    statement = verify_bundle(data, {hint: key.public}, where)
    demand(statement["predicateType"] == POLICY_EVENT, f"{where} predicateType", f"must be {POLICY_EVENT}")
    member(statement, "predicate.kind", str, where)
    at = parse_time(member(statement, "predicate.time", str, where), f"{where} predicate.time")
    demand(key.until is None or at <= key.until, f"{where} predicate.time", "is after its key was replaced, see `until` in keys.json")
    return statement, hint
