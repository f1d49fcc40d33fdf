"""The token that holds keys is away while a rollout goes wrong: what is rolled back without it, and what waits for it and is not lost.

Signer and the log's key are real, in SoftHSM and in files; the log commits and integrates as a sequencer does.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes import START_NS, FakeLog, FakeSigner
from rollout_world import PACK, POINT, World, pack, point

from knhk.adapters.signer_roles import RoleSigner
from knhk.wiring.signing import established
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_event
from knhk_runtime.signatures import ROLLOUT, verify_document
from knhk_verify.signed import verify_event, verify_keys
from soft_hsm import SoftHsm

ORIGIN = "knhk.dev/test"


@dataclass
class Sequenced(FakeLog):
    """What it acknowledges a log on a disk has durably under the same index, and what it says is covered that log has signed for."""

    log: Log | None = None

    def append_event(self, bundle: bytes) -> int:
        index = super().append_event(bundle)
        assert self.log is not None
        assert self.log.commit([parse_event(bundle)]) == [[index]]
        return index

    def cover(self) -> None:
        assert self.log is not None
        with suppress(OSError):  # as the sequencer: it tries again
            self.log.integrate()
        self.covered = self.log.published


def rolling(folder: Path, log: Path) -> World:
    """1.0.0 is live at p1, and 1.1.0, which is bad, was built and begins to roll out there."""
    signer = established(folder, ORIGIN, datetime.fromtimestamp(START_NS // 10**9, UTC))
    world = World(log=Sequenced(log=Log(log, load_key(signer.key_file("log"), ORIGIN), Disk())), signer=_as_fake(signer))
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    world.settle()
    world.bad = frozenset({"1.1.0"})
    world.apply(pack("1.1.0", constraint="sh:minCount 2"))
    world.until_phase("Rolling")
    return world


def _as_fake(signer: RoleSigner) -> FakeSigner:
    """The world takes whatever keeps the port's promises; its annotation names the one that others use."""
    found: Any = signer
    return found


def verified(world: World) -> list[str]:
    """Kinds of all events in the log; each is signed by a key that the root vouches for, and so is the document that is out."""
    signer: Any = world.signer
    keys = verify_keys(signer.keys_json(), signer.root_public())
    verify_document(world.fleet.documents[POINT], ROLLOUT, keys.of("rollout"), POINT)
    return [verify_event(entry, keys)[0]["predicate"]["kind"] for entry in world.log.entries]


@pytest.mark.failure("signer", "rollout")
@pytest.mark.failure("signer", "receipts")
def test_a_rollback_is_signed_ordered_and_told_while_the_token_of_build_and_log_is_away(softhsm: SoftHsm, tmp_path: Path) -> None:
    """With the rollout key in its file. Checkpoints and Receipts wait; what the log acknowledged is under the first that comes."""
    folder = softhsm.put(tmp_path / "keys", root=True, roles=["build", "log"])
    world = rolling(folder, tmp_path / "log")
    with softhsm.away(folder):
        world.until_phase("RolledBack")
        assert (world.document()["stable"]["version"], world.document()["candidate"]) == ("1.0.0", None)
        assert verified(world).count("RolledBack") == 1
        ordered = verified(world).index("RolledBack")
        assert world.document()["epoch"] >= ordered >= world.log.covered
        assert [row["digest"] for row in world.get().status["denyList"]] == [world.get().status["revision"]["digest"]]
    world.settle()
    receipts = {receipt.spec["logIndex"]: receipt.spec for receipt in world.receipts()}
    assert receipts[ordered]["event"] == "RolledBack"
    assert sorted(receipts) == list(range(len(world.log.entries)))


@pytest.mark.failure("signer", "rollout")
@pytest.mark.failure("signer", "seen")
def test_a_rollback_waits_for_a_token_that_holds_the_rollout_key_says_so_and_is_done_when_it_is_back(
    softhsm: SoftHsm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The control plane's output names the token, and nothing is lost."""
    folder = softhsm.put(tmp_path / "keys")
    world = rolling(folder, tmp_path / "log")
    before = len(world.log.entries)
    with softhsm.away(folder), caplog.at_level(logging.INFO, "knhk"):
        world.run(200)
        assert world.get().status["revision"]["phase"] == "Rolling"
        assert world.document()["candidate"]["version"] == "1.1.0"
        assert len(world.log.entries) == before
    told = [record.getMessage() for record in caplog.records]
    assert any(f"{PACK} waits: token 'knhk-tests' of {softhsm.module}: DeviceRemoved" in line for line in told), told
    world.until_phase("RolledBack")
    assert (world.document()["stable"]["version"], world.document()["candidate"]) == ("1.0.0", None)
    world.settle()
    assert verified(world).count("RolledBack") == 1
    assert len(world.receipts()) == len(world.log.entries)
