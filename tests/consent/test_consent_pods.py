"""Consents on their way to a pod: the exchange hands them out, the courier writes them, and only the point's own pods get them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from exchange_world import Callers, Served, exchange

from knhk.adapters.certificates import new_authority
from knhk_runtime.courier.courier import Courier
from knhk_runtime.courier.identity import Identity
from knhk_runtime.courier.mirror import Mirror
from knhk_runtime.exchange.watch import Folders
from knhk_runtime.http1 import Https

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]
POINT = "ats/candidates"
WITHIN_S, LOOK_S = 120.0, 0.02
BASE = bytes(range(48))


def envelope(number: int, base: bytes | None) -> bytes:
    """As far as a courier reads it."""
    named = None if base is None else {"sha256": hashlib.sha256(base).hexdigest(), "subjects": 2}
    payload = base64.b64encode(json.dumps({"epoch": number, "base": named}).encode()).decode()
    return json.dumps({"payload": payload}).encode()


def publish(served: Served) -> None:
    served.fleet.publish_keys(POINT, b"keys")
    served.fleet.publish_config(POINT, b"point")
    served.fleet.publish_document(POINT, b"{}")


async def until(true: Callable[[], bool]) -> None:
    for _ in range(int(WITHIN_S / LOOK_S)):
        if true():
            return
        await asyncio.sleep(LOOK_S)
    raise AssertionError("it is not so")


def test_a_pod_gets_consents_and_their_base_once(tmp_path: Path) -> None:
    callers, authority = Callers(), new_authority(datetime.now(UTC))
    (tmp_path / "token").write_text(callers.add(POINT, "one"))
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    folders = Folders(tmp_path / "pod")
    folders.state.mkdir(parents=True)
    consents, base = folders.desired / "consents.json", folders.desired / "consents.bin"

    def holds(path: Path, data: bytes) -> bool:
        return path.exists() and path.read_bytes() == data

    async def story(served: Served) -> None:
        identity = Identity(tmp_path / "token", tmp_path / "ca.crt", folders.state)
        mirror = Mirror(folders, bytes(32), tmp_path / "registry", "amd64", None)
        courier = Courier(Https.of(served.url, identity.trusting), identity, mirror, lambda: 0.0)
        running = asyncio.create_task(courier.run())
        try:
            await until(lambda: holds(folders.desired / "rollout.json", b"{}"))
            assert not consents.exists()
            served.fleet.publish_consents(POINT, envelope(1, BASE), BASE)
            await until(lambda: holds(consents, envelope(1, BASE)))
            assert base.read_bytes() == BASE, "the base comes before the document that names it"
            there = base.stat().st_ino
            served.fleet.publish_consents(POINT, envelope(2, BASE), None)
            await until(lambda: holds(consents, envelope(2, BASE)))
            assert base.stat().st_ino == there
            served.fleet.publish_consents(POINT, envelope(3, BASE[:24]), BASE[:24])
            await until(lambda: holds(consents, envelope(3, BASE[:24])))
            assert base.read_bytes() == BASE[:24]
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await courier.last_word(1.0)

    with exchange(tmp_path / "points", authority, callers) as served:
        publish(served)
        asyncio.run(story(served))


def test_a_base_is_for_the_pods_of_its_point(tmp_path: Path) -> None:
    with exchange(tmp_path / "points") as served:
        mine, other = served.callers.add(POINT, "one"), served.callers.add("ats/others", "two")
        publish(served)
        served.fleet.publish_consents(POINT, envelope(1, BASE), BASE)
        target = f"/v1/points/{POINT}/consents/{hashlib.sha256(BASE).hexdigest()}"
        assert served.ask("GET", target, mine).body == BASE
        assert served.ask("GET", target, other).status == 403
        assert served.ask("GET", target).status == 401
        assert served.ask("GET", f"/v1/points/{POINT}/consents/{'0' * 64}", mine).status == 404
