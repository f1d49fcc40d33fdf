"""Writes formats/vectors/keys.json: `python tests/keys/keys_vectors.py`. Apart from the product's code (formats/keys.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "formats" / "vectors" / "keys.json"
TAG, OTHER, ID, KEY = b"t" * 32, bytes(32), b"i" * 16, bytes(range(32))


def vectors() -> dict[str, Any]:
    rows = [(TAG, 687), (OTHER, 2**32 - 1)]
    wanted = b"".join(tag + window.to_bytes(4, "big") for tag, window in rows)
    keys = [(ID, KEY), (b"j" * 16, KEY[::-1])]
    states = [(0, bytes(32)), (1, KEY), (2, bytes(32))]
    return {
        "wanted": {"rows": [[tag.hex(), window] for tag, window in rows], "body": wanted.hex()},
        "keys": {
            "generation": 3,
            "rows": [[key_id.hex(), key.hex()] for key_id, key in keys],
            "body": ((3).to_bytes(8, "big") + b"".join(key_id + key for key_id, key in keys)).hex(),
        },
        "open": {
            "ids": (ID + b"j" * 16 + b"k" * 16).hex(),
            "rows": [[state, key.hex()] for state, key in states],
            "body": b"".join(bytes([state]) + key for state, key in states).hex(),
        },
        "refused": {"wanted": ["", "00", wanted[:-1].hex()], "open": ["", ID[:-1].hex()]},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n")
