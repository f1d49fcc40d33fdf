"""The agent's image decides on the node: files of an embedded home's point are all that it is given."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.signer_local import LocalSigner
from knhk.model.canonical import canonical, sha256_hex
from knhk.reconcilers.documents import ROLLOUT
from knhk_templates.envoy import render_bootstrap

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "system"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "order_to_cash"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import images
from node_pods import RESTRICTED, Node, is_ready
from system_world import PAYLOADS, POINT, Traffic, World, fast_pack, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("node"), pytest.mark.timeout(600)]
PORT, APPLICATION = 8080, 8081
STATE, RUN = "/var/lib/knhk", "/run/knhk"
SERVER = f"""
from http.server import BaseHTTPRequestHandler, HTTPServer
class Admitted(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(201)
        self.end_headers()
HTTPServer(("127.0.0.1", {APPLICATION}), Admitted).serve_forever()
"""


@dataclass(frozen=True)
class Guard:
    """A pod's address, and tokens that its point takes."""

    address: str
    world: World

    def post(self, path: str, invoice: bytes, subject: str) -> tuple[int, str, bytes]:
        """Status, receipt id and body of the answer."""
        headers = {"authorization": f"Bearer {self.world.provider.token(subject)}", "content-type": "application/json"}
        request = urllib.request.Request(f"http://{self.address}:{PORT}{path}", data=invoice, headers=headers, method="POST")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
                return answer.status, answer.headers.get("knhk-receipt", ""), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers.get("knhk-receipt", ""), error.read()


@pytest.fixture(scope="module")
def reference(node: Node) -> str:
    return node.push(images.build(images.IMAGES["knhk-agent"]).artifact, "knhk-agent:test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A home whose point enforces a pack; what it made is copied, then it ends."""
    with World.start(tmp_path_factory.mktemp("world")) as world:
        with Traffic(world.callers, world.sent, iter(world.mix), rate_s=50.0):
            world.roll(fast_pack("1.0.0", shadow=5, step=5))
            until(lambda: any(answer.status == 403 for answer in world.callers.tally.answers), "a denial")
        yield world


def copied(world: World, place: Path) -> None:
    """The point's files as a pod has them."""
    home = world.home
    shutil.copytree(home / "points" / POINT.replace("/", ".") / "desired", place / "point" / "desired")
    shutil.copytree(home / "registry", place / "registry")
    shutil.copy(home / "keys" / "root.pub", place / "root.pub")
    local = {"ecds": f"{STATE}/point/private/ecds.json", "agentSocket": f"{RUN}/agent.sock", "adminSocket": f"{RUN}/envoy-admin.sock"}
    spec = world.knhk("get", "enforcementpoint", POINT)["spec"]
    listen = {**spec["listen"], "address": "0.0.0.0", "port": PORT}
    upstream = {"host": "127.0.0.1", "port": APPLICATION}
    bootstrap = render_bootstrap({**spec, "name": POINT, "listen": listen, "upstream": upstream, "local": local})
    desired, signer = place / "point" / "desired", LocalSigner(home / "keys")
    (desired / "envoy.json").write_text(bootstrap)
    document = json.loads(base64.b64decode(json.loads((desired / "rollout.json").read_bytes())["payload"]))
    document["bootstrap"] = sha256_hex(bootstrap.encode())
    (desired / "rollout.json").write_bytes(canonical(signer.sign("rollout", ROLLOUT, canonical(document))))
    (place / "outbox").mkdir()
    for folder, _, files in os.walk(place):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            os.chown(path, RESTRICTED["runAsUser"], RESTRICTED["runAsUser"])


def pod(namespace: str, image: str, place: Path) -> dict[str, Any]:
    """As injection makes it, with a folder of the machine in place of what the courier brings."""
    mounts = [{"name": "state", "mountPath": STATE}, {"name": "run", "mountPath": RUN}, {"name": "tmp", "mountPath": "/tmp"}]
    paths = ("point-dir", "point"), ("registry", "registry"), ("outbox", "outbox"), ("root-pub", "root.pub")
    agent = [*(f"--{option}={STATE}/{path}" for option, path in paths), f"--ring-dir={RUN}/rings", f"--socket={RUN}/agent.sock"]
    proxy = [f"--run-dir={RUN}", f"--point-dir={STATE}/point", "--drain-seconds=1", "--address=$(POD_IP)"]
    address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    probe = {"tcpSocket": {"port": PORT}, "periodSeconds": 1, "failureThreshold": 60}
    common = {"image": image, "securityContext": RESTRICTED, "volumeMounts": mounts}
    containers = [
        {**common, "name": "agent", "command": ["knhk-agent", *agent, f"--sequencer-socket={RUN}/sequencer.sock"]},
        {**common, "name": "envoy", "command": ["knhk-proxy", "run", *proxy], "env": [address], "readinessProbe": probe},
        {**common, "name": "app", "command": ["python", "-c", SERVER]},
    ]
    volumes = [
        {"name": "state", "hostPath": {"path": str(place), "type": "Directory"}},
        {"name": "run", "emptyDir": {"medium": "Memory"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    spec = {
        "containers": containers,
        "volumes": volumes,
        "securityContext": {"fsGroup": RESTRICTED["runAsUser"]},
        "terminationGracePeriodSeconds": 10,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": "guarded"}, "spec": spec}


@pytest.fixture(scope="module")
def guard(node: Node, reference: str, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    place = tmp_path_factory.mktemp("point") / "state"
    copied(world, place)
    with node.namespace("guarded") as name:
        node.apply(pod(name, reference, place))
        found = node.pod(name, "guarded", is_ready)
        yield Guard(found["status"]["podIP"], world)


def test_a_pod_of_the_agent_s_image_decides_and_gives_a_receipt(guard: Guard) -> None:
    invoice = (PAYLOADS / "gobl-us-invoice-us-us.json").read_bytes()
    status, admitted, _ = guard.post("/invoices", invoice, "clerk-001")
    assert status == 201
    refused = next(answer.request for answer in guard.world.callers.tally.answers if answer.status == 403)
    status, denied, told = guard.post(refused.path, refused.body, refused.caller)
    assert status == 403
    assert json.loads(told)["receipt"] == denied
    assert len({admitted, denied} - {""}) == 2
