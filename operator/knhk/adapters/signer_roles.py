"""What signers have in common, wherever their keys lie: envelopes and bundles by role, and keys.json, which the root signs.

A folder holds what is public, keys.json (formats/signed.md) and root.pub, and the root's private key, root.key, unless that is away
(it may be: only `establish` and `rotate` need it) or where the other keys are.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_der_public_key

from knhk.lockchain import chapters
from knhk.lockchain.bundles import assemble
from knhk.model.canonical import canonical
from knhk.model.faults import Corrupt, Stalled
from knhk_runtime.durable import replace_file
from knhk_runtime.keyfile import load_p256_key, load_private_key, raw_public
from knhk_runtime.keys_folder import read_keys_json
from knhk_runtime.tlog.notes import format_vkey
from knhk_verify.errors import Bad
from knhk_verify.note import Verifier, unb64
from knhk_verify.signed import (
    KEYS,
    MAX_KEYS_BYTES,
    ROLES,
    TIME,
    Key,
    Keys,
    keyid,
    member,
    pae,
    parse_json,
    parse_time,
    verify_envelope,
    verify_keys,
)

VALID_DAYS = 365
ROOT = "root"
OUTSIDE = ".sigstore"  # what the names of keys end with that sign for sigstore, beside those of the roles
SIGNERS = ("build", "rollout", "data")  # roles that have one
CHAPTER = 256  # keys that are over become a chapter


class RoleKey(NamedTuple):
    """Raw public key, and bytes → Ed25519 signature by it; of a P-256 key its SubjectPublicKeyInfo, and ECDSA over SHA-256, both in DER."""

    public: bytes
    sign: Callable[[bytes], bytes]


class RoleKeys(Protocol):
    """Where the private keys of the roles lie, and that of the root where `keeps_root` says so. Raises Stalled, and Waiting."""

    keeps_root: bool

    def has(self, role: str) -> bool:
        """Whether there is a key of this role."""
        ...

    def make(self, role: str) -> bytes:
        """A new key, which signs from now on if there was none, else as soon as keys.json names it; its raw public key."""
        ...

    def key(self, role: str) -> RoleKey:
        """What signs for this role now."""
        ...

    def outside(self, role: str) -> RoleKey | None:
        """The P-256 key that signs for this role now what sigstore's tools verify, if there is one: Rekor v2 takes no Ed25519."""
        ...

    def make_outside(self, role: str) -> bytes:
        """A new one, as with `make`; its public key, as in RoleKey."""
        ...

    def file(self, role: str) -> Path:
        """What tells a process that signs by itself of the key (the sequencer: role log)."""
        ...


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def make_key_file(path: Path) -> Ed25519PrivateKey:
    """A new key, in a file that only its owner may read."""
    key = Ed25519PrivateKey.generate()
    replace_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    return key


def key_in_file(path: Path) -> RoleKey:
    """Raises Stalled."""
    key = load_private_key(path)
    return RoleKey(raw_public(key), key.sign)


def make_outside_key_file(path: Path) -> bytes:
    """A new P-256 key, in a file that only its owner may read."""
    key = ec.generate_private_key(ec.SECP256R1())
    replace_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    return _spki(key.public_key())


def outside_key_in_file(path: Path) -> RoleKey:
    """Raises Stalled."""
    key = load_p256_key(path)
    return RoleKey(_spki(key.public_key()), lambda data: key.sign(data, ec.ECDSA(SHA256())))


def p256_spki(point: bytes) -> bytes:
    """SubjectPublicKeyInfo of a point, DER. Raises ValueError."""
    return _spki(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))


def p256_point(spki: bytes) -> bytes:
    """Its compressed point."""
    key: Any = load_der_public_key(spki)
    point: bytes = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return point


def pem_of(spki: bytes) -> bytes:
    """A public key as cosign takes it. Raises ValueError."""
    return load_der_public_key(spki).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _envelope(key: RoleKey, payload_type: str, payload: bytes) -> dict[str, Any]:
    signature = {"keyid": keyid(key.public), "sig": b64(key.sign(pae(payload_type, payload)))}
    return {"payload": b64(payload), "payloadType": payload_type, "signatures": [signature]}


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):{TIME}}"


def _entry(key: Key, since: str) -> dict[str, str]:
    entry = {"keyid": keyid(key.public), "pub": b64(key.public), "since": since}
    if key.name:
        entry["name"] = key.name
    if key.until:
        entry["until"] = _time(key.until)
    return entry


class Outside(NamedTuple):
    """What keys.json says about sigstore: SHA-256 of trusted_root.json, hexadecimal, if one is pinned; and role → its P-256 keys."""

    trusted_root: str | None
    keys: Mapping[str, tuple[Key, ...]]


NOTHING_OUTSIDE = Outside(None, {})


class RoleSigner:
    """`knhk.ports.signer.Signer` over a folder and the keys of its roles."""

    def __init__(self, folder: Path, keys: RoleKeys) -> None:
        self._folder, self._keys = folder, keys

    def sign(self, role: str, payload_type: str, payload: bytes) -> dict[str, Any]:
        """See the port."""
        return _envelope(self._key(role), payload_type, payload)

    def bundle(self, role: str, statement: Mapping[str, Any]) -> bytes:
        """See the port."""
        return assemble(statement, lambda payload_type, payload: self.sign(role, payload_type, payload))

    def outside(self, role: str) -> RoleKey | None:
        """The P-256 key of a role, for sigstore. Raises Stalled."""
        return self._keys.outside(role)

    def outside_named(self) -> Outside:
        """What keys.json says about sigstore. Raises Corrupt."""
        return outside_of(self._folder)

    def keyid(self, role: str) -> str:
        """See the port."""
        return keyid(self.public(role))

    def public(self, role: str) -> bytes:
        """See the port."""
        return self._key(role).public

    def key_file(self, role: str) -> Path:
        """File of the private key of `role`, or of the token that holds it, for processes that sign by themselves (the sequencer)."""
        return self._keys.file(role)

    def vkey(self, origin: str) -> str:
        """Checkpoint key of the log `origin` in note format."""
        return format_vkey(Verifier(origin, self.public("log")))

    def keys_json(self) -> bytes:
        """keys.json as the root signed it, with the chapters that lie beside the folder."""
        try:
            return read_keys_json(self._folder / "keys.json")
        except OSError as error:
            raise Stalled("Keys", f"{error.filename}: {error.strerror}: must be there; run: knhk up") from error

    def log_origin(self) -> str:
        """Name of the log, as the root vouches for it in keys.json. Raises Stalled and Corrupt."""
        keys = keys_of(self._folder)
        named = {key.name for key in keys.roles.get("log", {}).values() if key.until is None} if keys else set()
        if len(named) != 1:
            raise Stalled("Keys", f"{self._folder / 'keys.json'}: must name one log, with its key")
        return named.pop()

    def root_public(self) -> bytes:
        """The root's raw public key, from root.pub."""
        return read_root_pub(self._folder / "root.pub")

    def _key(self, role: str) -> RoleKey:
        if role not in ROLES:
            raise Stalled("Role", f"{role!r}: must be one of {', '.join(ROLES)}")
        return self._keys.key(role)


def read_root_pub(path: Path) -> bytes:
    """Raw public key in a file `root.pub`; raises Stalled when missing, Corrupt when malformed."""
    try:
        return parse_root_pub(path.read_bytes(), str(path))
    except OSError as error:
        raise Stalled("RootKey", f"{path}: {error.strerror}: must hold the pinned root key") from error


def pinned_root(given: str) -> bytes:
    """Raw public key that a person pins: a file `root.pub`, or its text. Raises Stalled when it is neither, Corrupt when malformed."""
    if Path(given).exists():
        return read_root_pub(Path(given))
    try:
        return parse_root_pub(given.encode(), "--root")
    except Corrupt as error:
        raise Stalled("Root", f"--root {given}: must be a file that is there, or the key itself: base64 of 32 bytes") from error


def parse_root_pub(data: bytes, where: str) -> bytes:
    """The same of a file's bytes. Raises Corrupt."""
    try:
        public = unb64(data.decode("ascii").strip(), where)
    except ValueError as error:
        raise Corrupt(where, "must be base64 of 32 bytes") from error
    if len(public) != 32:
        raise Corrupt(where, "must be base64 of 32 bytes")
    return public


def keys_of(folder: Path) -> Keys | None:
    """The folder's keys.json, if there is one. Raises Corrupt."""
    path = folder / "keys.json"
    try:
        return verify_keys(read_keys_json(path), read_root_pub(folder / "root.pub"), where=str(path)) if path.exists() else None
    except Bad as error:
        raise Corrupt(error.where, error.what) from error


class _Last(NamedTuple):
    """keys.json of a folder, as the next one goes on from it: what it names itself, and the chapters, apart."""

    bare: bytes
    keys: Keys
    document: dict[str, Any]
    chapters: tuple[str, ...]


def _last(folder: Path) -> _Last | None:
    """Raises Corrupt."""
    path = folder / "keys.json"
    if not path.exists():
        return None
    try:
        bare, former = chapters.apart(path.read_bytes(), str(path))
        keys = verify_keys(bare, read_root_pub(folder / "root.pub"), where=str(path))
        return _Last(bare, keys, json.loads(unb64(json.loads(bare)["payload"], str(path))), former)
    except Bad as error:
        raise Corrupt(error.where, error.what) from error


def outside_of(folder: Path) -> Outside:
    """Of the folder's keys.json, without its chapters. Raises Corrupt."""
    last = _last(folder)
    try:
        return NOTHING_OUTSIDE if last is None else outside_in(last.bare, read_root_pub(folder / "root.pub"), str(folder / "keys.json"))
    except Bad as error:
        raise Corrupt(error.where, error.what) from error


def since_of(folder: Path) -> dict[str, str]:
    """keyid → since when the folder's keys.json names it, where it says so (RFC 3339). Raises Corrupt."""
    last = _last(folder)
    roles = last.document["roles"] if last is not None else {}
    return {row["keyid"]: row["since"] for rows in roles.values() for row in rows if isinstance(row.get("since"), str)}


def outside_in(data: bytes, root_public: bytes, where: str = "keys.json") -> Outside:
    """What a keys.json, signed by the pinned root, says about sigstore. Raises Bad."""
    payload = verify_envelope(parse_json(data, where, MAX_KEYS_BYTES), KEYS, {keyid(root_public): root_public}, where)
    document = parse_json(payload, f"{where} payload")
    if "sigstore" not in document:
        return NOTHING_OUTSIDE
    pinned = member(document, "sigstore.trustedRoot", str, where)
    roles = member(document, "sigstore.keys", dict, where)
    former = chapters.outside_rows(data, root_public, p256_spki, where)
    named = {role: [_outside_key(row, where) for row in member(roles, role, list, where)] for role in roles}
    return Outside(pinned, {role: (*named.get(role, ()), *former.get(role, ())) for role in named | former})


def _outside_key(row: Any, where: str) -> Key:
    until = parse_time(member(row, "until", str, where), f"{where} until") if "until" in row else None
    return Key(unb64(member(row, "spki", str, where), f"{where} spki"), "", until)


def establish(folder: Path, keys: RoleKeys, origin: str, now: datetime, valid_days: int = VALID_DAYS) -> None:
    """Makes what is missing of root, role keys and keys.json. Repeating it changes nothing, but that it signs keys.json again, with the
    next serial, when it does not name the keys or is past half its time. `now` is aware. Raises Stalled and Corrupt."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(folder):
        _established(folder, keys, origin, now, valid_days)


def _established(folder: Path, keys: RoleKeys, origin: str, now: datetime, valid_days: int) -> None:
    if not (folder / "root.pub").exists():
        replace_file(folder / "root.pub", b64(_made_root(folder, keys)).encode() + b"\n", 0o644)
    for role in ROLES:
        if not keys.has(role):
            keys.make(role)
    named = keys_of(folder)
    current = {role: keys.key(role).public for role in ROLES}
    fits = named is not None and all(keyid(current[role]) in named.of(role, now) for role in ROLES)
    log_named = named is not None and any(key.name == origin for key in named.roles.get("log", {}).values())
    before = outside_of(folder)
    outside = before if before.trusted_root is None else _outside_held(keys, before, now)
    fits = fits and outside == before
    if named is None or not fits or not log_named or now > named.expires - timedelta(days=valid_days / 2):
        _sign_keys(folder, keys, current, origin, now, valid_days, outside=outside)


def _made_root(folder: Path, keys: RoleKeys) -> bytes:
    path = folder / "root.key"
    if path.exists():
        return raw_public(load_private_key(path))
    if keys.keeps_root:
        return keys.key(ROOT).public if keys.has(ROOT) else keys.make(ROOT)
    return raw_public(make_key_file(path))


def root_key(folder: Path, keys: RoleKeys) -> RoleKey:
    """Raises Stalled when the root's private key is away."""
    if keys.keeps_root:
        return keys.key(ROOT)
    if not (path := folder / "root.key").exists():
        raise Stalled("RootAway", f"{path}: the root is away: bring it for this command, or name a token that holds it (token.json)")
    return key_in_file(path)


class Rotation(NamedTuple):
    """keyids before and after; and what the role rollout signs for the last time with the key that it had before."""

    old: str
    new: str
    by_old: Callable[[Mapping[str, Any]], bytes]


def rotate(
    folder: Path,
    keys: RoleKeys,
    role: str,
    origin: str,
    now: datetime,
    overlap: timedelta = timedelta(0),
    valid_days: int = VALID_DAYS,
    pend: Callable[[Rotation], None] = lambda _: None,
) -> Rotation:
    """Put a new key in place of `role`'s and sign keys.json with the next serial, which is the moment that counts: before it nothing has
    changed but that a key lies there of which nobody knows. The old key stays named, for what it signs until `overlap` from now. `pend`
    gets what will be, just before. Raises Stalled when the root's private key is away."""
    with alone(folder):
        root_key(folder, keys)
        if keys_of(folder) is None:
            raise Stalled("Keys", f"{folder / 'keys.json'}: must be there; run: knhk up")
        before = {named: keys.key(named) for named in ROLES}
        current = {named: key.public for named, key in before.items()} | {role: keys.make(role)}
        outside = outside_of(folder)
        if role in outside.keys:
            outside = _succeeded(outside, role, keys.make_outside(role), now + overlap)
        signs = before["rollout"]
        by_old = partial(assemble, sign=lambda payload_type, payload: _envelope(signs, payload_type, payload))
        made = Rotation(keyid(before[role].public), keyid(current[role]), by_old)
        pend(made)
        _sign_keys(folder, keys, current, origin, now, valid_days, now + overlap, outside)
        for settled in (keys.key, keys.outside):
            settled(role)  # takes its place
    return made


def replace_all(folder: Path, keys: RoleKeys, origin: str, now: datetime, valid_days: int, above: int) -> Mapping[str, str]:
    """New keys in place of all roles', with no overlap: what keys.json names ends now. The serial is larger than `above`. Gives role →
    keyid that was in use. Raises Stalled when the root's private key is away."""
    with alone(folder):
        root_key(folder, keys)
        last, since = _last(folder), since_of(folder)
        if last is None:
            raise Stalled("Keys", f"{folder / 'keys.json'}: must be there; run: knhk up")
        used = {
            role: {id_: key._replace(until=min(key.until or now, now)) for id_, key in held.items()}
            for role, held in last.keys.roles.items()
        }
        outside = outside_of(folder)
        for role in outside.keys:
            outside = _succeeded(outside, role, keys.make_outside(role), now)
        current = {role: keys.make(role) for role in ROLES}
        _sign_keys(folder, keys, current, origin, now, valid_days, outside=outside, used=used, above=above)
        for role in ROLES:
            keys.key(role)
            keys.outside(role)
        return {role: max(held, key=lambda id_: since.get(id_, "")) for role, held in used.items()}


def trust(
    folder: Path,
    keys: RoleKeys,
    trusted_root: bytes,
    origin: str,
    now: datetime,
    valid_days: int = VALID_DAYS,
    pend: Callable[[str | None, str], None] = lambda _, __: None,
) -> Outside:
    """Pins a trusted root, which the caller has looked at: keys.json names its digest with the next serial, and a P-256 key for each role
    that signs, made where there is none. Repeating it changes nothing. `pend` gets the digests from before and from now on, just before
    another one counts. Raises Stalled when the root's private key is away."""
    with alone(folder):
        root_key(folder, keys)
        if keys_of(folder) is None:
            raise Stalled("Keys", f"{folder / 'keys.json'}: must be there; run: knhk up")
        before = outside_of(folder)
        digest = sha256(trusted_root).hexdigest()
        made = _outside_held(keys, Outside(digest, before.keys), now)
        if digest != before.trusted_root:
            pend(before.trusted_root, digest)
        replace_file(folder / "trusted_root.json", trusted_root, 0o644)
        if made != before:
            current = {role: keys.key(role).public for role in ROLES}
            _sign_keys(folder, keys, current, origin, now, valid_days, outside=made)
    return made


def _outside_held(keys: RoleKeys, outside: Outside, now: datetime) -> Outside:
    """With the P-256 keys that sign now, made where there is none; others that it names as in use sign until `now`."""
    for role in SIGNERS:
        held = keys.outside(role)
        public = keys.make_outside(role) if held is None else held.public
        if public not in [key.public for key in outside.keys.get(role, ()) if key.until is None]:
            outside = _succeeded(outside, role, public, now)
    return outside


def _succeeded(outside: Outside, role: str, public: bytes, end: datetime) -> Outside:
    """With a new key of a role; the ones before sign until `end`."""
    kept = tuple(Key(key.public, "", min(key.until or end, end)) for key in outside.keys.get(role, ()) if key.public != public)
    return Outside(outside.trusted_root, {**outside.keys, role: (Key(public), *kept)})


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time makes keys in a folder: others wait, and take what it made."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sign_keys(
    folder: Path,
    keys: RoleKeys,
    current: Mapping[str, bytes],
    origin: str,
    now: datetime,
    valid_days: int,
    end: datetime | None = None,
    outside: Outside | None = None,
    used: Mapping[str, Mapping[str, Key]] | None = None,
    above: int = 0,
) -> None:
    """Sign keys.json over the `current` keys, with a serial larger than the last and than `above`; the ones it named before, or those of
    `used`, may sign until `end`, by default `now`. What it says about sigstore stays, unless `outside` says otherwise. Of keys that are
    over a chapter is made as soon as there are CHAPTER."""
    last, since = _last(folder), since_of(folder)
    named = used if used is not None else last.keys.roles if last else {}
    held = dict[str, list[Key]]()
    for role in ROLES:
        kept = [Key(key.public, key.name, key.until or end or now) for key in named.get(role, {}).values() if key.public != current[role]]
        held[role] = [Key(current[role], origin if role == "log" else ""), *kept]
    outside = outside_of(folder) if outside is None else outside
    digests, former = list[str](last.document.get("chapters", ()) if last else ()), list(last.chapters if last else ())
    if sum(_is_over(key, now) for rows in (*held.values(), *outside.keys.values()) for key in rows) >= CHAPTER:
        over, held = _parted(held, now)
        outside_over, outside_kept = _parted(outside.keys, now)
        outside = Outside(outside.trusted_root, {role: tuple(rows) for role, rows in outside_kept.items()})
        former.append(chapters.written(over, outside_over, p256_point))
        digests.append(sha256(former[-1].encode()).hexdigest())
    document: dict[str, Any] = {
        "version": 1,
        "serial": 1 + max(above, last.keys.serial if last else 0),
        "expires": _time(now + timedelta(days=valid_days)),
        "roles": {role: [_entry(key, since.get(keyid(key.public), _time(now))) for key in rows] for role, rows in held.items()},
    }
    if outside.trusted_root is not None:
        rows = {role: [_outside_entry(key) for key in rows] for role, rows in outside.keys.items()}
        document["sigstore"] = {"trustedRoot": outside.trusted_root, "keys": rows}
    if digests:
        document["chapters"] = digests
    signed = canonical(_envelope(root_key(folder, keys), KEYS, canonical(document)))
    replace_file(folder / "keys.json", chapters.together(signed, former), 0o644)


def _is_over(key: Key, now: datetime) -> bool:
    return key.until is not None and key.until < now


def _parted(held: Mapping[str, Sequence[Key]], now: datetime) -> tuple[dict[str, list[Key]], dict[str, list[Key]]]:
    """By role: keys that are over, and the others."""
    over = {role: [key for key in rows if _is_over(key, now)] for role, rows in held.items()}
    return over, {role: [key for key in rows if not _is_over(key, now)] for role, rows in held.items()}


def _outside_entry(key: Key) -> dict[str, str]:
    entry = {"keyid": keyid(key.public), "spki": b64(key.public)}
    return entry | ({"until": _time(key.until)} if key.until else {})
