"""The shim wakes an agent that sleeps, and no other (formats/ring.md)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_native import build_pack
from shim_rig import Rig, rig, wait_for
from shim_ring import word

pytestmark = pytest.mark.server
ASLEEP, CLOSED, RINGS = 336, 384, 392


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, workers=1) as made:
        yield made


def rung(bell: int) -> int:
    """How often it was since the last time."""
    try:
        return len(os.read(bell, 1 << 16))
    except BlockingIOError:
        return 0


def sleep(ring: Path) -> None:
    with ring.open("r+b") as file:
        file.seek(ASLEEP)
        file.write((1).to_bytes(8, "little"))


def test_a_sleeper_is_woken_once_by_a_new_ring_a_record_and_a_rings_end(point: Rig) -> None:
    os.mkfifo(point.rings / "bell", 0o600)
    bell = os.open(point.rings / "bell", os.O_RDWR | os.O_NONBLOCK)
    point.configure(build_pack(point.packs))
    (ring,) = point.rings.glob("*.ring")
    assert (word(ring, RINGS), rung(bell)) == (1, 1)
    assert (point.post(b"fine").status, rung(bell)) == (200, 0), "it is awake"
    sleep(ring)
    assert [point.post(body).status for body in (b"fine", b"bad")] == [200, 403]
    assert (word(ring, ASLEEP), rung(bell)) == (0, 1)
    os.write(bell, bytes(1 << 16))
    sleep(ring)
    assert (point.post(b"fine").status, word(ring, ASLEEP)) == (200, 0), "a full bell holds nobody up"
    rung(bell)
    point.configure(build_pack(point.packs, "bad,worse"))
    wait_for("the ring before has ended, and says so", lambda: word(ring, CLOSED) == 1 and rung(bell) >= 1)
    os.close(bell)


@pytest.mark.parametrize("there", ["nothing", "a file"])
def test_where_there_is_no_bell_nobody_rings(point: Rig, there: str) -> None:
    if there == "a file":
        (point.rings / "bell").write_bytes(b"")
    point.configure(build_pack(point.packs))
    (ring,) = point.rings.glob("*.ring")
    sleep(ring)
    assert (point.post(b"fine").status, word(ring, RINGS), word(ring, ASLEEP)) == (200, 0, 0)
    if there == "a file":
        assert (point.rings / "bell").read_bytes() == b""
