"""Where a home's private keys lie: in files of its folder, or, all or some, in the PKCS#11 token that token.json there names. And who
bears witness outside to what they sign: the sigstore that sigstore.json there names, if any."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from knhk.adapters import signer_roles
from knhk.adapters.signer_local import FileKeys
from knhk.adapters.signer_pkcs11 import TOKEN_FILE, SharedKeys
from knhk.adapters.signer_roles import RoleKeys, RoleSigner

if TYPE_CHECKING:
    from knhk.adapters.notary_sigstore import SigstoreNotary

SIGSTORE_FILE = "sigstore.json"


def keys_in(folder: Path) -> RoleKeys:
    """Raises Stalled for a token.json that says no token."""
    return SharedKeys(folder) if (folder / TOKEN_FILE).exists() else FileKeys(folder)


def signer_in(folder: Path) -> RoleSigner:
    """The signer over a folder whose keys are made already."""
    return RoleSigner(folder, keys_in(folder))


def established(folder: Path, origin: str, now: datetime) -> RoleSigner:
    """The signer over a folder; what is missing of keys and keys.json is made. Raises Stalled and Corrupt."""
    keys = keys_in(folder)
    signer_roles.establish(folder, keys, origin, now)
    return RoleSigner(folder, keys)


def notary_in(folder: Path) -> SigstoreNotary | None:
    """The notary over a folder of keys; None where no sigstore.json says one. Raises Stalled for one that says no servers."""
    if not (folder / SIGSTORE_FILE).exists():
        return None
    from knhk.adapters.notary_sigstore import SigstoreNotary, read_settings  # nobody else needs what it imports

    signer = signer_in(folder)
    return SigstoreNotary(folder, read_settings(folder / SIGSTORE_FILE), signer.outside, signer.outside_named)
