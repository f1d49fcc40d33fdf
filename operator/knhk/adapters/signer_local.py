"""Signer with Ed25519 key files in one folder; and the root that signs keys.json, which may be taken offline.

```
root.key   private key of the root (move it away after `establish`; only `establish` and `rotate` need it)
root.pub   base64 of its public key: what agents pin
build.key, rollout.key, log.key, data.key    PEM (PKCS#8), mode 0600
keys.json  formats/signed.md
```
"""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from knhk.lockchain.bundles import assemble
from knhk.model.canonical import canonical
from knhk.model.faults import Corrupt, Stalled
from knhk_runtime.durable import replace_file
from knhk_runtime.keyfile import load_private_key, raw_public
from knhk_runtime.tlog.notes import format_vkey
from knhk_verify.errors import Bad
from knhk_verify.note import Verifier, unb64
from knhk_verify.signed import KEYS, ROLES, Key, Keys, keyid, pae, verify_keys

VALID_DAYS = 365


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _make(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    replace_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    return key


def _envelope(key: Ed25519PrivateKey, payload_type: str, payload: bytes) -> dict[str, Any]:
    signature = {"keyid": keyid(raw_public(key)), "sig": _b64(key.sign(pae(payload_type, payload)))}
    return {"payload": _b64(payload), "payloadType": payload_type, "signatures": [signature]}


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _entry(key: Key) -> dict[str, str]:
    entry = {"keyid": keyid(key.public), "pub": _b64(key.public)}
    if key.name:
        entry["name"] = key.name
    if key.until:
        entry["until"] = _time(key.until)
    return entry


class LocalSigner:
    """`knhk.ports.signer.Signer` over the key files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sign(self, role: str, payload_type: str, payload: bytes) -> dict[str, Any]:
        """See the port."""
        return _envelope(self._key(role), payload_type, payload)

    def bundle(self, role: str, statement: Mapping[str, Any]) -> bytes:
        """See the port."""
        key = self._key(role)
        return assemble(statement, lambda payload_type, payload: _envelope(key, payload_type, payload))

    def keyid(self, role: str) -> str:
        """See the port."""
        return keyid(self.public(role))

    def public(self, role: str) -> bytes:
        """See the port."""
        return raw_public(self._key(role))

    def key_file(self, role: str) -> Path:
        """File of the private key of `role`, for a process that signs by itself (the sequencer: role log)."""
        if role not in ROLES:
            raise Stalled("Role", f"{role!r}: must be one of {', '.join(ROLES)}")
        return self._folder / f"{role}.key"

    def vkey(self, origin: str) -> str:
        """Checkpoint key of the log `origin` in note format."""
        return format_vkey(Verifier(origin, raw_public(self._key("log"))))

    def keys_json(self) -> bytes:
        """keys.json as the root signed it."""
        try:
            return (self._folder / "keys.json").read_bytes()
        except OSError as error:
            raise Stalled("Keys", f"{error.filename}: {error.strerror}: must be there; run: knhk up") from error

    def log_origin(self) -> str:
        """Name of the log, as the root vouches for it in keys.json. Raises Stalled and Corrupt."""
        keys = _keys_of(self._folder)
        named = {key.name for key in keys.roles.get("log", {}).values() if key.until is None} if keys else set()
        if len(named) != 1:
            raise Stalled("Keys", f"{self._folder / 'keys.json'}: must name one log, with its key")
        return named.pop()

    def root_public(self) -> bytes:
        """The root's raw public key, from root.pub."""
        return read_root_pub(self._folder / "root.pub")

    def _key(self, role: str) -> Ed25519PrivateKey:
        return load_private_key(self.key_file(role))


def read_root_pub(path: Path) -> bytes:
    """Raw public key in a file `root.pub`; raises Stalled when missing, Corrupt when malformed."""
    try:
        public = unb64(path.read_text("ascii").strip(), str(path))
    except OSError as error:
        raise Stalled("RootKey", f"{path}: {error.strerror}: must hold the pinned root key") from error
    except ValueError as error:
        raise Corrupt(str(path), "must be base64 of 32 bytes") from error
    if len(public) != 32:
        raise Corrupt(str(path), "must be base64 of 32 bytes")
    return public


def establish(folder: Path, origin: str, now: datetime, valid_days: int = VALID_DAYS) -> LocalSigner:
    """Signer over `folder`; makes what is missing of root, role keys and keys.json. Repeating it changes nothing, but that it signs
    keys.json again, with the next serial, when it does not name the keys or is past half its time. `now` is aware. Raises Stalled
    and Corrupt."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(folder):
        return _established(folder, origin, now, valid_days)


def _established(folder: Path, origin: str, now: datetime, valid_days: int) -> LocalSigner:
    signer = LocalSigner(folder)
    if not (folder / "root.pub").exists():
        root = load_private_key(folder / "root.key") if (folder / "root.key").exists() else _make(folder / "root.key")
        replace_file(folder / "root.pub", _b64(raw_public(root)).encode() + b"\n", 0o644)
    for role in ROLES:
        if not signer.key_file(role).exists():
            _make(signer.key_file(role))
    keys = _keys_of(folder)
    current = {role: signer.keyid(role) for role in ROLES}
    named = keys is not None and all(current[role] in keys.of(role, now) for role in ROLES)
    log_named = keys is not None and any(key.name == origin for key in keys.roles.get("log", {}).values())
    if keys is None or not named or not log_named or now > keys.expires - timedelta(days=valid_days / 2):
        _sign_keys(folder, keys, origin, now, valid_days)
    return signer


def rotate(folder: Path, role: str, origin: str, now: datetime, valid_days: int = VALID_DAYS) -> str:
    """Replace the key of `role` and sign keys.json with the next serial; returns the new keyid. The old key stays named, for what it signed
    until `now`. Raises Stalled when the root's private key is away, and for role log: a log keeps its key."""
    if role == "log":
        raise Stalled("Role", "log: a log keeps its checkpoint key for life; begin a new log, with a new origin, for a new key")
    signer = LocalSigner(folder)
    with _alone(folder):
        load_private_key(folder / "root.key")
        keys = _keys_of(folder)
        if keys is None:
            raise Stalled("Keys", f"{folder / 'keys.json'}: must be there; run: knhk up")
        _make(signer.key_file(role))
        _sign_keys(folder, keys, origin, now, valid_days)
    return signer.keyid(role)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time makes keys in a folder: others wait, and take what it made."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _keys_of(folder: Path) -> Keys | None:
    path = folder / "keys.json"
    try:
        return verify_keys(path.read_bytes(), read_root_pub(folder / "root.pub"), where=str(path)) if path.exists() else None
    except Bad as error:
        raise Corrupt(error.where, error.what) from error


def _sign_keys(folder: Path, before: Keys | None, origin: str, now: datetime, valid_days: int) -> None:
    """Sign keys.json over the keys in the folder; the ones it named before may have signed until `now`."""
    signer = LocalSigner(folder)
    roles = dict[str, list[dict[str, str]]]()
    for role in ROLES:
        public = raw_public(load_private_key(signer.key_file(role)))
        named = before.roles.get(role, {}).values() if before else ()
        kept = [Key(key.public, key.name, key.until or now) for key in named if key.public != public]
        current = Key(public, origin if role == "log" else "")
        roles[role] = [_entry(key) for key in (current, *kept)]
    document = {
        "version": 1,
        "serial": before.serial + 1 if before else 1,
        "expires": _time(now + timedelta(days=valid_days)),
        "roles": roles,
    }
    replace_file(folder / "keys.json", canonical(_envelope(load_private_key(folder / "root.key"), KEYS, canonical(document))), 0o644)
