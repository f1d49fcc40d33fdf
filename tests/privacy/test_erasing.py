"""Erasure, legal hold, retention and re-applying: what is gone, what stays provable, and a death anywhere is mended by the next run."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import privacy_world
import pytest
from delta_world import HOUR_NS, Failing
from privacy_world import ANNA, BOB, NOON_NS, POINT, SOURCE, Crash, Steps, Vault, counts, plain

from knhk.adapters import delta_parquet
from knhk.adapters.signer_local import LocalSigner
from knhk.model.faults import Stalled, Waiting
from knhk.model.ranges import numbers_of
from knhk.ports.recorded import Found
from knhk.reconcilers import erasing
from knhk.reconcilers.erasing import QUEUED, Erased, reapply_keys
from knhk.reconcilers.ledger import Kept
from knhk.reconcilers.unheld import standing
from knhk.wiring.archive import opened_folder
from knhk_runtime.envelope import WINDOW_NS, leaves_digest
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.record import SEGMENT_HEAD, frame, h_o, parse_record, scan_frames
from knhk_runtime.sealing import Sealing
from knhk_runtime.sequencer.copies import Copies, source_of
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.subject_keys import DONE, IDS_MOST, Held, Work
from knhk_runtime.subjects import Privacy
from knhk_runtime.tlog.folder import log_entries
from knhk_runtime.tlog.notes import verify_proof
from knhk_verify.leaf import parse_leaf
from knhk_verify.note import parse_vkey
from knhk_verify.signed import canonical
from knhk_verify.tree import leaf_hash

BASIS = "GDPR 17(1)(b)"
DAY_NS = 24 * HOUR_NS


def filled(vault: Vault) -> Vault:
    """Anna's and Bob's records, some archived, some in the outbox alone, over several segments."""
    vault.yard.outbox(SOURCE, 4096)
    for number in range(12):
        vault.record((ANNA, BOB)[number % 2], NOON_NS + number % 3 * HOUR_NS, arms=1 + number % 2)
    vault.yard.archived()
    for number in range(6):
        vault.record((ANNA, BOB)[number % 2])
    return vault


def envelopes(vault: Vault, who: str) -> list[str]:
    """Files in which the subject's tag still stands beside a ciphertext."""
    found = []
    for path in sorted((vault.yard.log_dir / "observations").rglob("*.seg")):
        for at, payload in scan_frames(path.read_bytes(), int(path.stem, 16), "s")[0]:
            record = parse_record(payload, "r")
            if record.observation.startswith(b"KNE1") and vault.tag(who) in record.observation:
                found.append(f"{path} {at}")
    return found + [name for name in vault.kept().names() for row in vault.kept().rows(name) if row.subject == vault.tag(who).hex()]


def test_an_erasure_takes_all_of_one_subject_and_nothing_of_others(vault: Vault) -> None:
    filled(vault)
    root_before = opened_folder(vault.yard.log_dir).served.root(18)
    told = vault.eraser().erase(ANNA, BASIS)
    assert (told.state, told.plan.leaves, len(told.plan.keys)) == (DONE, 9, 1)
    assert (told.records, told.rows) == (9, 6)
    assert counts(vault.replay()) == (15, 9, 0, 0, 0)
    vault.yard.archived()
    assert counts(vault.replay_archive()) == (15, 9, 0, 0, 0)
    assert envelopes(vault, ANNA) == []
    assert len(envelopes(vault, BOB)) == 9 + 15
    assert opened_folder(vault.yard.log_dir).served.root(18) == root_before
    assert vault.keys.ids_of(vault.tag(ANNA)) == []


@pytest.mark.parametrize("archived", [False, True])
def test_a_point_in_whose_records_no_name_was_looked_for_is_named(vault: Vault, archived: bool) -> None:
    """It has records in clear and no privacy: an erasure that says nothing of it would be taken for one of everything."""
    filled(vault)
    vault.record(ANNA, source="erp.hiring", sealed=False)
    if archived:
        vault.yard.archived()
        shutil.rmtree(vault.yard.log_dir / "observations" / "erp.hiring")
    assert vault.eraser().erase(ANNA, BASIS, dry=True).unsearched == ("erp/hiring",)
    told = vault.eraser().erase(ANNA, BASIS)
    assert (told.state, told.plan.leaves, told.unsearched) == (DONE, 9, ("erp/hiring",))
    assert vault.eraser().erase(BOB, BASIS, dry=True).plan.leaves == 15


def test_the_log_tells_which_leaves_were_erased_and_keeps_them(vault: Vault) -> None:
    filled(vault)
    told = vault.eraser().erase(ANNA, BASIS)
    (event,) = vault.events("Erased")
    served = opened_folder(vault.yard.log_dir).served
    indexes = [index for first, last in event.evidence["targets"] for index in range(first, last + 1)]
    assert event.evidence["leaves"] == len(indexes) == 9
    assert event.evidence["leafHashes"] == leaves_digest([leaf_hash(served.entry(index)) for index in indexes])
    tag = vault.tag(ANNA).hex()
    assert (event.subject, event.evidence["basis"], event.evidence["hold"]) == ((f"subject/{tag}", tag), BASIS, "none")
    assert tuple(event.evidence["keys"]) == told.plan.keys
    note = (vault.yard.log_dir / "checkpoint").read_text()
    verifier = parse_vkey(LocalSigner(vault.yard.base / "keys").vkey("knhk.dev/test"))
    for index in indexes:  # the leaf is provable as it was
        assert verify_proof(served.inclusion(index, note), served.entry(index), verifier)[0] == index
    assert ANNA not in str(event)


def test_erasing_again_finds_nothing_and_tells_nothing(vault: Vault) -> None:
    filled(vault)
    vault.eraser().erase(ANNA, BASIS)
    again = vault.eraser().erase(ANNA, BASIS)
    assert (again.state, again.plan.leaves, again.plan.keys) == ("", 0, ())
    assert len(vault.events("Erased")) == 1


def test_a_dry_run_changes_nothing(vault: Vault) -> None:
    filled(vault)
    told = vault.eraser().erase(ANNA, BASIS, dry=True)
    assert (told.state, told.plan.leaves, len(told.plan.keys)) == ("dry", 9, 1)
    assert counts(vault.replay()) == (24, 0, 0, 0, 0)
    assert vault.events("Erased") == []
    assert vault.keys.works() == []


def test_with_the_key_gone_a_copy_that_nobody_knew_of_is_unreadable(vault: Vault, tmp_path: Path) -> None:
    filled(vault)
    copy = shutil.copytree(vault.yard.log_dir / "observations", tmp_path / "taken")
    vault.eraser().erase(ANNA, BASIS)
    shutil.rmtree(vault.yard.log_dir / "observations")
    shutil.copytree(copy, vault.yard.log_dir / "observations")
    assert counts(vault.replay()) == (15, 9, 0, 0, 0)


def test_the_erased_record_no_longer_confirms_a_guess(vault: Vault) -> None:
    """With the salt, the hash in the log would tell whether a guess of O is right."""
    number = vault.record(ANNA)
    vault.yard.log.integrate()
    (path,) = (vault.yard.log_dir / "observations" / SOURCE).glob("*.seg")
    record = parse_record(scan_frames(path.read_bytes(), 0, "s")[0][0][1], "r")
    guess = parse_record(plain(number, ANNA).frames[8:], "guess").observation
    assert h_o(record.salt, guess) != parse_leaf(record.leaves[0]).h_o


def test_records_from_before_the_point_had_privacy_are_erased_too(vault: Vault) -> None:
    vault.record(ANNA, sealed=False)
    vault.record(BOB, sealed=False)
    vault.yard.archived()
    vault.record(ANNA, sealed=False)
    told = vault.eraser().erase(ANNA, BASIS)
    assert (told.plan.leaves, told.plan.keys, told.state) == (2, (), DONE)
    assert vault.files_with(ANNA) == []
    assert vault.files_with(BOB)


POD, OUTBOX = "spiffe://knhk.dev/ns/erp/point/orders/pod/pod-1", "0123456789abcdef"
COPY = source_of(POD, OUTBOX)


def copied(vault: Vault) -> tuple[Path, bytes]:
    """The one segment of a pod's copy, with records of Anna and Bob, and its frames as the pod sent them."""
    vault.yard.outbox(COPY, acked=False)
    for number in range(6):
        vault.record((ANNA, BOB)[number % 2], source=COPY, sealed=number > 1)
    path = vault.yard.log_dir / "observations" / COPY / f"{0:016x}.seg"
    return path, path.read_bytes()[SEGMENT_HEAD:]


@pytest.mark.parametrize("archived", [False, True])
def test_of_a_pods_copy_the_last_segment_is_rewritten_and_the_pod_goes_on(vault: Vault, archived: bool) -> None:
    path, sent = copied(vault)
    if archived:
        vault.yard.archived()
    told = vault.eraser().erase(ANNA, BASIS)
    assert (told.plan.leaves, told.records, told.rows) == (3, 3, 3 if archived else 0)
    assert envelopes(vault, ANNA) == []
    assert vault.files_with(ANNA) == []
    assert len(path.read_bytes()) == SEGMENT_HEAD + len(sent)
    copies = Copies(vault.yard.log_dir / "observations")
    copies.add(POD, OUTBOX, (0, SEGMENT_HEAD), sent)  # its answer was lost
    made = vault.sealer.entries(plain(len(vault.names), ANNA), Sealing(POINT, vault.privacy))
    copies.add(POD, OUTBOX, (0, SEGMENT_HEAD + len(sent)), made.frames)
    vault.yard.log.commit([parse_append(made.count.to_bytes(4, "big") + made.entries)])
    vault.yard.archived()
    assert counts(vault.replay_archive()) == counts(vault.replay()) == (4, 3, 0, 0, 0)
    assert vault.files_with(ANNA) == []


def test_a_pod_whose_copy_holds_what_is_no_record_holds_up_no_erasure(vault: Vault) -> None:
    filled(vault)
    path, _ = copied(vault)
    frames = path.read_bytes()[SEGMENT_HEAD:]
    path.write_bytes(path.read_bytes()[:SEGMENT_HEAD] + frame(b"no record") + frames + frame(b"nor this"))
    elsewhere = vault.yard.log_dir / "observations" / source_of(POD.replace("erp", "crm"), OUTBOX)
    elsewhere.mkdir()
    (elsewhere / path.name).write_bytes(path.read_bytes()[:SEGMENT_HEAD] + frame(b"nothing"))
    told = vault.eraser().erase(ANNA, BASIS)
    assert (told.state, told.plan.leaves) == (DONE, 12)
    assert all(vault.tag(ANNA) not in each.read_bytes() for each in (vault.yard.log_dir / "observations").rglob("*.seg"))
    assert path.read_bytes()[SEGMENT_HEAD:].startswith(frame(b"no record"))
    assert path.read_bytes().endswith(frame(b"nor this"))


@pytest.mark.parametrize("after", [False, True], ids=["before it is done", "after it is done"])
def test_a_death_at_any_step_is_mended_by_the_next_run(vault: Vault, after: bool) -> None:
    filled(vault)
    died = 0
    for at in range(20):
        who = f"{at}.{ANNA}"
        for _ in range(3):
            vault.record(who)
        vault.yard.archived()
        vault.record(who)
        steps = Steps(at, after)
        try:
            vault.eraser(steps).erase(who, BASIS)
        except Crash:
            died += 1
        vault.eraser().resume()
        vault.eraser().erase(who, BASIS)
        assert [event.subject[0] for event in vault.events("Erased")].count(f"subject/{vault.tag(who).hex()}") == 1, at
        assert envelopes(vault, who) == []
        assert vault.keys.ids_of(vault.tag(who)) == []
        if steps.taken <= at:
            break
    else:
        raise AssertionError("more steps than were tried")
    assert died >= 6
    found = vault.replay()
    assert (found.erased, found.different, found.sealed) == ((died + 1) * 4, 0, 0)


def test_a_death_between_two_steps_of_the_archive_is_mended(vault: Vault) -> None:
    filled(vault)
    targets = vault.eraser().erase(ANNA, BASIS, dry=True).plan.targets
    indexes = set(numbers_of(targets))
    for at in range(60):
        shutil.copytree(vault.yard.base / "delta", vault.yard.base / f"delta-{at}")
        store = FolderStore(vault.yard.base / f"delta-{at}")
        failing = Failing(store, at, after=bool(at % 2), dies=True)
        with suppress(Crash):
            vault.yard.archive(store=failing, state=f"a-{at}").erase(targets)
        between = Kept(store, delta_parquet)
        there = [index for name in between.names() for index in between.indexes(name) if index is not None]
        assert sorted(there) == list(range(18)), at  # each row is there once
        vault.yard.archive(store=store, state=f"b-{at}").erase(targets)
        kept = Kept(store, delta_parquet)
        rows = [row for name in kept.names() for row in kept.rows(name)]
        assert {row.log_index: row.erased for row in rows} == {index: index in indexes for index in range(18)}, at
        assert {each.key for each in store.list() if each.key.endswith(".parquet")} == set(kept.names()), at
        if failing.step < at:
            return
    raise AssertionError("more steps than were tried")


# ---- holds --------------------------------------------------------------------------------------


def test_what_is_held_waits_for_its_release(vault: Vault) -> None:
    filled(vault)
    hold = vault.eraser().hold(ANNA, "case 7")
    told = vault.eraser().erase(ANNA, BASIS)
    assert (told.state, told.plan.holds) == (QUEUED, (hold.id,))
    vault.record(ANNA)
    assert counts(vault.replay()) == (25, 0, 0, 0, 0)
    assert vault.eraser().erase(ANNA, BASIS).erasure == told.erasure
    released = vault.eraser().release(hold.id)
    assert released is not None
    assert [(each.erasure, each.state, each.plan.leaves) for each in released[1]] == [(told.erasure, DONE, 10)]
    assert counts(vault.replay()) == (15, 10, 0, 0, 0)
    kinds = [len(vault.events(kind)) for kind in ("Held", "ErasureQueued", "HoldReleased", "Erased")]
    assert kinds == [1, 1, 1, 1]
    assert vault.events("Held")[0].evidence == {"hold": hold.id, "reference": "case 7"}


def test_of_two_holds_both_must_end(vault: Vault) -> None:
    filled(vault)
    first, second = vault.eraser().hold(ANNA, "case 7"), vault.eraser().hold(ANNA, "case 8")
    assert vault.eraser().hold(ANNA, "case 7") == first
    vault.eraser().erase(ANNA, BASIS)
    assert vault.eraser().release(first.id) == (type(first)(first.id, first.tag, "case 7", False), [])
    assert counts(vault.replay())[1] == 0
    vault.eraser().release(second.id)
    assert counts(vault.replay())[1] == 9
    assert vault.eraser().release("00" * 16) is None


@pytest.mark.parametrize("at", range(4))
def test_a_hold_whose_event_was_cut_off_counts_and_is_told_by_the_next_run(vault: Vault, at: int) -> None:
    filled(vault)
    with pytest.raises(Crash):
        vault.eraser(Steps(at % 3, at == 3)).hold(ANNA, "case 7")
    hold = vault.eraser().hold(ANNA, "case 7")
    assert vault.eraser().erase(ANNA, BASIS).plan.holds == (hold.id,)
    assert len(vault.events("Held")) == 1


def test_a_hold_that_comes_between_plan_and_destruction_counts(vault: Vault) -> None:
    """Of another command: the key store itself refuses, and the erasure waits for the release."""
    filled(vault)
    with pytest.raises(Crash):
        vault.eraser(Steps(2)).erase(ANNA, BASIS)  # planned twice, nothing destroyed
    hold = Held("1" * 32, vault.tag(ANNA), "case 7", True)
    vault.keys.put_hold(hold, None)
    (told,) = vault.eraser().resume()
    assert (told.state, told.plan.holds, told.plan.destroyed) == (QUEUED, (hold.id,), "")
    assert counts(vault.replay()) == (24, 0, 0, 0, 0)
    released = vault.eraser().release(hold.id)
    assert released is not None
    assert [(each.erasure, each.state, each.plan.leaves) for each in released[1]] == [(told.erasure, DONE, 9)]
    assert [len(vault.events(kind)) for kind in ("ErasureQueued", "HoldReleased", "Erased")] == [1, 1, 1]


def test_a_hold_that_comes_before_records_in_clear_are_rewritten_counts(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key store refuses for those: they have no keys."""
    vault.record(ANNA, sealed=False)
    vault.yard.archived()
    with pytest.raises(Crash):
        vault.eraser(Steps(2)).erase(ANNA, BASIS)
    hold = Held("1" * 32, vault.tag(ANNA), "case 7", True)
    vault.keys.put_hold(hold, None)
    (told,) = vault.eraser().resume()
    assert (told.state, told.plan.holds) == (QUEUED, (hold.id,))
    assert counts(vault.replay())[1] == 0
    monkeypatch.setattr(erasing.Beside, "of_subject", lambda *_: Found(()))  # as on a cluster, by the tag alone
    assert [told.plan.leaves for told in (vault.eraser().release(hold.id) or (None, []))[1]] == [1]
    assert counts(vault.replay())[1] == 1


def test_keys_that_were_destroyed_before_a_hold_are_told_by_the_erasure_that_waited(vault: Vault) -> None:
    filled(vault)
    keys = {key.hex() for key in vault.keys.ids_of(vault.tag(ANNA))}
    with pytest.raises(Crash):
        vault.eraser(Steps(2, after=True)).erase(ANNA, BASIS)  # right after their destruction
    assert vault.keys.ids_of(vault.tag(ANNA)) == []
    hold = vault.eraser().hold(ANNA, "case 7")
    assert [told.state for told in vault.eraser().resume()] == [QUEUED]
    vault.eraser().release(hold.id)
    assert {key for event in vault.events("Erased") for key in event.evidence["keys"]} == keys


def test_an_erasure_that_cannot_be_ended_keeps_no_hold_and_no_release_waiting(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> tuple[int, int]:
        raise Stalled("Archive", "is not there")

    filled(vault)
    hold = vault.eraser().hold(BOB, "case 7")
    monkeypatch.setattr(erasing, "rewrite", fails)
    for act in (lambda: vault.eraser().erase(ANNA, BASIS), lambda: vault.eraser().release(hold.id)):
        with pytest.raises(Stalled, match="is not there"):
            act()
    assert [each.standing for each in vault.keys.holds()] == [False]
    assert vault.eraser().hold(BOB, "case 8").standing
    assert [len(vault.events(kind)) for kind in ("Held", "HoldReleased", "Erased")] == [2, 1, 0]


def test_what_was_rewritten_before_a_hold_is_told_by_the_erasure_that_waited(vault: Vault) -> None:
    filled(vault)
    planned = vault.eraser().erase(ANNA, BASIS, dry=True).plan
    with pytest.raises(Crash):
        vault.eraser(Steps(3, after=True)).erase(ANNA, BASIS)  # outboxes and archive are rewritten, and nothing is told
    assert counts(vault.replay())[1] == planned.leaves
    hold = vault.eraser().hold(ANNA, "case 7")
    assert [told.state for told in vault.eraser().resume()] == [QUEUED]
    vault.eraser().release(hold.id)
    (told,) = vault.events("Erased")
    assert told.evidence["targets"] == [list(each) for each in planned.targets]


def test_what_is_done_stays_done(vault: Vault) -> None:
    filled(vault)
    done = vault.eraser().erase(ANNA, BASIS)
    vault.keys.put_work(Work(done.erasure, QUEUED, "{}", "[]"))
    assert vault.keys.works() == vault.eraser().resume() == []
    log_before_its_end = Erased(queued={done.erasure: done.plan})
    assert reapply_keys(vault.keys, log_before_its_end).queued == 0


# ---- retention ----------------------------------------------------------------------------------


def test_a_hold_that_comes_while_retention_looks_counts_whatever_keys_are_in_its_plan(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a window that is not over no key goes, so that no key store refuses."""
    said, then = Privacy(vault.privacy.subjects, 1), NOON_NS - 2 * DAY_NS
    assert then // WINDOW_NS == NOON_NS // WINDOW_NS
    vault.record(ANNA, then)
    vault.record(BOB, then)
    older = erasing.Beside.older

    def held_meanwhile(*args: Any) -> Any:
        found = older(*args)
        vault.keys.put_hold(Held("1" * 32, vault.tag(BOB), "case 9", True), None)
        return found

    monkeypatch.setattr(erasing.Beside, "older", held_meanwhile)
    (told,) = vault.eraser(privacy=said).retain()
    assert (told.state, told.plan.targets) == (DONE, ((0, 0),))
    assert counts(vault.replay()) == (1, 1, 0, 0, 0)
    assert vault.events("Erased")[0].evidence["targets"] == [[0, 0]]


def test_retention_takes_what_is_older_and_not_held(vault: Vault) -> None:
    said = Privacy(vault.privacy.subjects, 40)
    vault.record(ANNA, NOON_NS - 2 * WINDOW_NS)
    vault.record(BOB, NOON_NS - 2 * WINDOW_NS)
    vault.yard.archived()
    vault.record("", NOON_NS - 41 * DAY_NS)
    vault.record(ANNA, NOON_NS - 39 * DAY_NS)
    vault.eraser().hold(BOB, "case 9")
    (dry,) = vault.eraser(privacy=said).retain(dry=True)
    assert (dry.state, dry.plan.targets) == ("dry", ((0, 0), (2, 2)))
    (told,) = vault.eraser(privacy=said).retain()
    assert (told.state, told.plan.leaves, told.plan.basis) == (DONE, 2, "retention")
    assert counts(vault.replay()) == (2, 2, 0, 0, 0)
    assert vault.events("Erased")[0].subject[0] == f"retention/{POINT}"
    assert len(vault.keys.ids_of(vault.tag(ANNA))) == 1  # the newer window's
    assert len(vault.keys.ids_of(vault.tag(BOB))) == 1
    assert vault.eraser(privacy=said).retain() == []
    assert vault.eraser().retain() == []


def test_a_hold_that_is_said_once_more_after_its_release_stands_no_more(vault: Vault) -> None:
    hold = vault.eraser().hold(ANNA, "case 7")
    held = list(log_entries(vault.yard.log_dir))
    vault.eraser().release(hold.id)
    entries = [*log_entries(vault.yard.log_dir), canonical({**json.loads(held[0]), "again": 1})]
    assert [standing(each, "erp") for each in (held, entries)] == [{vault.tag(ANNA)}, set()]


def test_leaves_are_looked_for_a_few_at_a_time(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many records there are of somebody: in memory is a part of them."""
    monkeypatch.setattr(erasing, "LEAVES", 2)
    at_once, shown = list[int](), erasing.Beside._shown

    def counted(beside: erasing.Beside, leaves: set[bytes]) -> set[int]:
        at_once.append(len(leaves))
        return shown(beside, leaves)

    monkeypatch.setattr(erasing.Beside, "_shown", counted)
    filled(vault)
    told = vault.eraser().erase(ANNA, BASIS)
    assert at_once == [2, 2, 2, 2, 1]
    assert (told.state, told.plan.leaves, told.records, told.rows) == (DONE, 9, 9, 6)
    assert not envelopes(vault, ANNA)
    assert vault.eraser(privacy=Privacy(vault.privacy.subjects, 1)).retain() == []


def test_what_is_archived_while_it_is_looked_for_is_found(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """While outboxes are read, which it leaves, and when the archive is."""
    filled(vault)
    kept = Vault.kept

    def archived_meanwhile() -> None:
        vault.record(ANNA)
        vault.yard.log.integrate()
        vault.yard.archived()

    def segments(_: erasing.Beside) -> list[Path]:
        archived_meanwhile()
        return []

    def read_later(vault: Vault) -> Kept:
        if len(vault.names) == 19:
            archived_meanwhile()
        return kept(vault)

    monkeypatch.setattr(erasing.Beside, "_segments", segments)
    monkeypatch.setattr(Vault, "kept", read_later)
    assert vault.eraser().erase(ANNA, BASIS).plan.leaves == 9 + 2


def test_a_log_that_is_behind_its_archive_is_told(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the subject's records would be left out without a word."""
    filled(vault)
    vault.yard.archived()
    opened = privacy_world.opened_folder
    monkeypatch.setattr(privacy_world, "opened_folder", lambda folder: SimpleNamespace(served=opened(folder).served.before(12)))
    with pytest.raises(Waiting, match="the log has 12 entries: it is behind its archive"):
        vault.eraser().erase(ANNA, BASIS)


def test_retention_of_much_is_several_erasures_one_after_another(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16,384 ranges and 16,384 keys at most each: what is scattered over a log, and what a window of a large company has."""
    monkeypatch.setattr(erasing, "RANGES_MOST", 2)
    said = Privacy(vault.privacy.subjects, 40)
    for number in range(5):
        vault.record(ANNA, NOON_NS - 2 * WINDOW_NS)
        vault.record(BOB, NOON_NS if number % 2 else NOON_NS - 2 * WINDOW_NS)
    vault.keys.keys_for(POINT, [(number.to_bytes(32, "big"), NOON_NS // WINDOW_NS - 2) for number in range(IDS_MOST)])
    vault.eraser().hold(BOB, "case 9")
    dry = vault.eraser(privacy=said).retain(dry=True)
    assert [(told.plan.targets, len(told.plan.keys)) for told in dry] == [
        (((0, 0), (2, 2)), IDS_MOST),
        (((4, 4), (6, 6)), 1),
        (((8, 8),), 0),
    ]
    done = vault.eraser(privacy=said).retain()
    assert [(told.state, told.records, len(told.plan.keys)) for told in done] == [(DONE, 2, IDS_MOST), (DONE, 2, 1), (DONE, 1, 0)]
    assert vault.keys.ids_of(vault.tag(ANNA)) == vault.keys.works() == []
    assert max(len(event.evidence["keys"]) for event in vault.events("Erased")) == 500
    assert vault.eraser(privacy=said).retain() == []


def test_retention_goes_on_without_who_is_held_since_it_was_planned(vault: Vault) -> None:
    said = Privacy(vault.privacy.subjects, 40)
    for who in (ANNA, BOB, ANNA):
        vault.record(who, NOON_NS - 2 * WINDOW_NS)
    with pytest.raises(Crash):
        vault.eraser(Steps(2), privacy=said).retain()
    vault.keys.put_hold(Held("1" * 32, vault.tag(BOB), "case 9", True), None)
    (told,) = vault.eraser(privacy=said).resume()
    assert (told.state, told.plan.targets, len(told.plan.keys)) == (DONE, ((0, 0), (2, 2)), 1)
    assert counts(vault.replay()) == (1, 2, 0, 0, 0)
    assert len(vault.keys.ids_of(vault.tag(BOB))) == 1


# ---- after a restore ----------------------------------------------------------------------------


def test_after_a_restore_erasures_are_applied_again_from_the_log(vault: Vault, tmp_path: Path) -> None:
    filled(vault)
    keys_backup, store, outboxes = vault.folder / "keys.db", vault.yard.base / "delta", vault.yard.log_dir / "observations"
    backup = tmp_path / "backup"
    for path in (store, outboxes):
        shutil.copytree(path, backup / path.name)
    vault.shut()
    shutil.copy(keys_backup, backup / "keys.db")
    vault.open()
    vault.eraser().erase(ANNA, BASIS)
    hold, later = vault.eraser().hold(BOB, "case 3"), vault.eraser().hold(ANNA, "case 4")  # she was erased before it
    vault.shut()
    for path in (store, outboxes):
        shutil.rmtree(path)
        shutil.copytree(backup / path.name, path)
    for left in vault.folder.iterdir():
        left.unlink()
    shutil.copy(backup / "keys.db", keys_backup)
    vault.open()
    assert counts(vault.replay()) == (24, 0, 0, 0, 0)  # the backup brought everything back
    vault.appends = False
    again = vault.eraser().reapply()
    assert (again.events, again.keys, again.records, again.rows, again.holds) == (1, 1, 9, 6, 2)
    assert counts(vault.replay()) == (15, 9, 0, 0, 0)
    assert envelopes(vault, ANNA) == []
    assert {(each.id, each.standing) for each in vault.keys.holds()} == {(hold.id, True), (later.id, True)}
    twice = vault.eraser().reapply()
    assert (twice.keys, twice.records, twice.rows, twice.holds) == (0, 0, 0, 0)
    assert len(vault.events("Erased")) == 1
