"""Keys of a control plane turn in mid-rollout, on a real API server: by an account that can sign nothing, while processes run on,
a guard judges, and the log signs its checkpoints."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "system"))
sys.path.insert(2, str(Path(__file__).parents[2] / "examples" / "order_to_cash"))
sys.path.insert(3, str(Path(__file__).parents[1]))
from control_plane import Cluster
from exchange_on_a_cluster import PACK, POINT, Callers, World
from system_world import Application, fast_pack
from waiting import until

from identity import IdentityProvider
from knhk.adapters.key_secrets import AHEAD, IN_FORCE
from knhk.adapters.keys_ahead import key_files
from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.shelf_kube import KubeShelf
from knhk.adapters.signer_local import LocalSigner
from knhk.cli import main
from knhk.model.faults import KnhkError, Stalled
from knhk.wiring.home import LOG_ORIGIN
from knhk.wiring.signing import established
from knhk_runtime.tlog.folder import log_entries
from knhk_verify.note import Verifier, open_note
from knhk_verify.signed import ROLES, keyid, verify_event, verify_keys
from loopback_ports import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900)]
SYSTEM, WITHIN_S = "knhk-system", 240.0
SECRETS = f"/api/v1/namespaces/{SYSTEM}/secrets"
COMPONENT = Path(__file__).parents[2] / "manifests" / "components" / "turning"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:knhk-turning"
Kubectl = Callable[..., None]


@pytest.fixture
def kubectl(ours: KubeClient, cluster: Cluster, servers: dict[str, Path]) -> Kubectl:
    def run(*words: str) -> None:
        done = subprocess.run([str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture
def folder(kubectl: Kubectl, tmp_path: Path) -> Iterator[Path]:
    """Keys of yesterday, turns of two days, and their Secrets in the cluster: first those of an installation before, as it applied them."""
    keys = tmp_path / "keys"
    established(keys, LOG_ORIGIN, datetime.now(UTC) - timedelta(hours=25))
    assert main(["cluster", "keys", str(keys), "--origin", LOG_ORIGIN]) == 0
    kubectl("apply", "-f", str(keys / "secrets.yaml"))
    assert main(["cluster", "ahead", str(keys), "--days", "2"]) == 0
    kubectl("create", "-f", str(keys / "first.yaml"))
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(keys / "secrets.yaml"))
    kubectl("apply", "--server-side", "-f", str(COMPONENT / "rbac.yaml"))
    for file in ("cronjob", "network-policy"):
        kubectl("apply", "--server-side", "--dry-run=server", "-f", str(COMPONENT / f"{file}.yaml"))
    yield keys
    names = [row["metadata"]["name"] for row in yaml.safe_load_all((keys / "secrets.yaml").read_text())]
    kubectl("delete", "secret", "-n", SYSTEM, "--ignore-not-found", IN_FORCE, *names)


def files_of(client: KubeClient, name: str) -> dict[str, bytes]:
    return {file: base64.b64decode(text) for file, text in client.call("GET", f"{SECRETS}/{name}")["data"].items()}


def mount(client: KubeClient, target: Path, process: str) -> Path:
    """As the kubelet projects both Secrets; keys that are plain are the test's own, for what it builds itself."""
    target.mkdir(mode=0o700, exist_ok=True)
    now = files_of(client, IN_FORCE)
    own = (*key_files(process), "keys.json", "turn.json", "rotated.json")
    for name, data in {**files_of(client, f"knhk-keys-{process}"), **{name: now[name] for name in own if name in now}}.items():
        (target / f".{name}").write_bytes(data)
        (target / f".{name}").chmod(0o600)
        (target / f".{name}").replace(target / name)
    return target


def later(client: KubeClient, kubeconfig: Path) -> bool:
    """The look of some minutes later."""
    secret = client.call("GET", f"{SECRETS}/{IN_FORCE}")
    state = json.loads(base64.b64decode(secret["data"]["turn.json"]))
    state["named"] = f"{datetime.now(UTC) - timedelta(minutes=6):%Y-%m-%dT%H:%M:%SZ}"
    secret["data"]["turn.json"] = base64.b64encode(json.dumps(state, sort_keys=True, separators=(",", ":")).encode()).decode()
    client.call("PUT", f"{SECRETS}/{IN_FORCE}", body=secret)
    before = files_of(client, IN_FORCE)
    assert main(["cluster", "turn", "--kubeconfig", str(kubeconfig)]) == 0
    return files_of(client, IN_FORCE) != before


@pytest.fixture
def world(ours: KubeClient, folder: Path, tmp_path: Path) -> Iterator[World]:
    class Mounted(World):
        """Its keys are what the Secrets say."""

        @property
        def log_key(self) -> Path:
            return tmp_path / "log-keys" / "log.key"

    app = Application(tmp_path / "application.db", 0)
    app.start()
    ports = (free_port(), free_port(), free_port())
    found = Mounted(ours, tmp_path, app, IdentityProvider.new(), ports)
    yield found
    found.stop()


def test_keys_turn_in_the_middle_of_a_canary_and_nobody_waits(world: World, folder: Path, cluster: Cluster, ours: KubeClient) -> None:
    account = cluster.user(ACCOUNT, ("system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}"))
    root = LocalSigner(folder).root_public()

    def sync() -> None:
        for process in ("rollout", "log"):
            mount(ours, world.folder / f"{process}-keys", process)

    sync()
    for role in ("build", "data"):  # the operator builds here
        (world.folder / "rollout-keys" / f"{role}.key").write_bytes((folder / f"{role}.key").read_bytes())
        (world.folder / "rollout-keys" / f"{role}.key").chmod(0o600)
    operator = world.start_operator(cluster, "--keys", str(world.folder / "rollout-keys"))
    world.start_log()
    log = world.running[-1]
    world.apply_point()
    world.apply(fast_pack("1.0.0", shadow=40, step=400))
    pod = world.add_pod("one", "127.0.0.2")
    world.until(lambda: world.status(POINT).get("instances") == {"live": 1, "current": 1, "silent": 0} and world.ready() == "True")
    before = verify_keys(files_of(ours, IN_FORCE)["keys.json"], root)
    with Callers(world.provider, ["127.0.0.2"], world.ports[2]) as callers:
        world.until(lambda: world.status(PACK).get("revision", {}).get("arm") == "Canary")
        assert main(["cluster", "turn", "--kubeconfig", str(account)]) == 0
        sync()
        after = verify_keys(files_of(ours, IN_FORCE)["keys.json"], root)
        assert after.serial == before.serial + len(ROLES)
        assert main(["cluster", "turn", "--kubeconfig", str(account)]) == 0  # too early
        assert later(ours, account)
        sync()
        signs = {role: next(id_ for id_, key in after.roles[role].items() if key.until is None) for role in ROLES}

        def document() -> str:
            envelope = json.loads(KubeShelf(ours, SYSTEM).files("erp/orders")["rollout.json"])
            return str(envelope["signatures"][0]["keyid"])

        world.until(lambda: document() == signs["rollout"])
        judged = callers.admitted
        world.until(lambda: callers.admitted > judged + 50)
        world.until(lambda: world.status(PACK).get("revision", {}).get("phase") == "Live")
        world.until(lambda: world.status(POINT).get("instances") == {"live": 1, "current": 1, "silent": 0} and world.ready() == "True")
    verifiers = [Verifier(LOG_ORIGIN, key.public) for key in after.roles["log"].values()]
    world.until(lambda: len(open_note((world.folder / "log" / "checkpoint").read_bytes(), verifiers)[1]) == 2)
    told = world.until(lambda: found if len(found := rotations(world.folder / "log", after)) == len(ROLES) else None)
    assert {told_role: id_ for told_role, id_, _ in told} == signs
    assert {by for _, _, by in told} <= {keyid(key.public) for key in after.roles["rollout"].values()}
    assert json.loads((pod.base / "point" / "state" / "accepted.json").read_bytes())["serial"] == after.serial
    assert operator.poll() is None
    assert log.poll() is None


def rotations(log: Path, named: Any) -> list[tuple[str, str, str]]:
    """(role, keyid of the new key, keyid of who signed) of each receipt, verified."""
    found = []
    for entry in log_entries(log):
        if entry[:1] == b"{":
            told, by = verify_event(entry, named)
            if told["predicate"]["kind"] == "KeyRotated":
                found.append((told["predicate"]["evidence"]["role"], told["subject"][0]["digest"]["sha256"], by))
    return found


def may_read(client: KubeClient, name: str) -> bool:
    """An authorizer sees a new binding a moment later."""
    with suppress(Stalled):
        return bool(files_of(client, name))
    return False


def test_the_account_that_turns_them_reads_no_secret_that_opens_one(folder: Path, cluster: Cluster) -> None:
    client = KubeClient(api_client(cluster.user(ACCOUNT, ("system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}"))))
    until(lambda: may_read(client, AHEAD) and may_read(client, IN_FORCE), WITHIN_S)
    assert set(files_of(client, AHEAD)) == {"ahead.json.xz", "root.pub"}
    sealed = {name: data for name, data in files_of(client, IN_FORCE).items() if name.endswith(".key")}
    assert sealed
    assert all(data.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY") for data in sealed.values())
    for name in ("knhk-keys-rollout", "knhk-keys-build", "knhk-keys-log", "knhk-keys-subjects", "knhk-ca"):
        with pytest.raises(Stalled):
            client.call("GET", f"{SECRETS}/{name}")
    secret = client.call("GET", f"{SECRETS}/{AHEAD}")
    with pytest.raises(KnhkError):
        client.call("PUT", f"{SECRETS}/{AHEAD}", body=secret)


def test_what_the_cluster_had_by_hand_is_taken_over_without_plain_keys_left(folder: Path, ours: KubeClient) -> None:
    for process in ("rollout", "build", "log"):
        files = files_of(ours, f"knhk-keys-{process}")
        assert {name for name in files if name.endswith(".key")} == {"unlock.key"}
        assert "keys.json" not in files
