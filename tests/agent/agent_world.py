"""A registry with signed packs, keys, documents, a sequencer and agents as processes: what the agent's tests stand on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent_process import GUARDS
from agent_rings import Producer

from knhk.adapters.registry_layout import LayoutRegistry
from knhk.adapters.signer_local import LocalSigner, establish
from knhk.model.arrows import GuardPlan, SharedObject
from knhk.model.canonical import canonical
from knhk.model.oci import SIGNATURE_PREDICATE
from knhk.packaging import signed
from knhk.packaging.image import bundle_image, pack_image
from knhk_runtime.record import Record, parse_action, parse_record, scan_frames
from knhk_runtime.signatures import ROLLOUT

ORIGIN = "knhk.dev/test"
HEADERS = Path(__file__).parents[2] / "hot_c" / "include"
SH = "http://www.w3.org/ns/shacl#"
BUNDLE = b"KNHKBND2 only its digest matters here"
SHAPES = f"""<urn:shape> <{SH}targetClass> <urn:Doc> .
<urn:shape> <{SH}property> _:b0 .
_:b0 <{SH}path> <urn:body> .
_:b0 <{SH}pattern> "^cold (good|(a+)+b)" .
"""


@dataclass(frozen=True)
class Packs:
    """`digests`: image digests by version."""

    registry: Path
    signer: LocalSigner
    keys: Path
    digests: dict[str, str]
    data: str


def plan_of(version: str) -> GuardPlan:
    """A plan of three guards: payload, one of the tables, one for the evaluator (a pattern that backtracks)."""
    common = {"why": "", "source": "", "message": "must match", "severity": "Violation", "target": 0}
    pattern = {"shape": "_:b0", "component": f"{SH}PatternConstraintComponent", "path": "body"}
    none = {"shape": "", "component": "", "path": ""}
    guards = [
        {**common, **none, "id": "payload", "kind": "payload", "class": "R1"},
        {**common, **none, "id": "amount", "kind": "abac", "class": "R1", "expr": {"op": "const", "value": True}},
        {**common, **pattern, "id": "text", "kind": "shacl", "class": "C1"},
    ]
    return GuardPlan(
        {
            "version": 1,
            "tool": "test",
            "pack": {"namespace": "erp", "name": "invoices", "version": version},
            "guards": guards,
            "targets": [{"kind": "class", "classes": ["urn:Doc"]}],
            "mappings": [],
            "routes": {"orders": None},
            "bundle": {"predicates": [], "subjects": []},
            "cold": {"shapes": SHAPES, "asks": {}},
        }
    )


def _object(plan: GuardPlan, folder: Path) -> SharedObject:
    """A shared object that states ABI, guards and plan digest; nothing in it runs."""
    digest = ",".join(f"0x{plan.digest[i : i + 2]}" for i in range(0, 64, 2))
    text = f"""#define KNHK_BUILDING_PACK
#include <knhk_pack.h>
const knhk_pack knhk_pack_v1 = {{.abi = KNHK_ABI_VERSION, .nguards = {len(GUARDS)}, .name = "x", .plan_sha256 = {{{digest}}}}};
"""
    (folder / "pack.c").write_text(text)
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu", "-shared", "-fPIC", "-nostdlib", f"-I{HEADERS}"]
    subprocess.run([*compiler, "-o", str(folder / "pack.so"), str(folder / "pack.c")], check=True, capture_output=True)
    return SharedObject("amd64", (folder / "pack.so").read_bytes())


def make_packs(folder: Path) -> Packs:
    """Versions 1.0.0 and 1.1.0 and a bundle, signed, in folder/registry."""
    signer = establish(folder / "keys", ORIGIN, datetime.now(UTC))
    registry, digests = LayoutRegistry(folder / "registry"), {}
    for version in ("1.0.0", "1.1.0"):
        plan = plan_of(version)
        image = pack_image(plan, [_object(plan, folder)])
        signature = signer.bundle("build", signed.signature_statement(image, f"pack/erp/invoices@{version}"))
        registry.publish((image, signed.attached(image, signature, SIGNATURE_PREDICATE)), f"erp/invoices:{version}")
        digests[version] = image.digest
    data = bundle_image("erp", "roles", BUNDLE)
    signature = signer.bundle("data", signed.signature_statement(data, "data/erp/roles"))
    registry.publish((data, signed.attached(data, signature, SIGNATURE_PREDICATE)), "erp/roles:data")
    return Packs(folder / "registry", signer, folder / "keys", digests, data.digest)


def until(holds: Callable[[], Any], what: str, limit_s: float = 240.0) -> Any:
    """Polls for a state that a user would wait for."""
    end = time.monotonic() + limit_s
    while True:
        value = holds()
        if value:
            return value
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)


def observation(body: bytes, bundle: bytes = bytes(32), time_ns: int | None = None, sub: str = "ann") -> bytes:
    """O for a body."""
    at = time.time_ns() if time_ns is None else time_ns
    name, value = b"sub", sub.encode()
    attributes = b"\0\1" + len(name).to_bytes(2, "big") + name + len(value).to_bytes(4, "big") + value
    route = b"orders"
    head = b"KNO1" + at.to_bytes(8, "big") + b"\0\5local" + len(route).to_bytes(2, "big") + route + bundle + bytes(32)
    return head + attributes + len(body).to_bytes(4, "big") + body


@dataclass
class World:
    """One agent's folders. `packs.registry` is copied, so that a test may damage it."""

    base: Path
    packs: Packs
    registry: Path
    point: Path
    outbox: Path
    rings: Path
    log: Path
    socket: Path
    epoch: int = 0
    park_timeout_ms: int = 1500
    running: list[subprocess.Popen[str]] = field(default_factory=list)
    made: list[Producer] = field(default_factory=list)

    @classmethod
    def make(cls, base: Path, packs: Packs) -> World:
        registry = base / "registry"
        shutil.copytree(packs.registry, registry)
        log = base / "log"
        world = cls(base, packs, registry, base / "point", log / "observations" / "erp.orders", base / "rings", log, base / "s.sock")
        (world.point / "desired").mkdir(parents=True)
        world.rings.mkdir()
        return world

    @property
    def root_pub(self) -> Path:
        return self.packs.keys / "root.pub"

    # documents

    def point_json(self, **changes: Any) -> bytes:
        document = {
            "version": 1, "point": "erp/orders", "region": "local", "regionIndex": 0,
            "attributes": [{"name": "sub", "filterState": "knhk.sub"}], "stickyAttribute": "sub",
            "failure": "Closed", "agentGraceSeconds": 30, "parkTimeoutMs": self.park_timeout_ms, "ringBytes": 4 << 20,
            "residency": {"bytes": 0, "absent": "Decide"},
        }  # fmt: skip
        return canonical({**document, **changes})

    def rollout(self, **changes: Any) -> dict[str, Any]:
        self.epoch += 1
        now = datetime.now(UTC)
        return {
            "version": 1, "point": "erp/orders", "epoch": self.epoch, "origin": ORIGIN,
            "issued": f"{now:%Y-%m-%dT%H:%M:%SZ}", "notAfter": f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
            "mode": "Stable", "weight": 0, "salt": "00" * 16, "baseline": "Deny", "stable": self.pack("1.0.0"), "candidate": None,
            "data": None, "flags": {}, "pointConfig": hashlib.sha256(self.point_json()).hexdigest(), "bootstrap": None, **changes,
        }  # fmt: skip

    def pack(self, version: str) -> dict[str, str]:
        return {"namespace": "erp", "name": "invoices", "version": version, "digest": self.packs.digests[version]}

    def sign(self, document: dict[str, Any], role: str = "rollout") -> bytes:
        return canonical(self.packs.signer.sign(role, ROLLOUT, canonical(document)))

    def desire(self, rollout: bytes, point: bytes | None = None, keys: bytes | None = None, bootstrap: bytes | None = None) -> None:
        """As the control plane writes them."""
        files = {"keys.json": keys or self.packs.signer.keys_json(), "point.json": point or self.point_json()}
        files |= ({"envoy.json": bootstrap} if bootstrap is not None else {}) | {"rollout.json": rollout}
        for name, data in files.items():
            path = self.point / "desired" / name
            path.with_suffix(".new").write_bytes(data)
            os.replace(path.with_suffix(".new"), path)

    # processes

    def start_sequencer(self, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "knhk_runtime.sequencer", "--dir", str(self.log), "--socket", str(self.socket)]
        command += ["--origin", ORIGIN, "--key", str(self.packs.signer.key_file("log")), *more]
        return self.start_process(command, "sequencer.err")

    def start_process(self, command: list[str], said: str) -> subprocess.Popen[str]:
        with (self.base / said).open("a") as file:
            process = subprocess.Popen(command, stderr=file, text=True)
        self.running.append(process)
        return process

    def start_agent(self, **more: Any) -> subprocess.Popen[str]:
        """`more`: further options; by default the sequencer is reached by its socket."""
        script = Path(__file__).with_name("agent_process.py")
        options = {
            "point-dir": self.point, "registry": self.registry, "outbox": self.outbox, "ring-dir": self.rings, "root-pub": self.root_pub,
            **({} if "log" in more else {"sequencer-socket": self.socket}),
            **{name.replace("_", "-"): value for name, value in more.items()},
        }  # fmt: skip
        words = [word for name, path in options.items() for word in (f"--{name}", str(path))]
        return self.start_process([sys.executable, str(script), *words], "agent.err")

    def ring(self, worker: int = 0) -> Producer:
        """A ring as an Envoy worker makes it; closed when the test ends."""
        self.made.append(Producer(self.rings, worker))
        return self.made[-1]

    def close(self) -> None:
        self.stop_all()
        for ring in self.made:
            ring.close()

    def stop_all(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()

    # what a user sees

    def stats(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.point / "stats.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def said(self) -> str:
        return (self.base / "agent.err").read_text()

    def park(self, message: bytes) -> tuple[int, str | None, bytes]:
        """(status, x-knhk-agent, body) of POST /park."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.point / "run" / "agent.sock"))
            head = f"POST /park HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(message)}\r\n\r\n"
            connection.sendall(head.encode() + message)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        fields, _, body = answer.partition(b"\r\n\r\n")
        lines = fields.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return int(lines[0].split()[1]), headers.get("x-knhk-agent"), body

    def records(self) -> list[Record]:
        """Every record of the outbox."""
        found = []
        for path in sorted(self.outbox.glob("*.seg")):
            frames, _ = scan_frames(path.read_bytes(), int(path.stem, 16), str(path))
            found += [parse_record(payload, str(path)) for _, payload in frames]
        return found

    def evaluator(self) -> int:
        """Process id of the agent's warm evaluator."""
        agent = self.running[-1].pid
        children = [pid for path in Path(f"/proc/{agent}/task").glob("*/children") for pid in path.read_text().split()]
        return next(int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())

    def runs(self, epoch: int) -> dict[str, Any]:
        """Statistics once the agent runs this epoch."""
        found: dict[str, Any] = until(
            lambda: (s := self.stats()).get("ready") and s["epoch"] == epoch and s, f"epoch {epoch} runs; {self.said()[-2000:]}"
        )
        return found


def failing(a: bytes) -> tuple[int, ...]:
    """Failing guards of an A."""
    return parse_action(a).failing


def ecds(world: World) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((world.point / "private" / "ecds.json").read_bytes())
    return document


def shim_config(world: World) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(ecds(world)["resources"][0]["typed_config"]["filter_config"]["value"])
    return config
