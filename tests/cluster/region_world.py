"""A region in pods of a node, by its manifests and settings alone: the log is published in an S3, cosigned and mirrored by a witness,
and archived; operator and builder sign by their accounts' tokens. S3, sigstore and what serves the bucket are processes of this machine."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

sys.path.insert(0, str(Path(__file__).parents[1] / "sigstore"))
sys.path.insert(0, str(Path(__file__).parents[1] / "storage"))
from control_plane import ISSUER
from guarded_world import SYSTEM, World
from private_stack import Stack
from s3_server import S3Server

from knhk.adapters.certificates import new_authority, server_pair
from knhk.adapters.signer_local import LocalSigner
from knhk_runtime.keyfile import load_private_key, raw_public
from knhk_runtime.tlog.notes import format_vkey
from knhk_verify.note import COSIGNATURE, Verifier

MANIFESTS = Path(__file__).parents[2] / "manifests"
ORIGIN, WITNESS = "log.example.com/eu", "witness.example.com/us"
SERVICE = "knhk-witness.knhk-system.svc"
COMPONENTS = ("witness", "witnessed", "published", "keyless", "settings")
WORKLOADS = (
    "deployment/knhk-operator",
    "deployment/knhk-builder",
    "deployment/knhk-admission",
    "statefulset/knhk-log",
    "statefulset/knhk-witness",
)
OF_PEOPLE = "policyrepositories,policypacks,enforcementpoints,databundles"
MADE_HERE = {"knhk.dev/of": "tests"}
DAY = timedelta(days=1)


def account(name: str) -> str:
    """As Fulcio calls a service account."""
    return f"https://kubernetes.io/namespaces/{SYSTEM}/serviceaccounts/{name}"


def secret(name: str, data: Mapping[str, bytes], namespace: str = SYSTEM) -> dict[str, Any]:
    values = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": values}


def volume(name: str, folder: Path, claim: str, mode: str = "ReadWriteOnce") -> dict[str, Any]:
    """A folder of the machine that our processes may write, as a volume for a claim in our namespace."""
    for path, folders, files in os.walk(folder):
        for one in (path, *(os.path.join(path, each) for each in (*folders, *files))):
            os.chown(one, 65532, 65532)
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": [mode],
        "claimRef": {"namespace": SYSTEM, "name": claim},
        "hostPath": {"path": str(folder), "type": "Directory"},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name, "labels": MADE_HERE}, "spec": spec}


@dataclass
class Region(World):
    """`images`: `operator` and `builder`. Its log is read where it is published, below `folder`."""

    images: Mapping[str, str] = field(default_factory=dict)
    s3: S3Server = field(kw_only=True)
    sigstore: Stack = field(kw_only=True)

    @property
    def published(self) -> Path:
        return self.s3.folder / "region-eu" / "log"

    @property
    def mirror(self) -> Path:
        return self.s3.folder / "region-us" / "mirrors" / self.log_name

    @property
    def log_name(self) -> str:
        """As witnesses call it."""
        return sha256(ORIGIN.encode()).hexdigest()

    @property
    def key_folder(self) -> Path:
        return self.folder / "keys"

    @property
    def vkey(self) -> str:
        return LocalSigner(self.key_folder).vkey(ORIGIN)

    def knhk(self, *words: str | Path, expect: int = 0, given: str = "") -> Any:
        """What the command answers, as JSON."""
        argv = [sys.executable, "-m", "knhk.cli", f"--home={self.folder / 'home'}", *map(str, words), "-o", "json"]
        done = subprocess.run(argv, input=given, capture_output=True, text=True, check=False)
        assert done.returncode == expect, f"{words}: {done.stdout[-3000:]}\n{done.stderr}"
        return json.loads(done.stdout)

    # ---- installing ------------------------------------------------------------------------------

    def install(self, log_url: str) -> None:
        """As docs/cluster.md and docs/witnesses.md say; returns when every workload is there."""
        self.node.apply(*yaml.safe_load_all((MANIFESTS / "base" / "namespace.yaml").read_text()))
        self._signing()
        witness = self._witness()
        store = {name: value.encode() for name, value in self.s3.environment().items()}
        self.node.apply(secret("knhk-log-store", store), secret("knhk-witness-store", store), *witness)
        self.node.kubectl("apply", "--server-side", "-f", str(self.key_folder / "secrets.yaml"))
        self.node.kubectl("apply", "--server-side", "-k", str(self._overlay(log_url)))
        for workload in WORKLOADS:
            self.until(partial(self._rolled_out, workload))

    def _rolled_out(self, workload: str) -> bool:
        found = json.loads(self.node.kubectl("-n", SYSTEM, "get", workload, "-o", "json"))
        return bool(found["status"].get("readyReplicas", 0) == found["spec"]["replicas"])

    def _signing(self) -> None:
        """Role keys, and the sigstore that operator and builder are to ask."""
        made = ("cluster", "keys", self.key_folder, "--origin", ORIGIN)
        self.knhk(*made)
        self.knhk("keys", "trust", self.sigstore.trusted_root, "--folder", self.key_folder)
        told = {
            "rekor": self.sigstore.rekor.url,
            "timestamp": f"{self.sigstore.timestamps.url}/api/v1/timestamp",
            "fulcio": self.sigstore.fulcio.url,
            "token": "/var/run/secrets/sigstore/token",
            "issuer": ISSUER,
            "identity": {
                "rollout": account("knhk-operator"), **dict.fromkeys(("build", "data"), account("knhk-builder")),
            },
        }  # fmt: skip
        (self.key_folder / "sigstore.json").write_text(json.dumps(told))
        self.knhk(*made)

    def _witness(self) -> list[dict[str, Any]]:
        """Its key, its certificate, and its volume."""
        key = self.folder / "witness.key"
        key.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key.chmod(0o600)
        authority = new_authority(datetime.now(UTC))
        pair = server_pair(authority, [SERVICE], datetime.now(UTC), DAY)
        (self.folder / "witness-ca.crt").write_bytes(authority.certificate)
        state = self.folder / "witness-state"
        state.mkdir()
        return [
            secret("knhk-keys-witness", {"witness.key": key.read_bytes()}),
            secret("knhk-witness-tls", {"tls.crt": pair.certificate, "tls.key": pair.key}),
            volume("witness-state", state, "data-knhk-witness-0"),
        ]

    @property
    def witness(self) -> Verifier:
        return Verifier(WITNESS, raw_public(load_private_key(self.folder / "witness.key")), COSIGNATURE)

    @property
    def policy(self) -> str:
        """Who watches the log."""
        return f"log {self.vkey}\nwitness us {format_vkey(self.witness)} https://{SERVICE}\ngroup others 1 us\nquorum others\n"

    def _overlay(self, log_url: str) -> Path:
        folder = self.folder / "overlay"
        folder.mkdir()
        settings = {
            "KNHK_REGISTRY": self.packs, "KNHK_AGENT_IMAGE": self.image, "KNHK_ORIGIN": ORIGIN, "KNHK_LOG_STORE": "s3://region-eu/log",
            "KNHK_DELTA": "s3://region-eu/delta", "KNHK_WITNESS_CA": "/etc/knhk/witnesses/ca.crt",
        }  # fmt: skip
        watching = {
            "KNHK_WITNESS_NAME": WITNESS,
            "KNHK_WITNESS_MIRROR": "s3://region-us/mirrors",
            "watched": f"log {self.vkey} {log_url}\nquorum none\n",
            "roots": f"{ORIGIN} {(self.key_folder / 'root.pub').read_text()}",
        }
        watched = {"policy": self.policy, "ca.crt": (self.folder / "witness-ca.crt").read_text()}
        soon = '[{"op": "add", "path": "/spec/template/spec/containers/1/args/-", "value": "--interval-s=1"}]'  # of a minute
        document = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(MANIFESTS / "overlays" / "dev", folder)],
            "components": [os.path.relpath(MANIFESTS / "components" / name, folder) for name in COMPONENTS],
            "configMapGenerator": [
                {
                    "name": "knhk-config", "namespace": SYSTEM, "behavior": "merge", "options": {"disableNameSuffixHash": True},
                    "literals": [f"{name}={value}" for name, value in settings.items()],
                }
            ],
            "patches": [
                *(said(name, data) for name, data in (("knhk-witness", watching), ("knhk-log-witnesses", watched))),
                {"target": {"kind": "StatefulSet", "name": "knhk-log"}, "patch": soon},
            ],
            "images": [
                {"name": f"knhk-{name}", "newName": image.partition("@")[0], "digest": image.partition("@")[2]}
                for name, image in self.images.items()
            ],
        }  # fmt: skip
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        return folder

    def remove(self) -> None:
        """All that `install` made, as docs/cluster.md says, and what was made in it."""
        self.node.kubectl("delete", OF_PEOPLE, "--all", "-A")
        self.node.without(self.namespace)
        self.node.without(SYSTEM)
        self.node.kubectl("delete", "-k", str(self.folder / "overlay"), "--ignore-not-found")
        self.node.kubectl("delete", "persistentvolume", "-l", "knhk.dev/of=tests", "--ignore-not-found")

    # ---- looking ---------------------------------------------------------------------------------

    def held(self, size: int) -> str:
        """What the witness's mirror answers, by TLS at its Service."""
        context = ssl.create_default_context(cafile=str(self.folder / "witness-ca.crt"))
        address = self.client.call("GET", f"/api/v1/namespaces/{SYSTEM}/services/knhk-witness")["spec"]["clusterIP"]
        context.check_hostname = False  # asked by its address; its authority signs for this name alone
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with opener.open(f"https://{address}/mirror/{self.log_name}?size={size}", timeout=30) as answer:
            told: str = answer.read().decode()
        return told

    def said(self) -> str:
        names = [f"{name} --all-containers" for name in (*WORKLOADS, "job/replay")]
        logs = [f"{name}:\n{self._logs(*name.split())}" for name in names]
        return "\n".join([self.node.kubectl("get", "pods", "-A", "-o", "wide"), *logs, super().said()])

    def _logs(self, *of: str) -> str:
        with contextlib.suppress(AssertionError):
            return self.node.kubectl("-n", SYSTEM, "logs", *of, "--tail=15", "--ignore-errors")
        return ""


def said(name: str, data: Mapping[str, str]) -> dict[str, str]:
    """A patch by which an overlay says what is in a component's ConfigMap."""
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": SYSTEM}, "data": dict(data)}
    return {"patch": yaml.safe_dump(document)}
