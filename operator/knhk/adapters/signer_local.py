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

from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path

from knhk.adapters import signer_roles
from knhk.adapters.signer_roles import (
    OUTSIDE,
    VALID_DAYS,
    RoleKey,
    RoleSigner,
    key_in_file,
    keys_of,
    make_key_file,
    make_outside_key_file,
    outside_key_in_file,
    outside_of,
)
from knhk.adapters.signer_roles import pinned_root as pinned_root
from knhk.adapters.signer_roles import read_root_pub as read_root_pub
from knhk.model.faults import Stalled
from knhk_runtime.durable import replace_file
from knhk_runtime.keyfile import raw_public
from knhk_verify.signed import ROLES


class FileKeys:
    """`RoleKeys` in files. A new key lies in `….next.key` until keys.json names it as in use; then it takes the other's place, at the
    first look. Of role log the one before is kept, `log.former.key`: it signs, too, as long as keys.json lets it."""

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
        """See RoleKeys."""
        return raw_public(make_key_file(_vacant(self.file(role))))

    def key(self, role: str) -> RoleKey:
        """See RoleKeys."""
        path = self.file(role)
        if _next(path).exists():
            named = keys_of(self._folder)
            current = [key.public for key in named.roles.get(role, {}).values() if key.until is None] if named else []
            _succeed(path, key_in_file, current, self._folder / "log.former.key" if role == "log" else None)
        return key_in_file(path)

    def outside(self, role: str) -> RoleKey | None:
        """See RoleKeys."""
        path = self.file(role).with_suffix(f"{OUTSIDE}.key")
        if _next(path).exists():
            current = [key.public for key in outside_of(self._folder).keys.get(role, ()) if key.until is None]
            _succeed(path, outside_key_in_file, current, None)
        return outside_key_in_file(path) if path.exists() else None

    def make_outside(self, role: str) -> bytes:
        """See RoleKeys."""
        return make_outside_key_file(_vacant(self.file(role).with_suffix(f"{OUTSIDE}.key")))


def _next(path: Path) -> Path:
    return path.with_suffix(".next.key")


def _vacant(path: Path) -> Path:
    """Where a new key goes: beside the one that signs."""
    return _next(path) if path.exists() else path


def _succeed(path: Path, read: Callable[[Path], RoleKey], current: Collection[bytes], former: Path | None) -> None:
    """The next key takes its place if keys.json names it. Whoever looks does that, and somebody else may have done so meanwhile."""
    try:
        if read(_next(path)).public not in current:
            return
        if former is not None:
            replace_file(former, path.read_bytes(), 0o600)
        _next(path).replace(path)
    except (Stalled, FileNotFoundError):
        if _next(path).exists():
            raise


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
