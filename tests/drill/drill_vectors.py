"""Writes formats/vectors/drill.json: `PYTHONPATH=tests/drill python tests/drill/drill_vectors.py`. Apart from the product's code."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from base64 import b64encode
from pathlib import Path
from typing import Any

from drill_stranger import figures, goals

VECTORS = Path(__file__).parents[2] / "formats" / "vectors" / "drill.json"
STRUCK = 1_800_000_000_000_000_000
OLD, NEW = b"\x0a" * 20, b"\x0b" * 20


def leaf(source: bytes, number: int, time_ns: int, pack: bytes, mark: int = 1) -> bytes:
    """leaf.md: an admitted, enforced decision."""
    hashed = hashlib.sha256(source + number.to_bytes(8, "big") + bytes([mark])).digest()
    return struct.pack(">6BH32s32s20sQ16sH", 1, 1, 1, 1, 1, 0, 0, hashed, hashed, pack, time_ns, source + number.to_bytes(8, "big"), 0)


def made() -> dict[str, Any]:
    """Two clients, one of the lost region, and a partition that has a gap and one message decided twice."""
    chance = random.Random(57)
    moves, stays, source = b"CLIENT-A", b"CLIENT-B", b"DRILL\0\0\0"
    logs: dict[str, list[bytes]] = {"ap": [b'{"event": 1}'], "eu": []}
    held = []
    for number in range(12):
        at = STRUCK + (number - 6) * 7_000_001 + chance.randrange(1_000_000)
        for client, log in ((moves, "eu"), (stays, chance.choice(("ap", "eu")))):
            own = leaf(client, number, at, NEW if at > STRUCK + 9_000_000 else OLD)
            held.append(own)
            if (client, number) != (moves, 3):  # acknowledged, and nowhere
                logs[log].append(own)
        if number not in (4, 5):
            logs["ap"].append(leaf(source, number, at + 5, OLD))
        if number == 2:
            logs["eu"].append(leaf(source, number, at + 6, OLD, mark=2))
    logs["eu"].append(b'{"event": 2}')
    document = {
        "acknowledged": hashlib.sha256(b"".join(held)).hexdigest(),
        "logs": {name: {"origin": f"knhk.dev/drill/{name}", "size": str(len(log))} for name, log in logs.items()},
        "moved": [moves.hex()],
        "partitions": [source.hex()],
        "policy": NEW.hex(),
        "struck": "us",
        "struckNs": str(STRUCK),
    }
    found = figures(document, b"".join(held), logs)
    rto, rpo = int(found["rtoMs"]), int(found["rpoMs"])
    wanted = [
        {"rtoGoalMs": str(most), "rpoGoalMs": str(least)} for most, least in ((900_000, 60_000), (rto, rpo - 1), (rto - 1, rpo), (0, 0))
    ]
    return {
        "document": json.dumps(document, separators=(",", ":"), sort_keys=True),
        "acknowledged": b64encode(b"".join(held)).decode(),
        "entries": {name: [b64encode(entry).decode() for entry in log] for name, log in logs.items()},
        "figures": found,
        "goals": [{**each, **goals({**found, **each})} for each in wanted],
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(made(), indent=1) + "\n")
