"""Who may open and erase in a namespace does it by the same commands as in a home, against the key service."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_world import until
from keys_world import KeyWorld
from privacy_world import ANNA, BOB, POINT, Vault, counts
from sealed_vault import sealed_vault

from knhk.cli import main
from knhk.model.faults import Stalled
from knhk.reconcilers.lineage import Wanted, kept_of
from knhk.wiring.archive import opened_folder
from knhk.wiring.home import Home
from knhk.wiring.privacy import KeyPlace, opened, unsealer
from knhk.wiring.replays import archived
from knhk_runtime.envelope import tag_of

pytestmark = pytest.mark.server


@pytest.fixture
def place(keys: KeyWorld) -> KeyPlace:
    """As somebody who may open and erase in erp."""
    given = keys.base / "privacy.token"
    given.write_text(keys.api.reader("privacy", ("open", "erp"), ("erase", "erp")))
    return KeyPlace(keys.url, "erp", given, keys.ca_file)


@pytest.fixture
def vault(tmp_path: Path, keys: KeyWorld) -> Iterator[Vault]:
    """Records about ANNA and BOB of an agent that seals by the key service."""
    made = sealed_vault(keys, keys.api.guard(POINT, "one"), tmp_path)
    for number in range(12):
        made.record((ANNA, BOB)[number % 2], time.time_ns())
    yield made
    made.sealer.close()
    if made.appends:
        made.yard.close()


def options(place: KeyPlace) -> list[str]:
    return ["--key-service", place.url, "--key-token", str(place.token), "--key-ca", str(place.authority)]


def test_replay_and_erasure_by_the_service_are_as_by_a_store_of_the_home(vault: Vault, place: KeyPlace) -> None:
    vault.yard.archived()
    assert (
        counts(vault.replay(unsealer(place, needed=True))) == counts(vault.replay_archive(unsealer(place, needed=True))) == (12, 0, 0, 0, 0)
    )
    store: Any = opened(place)
    vault.keys = store
    held = vault.eraser().hold(ANNA, "case 7")
    assert vault.eraser().erase(ANNA, "GDPR 17(1)(b)").state == "queued"
    released = vault.eraser().release(held.id)
    assert released is not None
    assert [(told.state, told.plan.leaves) for told in released[1]] == [("done", 6)]
    assert counts(vault.replay(unsealer(place))) == counts(vault.replay_archive(unsealer(place))) == (6, 6, 0, 0, 0)
    assert [len(vault.events(kind)) for kind in ("Held", "ErasureQueued", "HoldReleased", "Erased")] == [1, 1, 1, 1]
    store.close()


def test_a_reader_asks_for_many_keys_at_once(vault: Vault, keys: KeyWorld, place: KeyPlace) -> None:
    """One request for all of these people, whether their keys are there or destroyed; lineage asks for none of other people."""
    people = [f"{number}.planted@example.com" for number in range(100)]
    for who in people:
        vault.record(who)
    vault.yard.archived()
    store: Any = opened(place)
    for who in people[:10]:
        store.destroy("e" * 32, store.ids_of(tag_of(store.tags_key, who)))

    def requests(act: Callable[[], object]) -> int:
        before = keys.said().count('"opened"')
        act()
        return keys.said().count('"opened"') - before

    def replayed(replay: Callable[[Any], Any]) -> None:
        reader = unsealer(place, needed=True)
        assert counts(replay(reader)) == (102, 10, 0, 0, 0)
        reader.close()

    assert requests(lambda: replayed(vault.replay)) == 1
    assert requests(lambda: replayed(vault.replay_archive)) == 1
    reader, log = unsealer(place, needed=True), opened_folder(vault.yard.log_dir).served
    wanted = Wanted(people[50], frozenset((tag_of(store.tags_key, people[50]).hex(),)))
    rows = ((where, leaf, record) for where, leaf, record in archived(str(vault.yard.base / "delta"), log) if record is not None)
    assert requests(lambda: kept_of(rows, wanted, reader)) == 1
    assert '"namespace": "erp", "keys": 1}' in keys.said().rstrip().rpartition("\n")[2]
    for each in (reader, store):
        each.close()


def test_a_connection_that_the_service_has_closed_ends_no_command(vault: Vault, keys: KeyWorld, place: KeyPlace) -> None:
    store = opened(place)
    tag = tag_of(store.tags_key, ANNA)
    keys.kill()
    keys.start()
    assert len(store.ids_of(tag)) == 1
    store.close()


def test_a_reader_of_another_namespace_opens_nothing(vault: Vault, keys: KeyWorld, place: KeyPlace) -> None:
    place.token.write_text(keys.api.reader("other", ("open", "crm")))
    with pytest.raises(Stalled, match="cannot open resource"):
        vault.replay(unsealer(place, needed=True))


def test_records_of_other_namespaces_are_sealed_and_no_difference(vault: Vault, keys: KeyWorld, place: KeyPlace) -> None:
    crm = keys.api.guard("crm/orders", "two")
    assert keys.ask("GET", "/v1/points/crm/orders/tags-key", crm).status == 200
    place.token.write_text(keys.api.reader("crm", ("open", "crm")))
    found = vault.replay(unsealer(KeyPlace(place.url, "crm", place.token, place.authority)))
    assert counts(found) == (0, 0, 12, 0, 0)


def test_commands_export_and_erase_against_the_service(
    vault: Vault, keys: KeyWorld, place: KeyPlace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.yard.log.integrate()
    vault.yard.close()
    vault.appends = False
    home = Home(vault.yard.base)
    home.sockets.mkdir(mode=0o700)
    command = [sys.executable, "-m", "knhk_runtime.sequencer", "--dir", str(home.log), "--socket", str(home.sequencer_socket)]
    origin = (home.log / "checkpoint").read_text().partition("\n")[0]
    sequencer = subprocess.Popen([*command, "--origin", origin, "--key", str(home.keys / "log.key")], stderr=subprocess.DEVNULL)
    try:
        until(home.sequencer_socket.exists, "the log is there")

        def run(*words: str) -> Any:
            capsys.readouterr()
            code = main(["--home", str(home.root), *words, *options(place), "-o", "json"])
            said = capsys.readouterr()
            assert code == 0, said.err + said.out
            return json.loads(said.out)

        rows = run("receipt", "lineage", ANNA, "-n", "erp")["rows"]
        assert [row["record"] for row in rows if row["what"] == "decision"] == ["clear"] * 6
        exported = run("receipt", "export", "--subject", ANNA, "-n", "erp", "--reason", "request 7", "--out", str(tmp_path / "anna"))
        assert (exported["records"], exported["unreadable"]) == (6, 0)
        assert ANNA in next((tmp_path / "anna" / "records").glob("*.json")).read_text()
        (told,) = run("receipt", "erase", ANNA, "--basis", "GDPR 17(1)(b)", "--key-namespace", "erp")["erasures"]
        assert (told["state"], told["leaves"], told["keys"]) == ("done", 6, 1)
        again = run("receipt", "export", "--subject", BOB, "-n", "erp", "--reason", "request 8", "--out", str(tmp_path / "bob"))
        assert (again["records"], again["unreadable"]) == (6, 0)

        def lineage(who: str) -> list[str]:
            """Kinds of events, and how records are kept; under the newest checkpoint, which follows what was appended."""
            rows = run("receipt", "lineage", who, "-n", "erp")["rows"]
            return [row["record"] if row["what"] == "decision" else row["kind"] for row in rows]

        until(lambda: lineage(BOB) == ["clear"] * 6 + ["SubjectExported"], "the log shows what was appended last")
        assert lineage(ANNA) == ["SubjectExported", "Erased"]
    finally:
        sequencer.terminate()
        sequencer.wait()
        shutil.rmtree(home.sockets, ignore_errors=True)


def test_options_of_a_key_service_come_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["receipt", "lineage", ANNA, "-n", "erp", "--key-service", "https://keys.example:8448"]) == 2
    assert "--key-token" in capsys.readouterr().err


def test_a_file_that_holds_no_authority_is_named(tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    for name in ("junk", "missing"):
        with pytest.raises(Stalled, match=f"{name}: must hold the authority"):
            opened(KeyPlace("https://keys.example:8448", "erp", tmp_path / "token", tmp_path / name))
