"""A person of a home has one tag, and lineage says which rows it cannot find for want of a key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from privacy_world import ANNA, NOON_NS, Vault

from knhk.adapters.signer_local import LocalSigner
from knhk.cli import main
from knhk.lockchain import PolicyEvent, statement
from knhk.model.consents import SECRET, SECRET_KEY
from knhk.model.subjects import tag_of
from knhk.model.times import rfc3339
from knhk.reconcilers.consent_book import subject_key
from knhk.wiring.home import Home
from knhk.wiring.subject_key import Made
from knhk_runtime.sequencer.wire import parse_event

EVIDENCE = {"purpose": "https://example.com/p", "controller": "Example Ltd", "basis": "consent", "consent": "c", "by": "tests", "after": -1}
Asked = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def asked(vault: Vault, capsys: pytest.CaptureFixture[str]) -> Asked:
    """`knhk receipt lineage` of the vault as a home: exit code, answer, standard error."""
    vault.yard.log.integrate()

    def run(*words: str) -> tuple[int, dict[str, Any], str]:
        vault.yard.log.integrate()
        code = main(["--home", str(vault.yard.base), "receipt", "lineage", *words, "-o", "json"])
        said = capsys.readouterr()
        return code, json.loads(said.out), said.err

    return run


def consents(vault: Vault, key: bytes, namespace: str = "erp") -> None:
    """An event that Anna consents to something, under the tag that a key makes."""
    tag = tag_of(key, ANNA)
    event = PolicyEvent("ConsentGranted", (f"consent/{namespace}/{tag}", tag), "local:ada", rfc3339(NOON_NS), evidence=EVIDENCE)
    vault.yard.log.commit([parse_event(LocalSigner(vault.yard.base / "keys").bundle("rollout", statement(event)))])


def key_of(vault: Vault, namespace: str = "erp") -> bytes:
    return subject_key(Made(Home(vault.yard.base)), namespace)


def own_key(vault: Vault, namespace: str = "erp") -> Path:
    """A key of a namespace as older homes have it."""
    path = vault.yard.base / "secrets" / namespace / SECRET / SECRET_KEY
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    path.write_bytes(b"k" * 32)
    return path


def kinds(answer: dict[str, Any]) -> list[str]:
    return [row["kind"] for row in answer["rows"]]


def test_what_is_sealed_and_what_is_consented_to_have_one_tag(vault: Vault, asked: Asked) -> None:
    vault.record(ANNA)
    consents(vault, key_of(vault))
    for words in ((ANNA, "-n", "erp"), (ANNA,), (vault.tag(ANNA).hex(), "--tag"), (vault.tag(ANNA).hex(), "--tag", "-n", "erp")):
        code, answer, said = asked(*words)
        assert (code, kinds(answer), answer["missing"], said) == (0, ["DECISION", "ConsentGranted"], [], ""), words


def test_the_key_store_is_made_for_who_asks_for_the_key_of_tags_first(tmp_path: Path) -> None:
    found = {subject_key(Made(Home(tmp_path)), namespace) for namespace in ("ats", "erp")}
    assert len(found) == 1
    assert found == {subject_key(Made(Home(tmp_path)), "hr")}


def test_a_key_that_a_namespace_has_stays_and_a_tag_says_what_it_cannot_find(vault: Vault, asked: Asked) -> None:
    own_key(vault)
    vault.record(ANNA)
    consents(vault, key_of(vault))
    assert key_of(vault) == b"k" * 32
    code, answer, said = asked(ANNA, "-n", "erp")
    assert (code, kinds(answer), said) == (0, ["DECISION", "ConsentGranted"], "")
    for tag, kind in ((vault.tag(ANNA).hex(), "DECISION"), (tag_of(b"k" * 32, ANNA), "ConsentGranted")):
        code, answer, said = asked(tag, "--tag", "-n", "erp")
        assert (code, kinds(answer)) == (1, [kind])
        assert "a tag finds what is under one of them" in answer["missing"][0]
        assert json.loads(said)["note"] == answer["missing"][0]


def test_a_namespace_that_was_not_named_or_whose_key_cannot_be_read_is_told(vault: Vault, asked: Asked) -> None:
    path = own_key(vault)
    vault.record(ANNA)
    consents(vault, key_of(vault))
    code, answer, said = asked(ANNA)
    assert (code, kinds(answer)) == (1, ["DECISION"])
    assert answer["missing"][0].startswith("consents of erp are not searched (name one by --namespace)")
    assert json.loads(said)["note"] == answer["missing"][0]
    path.chmod(0o644)
    code, answer, _ = asked(ANNA, "-n", "erp")
    assert code == 1
    assert "chmod 600" in answer["missing"][0]


def test_a_key_store_that_cannot_be_used_is_told_where_something_is_sealed(vault: Vault, asked: Asked) -> None:
    number = vault.record(ANNA)
    vault.shut()
    shutil.rmtree(vault.folder)
    code, answer, _ = asked(ANNA)
    assert (code, kinds(answer)) == (1, [])
    assert answer["missing"][0].startswith("sealed records, erasures and holds are not searched")
    code, answer, said = asked((b"RING0001" + number.to_bytes(8, "big")).hex())  # of a receipt nothing is missing
    assert (code, kinds(answer), said) == (0, ["DECISION"], "")
    vault.open()


def test_where_nothing_needs_a_key_nothing_is_missing(vault: Vault, asked: Asked) -> None:
    vault.record(ANNA, sealed=False)
    vault.shut()
    shutil.rmtree(vault.folder)
    code, _, said = asked(ANNA)
    assert (code, said) == (0, "")
    vault.open()
