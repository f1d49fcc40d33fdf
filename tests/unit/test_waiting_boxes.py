"""What waits for a slower tier, in the agent's own files: sealed for nobody, gone with its key, and told when altered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from knhk.model.faults import Corrupt
from knhk_runtime.envelope import KEY, NOBODY, WINDOW_NS, wrap
from knhk_runtime.parking.decisions import EXPIRY_S, Decisions, Judged, Late
from knhk_runtime.sealing import Sealer
from knhk_runtime.subject_keys import KeyStore, create
from knhk_runtime.waiting import InClear

POINT, SECRET, TIME_NS = "erp/orders", b"anna.planted@example.com", 3 * WINDOW_NS
OBSERVED = b"KNO1" + TIME_NS.to_bytes(8, "big") + SECRET
ARM = Judged(b"p" * 20, 1, 3, 2, b"A with " + SECRET, b'["' + SECRET + b'"]')
LATE = Late(b"i" * 16, b"k" * 32, TIME_NS + EXPIRY_S, OBSERVED, (ARM,))


class Boxes:
    """As an agent has them at a point with privacy."""

    def __init__(self, sealer: Sealer) -> None:
        self.sealer = sealer

    def close(self, data: bytes, time_ns: int) -> bytes:
        return self.sealer.box(data, POINT, time_ns)

    def open(self, data: bytes, where: str) -> bytes | None:
        return self.sealer.unbox(data, where)

    def name(self, data: bytes) -> bytes:
        return self.sealer.named(data, POINT)


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[KeyStore]:
    create(tmp_path / "keys", bytes(KEY), wrap(bytes(KEY), b"store", bytes(KEY)))
    made = KeyStore(tmp_path / "keys", bytes(KEY))
    yield made
    made.close()


def boxes(keys: KeyStore) -> Boxes:
    return Boxes(Sealer(lambda _: keys))


def test_a_box_opens_after_a_restart_and_not_when_it_was_altered(keys: KeyStore) -> None:
    closed = boxes(keys).close(OBSERVED, TIME_NS)
    assert SECRET not in closed
    assert boxes(keys).open(closed, "x") == OBSERVED
    for at in (12, 27, len(closed) - 40, len(closed) - 1):
        altered = closed[:at] + bytes([closed[at] ^ 1]) + closed[at + 1 :]
        if at < 28:  # names another key
            assert boxes(keys).open(altered, "x") is None
        else:
            with pytest.raises(Corrupt, match="altered"):
                boxes(keys).open(altered, "x")


def test_a_box_whose_key_is_gone_is_told_so(keys: KeyStore) -> None:
    closed = boxes(keys).close(OBSERVED, TIME_NS)
    keys.destroy("retention", keys.ids_of(NOBODY))
    assert boxes(keys).open(closed, "x") is None


def test_a_late_decision_is_sealed_found_once_and_overwritten(keys: KeyStore, tmp_path: Path) -> None:
    path = tmp_path / "decisions.db"
    made = Decisions(path, boxes(keys))
    made.keep(LATE, TIME_NS)
    files = (path, path.with_name("decisions.db-wal"))
    assert all(SECRET not in each.read_bytes() for each in files)
    assert made.find(LATE.id, LATE.o_key, LATE.packs, TIME_NS) == LATE
    assert made.find(LATE.id, b"other" * 6, LATE.packs, TIME_NS) is None
    assert made.use(LATE.id)
    assert not made.use(LATE.id)
    made.close()


def test_what_expired_stands_nowhere_in_the_file(tmp_path: Path) -> None:
    """At a point without privacy, too."""
    path = tmp_path / "decisions.db"
    made = Decisions(path, InClear())
    made.keep(LATE, TIME_NS)
    files = (path, path.with_name("decisions.db-wal"))
    assert any(SECRET in each.read_bytes() for each in files)
    made.forget(LATE.expires_ns)
    assert all(SECRET not in each.read_bytes() for each in files)
    made.close()


def test_what_a_later_decision_made_forget_stands_nowhere_either(tmp_path: Path) -> None:
    path = tmp_path / "decisions.db"
    made, other = Decisions(path, InClear()), replace(LATE, id=b"j" * 16, o=OBSERVED[:12], expires_ns=LATE.expires_ns + 2, arms=())
    made.keep(LATE, TIME_NS)
    made.keep(other, LATE.expires_ns + 1)
    made.forget(LATE.expires_ns + 1)
    assert all(SECRET not in each.read_bytes() for each in (path, path.with_name("decisions.db-wal")))
    assert made.find(other.id, other.o_key, other.packs, LATE.expires_ns + 1) == other
    made.close()
