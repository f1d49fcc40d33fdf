"""Writes formats/vectors/waves.json: `python tests/formats/wave_vectors.py`. Apart from the product's code (formats/signed.md)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

WAVES = Path(__file__).parents[2] / "formats" / "vectors" / "waves.json"
SALTS = ("00" * 16, "0123456789abcdef0123456789abcdef")
INSTANCES = ("6a1f8a3e-0c55-4a3c-9a63-0f6f1b6f9d10", "0b4a7f52-8d8e-4f0e-8a34-50c0e1ad77a1", "c2d1b5f4-4e0b-4b52-9d0d-1a2b3c4d5e6f", "é")


def made() -> bytes:
    rows = []
    for salt in SALTS:
        for instance in INSTANCES:
            data = b"knhk-wave-v1\x00" + bytes.fromhex(salt) + instance.encode()
            rows.append({"salt": salt, "instance": instance, "position": int(hashlib.sha256(data).hexdigest()[:8], 16)})
    return json.dumps({"positions": rows}, indent=1, ensure_ascii=False).encode() + b"\n"


if __name__ == "__main__":
    WAVES.write_bytes(made())
