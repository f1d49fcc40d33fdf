"""Role keys of a folder as Kubernetes Secrets: each process gets the keys of its roles and no other; the root's private key none."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from knhk.adapters.signer_pkcs11 import TOKEN_FILE
from knhk_runtime.durable import replace_file
from knhk_runtime.hsm import read_token_file

SUBJECTS = "knhk-keys-subjects"
# Secret → files. Agents and verifiers need keys.json and root.pub only; both are public. Of OUTSIDE what is there.
SECRETS: Mapping[str, tuple[str, ...]] = {
    "knhk-keys-rollout": ("rollout.key", "keys.json", "root.pub"),
    "knhk-keys-build": ("build.key", "data.key", "keys.json", "root.pub"),
    "knhk-keys-log": ("log.key", "keys.json", "root.pub"),
    SUBJECTS: ("subjects.key",),
}
OUTSIDE: Mapping[str, tuple[str, ...]] = {
    "knhk-keys-rollout": ("rollout.sigstore.key", "sigstore.json", "trusted_root.json"),
    "knhk-keys-build": ("build.sigstore.key", "data.sigstore.key", "sigstore.json", "trusted_root.json"),
    "knhk-keys-log": ("log.former.key",),  # without it a log whose key turned knows the key of none of its checkpoints, and does not start
}
LABELS = {"app.kubernetes.io/part-of": "knhk"}


def _files(keys: Path, name: str) -> tuple[str, ...]:
    """Where the keys lie in a token: token.json and the PIN, which lies beside it, in place of the keys."""
    files = (*SECRETS[name], *(file for file in OUTSIDE.get(name, ()) if (keys / file).exists()))
    if not (keys / TOKEN_FILE).exists():
        return files
    pin = str(read_token_file(keys / TOKEN_FILE).pin.relative_to(keys))
    return (TOKEN_FILE, pin, *(file for file in files if not file.endswith(".key")))


def secrets_of(keys: Path, namespace: str) -> tuple[dict[str, Any], ...]:
    """A Secret for each process, from the folder of `knhk.adapters.signer_local.establish`. Raises OSError for a missing file, but for
    the key of subjects: where it is kept elsewhere its Secret is not ours to replace."""
    return tuple(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace, "labels": dict(LABELS)},
            "type": "Opaque",
            "data": {file: base64.b64encode((keys / file).read_bytes()).decode() for file in _files(keys, name)},
        }
        for name in SECRETS
        if name != SUBJECTS or all((keys / file).exists() for file in _files(keys, name))
    )


def write_secrets(keys: Path, namespace: str) -> Path:
    """`secrets.yaml` beside the keys, readable by this user only."""
    path = keys / "secrets.yaml"
    replace_file(path, yaml.safe_dump_all(secrets_of(keys, namespace), sort_keys=False).encode(), 0o600)
    return path
