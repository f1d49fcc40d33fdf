"""A folder of keys whose receipts a private sigstore bears witness to; bundles with one byte turned."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

from private_stack import Stack

from knhk.wiring.signing import SIGSTORE_FILE
from knhk_verify.signed import canonical

NOW = datetime.now(UTC)
WHO = "https://kubernetes.io/namespaces/knhk-system/serviceaccounts/knhk-operator"


def settings(stack: Stack, folder: Path, keyless: bool, **other: object) -> None:
    said: dict[str, object] = {"rekor": stack.rekor.url, "timestamp": f"{stack.timestamps.url}/api/v1/timestamp"}
    if keyless:
        (folder / "token").write_text(stack.issuer.token())
        said |= {"fulcio": stack.fulcio.url, "token": "token", "identity": WHO, "issuer": stack.issuer.url}
    (folder / SIGSTORE_FILE).write_text(json.dumps(said | other))


def altered(bundle: bytes, *path: str | int) -> bytes:
    """With one byte of a base64 member turned."""
    document = json.loads(bundle)
    place = document
    for name in path[:-1]:
        place = place[name]
    data = bytearray(base64.b64decode(place[path[-1]]))
    data[-10] ^= 1
    place[path[-1]] = base64.b64encode(data).decode()
    return canonical(document)


TIMESTAMP = ("verificationMaterial", "timestampVerificationData", "rfc3161Timestamps", 0, "signedTimestamp")
ENTRY = ("verificationMaterial", "tlogEntries", 0)
