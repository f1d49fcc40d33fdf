"""Private keys, and PINs, in files that only their owner may read, or that root put there for a group of this process (mounted Secrets).
A key that was made ahead is an encrypted PEM, and what opens it lies beside, from another Secret (formats/ahead.md)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from knhk.model.faults import Stalled


def read_private(path: Path, must: str) -> bytes:
    """Bytes of a file of mode 0600; of a file of root's, 0440 at most. `must`: what it has to be. Raises Stalled; no message ever holds
    its bytes."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            mode = stat.S_IMODE(found.st_mode)
            if mode & (0o037 if found.st_uid == 0 != os.geteuid() else 0o077):
                raise Stalled("KeyMode", f"{path}: mode {mode:04o}: must be 0600; run: chmod 600 {path}")
            return file.read()
    except OSError as error:
        raise Stalled("KeyFile", f"{path}: {error.strerror}: must be {must}") from error


UNLOCK = "unlock.key"
SEALED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Key of a PEM file (PKCS#8) that `read_private` takes; of an encrypted one the file `unlock.key` beside is the password. Raises
    Stalled."""
    key = _load(path, "Ed25519")
    if not isinstance(key, Ed25519PrivateKey):
        raise Stalled("KeyFile", f"{path}: must be an Ed25519 private key in PEM")
    return key


def load_p256_key(path: Path) -> EllipticCurvePrivateKey:
    """The same of a P-256 key."""
    key = _load(path, "P-256")
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise Stalled("KeyFile", f"{path}: must be a P-256 private key in PEM")
    return key


def _load(path: Path, name: str) -> PrivateKeyTypes:
    data = read_private(path, f"a private key of {name} in PEM")
    sealed = data.startswith(SEALED)
    password = read_private(path.with_name(UNLOCK), f"what opens {path.name}") if sealed else None
    try:
        return load_pem_private_key(data, password)
    except (ValueError, TypeError) as error:
        must = f"one that {UNLOCK} beside opens" if sealed else "unencrypted, of nothing else"
        raise Stalled("KeyFile", f"{path}: must be a private key of {name} in PEM, {must}") from error


def raw_public(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes of the public key."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
