"""The options of a witness's process."""

from __future__ import annotations

from pathlib import Path

from witness_world import FakeLog, pem, private

from knhk_runtime.tlog.notes import format_vkey


def options(tmp_path: Path, log: FakeLog) -> list[str]:
    """Of a witness of this log, on this test's folder."""
    (tmp_path / "witness.key").write_bytes(pem(private(40)))
    (tmp_path / "witness.key").chmod(0o600)
    (tmp_path / "policy").write_text(f"# logs\nlog {format_vkey(log.verifier)}\nquorum none\n")
    return ["w", "--name", "witness.example/one", "--key", "witness.key", "--policy", "policy", "--listen", "127.0.0.1:0"]
