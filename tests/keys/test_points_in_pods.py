"""Where there is a key service guards are told of it; where there is none, a point with privacy says what is missing."""

from __future__ import annotations

from typing import Any, cast

import pytest

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.placement_kube import KubePlacement
from knhk.adapters.system import SystemClock
from knhk.model.faults import Stalled
from knhk.ports.placement import Placement
from knhk_templates.kubernetes.guard import Guard, Surroundings, guard_of

IMAGE = "registry.test/knhk-agent@sha256:" + "0" * 64
URL = "https://knhk-keys.knhk-system.svc:8448"
SPEC: dict[str, Any] = {"mode": "Sidecar", "attributes": {}, "listen": {"port": 8080}, "upstream": {"host": "127.0.0.1", "port": 9000}}
PRIVACY = {"privacy": {"subjects": [{"attribute": "sub"}]}}


def test_a_point_with_privacy_says_that_there_is_no_key_service() -> None:
    nobody = cast(Any, None)
    placement = KubePlacement(cast(Placement, nobody), cast(KubeClient, nobody), Surroundings(IMAGE), SystemClock())
    with pytest.raises(Stalled, match=r"spec\.privacy: needs a key service") as said:
        placement.ensure("erp/orders", SPEC | PRIVACY)
    assert said.value.reason == "NoKeyService"


def told(guard: Guard) -> tuple[list[str], list[str]]:
    """Arguments of the agent about keys, and audiences of the tokens that it has."""
    arguments = [word for word in guard.containers[0]["args"] if word.startswith("--keys")]
    (volume,) = [volume for volume in guard.volumes if volume["name"] == "knhk-token"]
    return arguments, [source["serviceAccountToken"]["audience"] for source in volume["projected"]["sources"]]


def test_guards_have_a_token_for_keys_where_there_is_a_key_service() -> None:
    with_keys = told(guard_of("orders", SPEC, Surroundings(IMAGE, keys=URL), native=True))
    assert with_keys == ([f"--keys={URL}", "--keys-token=/var/run/secrets/knhk/keys-token"], ["exchange.knhk.dev", "keys.knhk.dev"])
    assert told(guard_of("orders", SPEC, Surroundings(IMAGE), native=True)) == ([], ["exchange.knhk.dev"])
