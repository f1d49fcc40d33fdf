"""Where a home's private keys lie: in files of its folder, or in the PKCS#11 token that token.json there names."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from knhk.adapters import signer_roles
from knhk.adapters.signer_local import FileKeys
from knhk.adapters.signer_pkcs11 import TOKEN_FILE, TokenKeys
from knhk.adapters.signer_roles import RoleKeys, RoleSigner


def keys_in(folder: Path) -> RoleKeys:
    """Raises Stalled for a token.json that says no token."""
    return TokenKeys(folder) if (folder / TOKEN_FILE).exists() else FileKeys(folder)


def signer_in(folder: Path) -> RoleSigner:
    """The signer over a folder whose keys are made already."""
    return RoleSigner(folder, keys_in(folder))


def established(folder: Path, origin: str, now: datetime) -> RoleSigner:
    """The signer over a folder; what is missing of keys and keys.json is made. Raises Stalled and Corrupt."""
    keys = keys_in(folder)
    signer_roles.establish(folder, keys, origin, now)
    return RoleSigner(folder, keys)
