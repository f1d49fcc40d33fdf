"""`knhk receipt verify` and `knhk log prove` find what a private sigstore said of a policy receipt, in its resource, in the log and in an
audit bundle, and judge it offline, step by step."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from log_of_entries import ORIGIN, Written, leaf, outside
from notary_settings import ENTRY, NOW, TIMESTAMP, WHO, altered, settings
from private_stack import Stack

from knhk.adapters.signer_roles import trust
from knhk.cli import main
from knhk.lockchain import bundle_of
from knhk.model.canonical import canonical
from knhk.reconcilers.context import receipt_of, statement_of
from knhk.wiring.home import Home
from knhk.wiring.resources import open_store
from knhk.wiring.signing import keys_in, notary_in

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("sigstore"), pytest.mark.timeout(1800)]
SIGNED, STAMPED, LOGGED = "it is signed", "a timestamp authority saw the signature", "a transparency log has it"
Knhk = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(params=["files", "keyless"])
def house(request: pytest.FixtureRequest, sigstore: Stack, tmp_path: Path) -> Written:
    """A home whose log has an event, a leaf, and what the sigstore said of the event."""
    written = Written(tmp_path / "home")
    folder = tmp_path / "home" / "keys"
    settings(sigstore, folder, request.param == "keyless")
    trust(folder, keys_in(folder), sigstore.trusted_root.read_bytes(), ORIGIN, NOW)
    (written.folder / "keys.json").write_bytes(written.signer.keys_json())
    entry = written.event("Promoted")
    written.add(entry, leaf(1))
    notary = notary_in(folder)
    assert notary is not None
    with closing(notary):
        bundle = notary.notarised("rollout", entry)
    written.add(written.notarised(entry, 0, "erp/promoted-00000000", bundle))
    return written


@pytest.fixture
def knhk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Knhk:
    monkeypatch.setenv("KNHK_CACHE", str(tmp_path / "cache"))

    def call(*words: object, home: str = "home") -> tuple[int, dict[str, Any]]:
        code = main(["--home", str(tmp_path / home), *map(str, words), "-o", "json"])
        said = capsys.readouterr()
        return code, json.loads(said.out or said.err)

    return call


def bundle_in(written: Written) -> bytes:
    return bundle_of(written.served.entry(0), statement_of(written.served.entry(2).decode()))


def issuer(written: Written) -> str | None:
    """By whose word certificates are; None: keys in files sign."""
    found: str | None = json.loads((written.folder.parent / "keys" / "sigstore.json").read_text()).get("issuer")
    return found


def steps(answer: tuple[int, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By what they checked, without the file that it was in."""
    return {step["what"].partition(": ")[2] or step["what"]: step for step in answer[1]["steps"]}


def receipt(written: Written, bundle: bytes, file: Path) -> Path:
    """The Receipt as `kubectl get -o json` gives it."""
    spec = {"bundle": written.served.entry(0).decode(), "logIndex": 0}
    note = (written.folder / "checkpoint").read_text()
    spec |= {"proof": written.served.inclusion(0, note)}
    file.write_text(json.dumps({"kind": "Receipt", "spec": spec, "status": {"sigstore": bundle.decode()}}))
    return file


def test_the_log_has_it_and_each_step_is_told(house: Written, knhk: Knhk) -> None:
    code, said = answer = knhk("receipt", "verify", "0")
    assert (code, said["verified"], said["not_judged"]) == (0, True, []), said
    found = steps(answer)
    keyless = issuer(house) is not None
    assert ("a certificate's key signed it" in found) == keyless
    assert {STAMPED, LOGGED, "it is around the same statement"} <= found.keys()
    assert keyless or found[SIGNED]["key"].startswith("rollout (sigstore) ")
    assert "of localhost" in found[LOGGED]["detail"] or "of 127.0.0.1" in found[LOGGED]["detail"]
    assert [step["what"] for step in said["steps"] if "inclusion" in step["what"]] != []


def test_a_receipt_that_is_named_has_it_in_its_status(house: Written, knhk: Knhk) -> None:
    """As the home's store has it, whatever the log has."""
    entry, home = house.served.entry(0).decode(), Home(house.folder.parent)
    proof = house.served.inclusion(0, (house.folder / "checkpoint").read_text())
    with open_store(home, must_exist=False) as store:
        stored = store.create(receipt_of("erp", entry, 0, proof))
        store.update_status(replace(stored, status={"sigstore": bundle_in(house).decode()}))
    code, said = answer = knhk("receipt", "verify", "erp/promoted-00000000")
    assert code == 0, said
    assert {STAMPED, LOGGED} <= steps(answer).keys()
    with open_store(home, must_exist=False) as store:
        stored = store.get(stored.key)
        store.update_status(replace(stored, status={"sigstore": altered(bundle_in(house), *TIMESTAMP).decode()}))
    code, said = knhk("receipt", "verify", "erp/promoted-00000000")
    assert (code, said["steps"][-1]["ok"]) == (1, False)


def test_what_was_altered_is_refused_where_it_was_altered(house: Written, knhk: Knhk, tmp_path: Path) -> None:
    bundle = bundle_in(house)
    code, _ = knhk("receipt", "verify", receipt(house, bundle, tmp_path / "good.json"))
    assert code == 0
    for path in (("dsseEnvelope", "payload"), ("dsseEnvelope", "signatures", 0, "sig"), TIMESTAMP, (*ENTRY, "canonicalizedBody")):
        file = receipt(house, altered(bundle, *path), tmp_path / "altered.json")
        code, said = knhk("receipt", "verify", file)
        assert (code, said["verified"]) == (1, False), path
        assert not said["steps"][-1]["ok"]
        assert "status.sigstore" in said["steps"][-1]["what"]
    notary, mixed = notary_in(house.folder.parent / "keys"), json.loads(bundle)
    assert notary is not None
    with closing(notary):
        other = json.loads(notary.notarised("rollout", house.event("Signed")))
    mixed["verificationMaterial"]["tlogEntries"] = other["verificationMaterial"]["tlogEntries"]
    code, said = knhk("receipt", "verify", receipt(house, canonical(mixed), tmp_path / "mixed.json"))
    assert (code, said["steps"][-1]["ok"]) == (1, False), "an entry of another statement"
    keyless = issuer(house) is not None  # then sigstore-python refuses it first, in its own words
    assert keyless or "is not about what was signed" in said["steps"][-1]["detail"]
    code, said = knhk("receipt", "verify", receipt(house, outside(house.served.entry(0)), tmp_path / "nobodys.json"))
    assert (code, "must be" in said["steps"][-1]["detail"]) == (1, True)


def test_an_audit_bundle_carries_it_and_verifies_elsewhere(house: Written, knhk: Knhk, tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    code, said = knhk("log", "prove", "0", "--out", audit)
    assert code == 0, said
    assert sorted(path.name for path in (audit / "receipts").iterdir()) == ["0.json", "2.json"]
    root = base64.b64encode(house.signer.root_public()).decode()
    whom = ("--certificate-identity", WHO, "--certificate-oidc-issuer")
    keyless = issuer(house)
    asked = ("receipt", "verify", audit, "--root", root, *((*whom, keyless) if keyless else ()))
    code, said = answer = knhk(*asked, home="nowhere")
    assert code == 0, said
    assert {STAMPED, LOGGED} <= steps(answer).keys()
    if keyless:
        code, said = answer = knhk("receipt", "verify", audit, "--root", root, home="nowhere")
        outside = steps(answer)["others bear witness"]
        assert (code, outside["ok"], "not judged" in outside["detail"]) == (0, None, True)
        assert [what.partition(": ")[2] for what in said["not_judged"]] == ["others bear witness"]
        code, _ = knhk("receipt", "verify", audit, "--root", root, *whom, "https://issuer.example", home="nowhere")
        assert code == 1
    other = json.loads((audit / "trusted_root.json").read_text())
    other["tlogs"][0]["baseUrl"] = "https://other.example"
    (audit / "trusted_root.json").write_text(json.dumps(other))
    code, said = knhk(*asked, home="nowhere")
    assert (code, "as keys.json says" in said["steps"][-1]["detail"]) == (1, True)
    (audit / "trusted_root.json").unlink()
    code, said = answer = knhk(*asked, home="nowhere")
    outside = steps(answer)["others bear witness"]
    assert (code, outside["ok"], "give --trusted-root" in outside["detail"]) == (0, None, True)


def test_one_that_is_not_what_it_says_is_not_proven(house: Written, knhk: Knhk, tmp_path: Path) -> None:
    """The rollout key has signed that others bear witness, and they do not."""
    entry = house.event("RolledBack")
    house.add(entry)
    bundle = json.loads(bundle_in(house))
    bundle["dsseEnvelope"] |= {name: json.loads(entry)["dsseEnvelope"][name] for name in ("payload", "payloadType")}
    house.add(house.notarised(entry, 3, "erp/rolledback-00000003", canonical(bundle)))
    code, said = knhk("log", "prove", "3", "--out", tmp_path / "audit")
    assert code == 1, said
    assert not (tmp_path / "audit").exists()
    code, said = knhk("receipt", "verify", "3")
    assert (code, said["steps"][-1]["ok"]) == (1, False)


def test_where_no_sigstore_is_named_nothing_more_is_asked(knhk: Knhk, tmp_path: Path) -> None:
    written = Written(tmp_path / "home")
    written.add(written.event("Promoted"), leaf(1))
    code, said = knhk("receipt", "verify", "0")
    assert (code, len(said["steps"])) == (0, 4)
