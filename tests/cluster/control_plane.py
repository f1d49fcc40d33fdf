"""A real Kubernetes: etcd, kube-apiserver, kube-controller-manager, kube-scheduler on loopback; or, with a node, where its pods reach them.

One process, the keeper (`cluster.py keep`), has the servers as its children and starts again what ends; it ends them when it is told
to, when it dies, or, if asked, when nobody holds a lock on `FOLDER/users` any more. Everything lies in FOLDER.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import cluster_pki as pki
import node_machine as machine
from node_images import pause, push
from server_binaries import CONTROL_PLANE, NODE, binaries

from knhk.adapters.processes import Command, Identity, Supervisor, end_all, identity

READY_WITHIN_S = 180.0
ENDS_WITHIN_S = 240.0
LOOK_EVERY_S = 0.1
ISSUER = "https://kubernetes.default.svc.cluster.local"
LOOPBACK = "127.0.0.1"
NODE_WAITS_S = 480.0  # for the node of another cluster on this machine
# Below the range from which the kernel takes ports of outgoing connections, so that none is taken while a server restarts.
PORTS = range(20_000, 32_000)
_DIRECT = urllib.request.ProxyHandler({})


class NotStarted(Exception):
    """Why there is no cluster, with the last words of what failed."""


@dataclass(frozen=True)
class Cluster:
    """A control plane that runs: what clients need, and who keeps it."""

    folder: Path
    server: str
    kubeconfig: Path
    keeper: Identity
    started_s: float
    node: bool = False

    @property
    def registry(self) -> str:
        """URL of the registry that the node pulls from, where its images are called `registry.test/…`."""
        return machine.PLAIN_REGISTRY

    @property
    def registry_tls(self) -> str:
        """The same registry by HTTPS, for pods too; trust `authority`."""
        return f"https://{machine.REGISTRY}:{machine.TLS_PORT}"

    @property
    def authority(self) -> Path:
        """Certificate of who signed what the API server and the registry serve."""
        return self.folder / "pki" / "ca.crt"

    def pid(self, server: str) -> int:
        """Process id of one of the servers, as it runs now. Raises KeyError while it is down."""
        return int(json.loads((self.folder / "ready.json").read_text())["servers"][server])

    def user(self, name: str, groups: tuple[str, ...] = ()) -> Path:
        """The kubeconfig of somebody whom the cluster's authority vouches for; made at the first call."""
        file = f"user-{name.replace(':', '-')}"
        path = self.folder / f"{file}.kubeconfig"
        if not path.exists():
            pki.issue(self.folder / "pki", file, pki.Subject(name, groups))
            pki.kubeconfig(path, self.folder / "pki", file, self.server)
        return path


# ---- the keeper's side ---------------------------------------------------------------------------


def keep(folder: Path, *, until_unused: bool, node: bool) -> None:
    """Runs a cluster in `folder`, with a node if asked, until SIGTERM or SIGINT or, if asked, until nobody uses it. Raises NotStarted."""
    halted: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: halted.append(got))
    supervisor = Supervisor()
    start_s = time.monotonic()
    try:
        server = _start(folder, supervisor, machine.HOST if node else LOOPBACK)
        if node:
            _join(folder, supervisor, server)
        me = identity(os.getpid())
        assert me is not None
        ready = {"server": server, "keeper": asdict(me), "started_s": round(time.monotonic() - start_s, 1), "node": node}
        told: Mapping[str, int] = {}
        while not halted and not (until_unused and _unused(folder)):
            supervisor.tick()
            if (pids := supervisor.pids()) != told:
                _replace(folder / "ready.json", json.dumps({**ready, "servers": pids}, indent=1))
                told = pids
            time.sleep(LOOK_EVERY_S)
    finally:
        (folder / "ready.json").unlink(missing_ok=True)
        supervisor.stop_all(ENDS_WITHIN_S / 2)


def _start(folder: Path, supervisor: Supervisor, host: str) -> str:
    pki.establish(folder / "pki")
    files = binaries(CONTROL_PLANE, build=False)
    if host == machine.HOST:
        _begin_node(folder, supervisor)
    ports = dict(zip(("etcd", "peer", "api", "controllers", "scheduler"), _free_ports(5), strict=True))
    server = f"https://{host}:{ports['api']}"
    for who in ("admin", "controller-manager", "scheduler", "kubelet", "kube-proxy"):
        pki.kubeconfig(folder / f"{who}.kubeconfig", folder / "pki", who, server)
    context = _trust(folder)
    account = f"{server}/api/v1/namespaces/default/serviceaccounts/default"
    stages: tuple[tuple[Mapping[str, list[str]], tuple[str, ...]], ...] = (
        ({"etcd": _etcd(folder, ports)}, (f"http://127.0.0.1:{ports['etcd']}/health",)),
        ({"kube-apiserver": _apiserver(folder, ports, host)}, (f"{server}/readyz",)),
        (
            {"kube-controller-manager": _controllers(folder, ports), "kube-scheduler": _scheduler(folder, ports)},
            (f"https://127.0.0.1:{ports['controllers']}/healthz", f"https://127.0.0.1:{ports['scheduler']}/readyz", account),
        ),
    )
    # Killed with their keeper, for an API server whose etcd or address has gone never ends by itself; the node (rank 0) ends after them.
    dies = ("setpriv", "--pdeathsig", "KILL")
    for rank, (programs, answers) in enumerate(stages, start=1):
        for name, arguments in programs.items():
            supervisor.ensure(Command(name, (*dies, str(files[name]), *arguments), folder / "log" / f"{name}.log", rank=rank))
        for url in answers:
            _wait(folder, supervisor, url, context)
    return server


# ---- the node ------------------------------------------------------------------------------------


def _begin_node(folder: Path, supervisor: Supervisor) -> None:
    """Its network and its registry; the rest of the node waits for `_join`. Waits for its turn on this machine."""
    kubelet = binaries(NODE, build=False)["kubelet"]
    program = (sys.executable, str(Path(__file__).with_name("node.py")), str(folder), str(kubelet.parent))
    supervisor.ensure(Command("node", program, folder / "log" / "node.log"))
    deadline_s = time.monotonic() + NODE_WAITS_S
    while not (folder / "node.json").exists():
        _tick(folder, supervisor)
        if time.monotonic() > deadline_s:
            raise NotStarted(f"another cluster on this machine has had its node for {NODE_WAITS_S:g} s: {machine.LOCK} is locked")
        time.sleep(LOOK_EVERY_S)
    _wait(folder, supervisor, f"{machine.PLAIN_REGISTRY}/v2/", _trust(folder))
    push(machine.PLAIN_REGISTRY, *machine.PAUSE.removeprefix(f"{machine.REGISTRY}/").split(":"), pause())


def _join(folder: Path, supervisor: Supervisor, server: str) -> None:
    """Lets the node join, and waits until it is Ready."""
    (folder / "node-may-join").touch()
    _wait(folder, supervisor, f"{server}/api/v1/nodes/{machine.NAME}", _trust(folder), _is_ready)


def _is_ready(node: bytes) -> bool:
    conditions = json.loads(node)["status"].get("conditions") or ()
    return any(row["type"] == "Ready" and row["status"] == "True" for row in conditions)


# ---- how the servers are called ------------------------------------------------------------------


def _etcd(folder: Path, ports: Mapping[str, int]) -> list[str]:
    client, peer = f"http://127.0.0.1:{ports['etcd']}", f"http://127.0.0.1:{ports['peer']}"
    return [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _apiserver(folder: Path, ports: Mapping[str, int], host: str) -> list[str]:
    keys = folder / "pki"
    return [
        f"--etcd-servers=http://127.0.0.1:{ports['etcd']}",
        f"--bind-address={host}",
        f"--secure-port={ports['api']}",
        f"--advertise-address={host}",
        *(["--endpoint-reconciler-type=none"] if host == LOOPBACK else []),  # a loopback address is no endpoint
        f"--tls-cert-file={keys / 'serving.crt'}",
        f"--tls-private-key-file={keys / 'serving.key'}",
        f"--client-ca-file={keys / 'ca.crt'}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={keys / 'accounts.pub'}",
        f"--service-account-signing-key-file={keys / 'accounts.key'}",
        f"--api-audiences={ISSUER}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--admission-control-config-file={pki.webhook_client(folder / 'admission.json', keys, 'webhooks')}",
        f"--requestheader-client-ca-file={keys / 'front-proxy-ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={keys / 'front-proxy-client.crt'}",
        f"--proxy-client-key-file={keys / 'front-proxy-client.key'}",
        f"--kubelet-client-certificate={keys / 'kubelet-client.crt'}",
        f"--kubelet-client-key={keys / 'kubelet-client.key'}",
        f"--kubelet-certificate-authority={keys / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-cluster-ip-range={machine.SERVICES}",
        "--allow-privileged=true",
        "--profiling=false",
    ]


def _controllers(folder: Path, ports: Mapping[str, int]) -> list[str]:
    keys = folder / "pki"
    return [
        f"--kubeconfig={folder / 'controller-manager.kubeconfig'}",
        *_serving(keys, ports["controllers"]),
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={keys / 'accounts.key'}",
        f"--root-ca-file={keys / 'ca.crt'}",
        f"--cluster-signing-cert-file={keys / 'ca.crt'}",
        f"--cluster-signing-key-file={keys / 'ca.key'}",
        "--kube-api-qps=500",  # with the default of 20 a namespace waits seconds for its service account
        "--kube-api-burst=1000",
        "--horizontal-pod-autoscaler-sync-period=5s",
    ]


def _scheduler(folder: Path, ports: Mapping[str, int]) -> list[str]:
    return [f"--kubeconfig={folder / 'scheduler.kubeconfig'}", *_serving(folder / "pki", ports["scheduler"])]


def _serving(keys: Path, port: int) -> list[str]:
    files = [f"--tls-cert-file={keys / 'serving.crt'}", f"--tls-private-key-file={keys / 'serving.key'}"]
    return ["--leader-elect=false", "--bind-address=127.0.0.1", f"--secure-port={port}", *files]


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise NotStarted(f"no {count} free ports on 127.0.0.1 from {PORTS.start} to {PORTS.stop - 1}")


def _trust(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "pki" / "ca.crt"))
    context.load_cert_chain(folder / "pki" / "admin.crt", folder / "pki" / "admin.key")
    return context


def _tick(folder: Path, supervisor: Supervisor) -> None:
    for ended in supervisor.tick():
        if ended.restarts > 2:
            raise NotStarted(f"{ended.name} ended with {ended.returncode}: {_last_words(folder, ended.name)}")


def _wait(
    folder: Path, supervisor: Supervisor, url: str, context: ssl.SSLContext, holds: Callable[[bytes], bool] = lambda answer: True
) -> None:
    """Until `url` answers, and its answer is so."""
    opener = urllib.request.build_opener(_DIRECT, urllib.request.HTTPSHandler(context=context))
    deadline_s = time.monotonic() + READY_WITHIN_S
    why = ""
    while time.monotonic() < deadline_s:
        _tick(folder, supervisor)
        try:
            with opener.open(url, timeout=5) as answer:
                if holds(told := answer.read()):
                    return
                why = f"it is not so yet: {told[-500:]!r}"
        except OSError as error:
            why = str(error)
        time.sleep(LOOK_EVERY_S / 2)
    raise NotStarted(f"{url} did not answer within {READY_WITHIN_S:g} s: {why}; see {folder / 'log'}")


def _last_words(folder: Path, name: str) -> str:
    return (folder / "log" / f"{name}.log").read_text(errors="replace")[-1500:]


def _unused(folder: Path) -> bool:
    with (folder / "users").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.rename(path)


# ---- the users' side -----------------------------------------------------------------------------


def running(folder: Path) -> Cluster | None:
    """The cluster in `folder`, if its keeper lives and it is ready."""
    try:
        row = json.loads((folder / "ready.json").read_text())
    except FileNotFoundError:
        return None
    keeper = Identity(**row["keeper"])
    if identity(keeper.pid) != keeper:
        return None
    return Cluster(folder, row["server"], folder / "admin.kubeconfig", keeper, row["started_s"], row["node"])


def up(folder: Path, *, until_unused: bool = False, node: bool = False) -> Cluster:
    """The cluster in `folder`, started unless it runs; returns when it is ready. Raises NotStarted."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = running(folder)
        return found if found is not None else _spawn(folder, until_unused=until_unused, node=node)


def _spawn(folder: Path, *, until_unused: bool, node: bool) -> Cluster:
    for name in ("pki", "etcd", "log"):  # what a cluster that was killed here left
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("ready.json", "node.json", "node-may-join"):
        (folder / name).unlink(missing_ok=True)
    program = [
        sys.executable,
        str(Path(__file__).with_name("cluster.py")),
        "keep",
        str(folder),
        *(["--until-unused"] if until_unused else []),
        *(["--node"] if node else []),
    ]
    log = folder / "keeper.log"
    with log.open("wb") as out:
        process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    _replace(folder / "keeper.json", json.dumps(asdict(identity(process.pid) or Identity(process.pid, 0))))
    deadline_s = time.monotonic() + 2 * READY_WITHIN_S + (NODE_WAITS_S if node else 0.0)
    while time.monotonic() < deadline_s:
        found = running(folder)
        if found is not None:
            process.returncode = 0  # it outlives this process, on purpose
            return found
        if process.poll() is not None:
            raise NotStarted(f"the cluster did not start: {log.read_text(errors='replace')[-2500:].strip()}")
        time.sleep(LOOK_EVERY_S)
    process.terminate()
    raise NotStarted(f"the cluster was not ready in time; see {folder}")


def down(folder: Path) -> bool:
    """Ends the cluster in `folder`, by the ids of its own processes, and removes the folder. Whether it ran."""
    try:
        keeper = Identity(**json.loads((folder / "keeper.json").read_text()))
    except FileNotFoundError:
        return False
    ran = bool(end_all([keeper], ENDS_WITHIN_S))  # its children end with it
    shutil.rmtree(folder, onerror=_left)
    return ran


def _left(act: object, path: str, error: tuple[type[BaseException], BaseException, object]) -> None:
    """What the node's containers take away themselves while they end is gone all the same."""
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


@contextmanager
def owned(folder: Path) -> Iterator[Cluster]:
    """A cluster for one user; when the context ends it has ended, and its folder is gone."""
    try:
        yield up(folder)
    finally:
        down(folder)


@contextmanager
def shared(folder: Path, *, node: bool = False) -> Iterator[Cluster]:
    """The cluster that all users of `folder` share: the first starts it, and it ends by itself after the last, however that one ended."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "users").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield up(folder, until_unused=True, node=node)
