"""Sealed records from the outbox through the archive to replay: no name in any byte, and nothing of the evidence changes."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from privacy_world import ANNA, BOB, NO_ACCESS, NOON_NS, POINT, SOURCE, Vault, counts, plain

from knhk.adapters.signer_local import LocalSigner
from knhk.model.faults import Corrupt
from knhk.reconcilers.compacting import Policy
from knhk_runtime.envelope import KEY, WINDOW_NS
from knhk_runtime.outbox.records import payloads
from knhk_runtime.record import parse_record
from knhk_runtime.sealing import CannotSeal, Sealer, Sealing
from knhk_runtime.subject_keys import KeyStore
from knhk_runtime.tlog.audit import verify_log
from knhk_runtime.unsealing import Unsealer


def test_no_name_stands_in_any_byte_of_outbox_log_archive_or_key_store(vault: Vault) -> None:
    for number in range(30):
        vault.record((ANNA, BOB)[number % 2], arms=1 + number % 2)
    vault.yard.archived()
    assert vault.files_with(ANNA) == vault.files_with(BOB) == vault.files_with('"who"') == []
    assert vault.files_with("KNE1", "log/observations")


def test_archive_rows_say_the_tag_and_not_the_actor(vault: Vault) -> None:
    vault.record(ANNA)
    vault.record("")
    vault.yard.archived()
    found = [row for name in vault.kept().names() for row in vault.kept().rows(name)]
    assert sorted(row.subject or "" for row in found) == ["", vault.tag(ANNA).hex()]
    assert {(row.sealed, row.erased, row.actor, row.route, row.salt) for row in found} == {(True, False, None, None, None)}
    assert {(row.verdict, row.guards, row.failing) for row in found} == {("ADMIT", 0, ())}


def test_sealed_rows_that_are_merged_stay_sealed_and_replay_to_their_leaves(vault: Vault) -> None:
    for number in range(9):
        vault.record((ANNA, BOB)[number % 2], arms=1 + number % 2)
        vault.yard.archived()
    before = {row for name in vault.kept().names() for row in vault.kept().rows(name)}
    vault.yard.clock.ns += 2 * 3600 * 10**9
    assert vault.yard.archive().compact(Policy()) is not None
    (name,) = vault.kept().names()
    assert set(vault.kept().rows(name)) == before
    assert vault.files_with(ANNA) == []
    assert counts(vault.replay_archive()) == (13, 0, 0, 0, 0)
    assert counts(vault.replay_archive(NO_ACCESS)) == (0, 0, 13, 0, 0)


def test_the_same_record_in_clear_and_sealed_has_the_same_leaves(vault: Vault) -> None:
    made = plain(7, ANNA, arms=2)
    sealed = vault.sealer.entries(made, Sealing(POINT, vault.privacy))
    assert (sealed.entries, sealed.count) == (made.entries, made.count)
    assert ANNA.encode() in made.frames
    assert ANNA.encode() not in sealed.frames


def test_who_has_the_key_store_replays_and_who_has_not_is_told_sealed(vault: Vault) -> None:
    for number in range(10):
        vault.record(ANNA if number % 2 else BOB, arms=2)
    vault.record(BOB, sealed=False)
    vault.yard.archived()
    assert counts(vault.replay()) == counts(vault.replay_archive()) == (21, 0, 0, 0, 0)
    assert counts(vault.replay(NO_ACCESS)) == counts(vault.replay_archive(NO_ACCESS)) == (1, 0, 20, 0, 0)


def test_the_log_verifies_with_sealed_records_beside_it(vault: Vault) -> None:
    for _ in range(5):
        vault.record(ANNA)
    vault.yard.log.integrate()
    report = verify_log(vault.yard.log_dir, LocalSigner(vault.yard.base / "keys").vkey("knhk.dev/test"))
    assert ([row for row in report.bad if "observations" in row["where"]], report.observations) == ([], 5)


@pytest.mark.parametrize("at", [0, 4, 20, 52, 64, -1])
def test_an_altered_envelope_is_a_difference(vault: Vault, at: int) -> None:
    vault.record(ANNA)
    vault.record(BOB)
    path = vault.yard.log_dir / "observations" / SOURCE / f"{0:016x}.seg"
    _alter(path, at)
    found = vault.replay()
    assert counts(found) == (1, 0, 0, 1, 0), found.differences


def test_an_envelope_moved_to_another_record_is_a_difference(vault: Vault) -> None:
    vault.record(ANNA)
    vault.record(ANNA)
    path = vault.yard.log_dir / "observations" / SOURCE / f"{0:016x}.seg"
    data = path.read_bytes()
    first, second = (parse_record(data[16 + start : 16 + end], "r") for start, end in payloads(data[16:]))
    assert len(first.observation) == len(second.observation)
    _replace(path, {first.observation: second.observation, second.observation: first.observation})
    found = vault.replay()
    assert counts(found) == (0, 0, 0, 2, 0)
    assert "another record's" in found.differences[0].reason


def test_a_key_store_that_never_had_the_key_is_a_difference_and_no_erasure(vault: Vault, tmp_path_factory: pytest.TempPathFactory) -> None:
    from delta_world import Yard

    vault.record(ANNA)
    other = Vault(Yard(tmp_path_factory.mktemp("other")))
    try:
        found = vault.replay(Unsealer(other.keys))
    finally:
        other.close()
    assert counts(found) == (0, 0, 0, 1, 0)
    assert "never had" in found.differences[0].reason


def test_the_wrong_key_of_the_store_opens_nothing(vault: Vault) -> None:
    with pytest.raises(Corrupt, match="does not unwrap"):
        KeyStore(vault.folder, b"x" * KEY)


def test_keys_are_of_a_point_a_subject_and_a_window(vault: Vault) -> None:
    tag, window = vault.tag(ANNA), NOON_NS // WINDOW_NS
    for time_ns in (NOON_NS, NOON_NS + 1, NOON_NS + WINDOW_NS):
        vault.record(ANNA, time_ns)
    vault.record(BOB)
    assert len(vault.keys.ids_of(tag)) == 2
    assert len(vault.keys.ids_of(vault.tag(BOB))) == 1
    assert set(vault.keys.ids_before(POINT, window + 1, b"")) < {*vault.keys.ids_of(tag), *vault.keys.ids_of(vault.tag(BOB))}
    assert vault.keys.ids_before("erp/other", window + 2, b"") == []


def test_without_the_key_store_nothing_is_written(vault: Vault) -> None:
    vault.record(ANNA)
    (vault.folder / "keys.db").rename(vault.folder / "away.db")
    broken = Sealer(lambda _: KeyStore(vault.folder, bytes(KEY)))
    with pytest.raises(CannotSeal, match=r"keys\.db: must be there"):
        broken.entries(plain(9, BOB), Sealing(POINT, vault.privacy))


def test_readers_of_parquet_see_no_payload(vault: Vault) -> None:
    vault.record(ANNA)
    vault.yard.archived()
    (path,) = (vault.yard.base / "delta").glob("region=*/*/*/*.parquet")
    table = pq.read_table(path, partitioning=None)
    assert table.column("observation")[0].as_py()[:4] == b"KNE1"
    assert table.column("sealed").to_pylist() == [True]


def _alter(path: object, at: int) -> None:
    data = path.read_bytes()  # type: ignore[attr-defined]
    start, end = next(payloads(data[16:]))
    o = parse_record(data[16 + start : 16 + end], "r").observation
    made = bytearray(o)
    made[at] ^= 1
    _replace(path, {o: bytes(made)})


def _replace(path: object, changes: dict[bytes, bytes]) -> None:
    """Frames with other observations, their checksums right."""
    from knhk_runtime.record import frame

    data = path.read_bytes()  # type: ignore[attr-defined]
    made = [data[:16]]
    for start, end in payloads(data[16:]):
        payload = data[16 + start : 16 + end]
        o = parse_record(payload, "r").observation
        made.append(frame(payload.replace(o, changes.get(o, o))))
    path.write_bytes(b"".join(made))  # type: ignore[attr-defined]
