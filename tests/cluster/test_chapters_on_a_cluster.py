"""Chapters of 25 years of former keys are taken by a real API server, again and again, and come back as they were."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from control_plane import Cluster
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knhk.adapters.key_secrets import CHAPTERS, write_chapters
from knhk.adapters.kube_client import KubeClient
from knhk.adapters.signer_local import LocalSigner
from knhk.model.canonical import canonical
from knhk_runtime.keyfile import raw_public
from knhk_runtime.keys_folder import chapters_folder
from knhk_verify.note import b64
from knhk_verify.signed import KEYS, keyid, pae, verify_keys

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
OWN, MANY = "knhk-system", 254


def signed(root: Ed25519PrivateKey) -> tuple[bytes, bytes]:
    """keys.json without, and with chapters of as many keys as 25 years leave behind."""
    texts = list[str]()
    for chapter in range(MANY):
        keys = (sha256(f"{chapter} {number}".encode()).digest() for number in range(256))
        rows = b64(b"".join((1_800_000_000).to_bytes(4, "big") + key for key in keys))
        texts.append(canonical({"keys": [{"role": "build", "name": "", "rows": rows}]}).decode())
    digests = [sha256(text.encode()).hexdigest() for text in texts]
    payload = canonical({"version": 1, "serial": 1, "expires": "2100-01-01T00:00:00Z", "roles": {}, "chapters": digests})
    signature = {"keyid": keyid(raw_public(root)), "sig": b64(root.sign(pae(KEYS, payload)))}
    bare = {"payload": b64(payload), "payloadType": KEYS, "signatures": [signature]}
    return canonical(bare), canonical({**bare, "chapters": texts})


def test_an_api_server_takes_them_and_gives_them_back(ours: KubeClient, cluster: Cluster, servers: dict[str, Path], tmp_path: Path) -> None:
    root = Ed25519PrivateKey.generate()
    bare, whole = signed(root)
    made, pod = tmp_path / "made", tmp_path / "pod" / "keys"
    for folder in (made, pod, chapters_folder(pod)):
        folder.mkdir(parents=True)
    (made / "keys.json").write_bytes(whole)
    (pod / "keys.json").write_bytes(bare)
    path = write_chapters(made, OWN)
    kubectl = [str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}"]
    for _ in range(2):
        subprocess.run([*kubectl, "apply", "--server-side", "--force-conflicts", "-f", str(path)], check=True, capture_output=True)
    listed = ours.call("GET", f"/api/v1/namespaces/{OWN}/configmaps?labelSelector=app.kubernetes.io%2Fpart-of%3Dknhk")
    for each in listed["items"]:
        if each["metadata"]["name"].startswith(CHAPTERS):
            for name, text in each["data"].items():
                (chapters_folder(pod) / name).write_text(text)
    keys = verify_keys(LocalSigner(pod).keys_json(), raw_public(root))
    assert (keys.away, len(keys.roles["build"])) == (0, MANY * 256)
    subprocess.run([*kubectl, "delete", "-f", str(path)], check=True, capture_output=True)
