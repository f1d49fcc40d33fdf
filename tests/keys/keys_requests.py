"""What readers ask the key service."""

from __future__ import annotations

import json
import time

from keys_world import KeyWorld

from knhk_runtime import keys_wire
from knhk_runtime.envelope import window_of
from knhk_runtime.keys_wire import State

POINT, KEYS, OPEN = "erp/orders", "/v1/points/erp/orders/keys", "/v1/namespaces/erp/open"


def now() -> int:
    return window_of(time.time_ns())


def opened(keys: KeyWorld, reader: str, *ids: bytes) -> list[tuple[State, bytes]]:
    answer = keys.ask("POST", OPEN, reader, b"".join(ids))
    assert answer.status == 200, answer
    return list(keys_wire.parse_open(answer.body, len(ids)))


def did(keys: KeyWorld, reader: str, act: str, **told: object) -> dict[str, object]:
    answer = keys.ask("POST", f"/v1/namespaces/erp/store/{act}", reader, json.dumps(told).encode())
    assert answer.status == 200, answer
    found: dict[str, object] = json.loads(answer.body)
    return found
