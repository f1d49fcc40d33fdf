"""Erasing where no process has keys, records and the rollout key together: key service and archive as processes, an exchange that
signs, and the command between them; tests/cluster has the API server's part."""

from __future__ import annotations

import http.client
import io
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from erasing_world import BASIS, COPY, Region, recorded_for
from keys_world import KeyWorld
from privacy_world import ANNA, BOB, POINT

from knhk.adapters.erasures_remote import RemoteErasures
from knhk.adapters.signer_local import LocalSigner
from knhk.cli import main
from knhk.lockchain.events import PolicyEvent, statement
from knhk.model.faults import Stalled
from knhk.ports.caller import ERASURES_AUDIENCE
from knhk.wiring.privacy import opened
from knhk_runtime.envelope import tag_of

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
ERASED = {
    **{"erasure": "ab" * 16, "part": 1, "parts": 1, "basis": BASIS, "leaves": 1, "targets": [[0, 0]], "leafHashes": "ab" * 32},
    **{"keys": [], "destroyed": "2026-11-26T12:00:00Z", "hold": "none"},
}
WHO = "system:serviceaccount:erp:knhk-eraser"


class Died(BaseException):
    """The command was killed."""


@pytest.fixture
def region(keys: KeyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Region]:
    """Commands are run as WHO."""
    with recorded_for(keys, tmp_path, capsys, WHO, "erase") as found:
        yield found


def test_one_command_erases_a_subject_and_the_log_says_who_did(region: Region) -> None:
    region.archived()
    assert region.replayed() == (14, 0, 0, 0, 0)
    (dry,) = region.run("erase", ANNA, "--basis", BASIS, "--dry-run")["erasures"]
    assert (dry["state"], dry["leaves"], dry["keys"], dry["unsearched"]) == ("dry", 7, 1, [])
    assert region.replayed() == (14, 0, 0, 0, 0)
    (told,) = region.run("erase", ANNA, "--basis", BASIS)["erasures"]
    assert (told["state"], told["leaves"], told["keys"], told["rows"]) == ("done", 7, 1, 7)
    assert region.replayed() == (7, 7, 0, 0, 0)
    (event,) = region.events("Erased")
    assert (event.actor, event.evidence["basis"], event.evidence["leaves"]) == (WHO, BASIS, 7)
    assert [event.evidence["targets"]] == [told["targets"]]
    (again,) = region.run("erase", ANNA, "--basis", BASIS)["erasures"]
    assert (again["state"], again["leaves"], again["keys"]) == ("", 0, 0)
    assert len(region.events("Erased")) == 1
    assert region.vault.files_with(ANNA, f"log/observations/{COPY}") == []  # its last segment, too
    assert ANNA not in region.said()
    assert told["subject"] not in region.said()


def test_records_of_another_namespace_are_neither_told_nor_touched(region: Region) -> None:
    region.archived()
    region.run("erase", ANNA, "--basis", BASIS)
    remote = RemoteErasures(region.whom, "erp")
    assert remote.rewrite(((0, 13),))[1] == 6  # BOB's, which lie in this namespace; not the first, which does not
    remote.close()
    assert region.replayed() == (1, 13, 0, 0, 0)
    assert any("crm.orders" in path or "delta" in path for path in region.vault.files_with(ANNA))


def test_a_point_without_privacy_is_named_and_none_of_another_namespace(region: Region) -> None:
    region.vault.record(ANNA, source="erp.hiring", sealed=False)
    region.vault.record(ANNA, source="crm.hiring", sealed=False)
    region.archived()
    (told,) = region.run("erase", ANNA, "--basis", BASIS, code=1)["erasures"]
    assert (told["state"], told["unsearched"]) == ("done", ["erp/hiring"])


def test_retention_leaves_what_is_held_and_what_nobody_can_say_whose_it_is(region: Region) -> None:
    region.archived()
    store, remote, tomorrow_ns = opened(region.place), RemoteErasures(region.whom, "erp"), time.time_ns() + 86_400 * 10**9
    bob = tag_of(store.tags_key, BOB)
    found = [remote.older(POINT, tomorrow_ns, held, -1) for held in ((), (bob,))]
    assert [sum(last - first + 1 for first, last in each) for each in found] == [13, 6]
    assert remote.free(found[0], (bob,)) == found[1]
    assert remote.older(POINT, tomorrow_ns, (), found[0][-1][1] - 1) == ((found[0][-1][1],) * 2,)
    assert remote.older("crm/orders", tomorrow_ns, (), -1) == remote.older(POINT, 1, (), -1) == ()
    assert region.run("retain") == {"erasures": []}
    remote.close()
    store.close()


def test_what_is_held_waits_for_its_release(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    region.archived()
    hold = region.run("hold", ANNA, "--reference", "case 7")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{ANNA}\n".encode())))
    (queued,) = region.run("erase", "-", "--basis", BASIS, code=1)["erasures"]
    assert (queued["state"], queued["holds"]) == ("queued", [hold["hold"]])
    assert len(region.events("Held")) == 1  # the log shows it from now on
    remote = RemoteErasures(region.whom, "erp")
    with pytest.raises(Stalled, match="legal hold"):
        remote.rewrite(((1, 13),))
    remote.close()
    assert region.replayed() == (14, 0, 0, 0, 0)
    (told,) = region.run("release", hold["hold"])["erasures"]
    assert (told["state"], told["leaves"]) == ("done", 7)  # one of them in clear, which the name found when it was queued
    assert region.replayed() == (7, 7, 0, 0, 0)
    assert [len(region.events(kind)) for kind in ("Held", "ErasureQueued", "HoldReleased", "Erased")] == [1, 1, 1, 1]
    assert {event.actor for kind in ("Held", "HoldReleased") for event in region.events(kind)} == {WHO}


STEPS = (("rewrite", False), ("rewrite", True), ("digest", True), ("sign", True), ("append", True))


def dying(step: str, after: bool) -> Callable[..., Any]:
    """After one step is before the next."""
    real: Callable[..., Any] = getattr(RemoteErasures, step)

    def dies(self: RemoteErasures, *args: Any) -> Any:
        if after:
            real(self, *args)
        raise Died

    return dies


def test_a_command_that_is_killed_is_ended_by_the_next_wherever_that_is_killed_too(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    region.archived()
    words: tuple[str, ...] = ("erase", ANNA, "--basis", BASIS)
    for step, after in STEPS:
        with monkeypatch.context() as patch:
            patch.setattr(RemoteErasures, step, dying(step, after))
            with pytest.raises(Died):
                region.run(*words)
        words = ("erase", "--resume")
    (told,) = region.run(*words)["erasures"]
    assert (told["state"], told["leaves"], told["keys"]) == ("done", 7, 1)
    assert region.replayed() == (7, 7, 0, 0, 0)
    assert len(region.events("Erased")) == 1
    assert region.run(*words)["erasures"] == []


def test_an_archive_that_is_killed_before_it_rewrites_is_asked_again(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    region.archived()
    sent = RemoteErasures.rewrite

    def dies(self: RemoteErasures, targets: Any) -> Any:
        region.kill()
        region.begin()
        return sent(self, targets)

    monkeypatch.setattr(RemoteErasures, "rewrite", dies)
    (told,) = region.run("erase", ANNA, "--basis", BASIS)["erasures"]
    assert (told["state"], told["rows"]) == ("done", 7)
    assert region.replayed() == (7, 7, 0, 0, 0)


def test_who_may_not_erase_there_gets_nothing(region: Region) -> None:
    region.archived()
    token, api = region.whom.token, region.keys.api
    refused = {
        "of nobody who may": api.reader("reader", ("open", "erp"), audience=ERASURES_AUDIENCE),
        "of another namespace": api.reader("crm", ("erase", "crm"), audience=ERASURES_AUDIENCE),
        "of the keys' audience": api.reader(WHO, ("erase", "erp")),
        "of nobody": "nobody",
    }
    for who, given in refused.items():
        token.write_text(given)
        with pytest.raises(Stalled, match=r"erase|token"):
            print(who, RemoteErasures(region.whom, "erp").rewrite(((0, 13),)))
    assert region.replayed() == (14, 0, 0, 0, 0)


def test_only_events_of_these_kinds_that_the_operator_signed_get_into_the_log(region: Region) -> None:
    remote = RemoteErasures(region.whom, "erp")
    event = PolicyEvent(
        "Held",
        (f"subject/{'ab' * 32}", "ab" * 32),
        "somebody else",
        "2020-01-01T00:00:00Z",
        evidence={"hold": "12" * 16, "reference": "case 7"},
    )
    bundle = remote.sign(event)
    with pytest.raises(Stalled):
        remote.append(bundle.replace(b'"signatures"', b'"signatures "'))
    signer = LocalSigner(region.home.keys)
    forged = PolicyEvent("Promoted", event.subject, "me", "2026-11-26T12:00:00Z", evidence={"hold": "1"})
    for other in (signer.bundle("build", statement(event)), signer.bundle("rollout", statement(forged))):
        with pytest.raises(Stalled):
            remote.append(other)
    for wrong in (
        PolicyEvent("Promoted", event.subject, "", "", evidence={"a": 1}),
        PolicyEvent("Erased", ("pack/erp/x", "ab" * 32), "", ""),
        PolicyEvent("Erased", (f"subject/{'ab' * 32}", "cd" * 32), "", ""),
        replace(event, evidence={"hold": "1"}),
        replace(event, evidence={**event.evidence, "namespace": "crm"}),
        replace(event, evidence={**event.evidence, "reference": "case of anna@example.com"}),
        replace(event, kind="Erased", evidence={**ERASED, "targets": [[0, 1 << 40]]}),
        replace(event, kind="Erased", evidence={**ERASED, "targets": [[3, 4], [0, 1]]}),
        replace(event, kind="Erased", evidence={**ERASED, "keys": "all"}),
        PolicyEvent("Erased", ("retention/crm/orders", "ab" * 32), "", "", point="crm/orders"),
    ):
        with pytest.raises(Stalled, match="must be"):
            remote.sign(wrong)
    assert region.events("Held") == region.events("Promoted") == []
    assert remote.append(bundle) == remote.append(bundle)
    (told,) = region.events("Held")
    assert (told.actor, told.time[:4] != "2020") == (WHO, True)
    assert told.evidence == {**event.evidence, "namespace": "erp"}
    remote.close()


def test_nobody_ends_a_hold_of_another_namespace_nor_asks_for_what_the_log_has_not(region: Region) -> None:
    region.archived()
    hold = region.run("hold", ANNA, "--reference", "case 7")
    own = RemoteErasures(region.whom, "erp")
    (region.folder / "crm.token").write_text(region.keys.api.reader("crm", ("erase", "crm"), audience=ERASURES_AUDIENCE))
    other = RemoteErasures(replace(region.whom, token=region.folder / "crm.token"), "crm")
    evidence = {"hold": hold["hold"], "reference": "case 7"}
    other.append(other.sign(PolicyEvent("HoldReleased", (f"subject/{hold['subject']}", hold["subject"]), "", "", evidence=evidence)))
    assert len(region.events("HoldReleased")) == 1
    with pytest.raises(Stalled, match="legal hold"):
        own.rewrite(((1, 13),))
    for act in (own.rewrite, own.digest, lambda targets: own.free(targets, ())):
        with pytest.raises(Stalled, match="entries that the log has"):
            act(((0, (1 << 63) - 1),))
    own.close()
    other.close()
    assert region.replayed() == (14, 0, 0, 0, 0)


def test_a_namespace_that_is_none_puts_no_request_of_its_own_before_the_exchange(region: Region) -> None:
    """Else its answer would be read as that to the next question: whether somebody may erase in a namespace that is not his."""
    token = region.keys.api.reader("crm", ("erase", "crm"), audience=ERASURES_AUDIENCE)
    first = f"crm HTTP/1.1\r\nHost: exchange\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
    evil = quote(f"{first}GET /v1/erasures/crm HTTP/1.1\r\nX: ", safe="")
    assert [_status(region, token, name) for name in (evil, "erp", "crm")] == [400, 403, 200]


def _status(region: Region, token: str, namespace: str) -> int:
    at = urlsplit(region.url)
    connection = http.client.HTTPSConnection(at.hostname or "", at.port, context=ssl.create_default_context(cafile=region.keys.ca_file))
    with closing(connection):
        connection.request("GET", f"/v1/namespaces/{namespace}", headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status


def test_while_no_operator_leads_it_says_so_and_changes_nothing(region: Region) -> None:
    region.archived()
    region.kill()
    region.exchange = "https://127.0.0.1:9"
    region.begin()
    said = region.run("erase", ANNA, "--basis", BASIS, code=3)
    assert "does an operator lead?" in said
    assert region.replayed() == (14, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--kubeconfig", "risk.conf"), "--namespace"),
        (("--kubeconfig", "risk.conf", "-n", "erp", "--archive", "./delta"), "--archive"),
        (("--kubeconfig", "risk.conf", "-n", "erp", "--key-service", "https://keys.example:8448"), "--kubeconfig"),
        (("--erasures", "https://log.example:8449"), "--erasures"),
        (("-n", "erp"), "--namespace"),
        (("--account", "knhk-eraser"), "--account"),
    ],
)
def test_what_does_not_go_together_is_named(words: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["receipt", "erase", ANNA, "--basis", BASIS, *words]) == 2
    assert named in capsys.readouterr().err
