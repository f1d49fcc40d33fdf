"""The key service beside a real API server: its own account, real tokens of a guard's pod and of a reader, and an agent that seals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("agent", "keys"))
from agent_world import World, make_packs
from control_plane import Cluster
from guarded_pods import make_pod, token_of
from keys_requests import KEYS, OPEN, now
from keys_world import KeyWorld
from sealing_agent import NAME, files_with, ids, put, start
from waiting import until

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.serving_certificates import ServingCertificates
from knhk.adapters.system import SystemClock
from knhk.ports.caller import KEYS_AUDIENCE
from knhk_runtime import keys_wire
from knhk_runtime.keys_wire import State

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
COMPONENT = Path(__file__).parents[2] / "manifests" / "components" / "keys"
OWN, WITHIN_S = "knhk-system", 240.0
ACCOUNT = f"system:serviceaccount:{OWN}:knhk-keys"
READER = "system:serviceaccount:erp:default"


@pytest.fixture
def service(ours: KubeClient, cluster: Cluster, servers: dict[str, Path], tmp_path: Path) -> Iterator[KeyWorld]:
    def kubectl(*words: str) -> None:
        subprocess.run([str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", *words], check=True, capture_output=True)

    for file in ("rbac", "people"):
        kubectl("apply", "--server-side", "-f", str(COMPONENT / f"{file}.yaml"))
    for file in ("statefulset", "network-policy"):
        kubectl("apply", "--server-side", "--dry-run=server", "-f", str(COMPONENT / f"{file}.yaml"))
    certificates = ServingCertificates(ours, OWN, SystemClock())
    pair, base = certificates.leaf("knhk-keys", ["127.0.0.1"]), tmp_path / "service"
    (base / "tls").mkdir(parents=True)
    (base / "kek").mkdir(mode=0o700)
    for name, data in (("tls.crt", pair.certificate), ("tls.key", pair.key), ("ca.crt", certificates.authority().bundle)):
        (base / "tls" / name).write_bytes(data)
    user: Any = cluster.user(ACCOUNT, ("system:serviceaccounts", f"system:serviceaccounts:{OWN}"))
    made = KeyWorld(base, None, certificates.authority().pair, user)  # type: ignore[arg-type]
    made.start()
    yield made
    made.kill()
    with suppress(subprocess.CalledProcessError):
        kubectl("delete", "rolebinding", "-n", "erp", "key-reader")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World.make(tmp_path / "world", make_packs(tmp_path / "packs"))
    yield made
    made.close()


def bind(client: KubeClient) -> None:
    document = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "key-reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "knhk-key-reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "erp"}],
    }
    client.call("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/erp/rolebindings", body=document)


def test_an_agent_with_its_pods_token_seals_and_nothing_holds_a_name(ours: KubeClient, service: KeyWorld, world: World) -> None:
    uid = make_pod(ours, "one")
    ring = start(world, service, token_of(ours, "one", uid, KEYS_AUDIENCE))
    for number in range(20):
        put(world, ring, f"{number}.{NAME}")
    until(lambda: len(world.records()) == 20, WITHIN_S)
    until(lambda: world.stats()["acked"] == 20, WITHIN_S)
    delta = world.base / "delta"
    command = [sys.executable, "-m", "knhk.archive", "--log-dir", str(world.log), "--store", str(delta), "--interval-s", "0.2"]
    world.start_process(command, "archive.err")
    until(lambda: any(delta.rglob("*.parquet")), WITHIN_S)
    assert files_with(world.base, NAME.encode()) == files_with(service.base, NAME.encode()) == []
    reader = token_of(ours, None, audience=KEYS_AUDIENCE)
    asked = b"".join(ids(world))
    denied = service.ask("POST", OPEN, reader, asked)
    assert (denied.status, denied.kind) == (403, "forbidden")
    bind(ours)

    def opens() -> bool:
        answer = service.ask("POST", OPEN, reader, asked)
        return answer.status == 200 and {state for state, _ in keys_wire.parse_open(answer.body, 20)} == {State.KEPT}

    until(opens, WITHIN_S)  # the authorizer sees a new binding a moment later
    assert f'"who": "{READER}"' in service.said()


def test_tokens_of_other_pods_and_audiences_get_no_key(ours: KubeClient, service: KeyWorld) -> None:
    body = keys_wire.wanted_body([(b"t" * 32, now())])
    mine = token_of(ours, "one", make_pod(ours, "one"), KEYS_AUDIENCE)
    other = token_of(ours, "two", make_pod(ours, "two", point="invoices"), KEYS_AUDIENCE)
    assert service.ask("POST", KEYS, mine, body).status == 200
    refused = {
        "another point's": (other, 403),
        "the exchange's audience": (token_of(ours, "three", make_pod(ours, "three")), 401),
        "no pod's": (token_of(ours, None, audience=KEYS_AUDIENCE), 401),
        "a forged one": (mine[:-8] + "AAAAAAAA", 401),
    }
    assert {who: service.ask("POST", KEYS, given, body).status for who, (given, _) in refused.items()} == {
        who: status for who, (_, status) in refused.items()
    }
