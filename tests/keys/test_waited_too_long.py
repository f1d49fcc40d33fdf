"""What waited in a pod's files until a guard gets its key no more is told, and stands in nobody's way."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from agent_world import observation, until
from keys_world import KeyWorld

from knhk.adapters.key_stores import established
from knhk.adapters.wrapping_keys import FileWrapping
from knhk.reconcilers.replaying import BASELINE_ADMIT
from knhk_runtime.envelope import NOBODY, WINDOW_NS, window_of
from knhk_runtime.http1 import Https
from knhk_runtime.outbox.records import DECISION, ENFORCED, Arm, Entries
from knhk_runtime.remote_keys import RemoteKeys
from knhk_runtime.ring.entries import RingRecord
from knhk_runtime.ring.observed import ObservedQueue
from knhk_runtime.sealing import CannotSeal, Sealer
from knhk_runtime.subject_keys import KeyStore, SealingKeys

pytestmark = pytest.mark.server
POINT = "erp/orders"
LONG_AGO_NS = time.time_ns() - 3 * WINDOW_NS


class Boxes:
    """As an agent has them at a point with privacy."""

    def __init__(self, keys: SealingKeys) -> None:
        self.sealer = Sealer(lambda _: keys)

    def close(self, data: bytes, time_ns: int) -> bytes:
        return self.sealer.box(data, POINT, time_ns)

    def open(self, data: bytes, where: str) -> bytes | None:
        return self.sealer.unbox(data, where)

    def name(self, data: bytes) -> bytes:
        return self.sealer.named(data, POINT)


def record(number: int, time_ns: int) -> RingRecord:
    arm = Arm(bytes(20), DECISION, 0, 1, ENFORCED, 0, BASELINE_ADMIT)
    o = observation(b"{}", time_ns=time_ns)
    return cast(RingRecord, SimpleNamespace(receipt=bytes([number]) * 16, region=0, cluster=1, o=o, arms=(arm,)))


@pytest.fixture
def boxes(keys: KeyWorld) -> Iterator[Boxes]:
    """Those of the agent of today."""
    context = ssl.create_default_context(cafile=keys.ca_file)
    header = {"Authorization": f"Bearer {keys.api.guard(POINT, 'one')}"}
    remote = RemoteKeys(Https.of(keys.url, lambda: context), lambda: header, POINT)
    made = Boxes(remote)

    def answers() -> bool:
        try:
            return bool(made.close(b"now", time.time_ns()))
        except CannotSeal:
            return False

    until(answers, "the service answers")
    yield made
    remote.close()


def queue(folder: Path, boxes: Boxes, judged: list[bytes]) -> ObservedQueue:
    def decide(*_: object) -> Any:
        raise AssertionError("no arm waits")

    def commit(made: Entries) -> None:
        judged.append(made.frames)

    return ObservedQueue(folder, decide, commit, boxes)


def test_a_request_of_long_ago_is_told_and_those_behind_it_are_judged(
    keys: KeyWorld, boxes: Boxes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = KeyStore(keys.store / "erp", established(keys.store / "erp", FileWrapping(keys.base / "kek")))
    before, judged = queue(tmp_path / "observed", Boxes(own), []), list[bytes]()
    before.put([record(1, LONG_AGO_NS), record(2, time.time_ns())])
    after = queue(tmp_path / "observed", boxes, judged)
    after.start()
    until(lambda: len(judged) == 1, "the one behind it")
    after.stop()
    assert bytes([2]) * 16 in judged[0]
    assert "waited for longer than its key is kept" in capfd.readouterr().err
    assert [window for _, tag, window, _ in keys.rows() if tag == NOBODY].count(window_of(LONG_AGO_NS)) == 1, "no key was made for it"
    own.close()


def test_while_the_service_is_away_it_waits_all_the_same(keys: KeyWorld, boxes: Boxes) -> None:
    own = KeyStore(keys.store / "erp", established(keys.store / "erp", FileWrapping(keys.base / "kek")))
    closed = Boxes(own).close(b"long ago", LONG_AGO_NS)
    own.close()
    keys.kill()
    with pytest.raises(CannotSeal):
        boxes.open(closed, "observed")
    keys.start()
    assert boxes.open(closed, "observed") is None


def test_where_clocks_differ_nothing_is_given_up(keys: KeyWorld, boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service says that the window is over, and to this machine it is of now."""
    own = KeyStore(keys.store / "erp", established(keys.store / "erp", FileWrapping(keys.base / "kek")))
    closed = Boxes(own).close(b"of now", LONG_AGO_NS)
    own.close()
    monkeypatch.setattr(time, "time_ns", lambda: LONG_AGO_NS)
    with pytest.raises(CannotSeal, match="window"):
        boxes.open(closed, "observed")
