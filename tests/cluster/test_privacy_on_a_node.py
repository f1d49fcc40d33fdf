"""On a real node: a guarded pod of a point with privacy decides, and seals by keys of the key service in its pod. Nothing keeps a name in
clear, receipts verify, and what was erased about somebody opens no more."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "admission"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).parent))
import images
from admission_process import Admission, applied, manifests
from guarded_world import EXCHANGE, LOG, SYSTEM, World, document, pack, pod, post
from node_pods import Node, is_ready
from pods import point_spec
from sealed_by_service import ANNA, BOB, HOST, PRIVACY, URL, named_in, resolved

from knhk.adapters.wrapping_keys import FileWrapping
from knhk.cli import main
from knhk.model.faults import Refused, Stalled, Waiting
from knhk.wiring.home import Home
from knhk.wiring.privacy import KeyPlace, unsealer
from knhk_runtime.envelope import parse_envelope
from knhk_runtime.record import Record, parse_record
from knhk_runtime.tlog.audit import verify_log
from knhk_runtime.tlog.folder import log_records
from knhk_verify.leaf import parse_leaf

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("node"), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
NS, POINT = "clinic", "orders"
PODS, SERVICES = f"/api/v1/namespaces/{NS}/pods", f"/api/v1/namespaces/{SYSTEM}/services"
LOOK = """
import pathlib, sys
def read(path):
    try:
        return path.read_bytes()
    except FileNotFoundError:  # another took its place
        return b""
files = [path for path in pathlib.Path(sys.argv[1]).rglob("*") if path.is_file()]
print(len(files), [str(path) for path in files if any(text.encode() in read(path) for text in sys.argv[2:])])
"""


@dataclass
class Clinic(World):
    """What is decided here is about somebody. `asked`: receipts of requests, by who they were about."""

    asked: dict[str, list[str]] = field(default_factory=lambda: {ANNA: [], BOB: []})

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def place(self) -> KeyPlace:
        return KeyPlace(URL, NS, self.folder / "token", self.folder / "ca.crt")

    def ask(self, address: str, who: str, status: int = 200, **more: int) -> None:
        found, receipt = post(address, body=json.dumps({"who": who, **more}).encode())
        assert found == status
        self.asked[who].append(receipt)

    def records(self) -> dict[str, Record]:
        """What is kept of what was asked, beside the log, by receipt."""
        wanted = {receipt for receipts in self.asked.values() for receipt in receipts}
        found = [parse_record(payload, where) for where, payload in log_records(self.log)]
        return {name: record for record in found for name in (parse_leaf(record.leaves[0]).receipt_id.hex(),) if name in wanted}

    def opened(self) -> dict[str, set[str]]:
        """Whom the records about somebody name for who may open them, or why they name nobody."""
        with contextlib.closing(unsealer(self.place, needed=True)) as reader:
            kept = self.records()
            return {who: {named_in(reader.open(kept[receipt], receipt)) for receipt in self.asked[who]} for who in self.asked}

    def within(self, namespace: str, pod: str, container: str, folder: str) -> tuple[int, str]:
        """(files below a folder of a container, those with a name in them)"""
        words = ("-n", namespace, "exec", pod, "-c", container, "--", "python3", "-c", LOOK, folder, ANNA, BOB)
        count, _, named = self.node.kubectl(*words).strip().partition(" ")
        return int(count), named

    @property
    def archive(self) -> str:
        return str(self.folder / "delta")

    def knhk(self, *words: str, code: int = 0) -> Any:
        """As `knhk … -o json` beside the log, for who may open and erase in the namespace."""
        files = ("--key-token", str(self.place.token), "--key-ca", str(self.place.authority))
        return json.loads(self.ran((*words, "--key-service", URL, *files, "--key-namespace", NS, "-o", "json"), code))

    def replayed(self) -> dict[str, Any]:
        """The archive against the log, packs from the registry."""
        packs = ("--registry", str(self.folder / "pulled"), "--pull", self.packs)
        found: dict[str, Any] = self.knhk("log", "replay", self.archive, "--log", str(self.log), *packs)
        return found

    def ran(self, words: tuple[str, ...], code: int = 0) -> str:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            assert main(["--home", str(self.folder / "reader"), *words]) == code, said.getvalue()
        return said.getvalue()


def component(folder: Path, image: str) -> Path:
    """manifests/components/keys with this image; its volume lives as long as its pod, for a node has no StorageClass."""
    name, _, digest = image.partition("@")
    in_memory = [
        {"op": "remove", "path": "/spec/volumeClaimTemplates"},
        {"op": "add", "path": "/spec/template/spec/volumes/-", "value": {"name": "data", "emptyDir": {}}},
    ]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "components": [os.path.relpath(ROOT / "manifests" / "components" / "keys", folder)],
        "images": [{"name": "knhk-operator", "newName": name, "digest": digest}],
        "patches": [{"target": {"kind": "StatefulSet", "name": "knhk-keys"}, "patch": json.dumps(in_memory)}],
    }
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


def subjects_key(folder: Path) -> dict[str, Any]:
    """Secret knhk-keys-subjects as `knhk cluster keys` writes it."""
    FileWrapping(folder).ensure()
    data = {"subjects.key": base64.b64encode((folder / "subjects.key").read_bytes()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "knhk-keys-subjects", "namespace": SYSTEM}, "data": data}


@pytest.fixture(scope="module")
def clinic(node: Node, guard_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    folder = tmp_path_factory.mktemp("clinic")
    packs = f"{node.cluster.registry}/clinic/packs"
    found = Clinic(node, folder, guard_image, NS, "app=orders", POINT, packs, URL)
    keys = component(folder / "overlay", node.push(images.build(images.IMAGES["knhk-operator"]).artifact, "knhk-operator:1"))
    with node.namespace(NS), contextlib.ExitStack() as stack:
        node.kubectl("label", "namespace", NS, "knhk.dev/enforce=true", "pod-security.kubernetes.io/enforce=restricted")
        node.kubectl("label", "namespace", NS, "knhk.dev/unguarded=allow")  # its pods are looked into
        node.kubectl("apply", "-f", str(ROOT / "manifests" / "base" / "namespace.yaml"))
        node.kubectl("apply", "-f", str(ROOT / "manifests" / "base" / "config.yaml"))
        node.apply(subjects_key(folder / "kek"))
        stack.callback(lambda: node.kubectl("delete", "-k", str(keys), "--ignore-not-found", "--wait=false"))
        node.kubectl("apply", "--server-side", "-k", str(keys))
        found.start_operator()
        stack.callback(found.stop)
        found.start_log()
        node.apply(document("EnforcementPoint", NS, POINT, {**point_spec(), "baseline": "Admit", "privacy": PRIVACY}))
        node.apply(pack(NS, POINT, "1.0.0", {"weight": 100, "minPairs": 20}))
        told = ("--image", guard_image, "--exchange", EXCHANGE, "--log", LOG, "--registry", packs, "--keys", URL)
        (folder / "admission").mkdir()
        admission = Admission(folder / "admission", node.cluster.kubeconfig, *told)
        stack.callback(admission.end)
        stack.enter_context(applied(node.client, manifests(admission.url, guard_image)))
        found.until(lambda: made(found, pod(guard_image, "orders", "127.0.0.1")))
        stack.enter_context(reader(found))
        address = node.client.call("GET", f"{SERVICES}/knhk-keys")["spec"]["clusterIP"]
        stack.enter_context(resolved(HOST, address))
        yield found


def made(clinic: Clinic, wanted: dict[str, Any]) -> dict[str, Any]:
    """The pod, as soon as admission takes it; an API server takes a moment to see new webhooks."""
    try:
        return clinic.client.call("POST", PODS, body=wanted)
    except (Refused, Stalled, Waiting):
        return {}


@contextlib.contextmanager
def reader(clinic: Clinic) -> Iterator[None]:
    """A home beside the log, and a token of who may open and erase in the namespace."""
    home, own = Home(clinic.folder / "reader"), Home(clinic.folder / "home")
    home.root.mkdir()
    home.keys.symlink_to(own.keys)
    home.log.symlink_to(clinic.log)
    kubectl = clinic.node.kubectl
    kubectl("-n", NS, "create", "rolebinding", "eraser", "--clusterrole=knhk-key-eraser", f"--serviceaccount={NS}:default")
    clinic.place.token.write_text(kubectl("-n", NS, "create", "token", "default", "--audience=keys.knhk.dev", "--duration=1h"))
    home.sockets.mkdir(mode=0o700)
    try:
        home.sequencer_socket.symlink_to(clinic.folder / "s.sock")
        yield
    finally:
        shutil.rmtree(home.sockets)


@pytest.fixture(scope="module")
def decided(clinic: Clinic) -> Clinic:
    """The pack is live, and requests about Anna and Bob were decided by it."""
    ready = clinic.until(lambda: (found := clinic.there(f"{PODS}/orders")) and is_ready(found) and found)
    address = str(ready["status"]["podIP"])
    clinic.until(lambda: post(address)[0] == 200)  # the guard is ready before the application listens

    def live() -> bool:
        for who in (ANNA, BOB):
            clinic.ask(address, who, total=7)
        return clinic.revision().get("phase") == "Live"

    clinic.until(live)
    clinic.until(lambda: post(address)[0] == 403)
    for number in range(10):
        clinic.ask(address, (ANNA, BOB)[number % 2], total=number)
    for who in (ANNA, BOB):
        clinic.ask(address, who, 403)  # an order without a total
    clinic.until(lambda: {*clinic.asked[ANNA], *clinic.asked[BOB]} <= clinic.logged() & clinic.records().keys())
    clinic.ran(("log", "archive", str(clinic.log), "--to", clinic.archive))
    return clinic


def test_what_a_pod_decides_is_sealed_by_the_service_in_its_pod_and_no_name_lies_anywhere(decided: Clinic) -> None:
    kept = decided.records()
    assert all(record.sealed and not record.erased for record in kept.values())
    assert len({parse_envelope(record.observation).key_id for record in kept.values()}) == 2
    assert decided.opened() == {ANNA: {ANNA}, BOB: {BOB}}
    texts = (ANNA.encode(), BOB.encode())
    files = [path for path in decided.folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".parquet" for path in files)
    assert [path for path in files if any(text in path.read_bytes() for text in texts)] == []
    for namespace, name, container in ((NS, "orders", "knhk-agent"), (SYSTEM, "knhk-keys-0", "keys")):
        count, found = decided.within(namespace, name, container, "/var/lib/knhk")
        assert (count > 0, found) == (True, "[]")
        said = decided.node.kubectl("-n", namespace, "logs", name, "--all-containers")
        assert not any(who in said for who in (ANNA, BOB))


def test_its_receipts_verify_and_replay_to_the_same_bytes_for_who_may_open_them(decided: Clinic) -> None:
    for name in ("keys.json", "root.pub"):
        shutil.copy(decided.folder / "home" / "keys" / name, decided.log)
    report = verify_log(decided.log, json.loads((decided.log / "meta.json").read_text())["vkey"])
    asked = len(decided.asked[ANNA]) + len(decided.asked[BOB])
    assert (report.bad, report.receipts >= asked) == ([], True)
    told = decided.replayed()
    assert (told["different"], told["unrecorded"], told["sealed"], told["erased"]) == (0, 0, 0, 0)
    assert told["replayed"] >= asked


def test_what_was_erased_about_somebody_opens_no_more(decided: Clinic) -> None:
    """A hold stands first: the service keeps what it covers."""
    basis, archive = "GDPR 17(1)(b)", decided.archive
    hold = decided.knhk("receipt", "hold", ANNA, "--reference", "case 7")["hold"]
    (queued,) = decided.knhk("receipt", "erase", ANNA, "--basis", basis, "--archive", archive, code=1)["erasures"]
    assert (queued["state"], decided.opened()) == ("queued", {ANNA: {ANNA}, BOB: {BOB}})
    (told,) = decided.knhk("receipt", "release", hold, "--archive", archive)["erasures"]
    assert (told["state"], told["keys"], told["leaves"] >= len(decided.asked[ANNA])) == ("done", 1, True)
    assert decided.opened() == {ANNA: {"erased"}, BOB: {BOB}}
    assert '"event": "destroy"' in decided.node.kubectl("-n", SYSTEM, "logs", "knhk-keys-0")
    told = decided.replayed()
    assert (told["different"], told["erased"] >= len(decided.asked[ANNA]), told["replayed"] >= len(decided.asked[BOB])) == (0, True, True)
    report = verify_log(decided.log, json.loads((decided.log / "meta.json").read_text())["vkey"])
    assert report.bad == []
