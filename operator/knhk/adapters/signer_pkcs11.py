"""Signer whose private keys are made in a PKCS#11 token (an HSM) and never leave it; of some roles, or of all.

```
token.json   formats/signed.md: module, token, file of the PIN, and which roles it holds
keys.json, root.pub, and root.key unless token.json says that the root is in the token
ROLE.key     of roles that it does not hold: signer_local
```
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from knhk.adapters.signer_local import FileKeys
from knhk.adapters.signer_roles import OUTSIDE, ROOT, RoleKey, RoleKeys, keys_of, outside_of, p256_spki
from knhk.model.faults import Stalled
from knhk_runtime.hsm import ED25519, P256, Curve, read_token_file
from knhk_verify.signed import ROLES, keyid

TOKEN_FILE = "token.json"


class TokenKeys:
    """`RoleKeys` in a token: label prefix + role. Of several keys of a role the one signs that keys.json names without an end, so that
    a new key signs as soon as the root vouches for it, in every process that reads the same keys.json."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / TOKEN_FILE
        told = read_token_file(self._file)
        self.keeps_root, self._token, self._label = told.root, told.open(), told.label

    def has(self, role: str) -> bool:
        """See RoleKeys."""
        return bool(self._token.publics(self._label(role)))

    def make(self, role: str) -> bytes:
        """See RoleKeys; it signs when keys.json names it."""
        return self._token.make(self._label(role))

    def key(self, role: str) -> RoleKey:
        """See RoleKeys."""
        named = keys_of(self._folder) if role != ROOT else None
        current = [key.public for key in named.roles.get(role, {}).values() if key.until is None] if named else []
        return self._one(role, self._label(role), current, ED25519)

    def outside(self, role: str) -> RoleKey | None:
        """See RoleKeys."""
        label = self._label(role) + OUTSIDE
        if not self._token.publics(label, P256):
            return None
        named = outside_of(self._folder)
        found = self._one(role, label, [key.public[-P256.public_bytes :] for key in named.keys.get(role, ()) if key.until is None], P256)
        return RoleKey(p256_spki(found.public), found.sign)

    def make_outside(self, role: str) -> bytes:
        """See RoleKeys; it signs when keys.json names it."""
        return p256_spki(self._token.make(self._label(role) + OUTSIDE, P256))

    def _one(self, role: str, label: str, current: Collection[bytes], curve: Curve) -> RoleKey:
        held = self._token.publics(label, curve)
        found = [public for public in held if public in current] if current else list(held)
        if len(found) != 1:
            told = ", ".join(keyid(public)[:16] for public in held) or "none"
            raise Stalled("Token", f"{self._file}: the token holds of role {role} {told}: must hold one that keys.json names as in use")
        return RoleKey(found[0], lambda data: self._token.sign(label, found[0], data, curve))

    def file(self, role: str) -> Path:
        """See RoleKeys; token.json."""
        return self._file


class SharedKeys:
    """`RoleKeys` of which token.json says who holds them: the token, which is asked for its roles and its root alone, or files. What a
    role in files signs waits for no token."""

    def __init__(self, folder: Path) -> None:
        self._token, self._files = TokenKeys(folder), FileKeys(folder)
        self._held = read_token_file(folder / TOKEN_FILE).roles | {ROOT}
        self.keeps_root = self._token.keeps_root

    def has(self, role: str) -> bool:
        """See RoleKeys."""
        return self._of(role).has(role)

    def make(self, role: str) -> bytes:
        """See RoleKeys."""
        return self._of(role).make(role)

    def key(self, role: str) -> RoleKey:
        """See RoleKeys."""
        return self._of(role).key(role)

    def outside(self, role: str) -> RoleKey | None:
        """See RoleKeys."""
        return self._of(role).outside(role)

    def make_outside(self, role: str) -> bytes:
        """See RoleKeys."""
        return self._of(role).make_outside(role)

    def file(self, role: str) -> Path:
        """See RoleKeys; token.json, or the role's own."""
        return self._of(role).file(role)

    def _of(self, role: str) -> RoleKeys:
        return self._token if role in self._held else self._files


def in_files(folder: Path) -> tuple[str, ...]:
    """Roles whose keys are files of a folder: all that no token.json there says are in its token. Raises Stalled."""
    path = folder / TOKEN_FILE
    held = read_token_file(path).roles if path.exists() else frozenset()
    return tuple(role for role in ROLES if role not in held)
