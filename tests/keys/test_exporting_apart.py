"""Lineage and export where no process has keys, records and the rollout key together: key service and archive as processes, an exchange
that signs, and the command between them."""

from __future__ import annotations

import html
import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from erasing_world import Region, recorded_for
from keys_world import KeyWorld
from privacy_world import ANNA, BOB

from knhk.adapters.erasures_remote import RemoteErasures, RemoteExports
from knhk.adapters.signer_local import establish
from knhk.cli import main
from knhk.lockchain.events import PolicyEvent
from knhk.model.faults import Stalled
from knhk.ports.caller import ERASURES_AUDIENCE
from knhk.wiring.privacy import opened
from knhk_runtime.envelope import tag_of

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
WHO = "system:serviceaccount:erp:knhk-exporter"
REASON = "access request 2026-17"
ROWS = ("export", "--subject", ANNA, "--reason", REASON)


@pytest.fixture
def region(keys: KeyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Region]:
    """Commands are run as WHO, who may open and export."""
    with recorded_for(keys, tmp_path, capsys, WHO, "export") as found:
        yield found


def test_all_about_a_subject_is_exported_opened_and_verifies(region: Region, tmp_path: Path) -> None:
    region.archived()
    rows = region.asked("lineage", ANNA)["rows"]
    assert [row["record"] for row in rows if row["what"] == "decision"] == ["clear"] * 7
    assert region.events("SubjectExported") == []
    out = tmp_path / "out"
    made = region.asked(*ROWS, "--out", str(out))
    assert (made["written"], made["records"], made["unreadable"]) == (7, 7, 0)
    (event,) = region.events("SubjectExported")
    assert (event.actor, event.evidence["reason"], event.evidence["namespace"]) == (WHO, REASON, "erp")
    written = [json.loads(file.read_text()) for file in sorted((out / "records").iterdir())]
    assert len(written) == 7
    assert all(ANNA in json.dumps(record) for record in written)
    assert not any(BOB in file.read_text() for file in out.rglob("*.json"))
    root = region.home.keys / "root.pub"
    assert main(["receipt", "verify", str(out), "--root", str(root), "--keys", str(out / "keys.json")]) == 0
    assert ANNA not in region.said()
    again = region.asked("lineage", ANNA)["rows"]
    assert [row["kind"] for row in again if row["what"] == "subject"] == ["SubjectExported"]


def test_rows_of_lineage_are_those_that_the_desk_gives(region: Region) -> None:
    region.archived()
    one, remote, store = region.asked("lineage", ANNA)["rows"], RemoteExports(region.whom, "erp"), opened(region.place)
    note, tag = remote.begin().note, tag_of(store.tags_key, ANNA)
    assert [copy.index for copy in remote.records(tag, ANNA, (), note)] == [row["index"] for row in one if row["what"] == "decision"]
    remote.close()
    store.close()


def test_what_is_more_than_a_page_is_exported_whole(keys: KeyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1,101 records of ANNA: a page has 1,024."""
    with recorded_for(keys, tmp_path, capsys, WHO, "export", sealed=2200) as region:
        region.archived()
        made = region.asked(*ROWS, "--out", str(tmp_path / "out"))
        assert (made["written"], made["records"], made["unreadable"], made["missing"]) == (1101, 1101, 0, [])
        numbers = {int(file.stem) for file in (tmp_path / "out" / "records").iterdir()}
        assert numbers == {1, *range(2, 2202, 2)}
        assert region.said().count('"event": "exported"') == 2


def test_consents_under_another_key_that_the_service_knows_are_found_by_name(region: Region) -> None:
    """The namespace got its Secret, or another one, after the first record was sealed."""
    region.archived()
    region.keys.api.secrets["erp"] = b"s" * 32
    region.consents(b"s" * 32)
    found = region.asked("lineage", ANNA)
    assert ([row["kind"] for row in found["rows"] if row["what"] == "consent"], found["missing"]) == (["ConsentGranted"], [])
    assert len(found["rows"]) == 8
    store = opened(region.place)
    sealed = tag_of(store.tags_key, ANNA).hex()
    store.close()
    for tag, rows in ((sealed, 6), (tag_of(b"s" * 32, ANNA).hex(), 1)):
        found = region.asked("lineage", tag, "--tag", code=1)
        assert len(found["rows"]) == rows
        assert "a tag finds what is under one of them" in found["missing"][0]


def test_consents_whose_key_the_service_does_not_know_are_said_to_be_missing(region: Region, tmp_path: Path) -> None:
    region.archived()
    region.consents(b"c" * 32, "crm")
    assert region.asked("lineage", ANNA)["missing"] == []  # of another namespace
    region.consents(b"s" * 32)
    found = region.asked("lineage", ANNA, code=1)
    assert len(found["rows"]) == 7
    assert "must be able to read Secret knhk-subjects" in found["missing"][0]
    made = region.asked(*ROWS, "--out", str(tmp_path / "out"), code=1)
    assert made["missing"] == found["missing"]
    assert json.loads((tmp_path / "out" / "subject.json").read_text())["missing"] == found["missing"]
    assert f"Missing: {found['missing'][0]}." in html.unescape((tmp_path / "out" / "index.html").read_text())


def test_consents_under_the_one_key_of_a_namespace_are_found_and_nothing_is_missing(region: Region) -> None:
    """Whether or not the service may read the Secret that the key came from."""
    region.archived()
    store = opened(region.place)
    region.consents(store.tags_key)
    store.close()
    found = region.asked("lineage", ANNA)
    assert ([row["kind"] for row in found["rows"] if row["what"] == "consent"], found["missing"]) == (["ConsentGranted"], [])


def test_lineage_is_verified_down_to_the_pinned_root(region: Region, tmp_path: Path) -> None:
    region.archived()
    root = str(region.home.keys / "root.pub")
    found = region.asked("lineage", ANNA, "--verify", "--root", root)
    assert (found["verified"], [row["verified"] for row in found["rows"]]) == (True, [True] * 7)
    assert sum(step["what"].endswith("O and A are what the leaf commits to") for step in found["steps"]) == 7
    other = establish(tmp_path / "other", "log.example/other", datetime.now(UTC))
    found = region.asked("lineage", ANNA, "--verify", "--root", str(tmp_path / "other" / "root.pub"), code=1)
    assert (found["verified"], other.root_public() != b"") == (False, True)


def test_of_another_namespace_nothing_is_told(region: Region) -> None:
    """One record of ANNA, in clear, is of crm/orders."""
    region.archived()
    wheres = [row["where"] for row in region.asked("lineage", ANNA)["rows"]]
    assert not any("crm.orders" in where for where in wheres)


def test_who_may_not_export_there_gets_nothing(region: Region) -> None:
    region.archived()
    token, api = region.whom.token, region.keys.api
    refused = {
        "of who may erase": api.reader("eraser", ("open", "erp"), ("erase", "erp"), audience=ERASURES_AUDIENCE),
        "of another namespace": api.reader("crm", ("export", "crm"), audience=ERASURES_AUDIENCE),
        "of the keys' audience": api.reader(WHO, ("export", "erp")),
        "of nobody": "nobody",
    }
    note = RemoteExports(region.whom, "erp").begin().note
    for who, given in refused.items():
        token.write_text(given)
        remote = RemoteExports(region.whom, "erp")
        with pytest.raises(Stalled, match=r"export|token"):
            print(who, remote.begin())
        with pytest.raises(Stalled, match=r"export|token"):
            print(who, list(remote.records(bytes(32), ANNA, (), note)))
        with pytest.raises(Stalled, match=r"export|token"):
            print(who, list(remote.events(bytes(32), (), note)))
        remote.close()


def test_who_may_export_neither_erases_nor_signs_erasures(region: Region) -> None:
    region.archived()
    erasures, exports = RemoteErasures(region.whom, "erp"), RemoteExports(region.whom, "erp")
    with pytest.raises(Stalled, match="erase"):
        erasures.rewrite(((0, 13),))
    held = PolicyEvent("Held", (f"subject/{'ab' * 32}", "ab" * 32), "", "", evidence={"hold": "12" * 16, "reference": "case 7"})
    with pytest.raises(Stalled, match="SubjectExported"):
        exports.sign(held)
    erasures.close()
    exports.close()
    assert region.replayed() == (14, 0, 0, 0, 0)


def test_a_namespace_that_is_none_is_refused(region: Region) -> None:
    token = region.keys.api.reader("crm", ("export", "crm"), audience=ERASURES_AUDIENCE)
    head = f"crm HTTP/1.1\r\nHost: exchange\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
    evil = quote(f"{head}GET /v1/exports/crm HTTP/1.1\r\nX: ", safe="")
    names = (evil, "erp%2F..%2Fcrm", "%65rp", "erp", "crm")
    assert [_status(region, token, name) for name in names] == [400, 400, 403, 403, 200]


def _status(region: Region, token: str, namespace: str) -> int:
    at = urlsplit(region.url)
    connection = http.client.HTTPSConnection(at.hostname or "", at.port, context=ssl.create_default_context(cafile=region.keys.ca_file))
    with closing(connection):
        connection.request("GET", f"/v1/namespaces/{namespace}/export", headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status


def test_an_export_that_is_cut_off_writes_nothing_and_is_begun_again(
    region: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region.archived()
    out, real = tmp_path / "out", RemoteExports.events

    def dies(self: RemoteExports, *args: Any) -> Any:
        region.kill()
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteExports, "events", dies)
        region.asked(*ROWS, "--out", str(out), code=3)
    assert not out.exists()
    region.begin()
    assert region.events("SubjectExported") == []
    assert region.asked(*ROWS, "--out", str(out))["records"] == 7


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--kubeconfig", "risk.conf", "--archive", "./delta"), "--archive"),
        (("--kubeconfig", "risk.conf", "--key-service", "https://keys.example:8448"), "--kubeconfig"),
        (("--erasures", "https://log.example:8449"), "--erasures"),
        (("--account", "knhk-exporter"), "--account"),
    ],
)
def test_what_does_not_go_together_is_named(words: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["receipt", "lineage", ANNA, *words]) == 2
    assert named in capsys.readouterr().err
