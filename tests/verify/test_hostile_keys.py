"""A keys.json that nobody signed, or whose root means ill, takes no more memory than a witness or a guard has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hostile_keys import ROOT_PUBLIC, UNSIGNED, of_the_root
from knhk_verify.signed import MAX_KEYS_BYTES

READ = """
import sys
from datetime import datetime
from knhk_verify.evidence import Evidence
evidence = Evidence(bytes.fromhex(sys.argv[1]), open(sys.argv[2], "rb").read(), None)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak >> 10, evidence.steps[0].ok, evidence.steps[0].detail[:200])
"""
UNSIGNED_MIB, SIGNED_MIB = 192, 224  # 16 of the file, four times that as text with a wide letter, and once more its one string


def read(path: Path, data: bytes) -> tuple[int, bool, str]:
    """Peak of resident memory of a process that reads it, MiB; whether it verified, and what was said."""
    assert len(data) <= MAX_KEYS_BYTES
    path.write_bytes(data)
    ran = subprocess.run([sys.executable, "-c", READ, ROOT_PUBLIC.hex(), str(path)], capture_output=True, text=True, check=True)
    peak, ok, said = ran.stdout.split(" ", 2)
    return int(peak), ok == "True", said


@pytest.mark.parametrize("made_of", UNSIGNED)
def test_sixteen_mib_that_nobody_signed_are_refused_in_bounded_memory(made_of: str, tmp_path: Path) -> None:
    peak, ok, said = read(tmp_path / "keys.json", UNSIGNED[made_of]())
    assert not ok
    assert said.startswith("keys.json")
    assert peak <= UNSIGNED_MIB, f"{made_of}: {peak} MiB, {said}"


def test_as_many_keys_as_a_root_can_sign_are_read_in_bounded_memory(tmp_path: Path) -> None:
    peak, ok, said = read(tmp_path / "keys.json", of_the_root("knhk.dev/test"))
    assert ok, said
    assert peak <= SIGNED_MIB, f"{peak} MiB"
