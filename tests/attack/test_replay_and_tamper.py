"""On a real home: whatever is altered, signed by the wrong key, old, or used twice is refused or reported, with what and where.

It is never enforced: what ran before goes on, and wrong requests are still denied.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attack_world import House
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from system_world import AGENT, ENVOY, until

from knhk.adapters.signer_local import LocalSigner
from knhk.model.canonical import canonical
from knhk.model.faults import Corrupt, Refused
from knhk.wiring.packs import host_arch, keys_under
from knhk_runtime.packstore import PackStore
from knhk_runtime.signatures import ROLLOUT
from knhk_verify.errors import Bad
from knhk_verify.signed import KEYS, keyid, pae

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("attack-house")]

SEED = 20261123
FLIPS = 6


def flipped(data: bytes, chance: random.Random) -> bytes:
    made = bytearray(data)
    made[chance.randrange(len(made))] ^= 1 << chance.randrange(8)
    return bytes(made)


def put(path: Path, data: bytes) -> None:
    """As the control plane writes: by rename."""
    path.with_suffix(".attack").write_bytes(data)
    path.with_suffix(".attack").rename(path)


@contextmanager
def altered(path: Path, data: bytes) -> Iterator[None]:
    """The file with other bytes, its own again afterwards."""
    before, mode = path.read_bytes(), path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)
        path.chmod(mode)


@pytest.fixture
def frozen(house: House) -> Iterator[House]:
    """The control plane stands still, so that nobody mends what is altered; then it goes on and everything is as it was."""
    until(lambda: house.ready().get("status") == "True", "the point is ready")
    before = {path: path.read_bytes() for path in desired(house).glob("*.json")}
    control = house.control()
    os.kill(control, signal.SIGSTOP)
    try:
        yield house
    finally:
        for path, data in before.items():
            put(path, data)
        os.kill(control, signal.SIGCONT)


def desired(house: House) -> Path:
    return house.private.parent / "desired"


def refusals(house: House) -> list[dict[str, str]]:
    return list(house.statistics().get("refused", []))


def refused(house: House, *words: str) -> dict[str, str]:
    """The refusal that holds all these words; what and where are told."""

    def look() -> dict[str, str]:
        found = (one for one in refusals(house) if all(word in json.dumps(one) for word in words))
        return next(found, {})

    found = until(look, f"a refusal with {words}, of {refusals(house)}", 15.0)
    assert found["where"]
    assert found["must"]
    return found


def running(house: House) -> tuple[Any, ...]:
    told = house.statistics()
    return told["epoch"], json.dumps(told["running"], sort_keys=True)


def assert_guarded(house: House) -> None:
    """Wrong is denied and right is admitted, as before. While the slower tier of a fresh agent starts, a right one may be parked first."""
    since = len(house.rows)
    assert house.post(house.body(currency="XXQ")).status == 403
    admitted = until(lambda: (answer := house.post(house.body())).status != 202 and answer, "a decision")
    assert admitted.status == 201
    house.assert_rows_right(since)
    assert len(house.rows) == since + 1


# ---- documents -------------------------------------------------------------------------------------

SIGNED_AS = {"point.json": "pointConfig", "envoy.json": "bootstrap"}  # by members of the rollout document


@pytest.mark.failure("operator", "traffic")
@pytest.mark.parametrize("name", ["keys.json", "point.json", "envoy.json", "rollout.json"])
def test_flipped_bits_in_documents(frozen: House, name: str) -> None:
    """A document with any bit flipped is refused by the agent with its file, and what runs goes on."""
    path, chance, before = desired(frozen) / name, random.Random(SEED), running(frozen)
    right, where = path.read_bytes(), (name, SIGNED_AS.get(name, name))
    for _ in range(FLIPS):
        put(path, flipped(right, chance))
        until(lambda: any(word in one["where"] for one in refusals(frozen) for word in where), f"{name} is refused")
        assert running(frozen) == before
    assert_guarded(frozen)


def envelope(signer: LocalSigner, role: str, kind: str, document: dict[str, Any]) -> bytes:
    return canonical(signer.sign(role, kind, canonical(document)))


def document_of(house: House) -> dict[str, Any]:
    payload = json.loads((desired(house) / "rollout.json").read_bytes())["payload"]
    document: dict[str, Any] = json.loads(base64.b64decode(payload))
    return document


Change = Callable[[dict[str, Any]], dict[str, Any]]
ROLLOUTS: dict[str, tuple[str, Change, tuple[str, ...]]] = {
    "signed by the build key": ("build", lambda d: d | {"epoch": d["epoch"] + 1}, ("rollout.json", "role rollout")),
    "signed by the log key": ("log", lambda d: d | {"epoch": d["epoch"] + 1}, ("rollout.json", "role rollout")),
    "an older epoch": ("rollout", lambda d: d | {"epoch": d["epoch"] - 1}, ("epoch", "older")),
    "the same epoch twice": ("rollout", lambda d: d | {"weight": 7}, ("epoch", "ALARM")),
    "of another point": ("rollout", lambda d: d | {"epoch": d["epoch"] + 1, "point": "erp/payroll"}, ("point", "erp/payroll")),
    "of another log": (
        "rollout",
        lambda d: d | {"epoch": d["epoch"] + 1, "origin": "attacker.example/log"},
        ("origin", "attacker.example"),
    ),
    "for another point.json": ("rollout", lambda d: d | {"epoch": d["epoch"] + 1, "pointConfig": "0" * 64}, ("pointConfig", "0000")),
    "for another envoy.json": ("rollout", lambda d: d | {"epoch": d["epoch"] + 1, "bootstrap": "0" * 64}, ("bootstrap", "0000")),
    "for no envoy.json": ("rollout", lambda d: d | {"epoch": d["epoch"] + 1, "bootstrap": None}, ("bootstrap", "None")),
    "of before envoy.json was signed": (
        "rollout",
        lambda d: {k: v for k, v in d.items() if k != "bootstrap"} | {"epoch": d["epoch"] + 1},
        ("members", "bootstrap"),
    ),
    "with a member more": ("rollout", lambda d: d | {"epoch": d["epoch"] + 1, "admit": "all"}, ("members", "admit")),
    "with an epoch that is a text": ("rollout", lambda d: d | {"epoch": str(d["epoch"] + 1)}, ("epoch", "0 or more")),
}


@pytest.mark.failure("signer", "rollout")
@pytest.mark.parametrize("case", ROLLOUTS)
def test_wrong_rollout_documents(frozen: House, case: str) -> None:
    """A rollout document of another role, epoch, point or log is refused and told, however well it is signed."""
    role, change, words = ROLLOUTS[case]
    before = running(frozen)
    signer = LocalSigner(frozen.home / "keys")
    put(desired(frozen) / "rollout.json", envelope(signer, role, ROLLOUT, change(document_of(frozen))))
    refused(frozen, *words)
    assert running(frozen) == before
    assert_guarded(frozen)


def keys_document(house: House) -> dict[str, Any]:
    payload = json.loads((desired(house) / "keys.json").read_bytes())["payload"]
    document: dict[str, Any] = json.loads(base64.b64decode(payload))
    return document


def signed_by(key: Ed25519PrivateKey, document: dict[str, Any]) -> bytes:
    payload = canonical(document)
    signature = {"keyid": keyid(key.public_key().public_bytes_raw()), "sig": base64.b64encode(key.sign(pae(KEYS, payload))).decode()}
    return canonical({"payload": base64.b64encode(payload).decode(), "payloadType": KEYS, "signatures": [signature]})


@pytest.mark.failure("signer", "seen")
@pytest.mark.parametrize("case", ["another root", "smaller serial", "expired", "signed by the build key"])
def test_wrong_keys(frozen: House, case: str) -> None:
    """keys.json of another root, an older one, or one past its time is refused: the root that the agent pinned alone says who may sign."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    def load(role: str) -> Ed25519PrivateKey:
        key = load_pem_private_key((frozen.home / "keys" / f"{role}.key").read_bytes(), None)
        assert isinstance(key, Ed25519PrivateKey)
        return key

    document, before = keys_document(frozen), running(frozen)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    made, words = {
        "another root": (signed_by(Ed25519PrivateKey.generate(), document), ("keys.json", "root")),
        "signed by the build key": (signed_by(load("build"), document), ("keys.json", "root")),
        "smaller serial": (signed_by(load("root"), document | {"serial": document["serial"] - 1}), ("keys.json", "serial")),
        "expired": (signed_by(load("root"), document | {"serial": document["serial"] + 1, "expires": yesterday}), ("keys.json", "expired")),
    }[case]
    put(desired(frozen) / "keys.json", made)
    refused(frozen, *words)
    assert running(frozen) == before
    assert_guarded(frozen)


def test_the_control_plane_mends_what_was_altered(house: House) -> None:
    """What an intruder writes over a published document is written anew; the point is ready again by itself."""
    path = desired(house) / "rollout.json"
    put(path, b"{}")
    until(lambda: path.read_bytes() != b"{}", "the document is published again")
    until(lambda: house.statistics().get("epoch") == document_of(house)["epoch"], "the agent runs the published epoch")
    assert_guarded(house)


# ---- registry --------------------------------------------------------------------------------------


def blobs_of(house: House) -> dict[str, Path]:
    """Every blob that the agent reads for the running document, by what it is."""
    registry, document = house.home / "registry", document_of(house)
    made: dict[str, Path] = {}

    def blob(digest: str) -> Path:
        return registry / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def walk(what: str, digest: str) -> None:
        made[what] = blob(digest)
        try:
            found = json.loads(made[what].read_bytes())
        except ValueError:
            return
        for child in found.get("manifests", ()):
            if child.get("platform", {}).get("architecture") == host_arch():
                walk(f"{what} manifest", child["digest"])
        for number, layer in enumerate(found.get("layers", ())):
            made[f"{what} layer {number}"] = blob(layer["digest"])

    walk("image index", document["stable"]["digest"])
    walk("data manifest", document["data"]["digest"])
    for entry in json.loads((registry / "index.json").read_bytes())["manifests"]:
        subject = entry.get("annotations", {}).get("dev.knhk.subject", "")
        if subject in (document["stable"]["digest"], document["data"]["digest"]) and "cosign" in json.dumps(entry):
            walk(f"signature of {'pack' if subject == document['stable']['digest'] else 'data'}", entry["digest"])
    return made


def fetch(house: House, document: dict[str, Any]) -> None:
    """Pack and bundle of a rollout document, verified as the agent does."""
    folder = house.home / "keys"
    keys = keys_under(folder, base64.b64decode((folder / "root.pub").read_text()))
    store = PackStore(house.home / "registry")
    store.fetch_pack(document["stable"]["digest"], host_arch(), keys)
    store.fetch_bundle(document["data"]["digest"], keys)


@pytest.mark.failure("registry", "traffic")
@pytest.mark.failure("registry", "seen")
def test_flipped_bits_in_the_registry(frozen: House) -> None:
    """Index, manifest, shared object, plan, signature, data bundle: each flipped bit is refused; the old pack goes on."""
    chance, before, document = random.Random(SEED), running(frozen), document_of(frozen)
    blobs = blobs_of(frozen)
    assert len(blobs) >= 10, sorted(blobs)
    rollout = desired(frozen) / "rollout.json"
    for what, path in blobs.items():
        right = path.read_bytes()
        for _ in range(FLIPS):
            with altered(path, flipped(right, chance)), pytest.raises((Corrupt, Refused, Bad)) as caught:
                fetch(frozen, document)
            assert path.name[:12] in str(caught.value) or "sha256" in str(caught.value), f"{what}: {caught.value}"
        with altered(path, flipped(right, chance)):
            put(rollout, rollout.read_bytes())
            refused(frozen, path.name)
            assert running(frozen) == before, what
    assert_guarded(frozen)


# ---- what Envoy loads ------------------------------------------------------------------------------


def says(data: bytes) -> Any:
    """A file's bytes; of a configuration what it says, but for the time until which it holds: a rollout that is renewed moves it."""
    try:
        found = json.loads(json.loads(data)["resources"][0]["typed_config"]["filter_config"]["value"])
    except (ValueError, LookupError):
        return data
    return {name: value for name, value in found.items() if name != "notAfterNs"}


@pytest.mark.failure("disk", "traffic")
@pytest.mark.parametrize("name", [".so", ".bnd", "ecds.json"])
def test_flipped_bits_in_what_envoy_loads(house: House, name: str) -> None:
    """A restarted Envoy never loads an altered pack, bundle or configuration: nothing passes until it is mended, and it is told."""
    chance, since = random.Random(SEED), len(house.rows)
    config = json.loads(json.loads((house.private / "ecds.json").read_bytes())["resources"][0]["typed_config"]["filter_config"]["value"])
    path = {".so": Path(config["stable"]["path"]), ".bnd": Path(config["bundle"]["path"]), "ecds.json": house.private / "ecds.json"}[name]
    until(lambda: house.ready().get("status") == "True", "the point is ready")
    right, mode = path.read_bytes(), path.stat().st_mode
    agent = house.pids()[AGENT]
    os.kill(agent, signal.SIGSTOP)  # else it mends the file before Envoy reads it
    try:
        path.chmod(0o600)
        put(path, flipped(right, chance))
        path.chmod(mode)
        old = house.kill(ENVOY)
        house.until_restarted(ENVOY, old)
        until(lambda: "update rejected" in (house.private.parent / "envoy.log").read_text(), "Envoy refuses what was altered")
    finally:
        os.kill(agent, signal.SIGCONT)

    def passes() -> bool:
        try:
            return house.post(house.body()).status == 201
        except (OSError, AssertionError):
            return False

    until(passes, "the altered file is mended and the point answers again", 60.0)
    until(lambda: says(path.read_bytes()) == says(right), "the file is as it was")
    house.assert_rows_right(since)
    assert_guarded(house)
    assert path.name in (house.private.parent / "agent.log").read_text(), "the agent's log names the altered file"


# ---- decisions -------------------------------------------------------------------------------------


@pytest.mark.failure("agent", "traffic")
def test_a_late_decision_passes_once(house: House) -> None:
    """While the agent is silent a cold request is parked; its decision passes the same request once, and nothing else ever."""
    since, caller = len(house.rows), "clerk-001"
    document = house.envelope(preceding=[{"code": "INV-1"}])
    body = json.dumps(document).encode()
    agent = house.pids()[AGENT]
    os.kill(agent, signal.SIGSTOP)
    try:
        parked = house.post(body)
    finally:
        os.kill(agent, signal.SIGCONT)
    assert parked.status == 202
    assert len(parked.decision) == 32
    decision = f"knhk-decision: {parked.decision}"
    others = [
        house.post(json.dumps(house.envelope(preceding=[{"code": "INV-1"}], code="X")).encode(), more=(decision,)),
        house.post(body, caller="clerk-002", more=(decision,)),
        house.post(body, "POST /invoices/x-1/approve HTTP/1.1", more=(decision,)),
        house.post(house.body(currency="XXQ", preceding=[{"code": "INV-1"}]), more=(decision,)),
    ]
    house.assert_kept_out(since, others, "another request with that decision")

    def repeated() -> int:
        return house.post(body, caller=caller, more=(decision,)).status

    status = until(lambda: (answer := repeated()) != 202 and answer, "the decision is made")
    again = house.post(body, more=(decision,))
    assert (status, again.status) in ((201, 403), (403, 403))
    assert len(house.rows) == since + (status == 201)
    house.assert_rows_right(since)


# ---- the log ---------------------------------------------------------------------------------------


@pytest.mark.failure("disk", "receipts")
def test_flipped_bits_in_the_log(house: House, tmp_path: Path) -> None:
    """Checkpoint, tiles, entries, observations, keys and meta: each flipped bit is found by `knhk log verify`, which names the file."""
    house.down()
    try:
        copy = tmp_path / "log"
        shutil.copytree(house.home / "log", copy)
    finally:
        house.up()
    house.until_answering()
    chance = random.Random(SEED)
    assert house.knhk("log", "verify", str(copy))["bad"] == []
    files = [path for path in sorted(copy.rglob("*")) if path.is_file() and path.stat().st_size and path.name != "lock"]
    kinds: dict[str, list[Path]] = {}
    for path in files:
        kinds.setdefault("/".join(path.relative_to(copy).parts[:2]), []).append(path)
    assert {kind.split("/")[0] for kind in kinds} >= {"checkpoint", "tile", "observations", "keys.json", "meta.json"}
    for kind, paths in kinds.items():
        if kind.startswith("wal"):
            continue
        path = chance.choice(paths)
        with altered(path, flipped(path.read_bytes(), chance)):
            told = house.knhk("log", "verify", str(copy), expect=1)
        text = json.dumps(told)
        named = "keys.json" if path.name == "root.pub" else path.name  # with another root it is the keys that do not verify
        assert named in text, f"{kind}: {path} is not named in {text[:500]}"


@pytest.mark.failure("sequencer", "seen")
def test_flipped_bits_in_what_the_sequencer_starts_from(house: House) -> None:
    """A sequencer never goes on from an altered checkpoint: `knhk up` says which file, and nothing is left running."""
    house.down()
    try:
        path = house.home / "log" / "checkpoint"
        with altered(path, flipped(path.read_bytes(), random.Random(SEED))):
            told = house.knhk("up", "--timeout-s", "30", expect=3)
        assert path.name in json.dumps(told), told
        assert house.pids() == {}
    finally:
        house.up()
    house.until_answering()
    assert_guarded(house)


def test_a_receipt_of_another_is_none(house: House) -> None:
    """Receipts verify one by one; an id with a digit changed is unknown."""
    answer = house.post(house.body(currency="XXQ"))
    house.assert_leaves([answer.receipt])
    assert house.knhk("receipt", "verify", answer.receipt)
    changed = answer.receipt[:-1] + ("0" if answer.receipt[-1] != "0" else "1")
    other = f"{int(answer.receipt, 16) ^ (1 << 100):032x}"
    assert other != changed
    house.knhk("receipt", "verify", other, expect=1)


def test_nothing_wrong_was_stored(house: House) -> None:
    """After all of it: every row is admissible, has a receipt of its own, and that receipt's leaf says ADMIT."""
    receipts = [row.header("knhk-receipt")[0] for row in house.rows]
    assert len(receipts) == len(set(receipts))
    admitted: set[str] = set()

    def logged() -> bool:
        admitted.update(leaf.receipt_id.hex() for leaf in house.leaves() if leaf.mode == 1 and leaf.verdict == 1)
        return admitted.issuperset(receipts)

    until(logged, "each row has its ADMIT leaf")
