"""On a real node, with the control plane in pods by its manifests: keys turn by CronJob without a restart, and a person with a kubeconfig
and two roles erases what a guarded pod sealed. The key service keeps its volume when its pod goes."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "admission"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "order_to_cash"))
sys.path.insert(0, str(Path(__file__).parent))
import definitions
from guarded_world import document, pack, pod, post
from node_pods import Node, is_ready
from on_cluster import Images, Kubectl, install
from pods import point_spec
from sealed_by_service import ANNA, BOB, HOST, PRIVACY, URL, named_in, resolved

from knhk.adapters.shelf_kube import KubeShelf
from knhk.cli import main
from knhk.model.faults import Refused, Stalled, Waiting
from knhk.wiring.privacy import KeyPlace, unsealer
from knhk_runtime.pull import pull
from knhk_runtime.record import parse_record
from knhk_runtime.tlog.audit import verify_log
from knhk_runtime.tlog.folder import log_entries, log_records
from knhk_verify.leaf import parse_leaf
from knhk_verify.note import Verifier, open_note
from knhk_verify.signed import ROLES, Keys, verify_event, verify_keys

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("node"), pytest.mark.timeout(900)]
OURS, NS, POINT = "knhk-system", "clinic", "orders"
PODS = f"/api/v1/namespaces/{NS}/pods"
READ, CHECKPOINT = "import pathlib, sys; print(pathlib.Path(sys.argv[1]).read_text(), end='')", "/var/lib/knhk/log/checkpoint"
BINDINGS = (
    ("account", NS, "--clusterrole=knhk-key-eraser", f"--serviceaccount={NS}:knhk-eraser"),
    ("risk-erases", NS, "--clusterrole=knhk-eraser", "--group=risk"),
    ("risk-reaches", OURS, "--role=knhk-eraser-way", "--group=risk"),
)
BUNDLE = """@prefix abac: <https://knhk.dev/ns/abac#> .
@prefix user: <https://example.com/users/> .
user:%s abac:hasRole <https://example.com/roles/clerk> .
"""


@dataclass
class Installed:
    """Our control plane on the node, and a pod that it guards. `asked`: receipts of requests, by who they were about."""

    node: Node
    folder: Path
    kubectl: Kubectl
    asked: dict[str, list[str]] = field(default_factory=lambda: {ANNA: [], BOB: []})

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def root(self) -> bytes:
        return base64.b64decode((self.keys / "root.pub").read_text().strip())

    def ask(self, address: str, who: str, **more: int) -> int:
        status, receipt = post(address, body=json.dumps({"who": who, **more}).encode())
        self.asked[who].append(receipt)
        return int(status)

    def there(self, path: str) -> dict[str, Any]:
        with contextlib.suppress(Waiting):
            return self.node.client.call("GET", path)
        return {}

    def revision(self) -> dict[str, Any]:
        found: dict[str, Any] = self.there(f"/apis/knhk.dev/v1alpha1/namespaces/{NS}/policypacks/{POINT}").get("status", {})
        return dict(found.get("revision", {}))

    def verified(self, name: str, told: Callable[[list[str]], bool]) -> tuple[Path, list[dict[str, Any]]]:
        """A copy of the log, with copies of outboxes beside it, that verifies and has events of such kinds, and the events; as soon as one
        is there: a folder is not copied at one moment."""
        found: list[tuple[Path, list[dict[str, Any]]]] = []
        bad: list[Any] = []

        def look() -> bool:
            target = self.folder / f"{name}-{len(bad)}"
            self.kubectl.folder("knhk-log-0", "log", OURS, "/var/lib/knhk/log", target)
            keys_json = self.data("knhk-keys-now").get("keys.json") or (self.keys / "keys.json").read_bytes()
            (target / "keys.json").write_bytes(keys_json)
            (target / "root.pub").write_bytes((self.keys / "root.pub").read_bytes())
            bad.append(verify_log(target, json.loads((target / "meta.json").read_text())["vkey"]).bad)
            if not bad[-1]:
                named = verify_keys(keys_json, self.root)
                entries = (entry for entry in log_entries(target) if entry[:1] == b"{")
                found[:] = [(target, [verify_event(entry, named)[0]["predicate"] for entry in entries])]
            return bool(not bad[-1] and told([event["kind"] for event in found[0][1]]))

        self.node.until(look, "a copy of the log that verifies, with what is to be told in it", lambda: str(bad[-1:]))
        return found[0]

    def data(self, secret: str) -> dict[str, bytes]:
        if not self.node.exists(path := f"/api/v1/namespaces/{OURS}/secrets/{secret}"):
            return {}
        return {name: base64.b64decode(text) for name, text in self.node.client.call("GET", path)["data"].items()}

    def in_force(self) -> Keys:
        return verify_keys(self.data("knhk-keys-now")["keys.json"], self.root)

    def made(self, *words: str) -> None:
        """`knhk cluster ahead`, and what it says is to be applied."""
        assert main(["cluster", "ahead", str(self.keys), "--days", "2", *words]) == 0
        self.node.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(self.keys / "secrets.yaml"))

    def job(self, name: str) -> dict[str, Any]:
        """What a pod of the CronJob says that it did."""
        self.node.kubectl("-n", OURS, "create", "job", name, "--from=cronjob/knhk-turning")
        self.node.kubectl("-n", OURS, "wait", f"job/{name}", "--for=condition=complete", "--timeout=180s")
        said: dict[str, Any] = json.loads(self.node.kubectl("-n", OURS, "logs", f"job/{name}"))
        return said

    def looked_at(self) -> None:
        """A kubelet looks at the volumes of a pod that changed at once, and else within a minute or two."""
        self.node.kubectl("-n", OURS, "annotate", "pods", "--all", "--overwrite", f"knhk.dev/looked-at={self.in_force().serial}")

    def log_signs_with(self) -> frozenset[bytes]:
        """Public keys, of all that are named, whose signature the checkpoint of the log's pod has."""
        note = self.node.kubectl("-n", OURS, "exec", "knhk-log-0", "-c", "log", "--", "python3", "-c", READ, CHECKPOINT).encode()
        named = [Verifier(note.split(b"\n", 1)[0].decode(), key.public) for key in self.in_force().roles["log"].values()]
        return frozenset(verifier.public for verifier in open_note(note, named)[1])

    def rolls_out_by(self) -> str:
        """keyid of who signed what the point's guards are told."""
        envelope = json.loads(KubeShelf(self.node.client, OURS).files(f"{NS}/{POINT}")["rollout.json"])
        return str(envelope["signatures"][0]["keyid"])

    def bundle_signed_by(self, name: str, keyid: str) -> bool:
        """Whether a bundle that is made now is signed so by the builder's pod."""
        self.node.apply(document("DataBundle", NS, name, {"version": "1.0.0", "source": {"inline": BUNDLE % name}}))
        path = f"/apis/knhk.dev/v1alpha1/namespaces/{NS}/databundles/{name}"
        image = {"digest": ""}

        def built() -> bool:
            image["digest"] = self.there(path).get("status", {}).get("image", "")
            return bool(image["digest"])

        self.node.until(built, f"the image of {name}", lambda: json.dumps(self.there(path).get("status")))
        pull(f"{self.node.cluster.registry}/clinic", image["digest"], self.folder / name, auth=None, tls=None)
        return any(keyid.encode() in path.read_bytes() for path in (self.folder / name).rglob("*") if path.is_file())

    def restarts(self) -> dict[str, int]:
        """Of each pod of the control plane that is there to stay."""
        rows = self.node.client.call("GET", f"/api/v1/namespaces/{OURS}/pods")["items"]
        lasting = (row for row in rows if "job-name" not in row["metadata"]["labels"])
        return {row["metadata"]["name"]: sum(each["restartCount"] for each in row["status"]["containerStatuses"]) for row in lasting}


def volume(folder: Path, machine: str) -> dict[str, Any]:
    """A folder of this machine, which outlives a pod, as the key service's volume."""
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    place = {"key": "kubernetes.io/hostname", "operator": "In", "values": [machine]}
    spec = {
        "capacity": {"storage": "10Gi"},
        "accessModes": ["ReadWriteOnce"],
        "local": {"path": str(folder)},
        "claimRef": {"namespace": OURS, "name": "data-knhk-keys-0"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [place]}]}},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "knhk-keys"}, "spec": spec}


@pytest.fixture(scope="module")
def installed(
    node: Node, guard_image: str, control_images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("installed")
    node.without(OURS)  # what a test before it left there
    kubectl = Kubectl(node.program, node.cluster.kubeconfig, Console(file=io.StringIO()))
    found = Installed(node, folder, kubectl)
    images = Images(control_images["operator"], control_images["builder"], guard_image, f"{node.cluster.registry}/clinic")
    machine = node.client.call("GET", "/api/v1/nodes")["items"][0]["metadata"]["labels"]["kubernetes.io/hostname"]
    node.apply(volume(folder / "volume", machine))
    try:
        install(kubectl, folder, images, components=("keys", "turning"))
        node.kubectl("-n", OURS, "patch", "cronjob", "knhk-turning", "--type=merge", "-p", '{"spec": {"suspend": true}}')  # looks when told
        with node.namespace(NS):
            node.kubectl("label", "namespace", NS, "knhk.dev/enforce=true", "pod-security.kubernetes.io/enforce=restricted")
            yield found
            node.kubectl("delete", "policypacks,enforcementpoints,databundles", "--all", "-n", NS)
    finally:
        node.without(OURS)
        node.kubectl("delete", "-k", str(folder / "overlay"), "--ignore-not-found")
        node.kubectl("delete", "pv", "knhk-keys", "--ignore-not-found", "--wait=false")
        definitions.install(node.client)  # they went as well, and other tests need them


@pytest.fixture(scope="module")
def decided(installed: Installed, guard_image: str) -> Installed:
    """A pack is live, and requests about Anna and Bob were decided by it, sealed, and archived."""
    node = installed.node
    node.apply(document("EnforcementPoint", NS, POINT, {**point_spec(), "baseline": "Admit", "privacy": PRIVACY}))
    node.apply(pack(NS, POINT, "1.0.0", {"weight": 100, "minPairs": 20}))

    def made() -> bool:  # an API server takes a moment to see new webhooks
        with contextlib.suppress(Refused, Stalled, Waiting):
            return bool(node.client.call("POST", PODS, body=pod(guard_image, "orders", "127.0.0.1")))
        return False

    node.until(made, "the pod taken by admission")
    address = str(node.pod(NS, "orders", is_ready)["status"]["podIP"])
    node.until(lambda: post(address)[0] == 200, "an answer")  # the guard is ready before the application listens

    def live() -> bool:
        for who in (ANNA, BOB):
            installed.ask(address, who, total=7)
        return installed.revision().get("phase") == "Live"

    node.until(live, "the pack live", lambda: json.dumps(installed.revision()))
    node.until(lambda: post(address)[0] == 403, "a denial")
    return installed


def erase(installed: Installed, person: Path, *words: str) -> tuple[int, str]:
    """`knhk receipt erase` of Anna by a person, through the API server; exit code, and all that was said."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["receipt", "erase", ANNA, "--basis", "GDPR 17(1)(b)", *words, "-n", NS, f"--kubeconfig={person}", "-o", "json"])
    return code, out.getvalue() + err.getvalue()


def opened(installed: Installed, log: Path) -> dict[str, set[str]]:
    """Whom the records about somebody name for who may open them, or why they name nobody."""
    node, token, authority = installed.node, installed.folder / "token", installed.folder / "ca.crt"
    token.write_text(node.kubectl("-n", NS, "create", "token", "knhk-eraser", "--audience=keys.knhk.dev"))
    authority.write_text(node.client.call("GET", f"/api/v1/namespaces/{NS}/configmaps/knhk-trust")["data"]["ca.crt"])
    address = node.client.call("GET", f"/api/v1/namespaces/{OURS}/services/knhk-keys")["spec"]["clusterIP"]
    kept = (parse_record(payload, where) for where, payload in log_records(log))
    records = {parse_leaf(record.leaves[0]).receipt_id.hex(): record for record in kept}
    with resolved(HOST, address), contextlib.closing(unsealer(KeyPlace(URL, NS, token, authority), needed=True)) as reader:
        return {
            who: {named_in(reader.open(records[receipt], receipt)) for receipt in installed.asked[who] if receipt in records}
            for who in installed.asked
        }


def test_a_person_with_a_kubeconfig_erases_what_a_guarded_pod_sealed(decided: Installed) -> None:
    """The key service, container archive of the log's pod and the operator do it; in between the key service's pod goes and comes back."""
    node, person, said = decided.node, decided.node.cluster.user("ann", ("risk",)), ["never asked"]
    assert erase(decided, person)[0] == 3
    node.kubectl("create", "serviceaccount", "knhk-eraser", "-n", NS)
    for name, namespace, *words in BINDINGS:
        node.kubectl("create", "rolebinding", name, "-n", namespace, *words)
    node.kubectl("-n", OURS, "delete", "pod", "knhk-keys-0", "--wait=false")

    def planned() -> bool:  # as soon as all that was asked is archived, and who may is known to the authorizer
        code, said[0] = erase(decided, person, "--dry-run")
        return code == 0 and sum(row["leaves"] for row in json.loads(said[0])["erasures"]) >= len(decided.asked[ANNA])

    node.until(planned, "a plan of all that Anna asked", lambda: said[0])
    code, said[0] = erase(decided, person)
    assert code == 0, said[0]
    (told,) = json.loads(said[0])["erasures"]
    assert (told["state"], told["keys"], told["leaves"] >= len(decided.asked[ANNA])) == ("done", 1, True)
    assert ANNA not in said[0]
    log, events = decided.verified("erased", lambda kinds: "Erased" in kinds)
    assert opened(decided, log) == {ANNA: {"erased"}, BOB: {BOB}}
    (erased,) = (event for event in events if event["kind"] == "Erased")
    assert erased["evidence"]["leaves"] == told["leaves"]
    assert "knhk-eraser" in json.dumps(erased)


def test_keys_turn_in_pods_and_none_is_restarted(decided: Installed) -> None:
    """First keys that are sealed take the place of those that the installation began with; then all are said to be stolen."""
    node, before, restarts = decided.node, verify_keys((decided.keys / "keys.json").read_bytes(), decided.root), decided.restarts()
    decided.made()
    node.kubectl("create", "-f", str(decided.keys / "first.yaml"))
    assert (decided.job("early")["changed"], decided.in_force().serial) == (False, before.serial)
    decided.looked_at()
    decided.made("--at-once")
    assert decided.job("stolen")["changed"] is True
    after = decided.in_force()
    signs = {role: next(id_ for id_, key in after.roles[role].items() if key.until is None) for role in ROLES}
    assert not {*signs.values()} & {id_ for role in ROLES for id_ in before.roles[role]}
    decided.looked_at()
    log_key = after.roles["log"][signs["log"]].public
    node.until(lambda: log_key in decided.log_signs_with(), "a checkpoint by the new key", lambda: node.told(OURS, "knhk-log-0"))
    node.until(lambda: decided.rolls_out_by() == signs["rollout"], "a document by the new key")
    assert decided.bundle_signed_by("after", signs["data"])
    assert decided.restarts() == restarts
    decided.verified("turned", lambda kinds: kinds.count("KeyRotated") == len(ROLES))
