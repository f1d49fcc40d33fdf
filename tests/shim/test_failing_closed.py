"""Rings that fill, agents that are silent, packs that are not what they say, processes that are killed."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shim_native import build_pack, envoy_binary, shim_module, store
from shim_rig import Rig, rig, token, wait_for
from shim_ring import all_records, drain, word

pytestmark = pytest.mark.server


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, workers=1) as made:
        yield made


def test_a_full_ring_is_503_without_receipt_until_it_is_drained(point: Rig) -> None:
    point.configure(build_pack(point.packs))
    body = b"x" * 900_000
    answers = [point.post(body) for _ in range(8)]
    full = [answer for answer in answers if answer.status == 503]
    assert full
    assert len(full) < 8
    assert {(answer.reason, answer.receipt) for answer in full} == {("ring-full", None)}
    assert len(point.app.seen) == 8 - len(full)
    (ring,) = point.rings.glob("*.ring")
    assert word(ring, 256) == len(full)
    for _ in range(12):  # round the ring more than once
        drain(ring)
        answer = point.post(body)
        assert answer.status == 200
        assert all_records(point.rings)[str(answer.receipt)].o.body == body


def test_a_silent_agent_is_503_with_a_receipt_until_it_drains(point: Rig) -> None:
    point.configure(build_pack(point.packs), agentGraceSeconds=1)
    answer = wait_for("the grace to end", lambda: (got := point.post(b"fine")).status == 503 and got)
    assert answer.reason == "agent-silent"
    assert all_records(point.rings)[str(answer.receipt)].enforced.kind == "UNAVAILABLE"
    (ring,) = point.rings.glob("*.ring")
    drain(ring)
    assert point.post(b"fine").status == 200


def test_failure_open_goes_on_and_says_so(point: Rig) -> None:
    point.configure(build_pack(point.packs), agentGraceSeconds=1, failure="Open")

    def flagged() -> bool:
        answer = point.post(b"fine")
        assert answer.status == 200
        return all_records(point.rings)[str(answer.receipt)].enforced.flags == 16

    assert wait_for("the flag", flagged)
    assert point.post(b"bad").status == 403


def _flip(point: Rig) -> dict[str, Any]:
    good = build_pack(point.packs, revision=1)
    data = bytearray(good.read_bytes())
    data[len(data) // 2] ^= 1
    good.chmod(0o600)
    good.write_bytes(data)
    return point.settings(good)


def _settings(change: Callable[[dict[str, Any]], object]) -> Callable[[Rig], dict[str, Any]]:
    def made(point: Rig) -> dict[str, Any]:
        settings = point.settings(build_pack(point.packs))
        change(settings)
        return settings

    return made


def _writable(point: Rig) -> dict[str, Any]:
    pack = build_pack(point.packs, revision=2)
    pack.chmod(0o666)
    return point.settings(pack)


def _link(point: Rig) -> dict[str, Any]:
    real = build_pack(point.folder / "rings", revision=3)
    (point.packs / real.name).symlink_to(real)
    return point.settings(point.packs / real.name)


def _bundle(point: Rig, data: bytes, name: str | None = None) -> dict[str, Any]:
    path = store(point.packs, data, ".bnd")
    return point.settings(build_pack(point.packs), bundle={"path": str(path), "sha256": name or path.stem})


BROKEN: dict[str, tuple[Callable[[Rig], dict[str, Any]], str]] = {
    "flipped bit in the pack": (_flip, "another sha256"),
    "pack that is not there": (lambda p: p.settings(p.packs / ("0" * 64 + ".so")), "No such file"),
    "pack named by another digest": (_settings(lambda s: s["stable"].update(sha256="0" * 64)), "named by its sha256"),
    "relative path": (_settings(lambda s: s["stable"].update(path="x/" + "0" * 64 + ".so")), "absolute path"),
    "pack that others may write": (_writable, "only its owner may write"),
    "pack behind a link": (_link, "Too many levels of symbolic links"),
    "text instead of a pack": (lambda p: p.settings(store(p.packs, b"text", ".so")), "dlopen"),
    "library that is no pack": (lambda p: p.settings(store(p.packs, shim_module().read_bytes(), ".so")), "knhk_pack_v1"),
    "pack of another ABI": (lambda p: p.settings(build_pack(p.packs, abi=1)), "pack ABI 1, must be 2"),
    "pack whose A no agent takes": (lambda p: p.settings(build_pack(p.packs, a_max=(128 << 10) + 1)), "out of bounds"),
    "bundle that cannot be bound": (lambda p: _bundle(p, b"no bundle"), "cannot be bound"),
    "bundle of another digest": (lambda p: _bundle(p, b"KNHKBND2", "0" * 64), "named by its sha256"),
    "ring too small": (_settings(lambda s: s.update(ringBytes=1 << 20)), "ringBytes"),
    "ring of odd size": (_settings(lambda s: s.update(ringBytes=(4 << 20) + 4096)), "power of two"),
    "no ring folder": (_settings(lambda s: s.update(ringDir="/nowhere/rings")), "No such file"),
    "weight above 1000": (_settings(lambda s: s.update(weight=1001)), "weight"),
    "unknown mode": (_settings(lambda s: s.update(mode="Party")), "mode"),
    "unknown member": (_settings(lambda s: s.update(extra=1)), "extra"),
    "missing member": (_settings(lambda s: s.pop("salt")), "salt"),
    "attribute twice": (_settings(lambda s: s["attributes"].append(s["attributes"][0])), "twice"),
    "attribute called action": (_settings(lambda s: s["attributes"].append({"name": "action", "filterState": "x"})), "action"),
    "sticky attribute that is none": (_settings(lambda s: s.update(stickyAttribute="nobody")), "stickyAttribute"),
    "quote in a text": (_settings(lambda s: s.update(problemBase='https://x/"')), "problemBase"),
}


def test_whatever_is_wrong_is_refused_and_the_old_pack_stays(point: Rig) -> None:
    good = build_pack(point.packs)
    point.configure(good)
    rings = sorted(point.rings.glob("*.ring"))
    for name, (broken, says) in BROKEN.items():
        log = (point.folder / "envoy.log").stat().st_size
        before = point.stat("rejected")
        point.publish(broken(point))
        wait_for(f"{name}: refused", lambda before=before: point.stat("rejected") > before)
        assert says in (point.folder / "envoy.log").read_text()[log:], name
        assert (point.post(b"fine").status, point.post(b"bad").status) == (200, 403), name
    assert sorted(point.rings.glob("*.ring*")) == rings, "a refused configuration leaves no ring"
    point.configure(build_pack(point.packs, "bad,fine"))
    assert wait_for("a right one is taken", lambda: point.post(b"fine").status == 403)


def test_without_a_configuration_nothing_passes(point: Rig) -> None:
    point.publish(point.settings(point.packs / ("0" * 64 + ".so")))
    point.start()
    answer = point.post(b"fine")
    assert answer.status == 500
    assert point.app.seen == []


def test_validation_makes_no_rings(point: Rig) -> None:
    point.configure(build_pack(point.packs))
    config = json.loads((point.folder / "ecds.json").read_text())["resources"][0]["typed_config"]
    bootstrap = json.loads((point.folder / "envoy.json").read_text())
    filters = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    filters[2] = {"name": "knhk", "typed_config": config}
    before = sorted(point.rings.iterdir())

    def validate() -> int:
        path = point.folder / "validate.json"
        path.write_text(json.dumps(bootstrap))
        return subprocess.run(
            [str(envoy_binary()), "--mode", "validate", "-c", str(path)], capture_output=True, timeout=60, check=False
        ).returncode

    assert validate() == 0
    assert sorted(point.rings.iterdir()) == before
    config["filter_config"]["value"] = config["filter_config"]["value"].replace('"weight":0', '"weight":2000')
    assert validate() != 0


def test_replaced_generations_are_closed_and_keep_what_they_hold(point: Rig) -> None:
    point.configure(build_pack(point.packs))
    receipt = point.post(b"fine").receipt
    (first,) = point.rings.glob("*.ring")
    point.configure(build_pack(point.packs, "bad,fine"))
    wait_for("the old ring is closed", lambda: word(first, 384) == 1)
    (second,) = set(point.rings.glob("*.ring")) - {first}
    assert word(second, 384) == 0
    assert str(receipt) in all_records(point.rings)


@pytest.mark.parametrize("round_number", range(3))
def test_killed_in_traffic_every_admitted_request_has_its_leaf(tmp_path: Path, round_number: int) -> None:
    with rig(tmp_path) as point:
        point.configure(build_pack(point.packs))
        enough = threading.Event()

        def client(number: int) -> None:
            for n in range(100_000):
                try:
                    answer = point.post(b"fine %d %d" % (number, n), auth=f"user-{number}")
                except OSError:
                    return
                except Exception:  # a torn answer of a killed Envoy
                    return
                assert answer.status == 200
                if len(point.app.seen) > 60 + 40 * round_number:
                    enough.set()

        clients = [threading.Thread(target=client, args=(number,)) for number in range(6)]
        for one in clients:
            one.start()
        assert enough.wait(60)
        point.kill()
        for one in clients:
            one.join()
        leaves = all_records(point.rings)
        assert set(point.app.receipts()) <= set(leaves)
        assert len(leaves) - len(set(point.app.receipts())) <= len(clients)
        for receipt, body in zip(point.app.receipts(), point.app.bodies(), strict=True):
            assert leaves[receipt].o.body == body
            assert leaves[receipt].enforced.verdict == "ADMIT"


def test_restarted_envoy_makes_rings_of_its_own(point: Rig) -> None:
    point.configure(build_pack(point.packs))
    receipts = [point.post(b"fine").receipt]
    point.kill()
    point.start()
    receipts.append(point.post(b"fine").receipt)
    assert len(list(point.rings.glob("*.ring"))) == 2
    assert set(receipts) == set(all_records(point.rings))


def test_token_is_never_forwarded(point: Rig) -> None:
    point.configure(build_pack(point.packs))
    point.post(b"fine", headers={"authorization": f"Bearer {token()}"}, auth=None)
    assert "authorization" not in point.app.seen[0][2]
