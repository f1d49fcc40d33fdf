"""Nothing unverified reaches Envoy; every refusal says what and where, and what runs goes on running."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from agent_world import World, ecds, shim_config, until

from knhk.model.waves import position

pytestmark = pytest.mark.server


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(bytes(data))


def refused(world: World, *words: str) -> dict[str, str]:
    """The refusal that holds all these words, once the agent tells it."""
    found: dict[str, str] = until(
        lambda: next((r for r in world.stats().get("refused", []) if all(word in json.dumps(r) for word in words)), None),
        f"refusal with {words}: {world.stats().get('refused')}",
    )
    return found


@pytest.fixture
def up(world: World) -> World:
    """An agent that runs epoch 1."""
    world.desire(world.sign(world.rollout()))
    world.start_agent()
    world.runs(1)
    return world


def test_a_document_becomes_files_by_digest_and_the_shims_configuration(up: World) -> None:
    data = hashlib.sha256(b"KNHKBND2 only its digest matters here").hexdigest()
    canary = up.rollout(mode="Canary", weight=100, candidate=up.pack("1.1.0"), data={"name": "roles", "digest": up.packs.data})
    up.desire(up.sign(canary))
    stats = up.runs(2)
    assert stats["running"] == {"stable": up.packs.digests["1.0.0"], "candidate": up.packs.digests["1.1.0"], "data": up.packs.data}
    config = shim_config(up)
    assert (config["mode"], config["weight"], config["bundle"]["sha256"]) == ("Canary", 100, data)
    for arm in ("stable", "candidate"):
        path = Path(config[arm]["path"])
        assert path.parent == up.point / "private"
        assert path.stem == config[arm]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert config["evaluator"] == stats["evaluator"]
    assert (up.point / "private").stat().st_mode & 0o777 == 0o700
    assert (up.point / "run" / "agent.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("instance", "beyond", "inside"), [("uid-one", 1, True), ("uid-one", 0, False), ("", 2**32, False)])
def test_a_canary_in_a_wave_is_in_its_instances_only(world: World, instance: str, beyond: int, inside: bool) -> None:
    """The bound is one above the instance's own position, or at it; who does not know who it is stays out."""
    canary = world.rollout(mode="Canary", weight=100, candidate=world.pack("1.1.0"))
    below = min(2**32, position(canary["salt"], instance) + beyond)
    world.desire(world.sign({**canary, "wave": below}))
    world.start_agent(instance=instance)
    stats, config = world.runs(1), shim_config(world)
    assert stats["inWave"] is inside
    assert stats["running"]["candidate"] == (world.packs.digests["1.1.0"] if inside else None)
    assert (config["mode"], config["weight"], config["candidate"] is not None) == (
        ("Canary", 100, True) if inside else ("Stable", 0, False)
    )
    assert config["epoch"] == 1
    rollback = world.rollout()
    world.desire(world.sign(rollback))
    assert (world.runs(2)["inWave"], shim_config(world)["mode"]) == (None, "Stable")


WRONG: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"epoch": 0}, ("epoch", "must be 1 or more")),
    ({"epoch": 1, "weight": 7}, ("epoch", "must be used once", "ALARM")),
    ({"point": "erp/other"}, ("point", "erp/orders")),
    ({"origin": "knhk.dev/elsewhere"}, ("origin", "knhk.dev/test")),
    ({"weight": 1001}, ("weight", "0 to 1000")),
    ({"wave": 1}, ("wave", "in mode Canary only")),
    ({"mode": "Canary", "wave": 2**32 + 1}, ("wave", "must be 0 to 4294967296")),
    ({"surprise": True}, ("members", "surprise")),
    ({"pointConfig": "00" * 32}, ("pointConfig", "SHA-256 of point.json")),
    ({"notAfter": "tomorrow"}, ("notAfter", "tomorrow")),
]


def test_a_wrong_document_is_refused_and_the_old_one_goes_on(up: World) -> None:
    before = ecds(up)
    for change, words in WRONG:
        up.desire(up.sign(up.rollout(**change)))
        refused(up, *words)
    assert ecds(up) == before
    assert up.stats()["epoch"] == 1
    up.desire(up.sign(up.rollout(weight=9)))
    assert up.runs(up.epoch)["ready"]


def test_an_older_epoch_is_refused_after_a_restart_too(up: World) -> None:
    old = (up.point / "desired" / "rollout.json").read_bytes()
    up.desire(up.sign(up.rollout()))
    up.runs(2)
    up.stop_all()
    up.desire(old)
    up.start_agent()
    refused(up, "epoch", "must be 2 or more")
    assert up.runs(2)["running"]["stable"] == up.packs.digests["1.0.0"]


def test_another_document_of_an_epoch_is_refused_after_a_restart_too(up: World) -> None:
    up.stop_all()
    other = up.rollout(weight=7, epoch=1)
    up.desire(up.sign(other))
    before = ecds(up)
    (up.point / "stats.json").unlink()
    up.start_agent()
    refused(up, "epoch", "must be used once", "ALARM")
    assert (ecds(up), up.runs(1)["ready"]) == (before, True)


def test_altered_and_wrongly_signed_documents_are_refused(up: World) -> None:
    good = json.loads(up.sign(up.rollout(weight=3)))
    payload = bytearray(base64.b64decode(good["payload"]))
    payload[10] ^= 1
    up.desire(json.dumps({**good, "payload": base64.b64encode(bytes(payload)).decode()}).encode())
    refused(up, "rollout.json", "altered")
    up.desire(up.sign(up.rollout(), role="build"))
    refused(up, "rollout.json", "none is a key allowed here")
    altered = up.packs.signer.keys_json().replace(b'"sig":"', b'"sig":"A', 1)
    up.desire(json.dumps(good).encode(), keys=altered)
    refused(up, "keys.json")
    up.desire(b"{", keys=altered)  # files are replaced one by one: the right document must be gone before the right keys come
    up.desire(b"{", keys=up.packs.signer.keys_json())
    refused(up, "rollout.json", "JSON")
    assert up.stats()["epoch"] == 1


def test_every_blob_of_a_pack_is_checked_before_anything_is_written(up: World) -> None:
    before = sorted(p.name for p in (up.point / "private").iterdir())
    candidate = up.packs.digests["1.1.0"]
    blobs = up.registry / "blobs" / "sha256"
    index = json.loads((blobs / candidate[7:]).read_bytes())
    manifest = index["manifests"][0]["digest"]
    so = json.loads((blobs / manifest[7:]).read_bytes())["layers"][0]["digest"]
    mended = dict[Path, bytes]()
    for digest in (candidate, manifest, so):  # as they are read, and each damaged before the last one is mended: no look finds all whole
        path = blobs / digest[7:]
        whole = path.read_bytes()
        flip(path, len(whole) // 2)
        for before_it, data in mended.items():
            before_it.write_bytes(data)
        mended = {path: whole}
        up.desire(up.sign(up.rollout(mode="Shadow", candidate=up.pack("1.1.0"))))
        found = refused(up, digest[7:])
        assert str(path) in found["where"]
        assert sorted(p.name for p in (up.point / "private").iterdir()) == before
    path.write_bytes(whole)
    up.desire(up.sign(up.rollout(mode="Shadow", candidate=up.pack("1.1.0"))))
    assert up.runs(up.epoch)["running"]["candidate"] == candidate


def test_a_mended_registry_is_taken_without_being_told(up: World) -> None:
    path = up.registry / "blobs" / "sha256" / up.packs.digests["1.1.0"][7:]
    path.rename(up.base / "away")
    up.desire(up.sign(up.rollout(stable=up.pack("1.1.0"))))
    refused(up, path.name, "missing")
    (up.base / "away").rename(path)
    assert up.runs(2)["running"]["stable"] == up.packs.digests["1.1.0"]


def test_an_altered_bundle_is_refused(up: World) -> None:
    blobs = up.registry / "blobs" / "sha256"
    layer = json.loads((blobs / up.packs.data[7:]).read_bytes())["layers"][0]["digest"]
    flip(blobs / layer[7:], 3)
    up.desire(up.sign(up.rollout(data={"name": "roles", "digest": up.packs.data})))
    assert str(blobs / layer[7:]) in refused(up, layer[7:])["where"]
    assert shim_config(up)["bundle"] is None


def test_a_pack_under_another_name_is_refused(up: World) -> None:
    up.desire(up.sign(up.rollout(stable={**up.pack("1.0.0"), "version": "2.0.0"})))
    refused(up, "erp/invoices 2.0.0")


def test_a_registry_that_is_gone_does_not_stop_what_runs(up: World) -> None:
    up.stop_all()
    up.registry.rename(up.base / "away")
    up.start_agent()
    refused(up, "missing")
    assert up.runs(1)["running"]["stable"] == up.packs.digests["1.0.0"]
