"""Write formats/vectors/witness.json: python tests/witness/witness_vectors.py. Same code, same bytes; Go judges the notes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from witness_world import FakeLog, answer, witness_key

from knhk_runtime.sequencer.files import Disk
from knhk_runtime.tlog.notes import cosign, format_vkey, mirrored
from knhk_runtime.witness.core import Witness, WitnessKey
from knhk_verify.note import b64, unb64

VECTORS = Path(__file__).parents[2] / "formats" / "vectors" / "witness.json"
TIME, SIZE = 1_764_115_200, 5
LOG, FORKED = FakeLog(), FakeLog(fork=2)
ONE, TWO = witness_key(40, "witness.example/one"), witness_key(41, "witness.example/two")
IMPOSTOR = WitnessKey(ONE.verifier, witness_key(42).sign)


def line(key: WitnessKey, size: int = SIZE, time_s: int = TIME) -> str:
    return cosign(LOG.checkpoint(size).rpartition("\n\n")[0] + "\n", key.verifier, time_s, key.sign)


def later(signed: str) -> str:
    """The line with another time."""
    head, _, data = signed.rstrip("\n").rpartition(" ")
    raw = unb64(data, "line")
    return f"{head} {b64(raw[:4] + (TIME + 1).to_bytes(8, 'big') + raw[12:])}\n"


def notes() -> list[dict[str, Any]]:
    note, one, two = LOG.checkpoint(SIZE), line(ONE), line(TWO)
    other = f"— {ONE.verifier.name} {b64(witness_key(42).verifier.id + bytes(72))}\n"
    rows: dict[str, tuple[str, list[str] | None]] = {
        "no witness": (note, []),
        "one witness": (note + one, [ONE.verifier.name]),
        "two witnesses": (note + one + two, [ONE.verifier.name, TWO.verifier.name]),
        "one witness twice": (note + one + one, [ONE.verifier.name]),
        "one witness at two times": (note + one + line(ONE, time_s=TIME + 9), [ONE.verifier.name]),
        "a line of an unknown key": (note + other + two, [TWO.verifier.name]),
        "a time that was altered": (note + later(one), None),
        "a signature by another key": (note + line(IMPOSTOR), None),
        "a cosignature of another checkpoint": (note + line(ONE, SIZE + 1), None),
        "a cosignature that is cut": (note + f"— {ONE.verifier.name} {b64(unb64(one.rstrip().rpartition(' ')[2], 'line')[:40])}\n", None),
        "a time beyond 2^63": (note + line(ONE, time_s=1 << 63), None),
    }
    return [{"name": name, "note": text, "signed": signed} for name, (text, signed) in rows.items()]


def held(key: WitnessKey, size: int = SIZE) -> str:
    return mirrored(LOG.checkpoint(size).rpartition("\n\n")[0] + "\n", key.verifier, TIME, key.sign)


def mirrors() -> list[dict[str, Any]]:
    """Whether the first witness says that it holds all entries (null: it must be refused)."""
    note = LOG.checkpoint(SIZE)
    rows: dict[str, tuple[str, bool | None]] = {
        "mirrored": (note + held(ONE), True),
        "mirrored and cosigned": (note + line(ONE) + held(ONE), True),
        "cosigned only": (note + line(ONE), False),
        "mirrored by another": (note + held(TWO), False),
        "signed by another key": (note + held(IMPOSTOR), None),
        "another checkpoint's": (note + held(ONE, SIZE + 1), None),
        "another time": (note + later(held(ONE)), None),
    }
    return [{"name": name, "note": text, "mirrored": said} for name, (text, said) in rows.items()]


def requests(folder: Path) -> list[dict[str, Any]]:
    """To a witness that has cosigned size 5: each its answer, the accepted ones last."""
    witness = Witness(folder, ONE, {LOG.origin: [LOG.verifier]}, Disk(), lambda: TIME)
    witness.add_checkpoint(LOG.asks(0, SIZE))
    bodies = {
        "old above the size": LOG.asks(SIZE, SIZE).replace(b"old 5", b"old 6"),
        "a log that it does not know": FakeLog("knhk.dev/other").asks(0, 3),
        "a signature that was altered": LOG.asks(SIZE, 9).replace(b"\n9\n", b"\n8\n"),
        "an older size": LOG.asks(3, 9),
        "another root of the same size": FORKED.asks(SIZE, SIZE),
        "another history": FORKED.asks(SIZE, 9),
        "a proof that lacks a hash": LOG.asks(SIZE, 9, []),
        "the same again": LOG.asks(SIZE, SIZE),
        "a larger tree": LOG.asks(SIZE, 9),
    }
    rows = []
    for name, body in bodies.items():
        status, told = answer(witness, body)
        rows.append({"name": name, "body": body.decode(), "status": status, "answer": f"{told}\n" if status == 409 else told})
    return rows


def made(folder: Path) -> bytes:
    vectors = {
        "log": format_vkey(LOG.verifier),
        "witnesses": [{"vkey": format_vkey(key.verifier), "seed": (bytes([seed]) * 32).hex()} for key, seed in ((ONE, 40), (TWO, 41))],
        "time": TIME,
        "notes": notes(),
        "mirrors": mirrors(),
        "requests": requests(folder),
    }
    return json.dumps(vectors, indent=1, ensure_ascii=False).encode() + b"\n"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        VECTORS.write_bytes(made(Path(folder)))
