"""Erasing on a cluster as a person does it: rights, tokens and reviews of a real API server, the operator's own account, and the processes
of tests/keys. Only the way that the API server forwards is not there without a node: test_node has it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("agent", "delta", "privacy", "keys"))
from control_plane import Cluster
from erasing_world import BASIS, Region, recorded
from guarded_pods import make_pod, token_of
from keys_world import KeyWorld
from privacy_world import ANNA
from waiting import until

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.kube_feed import ChangeFeed
from knhk.adapters.port_forward_kube import forwarded
from knhk.adapters.serving_certificates import ServingCertificates
from knhk.adapters.store_kube import KubeStore
from knhk.adapters.system import SystemClock
from knhk.cli import main
from knhk.model.faults import KnhkError
from knhk.ports.caller import KEYS_AUDIENCE
from knhk.wiring.privacy import KeyPlace

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2] / "manifests"
OWN, WITHIN_S = "knhk-system", 240.0
GROUPS = ("system:serviceaccounts", f"system:serviceaccounts:{OWN}")
BINDINGS = {
    "account": ("erp", "--clusterrole=knhk-key-eraser", "--serviceaccount=erp:knhk-eraser"),
    "risk-erases": ("erp", "--clusterrole=knhk-eraser", "--group=risk"),
    "risk-reaches": (OWN, "--role=knhk-eraser-way", "--group=risk"),
}


@pytest.fixture
def kubectl(cluster: Cluster, servers: dict[str, Path]) -> Any:
    def run(*words: str) -> None:
        subprocess.run([str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", *words], check=True, capture_output=True)

    return run


@pytest.fixture
def operator(cluster: Cluster, kubectl: Any) -> KubeClient:
    """Requests of the operator's own account."""
    kubectl("apply", "--server-side", "-f", str(ROOT / "base" / "operator" / "rbac.yaml"))
    for file in ("rbac", "people"):
        kubectl("apply", "--server-side", "-f", str(ROOT / "components" / "keys" / f"{file}.yaml"))
    for file in ("erasures", "network-policy"):
        kubectl("apply", "--server-side", "--dry-run=server", "-f", str(ROOT / "components" / "keys" / f"{file}.yaml"))
    return KubeClient(api_client(cluster.user(f"system:serviceaccount:{OWN}:knhk-operator", GROUPS)))


@pytest.fixture
def region(
    ours: KubeClient, operator: KubeClient, cluster: Cluster, kubectl: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Region]:
    certificates, base = ServingCertificates(ours, OWN, SystemClock()), tmp_path / "service"
    (base / "kek").mkdir(mode=0o700, parents=True)
    for folder, service, also in (("tls", "knhk-keys", ("127.0.0.1",)), ("beside", "knhk-erasures", ())):
        pair = certificates.leaf(service, also)
        (base / folder).mkdir()
        for name, data in (("tls.crt", pair.certificate), ("tls.key", pair.key), ("ca.crt", certificates.authority().bundle)):
            (base / folder / name).write_bytes(data)
    certificates.publish_trust(b"root", "erp")
    user: Any = cluster.user(f"system:serviceaccount:{OWN}:knhk-keys", GROUPS)
    keys = KeyWorld(base, None, certificates.authority().pair, user)  # type: ignore[arg-type]
    keys.start()
    guard = token_of(ours, "one", make_pod(ours, "one"), KEYS_AUDIENCE)
    store = KubeStore(operator, ChangeFeed(), SystemClock())
    (tmp_path / "log").mkdir()
    try:
        with recorded(keys, tmp_path / "log", guard, operator, store, capsys, "beside") as found:
            yield found
    finally:
        keys.kill()
        for name, (namespace, *_) in BINDINGS.items():
            with suppress(subprocess.CalledProcessError):
                kubectl("delete", "rolebinding", "-n", namespace, name)
        with suppress(subprocess.CalledProcessError):
            kubectl("delete", "serviceaccount", "-n", "erp", "knhk-eraser")


@pytest.fixture
def person(cluster: Cluster) -> Path:
    return cluster.user("ann", ("risk",))


def erase(region: Region, person: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    return asked(region, person, monkeypatch, "erase", *words)


def asked(region: Region, person: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    """By the ways of this machine in place of those that a kubelet would open."""
    ports = {"knhk-keys-0": region.keys.url, "knhk-log-0": region.url}

    @contextmanager
    def there(_api: Any, namespace: str, pod: str, port: int) -> Iterator[tuple[str, int]]:
        assert (namespace, port) == (OWN, {"knhk-keys-0": 8448, "knhk-log-0": 8449}[pod])
        yield "127.0.0.1", int(ports[pod].rpartition(":")[2])

    monkeypatch.setattr("knhk.adapters.port_forward_kube.forwarded", there)
    region.capsys.readouterr()
    code = main(["receipt", *words, "-n", "erp", f"--kubeconfig={person}", "-o", "json"])
    said = region.capsys.readouterr()
    return code, said.out, said.err


def said_in_time(ask: Callable[[], str], words: str) -> None:
    """An authorizer sees a new binding a moment later."""
    said = ""

    def holds() -> bool:
        nonlocal said
        said = ask()
        return words in said

    try:
        until(holds, WITHIN_S)
    except AssertionError:
        raise AssertionError(f"{words}: was not said, but: {said}") from None


def test_a_person_of_risk_erases_with_no_more_than_two_roles(
    region: Region, ours: KubeClient, person: Path, kubectl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    region.archived()
    told = (ANNA, "--basis", BASIS)
    code, _, said = erase(region, person, monkeypatch, *told)
    assert (code, "knhk-trust" in said) == (3, True)  # nobody bound anything yet
    kubectl("create", "rolebinding", "risk-erases", "-n", "erp", *BINDINGS["risk-erases"][1:])
    said_in_time(lambda: erase(region, person, monkeypatch, *told)[2], "kubectl create serviceaccount knhk-eraser -n erp")
    kubectl("create", "serviceaccount", "knhk-eraser", "-n", "erp")
    said_in_time(lambda: erase(region, person, monkeypatch, *told)[2], "subjectkeys")
    kubectl("create", "rolebinding", "account", "-n", "erp", *BINDINGS["account"][1:])
    said_in_time(lambda: "\n".join(erase(region, person, monkeypatch, *told, "--dry-run")[1:]), '"state": "dry"')
    assert region.events("Erased") == []
    code, out, said = erase(region, person, monkeypatch, *told)
    assert (code, '"state": "done"' in out) == (1, True), said + region.said()
    assert "erp/orders: has records in clear and no spec.privacy" in said  # nobody declared the point: one of ANNA's may be among them
    (event,) = region.events("Erased")
    assert event.actor == "system:serviceaccount:erp:knhk-eraser"
    token = token_of(ours, None, audience=KEYS_AUDIENCE, tokens="/api/v1/namespaces/erp/serviceaccounts/knhk-eraser/token")
    place = KeyPlace(region.keys.url, "erp", region.keys.token_file(token), region.keys.ca_file)
    assert region.replayed(place)[1] == event.evidence["leaves"] == 6
    assert ANNA not in region.said()


def test_the_way_is_closed_to_who_may_not_and_tells_a_missing_pod(
    ours: KubeClient, operator: KubeClient, person: Path, kubectl: Any
) -> None:
    def way(pod: str) -> str:
        try:
            with forwarded(lambda: api_client(person), OWN, pod, 8449):
                return ""
        except KnhkError as error:
            return f"{getattr(error, 'reason', '')} {error}"

    assert "forbidden" in way("knhk-log-0").lower()
    kubectl("create", "rolebinding", "risk-reaches", "-n", OWN, *BINDINGS["risk-reaches"][1:])
    try:
        until(lambda: "NoPod" in way("knhk-log-0"), WITHIN_S)
        assert "forbidden" in way("knhk-operator-0").lower()
    finally:
        kubectl("delete", "rolebinding", "-n", OWN, "risk-reaches")


EXPORTS = {
    "exporter": ("erp", "--clusterrole=knhk-key-exporter", "--serviceaccount=erp:knhk-exporter"),
    "risk-exports": ("erp", "--clusterrole=knhk-exporter", "--group=risk"),
}


def test_a_person_of_risk_exports_with_no_more_than_two_roles_and_erases_nothing_by_them(
    region: Region, person: Path, kubectl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region.archived()
    out = tmp_path / "anna"
    words = ("export", "--subject", ANNA, "--reason", "access request 7", "--out", str(out))
    try:
        code, _, said = asked(region, person, monkeypatch, *words)
        assert (code, "knhk-trust" in said) == (3, True)  # nobody bound anything yet
        kubectl("create", "rolebinding", "risk-exports", "-n", "erp", *EXPORTS["risk-exports"][1:])
        said_in_time(lambda: asked(region, person, monkeypatch, *words)[2], "--clusterrole=knhk-key-exporter")
        kubectl("create", "serviceaccount", "knhk-exporter", "-n", "erp")
        said_in_time(lambda: asked(region, person, monkeypatch, *words)[2], "subjectkeys")
        assert region.events("SubjectExported") == []
        kubectl("create", "rolebinding", "exporter", "-n", "erp", *EXPORTS["exporter"][1:])
        said_in_time(lambda: "\n".join(asked(region, person, monkeypatch, *words)[1:]), '"records": 7')
        (event,) = region.events("SubjectExported")
        assert event.actor == "system:serviceaccount:erp:knhk-exporter"
        assert ANNA in "".join(file.read_text() for file in (out / "records").iterdir())
        code, _, said = asked(region, person, monkeypatch, "erase", ANNA, "--basis", BASIS, "--account", "knhk-exporter")
        assert (code, "cannot erase resource" in said) == (3, True), said
        assert ANNA not in region.said()
    finally:
        for name in EXPORTS:
            with suppress(subprocess.CalledProcessError):
                kubectl("delete", "rolebinding", "-n", "erp", name)
        with suppress(subprocess.CalledProcessError):
            kubectl("delete", "serviceaccount", "-n", "erp", "knhk-exporter")
