"""Images on a node's registry: how they get there, and the one that every pod needs."""

from __future__ import annotations

import platform
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from knhk.model.oci import INDEX, MANIFEST, Artifact, Blob
from knhk.packaging.container import File, Platform, container_image, layer

HERE = Path(__file__).parent
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
Open = Callable[[urllib.request.Request], Any]
_DIRECT = urllib.request.ProxyHandler({})


def architecture() -> str:
    """This machine's, as images name it."""
    return ARCHITECTURES[platform.machine()]


def pause() -> Artifact:
    """The image of the process that holds a pod's namespaces."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "pause")
        subprocess.run(["gcc", "-Os", "-static", "-s", "-o", str(out), str(HERE / "pause.c")], check=True)
        tree = {"pause": File(out.read_bytes(), 0o755)}
    return container_image([Platform(architecture(), [layer(tree)], {"Entrypoint": ["/pause"], "User": "65535:65535"})], {})


def push(registry: str, repository: str, tag: str, image: Artifact, context: ssl.SSLContext | None = None) -> None:
    """Puts an image into `registry` (its URL) as REPOSITORY:TAG; what is there already is not sent again."""
    handlers = [_DIRECT] if context is None else [_DIRECT, urllib.request.HTTPSHandler(context=context)]
    call = urllib.request.build_opener(*handlers).open
    base = f"{registry}/v2/{repository}"
    for blob in (*image.blobs, image.root):
        if blob.media_type in (MANIFEST, INDEX):
            name = tag if blob is image.root else blob.digest
            _request(call, "PUT", f"{base}/manifests/{name}", blob.data, blob.media_type)
        elif not _has(call, base, blob):
            upload = _request(call, "POST", f"{base}/blobs/uploads/", b"", "application/octet-stream")
            joint = "&" if "?" in upload else "?"
            _request(call, "PUT", f"{upload}{joint}digest={blob.digest}", blob.data, "application/octet-stream")


def _has(call: Open, base: str, blob: Blob) -> bool:
    try:
        with call(urllib.request.Request(f"{base}/blobs/{blob.digest}", method="HEAD")):
            return True
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return False


def _request(call: Open, method: str, url: str, data: bytes, media: str) -> str:
    """The `Location` of the answer."""
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": media})
    with call(request) as answer:
        return str(answer.headers.get("Location", ""))
