"""The node: `node.py FOLDER BINARIES`. containerd, kubelet, kube-proxy, a registry and names, in namespaces of their own.

This process makes the namespaces and what the machine needs for them, and takes that away again. Process 1 inside starts the
programs; when it ends, whatever the reason, the kernel ends every process in there, and mounts, devices and nftables rules go with them.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parent))
import node_machine as machine

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG = 1
SOCKET = "/run/containerd/containerd.sock"
# Machine-wide settings that kubelet writes unless they read so already: it gets files that do.
SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
OWN = {"/var/lib/kubelet": "kubelet", "/var/lib/cni": "cni-state", "/var/log": "pod-log"}
CONTAINERD = """version = 2
root = "{folder}/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = [{disabled}]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/hosts"
"""
UNUSED = (
    *(f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")),
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing",
)
HOSTS = """server = "{url}"
[host."{url}"]
  capabilities = ["pull", "resolve"]
"""


def main(argv: Sequence[str]) -> int:
    """Until SIGTERM or SIGINT, or until the node ends; the exit code."""
    folder, binaries = Path(argv[0]), Path(argv[1])
    with machine.held():
        return _run(folder, binaries)


def _run(folder: Path, binaries: Path) -> int:
    hold, release = os.pipe()
    inner = _fork_first()
    if inner == 0:
        _inside(hold, folder, binaries)
    os.close(hold)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.kill(inner, signal.SIGKILL))
    os.write(release, b"1")  # it leaves this network now
    while (status := _ended(inner)) is None and not _has_left(inner):
        time.sleep(0.01)
    if status is None:
        machine.connect(inner)
        os.write(release, b"2")
        (folder / "node.json").write_text(json.dumps({"init": inner}))
        _, status = os.waitpid(inner, 0)
    (folder / "node.json").unlink(missing_ok=True)
    for name in ("containerd", "registry", *OWN.values()):
        shutil.rmtree(folder / name, ignore_errors=True)
    return 0 if os.WIFSIGNALED(status) else 1


def _fork_first() -> int:
    """Forks process 1 of a new process namespace; later children of this process belong to its own again."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    _check(_libc.unshare(CLONE_NEWPID), "unshare")
    pid = os.fork()
    if pid:
        _check(_libc.setns(own, CLONE_NEWPID), "setns")
        os.close(own)
    return pid


def _ended(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return status if found else None


def _has_left(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


# ---- process 1 of the node -----------------------------------------------------------------------


def _inside(hold: int, folder: Path, binaries: Path) -> NoReturn:
    """Its end is the node's end."""
    try:
        _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
        os.closerange(3, hold)  # the machine's lock is not this process's
        os.closerange(hold + 1, os.sysconf("SC_OPEN_MAX"))
        _let_go(hold)
        _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare")
        _let_go(hold)
        _mounts(folder)
        _network(folder)
        _serve(folder, binaries)
    except BaseException as error:
        print(f"node: {error!r}", flush=True)
    os._exit(1)


def _let_go(hold: int) -> None:
    """Returns when the parent has said so, and never when it has died."""
    if not os.read(hold, 1):
        os._exit(1)


def _mounts(folder: Path) -> None:
    machine.run("mount", "--make-rprivate", "/")
    machine.run("mount", "--make-rshared", "/")  # in here only: pods see what kubelet mounts later
    machine.run("mount", "-t", "proc", "proc", "/proc")
    machine.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for place, name in OWN.items():
        (folder / name).mkdir(exist_ok=True)
        machine.run("mount", "--bind", str(folder / name), place)
    (folder / "settings").mkdir(exist_ok=True)
    for name, value in SETTINGS.items():
        file = folder / "settings" / name.replace("/", ".")
        file.write_text(f"{value}\n")
        machine.run("mount", "--bind", str(file), f"/proc/sys/{name}")


def _network(folder: Path) -> None:
    machine.run("ip", "link", "set", "lo", "up")
    machine.run("ip", "addr", "add", f"{machine.ADDRESS}/30", "dev", "eth0")
    machine.run("ip", "link", "set", "eth0", "up")
    machine.run("ip", "route", "add", "default", "via", machine.HOST)
    for name in ("ip_forward", "conf/all/route_localnet"):
        Path("/proc/sys/net/ipv4", name).write_text("1")
    ranges = {"type": "host-local", "ranges": [[{"subnet": machine.PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True, "ipam": ranges}
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    _write(folder / "cni" / "10-pods.conflist", {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins})


def _write(path: Path, document: object) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document, indent=1))
    return str(path)


def _serve(folder: Path, binaries: Path) -> NoReturn:
    """Starts the programs, kubelet and kube-proxy as soon as there is an API server, and reaps orphans until one of the programs ends."""
    programs: dict[int, str] = {}

    def start(name: str, *arguments: str) -> None:
        with (folder / "log" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        programs[process.pid] = name

    start("containerd", "containerd", "--log-level=info", f"--config={_containerd(folder)}")
    for name, config in _registries(folder).items():
        start(name, "docker-registry", "serve", _write(folder / f"{name}.json", config))
    while not (Path(SOCKET).exists() and (folder / "node-may-join").exists()):
        _reap(programs, os.WNOHANG)
        time.sleep(0.05)
    start("kubelet", str(binaries / "kubelet"), *_kubelet(folder))
    start("kube-proxy", str(binaries / "kube-proxy"), f"--config={_proxy(folder)}")
    start("dns", sys.executable, str(Path(__file__).with_name("cluster_dns.py")), str(folder / "admin.kubeconfig"), machine.ADDRESS)
    while True:
        _reap(programs, 0)


def _reap(programs: dict[int, str], options: int) -> None:
    pid, status = os.waitpid(-1, options)
    if pid in programs:
        raise RuntimeError(f"{programs[pid]} ended with {os.waitstatus_to_exitcode(status)}")


def _containerd(folder: Path) -> str:
    (folder / "hosts").mkdir(exist_ok=True)
    _write(folder / "hosts" / machine.REGISTRY / "hosts.toml", HOSTS.format(url=machine.PLAIN_REGISTRY))
    disabled = ", ".join(json.dumps(name) for name in UNUSED)
    text = CONTAINERD.format(folder=folder, disabled=disabled, socket=SOCKET, pause=machine.PAUSE, cni=machine.CNI)
    return _write(folder / "containerd.toml", text)


def _registries(folder: Path) -> dict[str, dict[str, Any]]:
    """One store, served plainly for containerd and tests, and by TLS for what would not speak to it otherwise."""
    keys = folder / "pki"
    tls = {"certificate": str(keys / "registry.crt"), "key": str(keys / "registry.key")}
    base = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}, "delete": {"enabled": True}},
    }
    secret = "of-one-machine"  # both processes take each other's uploads
    return {
        "registry": {**base, "http": {"addr": f"{machine.ADDRESS}:{machine.PLAIN_PORT}", "secret": secret}},
        "registry-tls": {**base, "http": {"addr": f"{machine.ADDRESS}:{machine.TLS_PORT}", "secret": secret, "tls": tls}},
    }


def _kubelet(folder: Path) -> tuple[str, ...]:
    keys = folder / "pki"
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": machine.ADDRESS,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": str(keys / "ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(keys / "kubelet-serving.crt"),
        "tlsPrivateKeyFile": str(keys / "kubelet-serving.key"),
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{machine.CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "clusterDomain": "cluster.local",
        "clusterDNS": [machine.ADDRESS],
        "resolvConf": _write(folder / "resolv.conf", f"nameserver {machine.ADDRESS}\n"),
        "enforceNodeAllocatable": ["pods"],
        "imageGCHighThresholdPercent": 100,
        "evictionHard": dict.fromkeys(("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available"), "0%"),
        "nodeStatusUpdateFrequency": "5s",
        "serializeImagePulls": False,
        "healthzBindAddress": "127.0.0.1",
    }
    return (
        f"--config={_write(folder / 'kubelet.yaml', config)}",
        f"--kubeconfig={folder / 'kubelet.kubeconfig'}",
        f"--hostname-override={machine.NAME}",
        f"--node-ip={machine.ADDRESS}",
        f"--cert-dir={folder / 'kubelet-certificates'}",
    )


def _proxy(folder: Path) -> str:
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(folder / "kube-proxy.kubeconfig")},
        "clusterCIDR": machine.PODS,
        "hostnameOverride": machine.NAME,
        "oomScoreAdj": 0,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    return _write(folder / "proxy.yaml", config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
