"""From Consents to the table of a point: what the control plane publishes, what the agent takes, what the shim finds there."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rollout_world import World

from knhk.adapters.signer_local import establish
from knhk.model.canonical import canonical
from knhk.model.consents import GRANTED, WITHDRAWN, consent_name
from knhk.model.faults import Corrupt, Refused
from knhk.model.resource import Key, Resource
from knhk.model.subjects import tag_of
from knhk.reconcilers.consent_book import COMPACT_AT
from knhk.reconcilers.points import point_config
from knhk_runtime.exchange import consents
from knhk_runtime.exchange.consents import Consents, Table
from knhk_runtime.point import PointConfig, parse_point
from knhk_verify.signed import Keys, verify_keys

SECRET = bytes(range(32))
PURPOSES = ("https://example.com/purposes/recruiting", "https://example.com/purposes/research")
POINT = """apiVersion: knhk.dev/v1alpha1
kind: EnforcementPoint
metadata: {name: p1, namespace: erp}
spec:
  mode: Sidecar
  upstream: {host: 127.0.0.1, port: 8080}
  match: [{name: read, method: GET, path: "/c/{candidate}", action: read, mediaTypes: []}]
  consent:
    subject: path.candidate
    purposes:
      - {name: recruiting, purpose: "https://example.com/purposes/recruiting"}
      - {name: research, purpose: "https://example.com/purposes/research"}
"""
KEY = Key("EnforcementPoint", "erp", "p1")


@dataclass(frozen=True)
class Given:
    def read(self, namespace: str, name: str) -> Mapping[str, bytes]:
        return {"key": SECRET} if (namespace, name) == ("erp", "knhk-subjects") else {}


def consent(subject: str, purpose: str) -> Resource:
    tag = tag_of(SECRET, subject)
    spec = {"subject": tag, "purpose": purpose, "state": GRANTED, "controller": "x", "basis": "consent", "actor": "local:a"}
    return Resource("Consent", "erp", consent_name(tag, purpose), spec)


class Side:
    """A control plane that does not run, and the agent of its point."""

    def __init__(self, folder: Path) -> None:
        self.world = World(signer=establish(folder / "keys", "knhk.dev/test", datetime.now(UTC)), secrets=Given())  # type: ignore[arg-type]
        self.world.clock.ns = int(datetime.now(UTC).timestamp()) * 10**9
        self.world.apply(POINT)
        self.book = self.world.controller._consents
        self.folder = folder
        for name in ("desired", "private", "state"):
            (folder / name).mkdir()
        self.agent = self.start()
        self.index = 0

    def start(self) -> Consents:
        return Consents(self.folder / "desired", self.folder / "private", self.folder / "state")

    def take(self, subject: str, state: str, purpose: str = PURPOSES[0]) -> None:
        self.index += 1
        self.book.took(consent(subject, purpose), state, self.index)

    @property
    def keys(self) -> Keys:
        root = (self.folder / "keys" / "root.pub").read_text().strip()
        return verify_keys(self.world.signer.keys_json(), base64.b64decode(root), datetime.now(UTC), 0, "keys.json")

    @property
    def point(self) -> PointConfig:
        return parse_point(point_config(self.world.store.get(KEY), ()), "point.json")

    @property
    def envelope(self) -> bytes:
        return self.world.fleet.consents["erp/p1"]

    def apply(self, envelope: bytes | None = None, now: datetime | None = None) -> bool:
        if (base := self.world.fleet.bases.get("erp/p1")) is not None:
            (self.folder / "desired" / "consents.bin").write_bytes(base)
        return self.agent.apply(envelope or self.envelope, self.keys, now or datetime.now(UTC), self.point)

    @property
    def path(self) -> Path:
        config = self.agent.config(self.point)
        assert config is not None
        return Path(config["path"])

    def seen(self, subject: str, path: Path | None = None) -> tuple[int, int]:
        """What the shim finds, by the words of the format alone; in the table that it is told of, or still has."""
        data = (path or self.path).read_bytes()
        assert (data[:8], data[24:56]) == (b"KNCONS01", SECRET)
        (slots,) = struct.unpack_from("<Q", data, 8)
        tag = bytes.fromhex(tag_of(SECRET, subject))[:16]
        (first,) = struct.unpack_from("<Q", tag)
        for step in range(slots):
            found, state = struct.unpack_from("<16sQ", data, 64 + 24 * ((first + step) % slots))
            if found == tag:
                return state & 0xFFFFFFFF, state >> 32
            if found == bytes(16):
                return 0, 0
        raise AssertionError("the table is full")

    def fresh_until(self) -> int:
        (found,) = struct.unpack_from("<Q", self.path.read_bytes(), 16)
        return int(found)


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path)


def test_the_table_says_what_was_recorded_last_of_each_purpose(side: Side) -> None:
    side.take("ada", GRANTED)
    side.take("ada", WITHDRAWN, PURPOSES[1])
    side.take("eve", GRANTED)
    side.take("eve", WITHDRAWN)
    assert side.apply()
    assert (side.seen("ada"), side.seen("eve"), side.seen("nobody")) == ((1, 2), (0, 1), (0, 0))
    assert side.fresh_until() == side.world.clock.ns + 60 * 10**9
    side.take("eve", GRANTED)
    assert not side.apply(), "the same table"
    assert side.seen("eve") == (1, 0)


def test_what_is_deleted_is_known_of_no_more(side: Side) -> None:
    side.take("ada", GRANTED)
    side.apply()
    side.book.gone(consent("ada", PURPOSES[0]))
    side.apply()
    assert side.seen("ada") == (0, 0)


def test_before_a_first_document_nothing_is_fresh(side: Side) -> None:
    assert struct.unpack_from("<Q", side.path.read_bytes(), 16) == (0,)


def test_many_subjects_are_a_base_and_a_withdrawal_stays_a_small_document(side: Side) -> None:
    known = side.book._of("erp")
    many = COMPACT_AT + 500
    for number in range(many):
        known.take(consent(f"s{number}", PURPOSES[0]), GRANTED)
    side.take("s7", WITHDRAWN)
    assert side.apply()
    assert len(side.envelope) < 2_000
    assert len(side.world.fleet.bases["erp/p1"]) == 24 * many
    assert (side.seen("s7"), side.seen("s8"), side.seen(f"s{many - 1}")) == ((0, 1), (1, 0), (1, 0))
    side.take("s8", WITHDRAWN)
    assert not side.apply()
    assert (side.seen("s7"), side.seen("s8")) == ((0, 1), (0, 1))
    side.book._told.clear()  # another control plane: its base is another, and what the agent knows beyond it is not so any more
    side.book.gone(consent("s9", PURPOSES[0]))
    side.apply()
    assert (side.seen("s8"), side.seen("s9"), side.seen("s10")) == ((0, 1), (0, 0), (1, 0))


def test_who_took_the_document_before_needs_no_base_and_who_missed_it_does(side: Side) -> None:
    for number in range(COMPACT_AT - 1):
        side.book._of("erp").take(consent(f"s{number}", PURPOSES[0]), GRANTED)
    side.take("s0", WITHDRAWN)
    side.take("ada", GRANTED)
    side.apply()
    assert side.world.fleet.bases == {}
    side.take("eve", GRANTED)
    assert side.world.fleet.bases.pop("erp/p1"), "changes have become many"
    side.apply()  # and nobody has the base
    assert [side.seen(name) for name in ("s0", "s1", "ada", "eve")] == [(0, 1), (1, 0), (1, 0), (1, 0)]
    side.agent = side.start()
    with pytest.raises(FileNotFoundError):
        side.apply()


@pytest.mark.parametrize("many", [COMPACT_AT - 2, COMPACT_AT - 1], ids=["then-a-base", "a-base-itself"])
def test_a_document_that_could_not_be_handed_over_is_not_taken_for_read(side: Side, monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    """Its withdrawal reaches who has read the one before it, though a base was made meanwhile."""

    def refused(*told: object) -> None:
        raise OSError("no room")

    for number in range(many):
        side.book._of("erp").take(consent(f"s{number}", PURPOSES[0]), GRANTED)
    side.take("ada", GRANTED)
    side.apply()
    with monkeypatch.context() as full:
        full.setattr(side.world.fleet, "publish_consents", refused)
        side.take("bob", WITHDRAWN)
        for number in range(COMPACT_AT):
            side.book._of("erp").take(consent(f"t{number}", PURPOSES[0]), GRANTED)
    side.take("eve", GRANTED)
    side.apply()
    assert [side.seen(name) for name in ("ada", "bob", "eve", "t1")] == [(1, 0), (0, 1), (1, 0), (1, 0)]


@pytest.mark.failure("clock", "traffic")
def test_what_the_log_has_later_is_newer_whatever_the_clocks_of_two_control_planes_say(side: Side) -> None:
    side.take("ada", GRANTED)
    side.apply()
    side.world.clock.ns -= 5 * 10**9
    side.take("ada", WITHDRAWN)
    side.apply()
    assert side.seen("ada") == (0, 1)


def test_a_restarted_agent_goes_on_with_its_table_and_takes_nothing_older(side: Side) -> None:
    side.take("ada", GRANTED)
    old = side.envelope
    side.apply()
    path = side.path
    side.world.clock.ns += 5 * 10**9
    side.take("ada", WITHDRAWN)
    side.apply()
    side.agent = side.start()
    with pytest.raises(Refused, match="older document"):
        side.apply(old)
    side.apply()
    assert (side.path, side.seen("ada")) == (path, (0, 1))


def test_a_base_with_other_bytes_is_not_taken(side: Side) -> None:
    known = side.book._of("erp")
    for number in range(COMPACT_AT + 1):
        known.take(consent(f"s{number}", PURPOSES[0]), GRANTED)
    side.take("s0", GRANTED)
    side.world.fleet.bases["erp/p1"] = side.world.fleet.bases["erp/p1"][:-1] + b"\1"
    with pytest.raises(Corrupt, match="SHA-256"):
        side.apply()
    assert struct.unpack_from("<Q", side.path.read_bytes(), 16) == (0,)


def test_a_forged_document_or_one_of_another_point_is_refused(side: Side) -> None:
    side.take("ada", GRANTED)
    with pytest.raises(Refused):
        side.apply(side.envelope.replace(b'"sig":"', b'"sig":"A'))
    other = side.world.signer.sign("data", "application/vnd.knhk.consents.v1+json", b"{}")
    with pytest.raises(Refused):
        side.apply(canonical(other))


def test_a_document_that_is_over_leaves_nobody_fresh(side: Side) -> None:
    side.take("ada", GRANTED)
    side.apply(now=datetime.now(UTC) + timedelta(days=1))
    assert side.fresh_until() < (datetime.now(UTC) + timedelta(days=1)).timestamp() * 1e9


def test_a_table_that_is_full_of_who_is_gone_gives_way_to_a_larger_one(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consents, "_slots_for", lambda subjects: 16)
    for number in range(6):
        side.take(f"s{number}", GRANTED)
    side.apply()
    small = side.path
    side.book._known["erp"].standing.clear()  # as another control plane finds it
    side.book._told.clear()
    for number in range(6, 9):
        side.take(f"s{number}", GRANTED)
    side.take("s1", WITHDRAWN)
    assert side.apply()
    assert side.path != small
    assert [side.seen(f"s{number}") for number in (0, 1, 6, 7, 8)] == [(0, 0), (0, 1), (1, 0), (1, 0), (1, 0)]
    assert side.seen("s1", small) == (0, 1), "the shim may look there for a moment more"


def test_a_table_whose_base_came_late_is_told_all_the_same(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has grown, its base comes a look later: the shim must not stay with a table that nobody renews."""
    monkeypatch.setattr(consents, "_slots_for", lambda subjects: 1 << (2 * subjects - 1).bit_length())
    side.take("ada", GRANTED)
    side.apply()
    small = side.path
    for number in range(COMPACT_AT + 1):
        side.book._of("erp").take(consent(f"s{number}", PURPOSES[0]), GRANTED)
    side.take("eve", GRANTED)
    base = side.world.fleet.bases.pop("erp/p1")
    with pytest.raises(FileNotFoundError):
        side.apply()
    side.world.fleet.bases["erp/p1"] = base
    assert side.apply()
    assert (side.path == small, side.seen("ada"), side.seen("s7")) == (False, (1, 0), (1, 0))


def test_the_control_plane_renews_what_would_go_stale(side: Side) -> None:
    point = side.world.store.get(KEY)
    side.take("ada", GRANTED)
    first = side.envelope
    side.book.tell(point)
    assert side.envelope == first
    side.world.clock.ns += 21 * 10**9
    side.book.tell(point)
    assert side.envelope != first


def test_a_table_of_another_size_or_key_under_that_name_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "t.map"
    path.write_bytes(b"x" * 100)
    table = Table(path, 16, SECRET)
    table.put(bytes(15) + b"\1", (1, 0))
    table.close()
    assert Table(path, 16, SECRET).used == 1
    assert Table(path, 16, bytes(32)).used == 0
