"""Writes formats/vectors/consent.json, tags by OpenSSL's own program: `python tests/consent/consent_vectors.py`."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

TARGET = Path(__file__).parents[2] / "formats" / "vectors" / "consent.json"
KEY = bytes(range(32))
SUBJECTS = ("c-117", "ada@example.com", "Ada@example.com", "żółć", "")


def tag(subject: str) -> str:
    data = b"knhk.dev/subject/v1\n" + subject.encode()
    argv = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{KEY.hex()}", "-binary"]
    return subprocess.run(argv, input=data, capture_output=True, check=True).stdout.hex()


def base(rows: list[tuple[str, int, int]]) -> str:
    return b"".join(bytes.fromhex(t)[:16] + struct.pack("<II", granted, withdrawn) for t, granted, withdrawn in sorted(rows)).hex()


def main() -> None:
    tags = {subject: tag(subject) for subject in SUBJECTS}
    rows = [(tags["c-117"], 1, 2), (tags["ada@example.com"], 3, 0), (tags["żółć"], 0, 1)]
    document = {
        "key": KEY.hex(),
        "tags": [{"subject": subject, "tag": found} for subject, found in tags.items()],
        "base": {"rows": [[found[:32], *masks] for found, *masks in rows], "hex": base(rows)},
    }
    TARGET.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
