"""Signer with Ed25519 key files in one folder.

```
root.key   private key of the root (move it away after `establish`; only `establish` and `rotate` need it)
root.pub   base64 of its public key: what agents pin
build.key, rollout.key, log.key, data.key    PEM (PKCS#8), mode 0600
build.sigstore.key, …      PEM (PKCS#8), P-256: what signs for sigstore, where keys.json names it
keys.json  formats/signed.md
```
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from knhk.adapters import signer_roles
from knhk.adapters.signer_roles import (
    OUTSIDE,
    VALID_DAYS,
    RoleKey,
    RoleSigner,
    key_in_file,
    make_key_file,
    make_outside_key_file,
    outside_key_in_file,
)
from knhk.adapters.signer_roles import read_root_pub as read_root_pub
from knhk.model.faults import Stalled
from knhk_runtime.keyfile import raw_public
from knhk_verify.signed import ROLES


class FileKeys:
    """`RoleKeys` in files."""

    keeps_root = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, role: str) -> Path:
        """See RoleKeys; in PEM."""
        if role not in ROLES:
            raise Stalled("Role", f"{role!r}: must be one of {', '.join(ROLES)}")
        return self._folder / f"{role}.key"

    def has(self, role: str) -> bool:
        """See RoleKeys."""
        return self.file(role).exists()

    def make(self, role: str) -> bytes:
        """See RoleKeys; in place of the one before."""
        return raw_public(make_key_file(self.file(role)))

    def key(self, role: str) -> RoleKey:
        """See RoleKeys."""
        return key_in_file(self.file(role))

    def outside(self, role: str) -> RoleKey | None:
        """See RoleKeys."""
        path = self.file(role).with_suffix(f"{OUTSIDE}.key")
        return outside_key_in_file(path) if path.exists() else None

    def make_outside(self, role: str) -> bytes:
        """See RoleKeys; in place of the one before."""
        return make_outside_key_file(self.file(role).with_suffix(f"{OUTSIDE}.key"))


class LocalSigner(RoleSigner):
    """`knhk.ports.signer.Signer` over the key files of a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, FileKeys(folder))


def establish(folder: Path, origin: str, now: datetime, valid_days: int = VALID_DAYS) -> LocalSigner:
    """Signer over `folder`; see `signer_roles.establish`."""
    signer_roles.establish(folder, FileKeys(folder), origin, now, valid_days)
    return LocalSigner(folder)


def rotate(folder: Path, role: str, origin: str, now: datetime, valid_days: int = VALID_DAYS) -> str:
    """See `signer_roles.rotate`."""
    return signer_roles.rotate(folder, FileKeys(folder), role, origin, now, valid_days=valid_days).new
