"""Operator and admission as processes of this machine, and a point that judges Deployments of namespace shop on the real API server."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path
from ssl import create_default_context
from typing import Any, TypeVar
from urllib.parse import urlsplit

import yaml
from admission_process import OWN_NAMESPACE, Admission
from control_plane import Cluster

from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.adapters.kube_documents import collection, place
from knhk.adapters.kube_webhooks import BASE
from knhk.adapters.placement_objects import ALLOWED, configuration_name
from knhk.adapters.serving_certificates import ServingCertificates
from knhk.adapters.system import SystemClock
from knhk.model.faults import AlreadyExists, KnhkError, NotFound, Waiting
from knhk.model.resource import Key
from knhk.wiring.pods import ADMISSION_SERVICE

EXAMPLE = Path(__file__).parents[2] / "examples" / "kubernetes"
POLICY, SHOP, WORKSHOP = "policy", "shop", "workshop"  # the last is nobody's production
POINT, PACK = Key("EnforcementPoint", POLICY, "workloads"), Key("PolicyPack", POLICY, "workload-controls")
CONFIGURATION = f"{BASE}/validatingwebhookconfigurations/{configuration_name(f'{POLICY}/workloads')}"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"
WITHIN_S = 240.0
Document = dict[str, Any]
Found = TypeVar("Found")


def review(payload: str, name: str = "orders") -> Document:
    """An AdmissionReview of the example."""
    found: Document = json.loads((EXAMPLE / "payloads" / f"{payload}.json").read_text())
    found["request"]["object"]["metadata"]["name"] = name
    return found


def deployment(payload: str, namespace: str = SHOP, name: str = "orders") -> Document:
    """The Deployment that it asks about."""
    found: Document = review(payload, name)["request"]["object"]
    return {**found, "metadata": {**found["metadata"], "namespace": namespace}}


def pack(version: str = "1.0.0", pairs: int = 60) -> Document:
    """The example's pack, with a rollout of so many pairs."""
    found: Document = yaml.safe_load((EXAMPLE / "pack.yaml").read_text())
    found["spec"]["version"] = version
    found["spec"]["rollout"] = {
        "shadow": {"minPairs": pairs},
        "steps": [{"weight": 50, "minPairs": pairs}],
        "analysis": {"tolerances": {"maxNewDenials": "0.01", "maxNewAdmits": "0.01"}, "effect": "0.5"},
        "deadlineSeconds": 600,
        "onNoData": "Hold",
    }
    return found


@dataclass
class World:
    """What runs, and how to ask it."""

    client: KubeClient
    cluster: Cluster
    folder: Path
    admission: Admission
    _operator: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def start_operator(self) -> None:
        options = ["--home", str(self.home), "--kubeconfig", str(self.cluster.kubeconfig), "--admission", self.admission.url]
        with (self.folder / "operator.log").open("ab") as out:
            self._operator.append(subprocess.Popen([sys.executable, "-m", "knhk.handlers", *options], stdout=out, stderr=out))

    def end_operator(self) -> None:
        """Waits for its end; nothing when there is none."""
        for process in self._operator:
            process.terminate()
            assert process.wait(60) == 0, self.said()
        self._operator.clear()

    def said(self) -> str:
        return (self.folder / "operator.log").read_text(errors="replace")[-3000:] + self.admission.said()

    def until(self, what: Callable[[], Found]) -> Found:
        """What is truthy, as soon as it is; errors count as not yet."""
        deadline_s, last = time.monotonic() + WITHIN_S, ""
        while time.monotonic() < deadline_s:
            try:
                if found := what():
                    return found
            except (KnhkError, OSError) as error:
                last = str(error)
            time.sleep(0.1)
        raise AssertionError(f"{last}\n{self.said()}")

    def create(self, document: Document, *, dry: bool = True) -> Document:
        """Of a Deployment, in its namespace. Raises as KubeClient.call."""
        query = {"dryRun": "All"} if dry else {}
        return self.client.call("POST", DEPLOYMENTS.format(document["metadata"]["namespace"]), query, document)

    def ask(self, document: Document) -> Document:
        """The answer to an AdmissionReview that is sent to admission itself. Raises Waiting when there is none."""
        parts = urlsplit(self.admission.url)
        connection = HTTPSConnection(parts.hostname or "", parts.port, timeout=10, context=self.trusting())
        try:
            connection.request("POST", f"/objects/{POLICY}/workloads", json.dumps(document), {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise Waiting("NoAnswer", text.decode(), 0.1)
            found: Document = json.loads(text)["response"]
            return found
        finally:
            connection.close()

    def trusting(self) -> Any:
        return create_default_context(cafile=str(self.admission.folder / "ca.crt"))

    def pack_is(self, **wanted: str) -> bool:
        revision = self.client.call("GET", place(PACK)).get("status", {}).get("revision", {})
        return all(str(revision.get(name)) == value for name, value in wanted.items())

    def point_reason(self) -> str:
        conditions = self.client.call("GET", place(POINT)).get("status", {}).get("conditions", [])
        return next((str(row["reason"]) for row in conditions if row["type"] == "Ready"), "")

    def asked(self) -> bool:
        """Whether the API server asks the point: a question of no consequence shows it."""
        try:
            return bool(self.client.call("GET", CONFIGURATION))
        except NotFound:
            return False

    def put_pack(self, document: Document) -> None:
        self.client.call("PATCH", place(PACK), {"fieldManager": "test", "force": "true"}, document, "application/apply-patch+yaml")

    def shadow(self, document: Document, pairs: int = 30) -> None:
        """The pack is there, and both arms have judged so many that both admit: after those a few denials are no reason to go back."""
        self.put_pack(document)

        def judging() -> bool:
            for number in range(5):
                self.ask(review("good", f"app-{number}"))
            revision = self.client.call("GET", place(PACK)).get("status", {}).get("revision", {})
            return revision.get("phase") == "Live" or (revision.get("phase") == "Rolling" and int(revision.get("pairs", 0)) >= pairs)

        self.until(judging)

    def promote(self, version: str, good: str = "good") -> None:
        """Sends what both versions admit until the version is live, and enforced."""
        with ThreadPoolExecutor(4) as pool:

            def live() -> bool:
                list(pool.map(lambda n: self.ask(review(good, f"app-{n}")), range(20)))
                return self.pack_is(version=version, phase="Live")

            self.until(live)
        self.until(lambda: not any(self.ask(review("root"))["allowed"] for _ in range(8)))


def label(client: KubeClient, namespace: str, labels: dict[str, str | None]) -> None:
    with contextlib.suppress(AlreadyExists):
        client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    client.call("PATCH", f"/api/v1/namespaces/{namespace}", {}, {"metadata": {"labels": labels}}, MERGE)


@contextmanager
def world(client: KubeClient, cluster: Cluster, folder: Path) -> Iterator[World]:
    """The point is there and asked; no pack yet. Nothing of it is left at the end."""
    label(client, OWN_NAMESPACE, {})
    label(client, POLICY, {ALLOWED: "allow"})
    label(client, SHOP, {"environment": "production"})
    label(client, WORKSHOP, {})
    certificates = ServingCertificates(client, OWN_NAMESPACE, SystemClock())
    certificates.leaf(ADMISSION_SERVICE, ("127.0.0.1",))
    certificates.kept_client(ADMISSION_SERVICE)
    mounted(client, "tls", folder)
    to_points = mounted(client, "client", folder / "client")
    options = [
        f"--point-{name}={to_points / file}" for name, file in (("certificate", "tls.crt"), ("key", "tls.key"), ("authority", "ca.crt"))
    ]
    with ExitStack() as stack:
        admission = Admission(folder, cluster.kubeconfig, *options)
        stack.callback(admission.end)
        admission.until_ready()
        found = World(client, cluster, folder, admission)
        stack.callback(_clear, client)
        stack.callback(found.end_operator)
        client.call("POST", collection("EnforcementPoint", POLICY), body=point())
        found.start_operator()
        found.until(lambda: found.asked() and found.point_reason() == "Running")
        yield found


def mounted(client: KubeClient, which: str, folder: Path) -> Path:
    """The folder with what admission's pod finds in a Secret of the operator's making."""
    folder.mkdir(exist_ok=True)
    secret = client.call("GET", f"/api/v1/namespaces/{OWN_NAMESPACE}/secrets/{ADMISSION_SERVICE}-{which}")
    for file in ("tls.crt", "tls.key", "ca.crt"):
        (folder / file).write_bytes(base64.b64decode(secret["data"][file]))
    return folder


def point() -> Document:
    """The example's point, at a port that is free."""
    document: Document = copy.deepcopy(yaml.safe_load((EXAMPLE / "point.yaml").read_text()))
    document["spec"]["listen"] = {"port": 0}
    return document


def _clear(client: KubeClient) -> None:
    for path in (CONFIGURATION, place(POINT), place(PACK)):
        with contextlib.suppress(NotFound, Waiting):
            if path != CONFIGURATION:
                client.call("PATCH", path, {}, {"metadata": {"finalizers": None}}, MERGE)
            client.call("DELETE", path)
