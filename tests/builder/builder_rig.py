"""The builder's process and a client of it."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

from knhk.adapters.builder_remote import RemoteBuilder
from knhk.adapters.certificate_files import Served, load
from knhk.adapters.certificates import Pair, client_pair, new_authority, server_pair
from knhk.adapters.registry_oci import OciRegistry
from knhk.adapters.signer_local import establish
from knhk.model.arrows import PackSources, Source
from knhk.model.resource import Resource
from knhk_runtime.distribution import Repository

OPERATOR = "spiffe://knhk.dev/component/knhk-operator"
READY_WITHIN_S = 240.0
SHAPES = """@prefix sh: <http://www.w3.org/ns/shacl#> .
@prefix ex: <https://example.com/ns#> .
ex:OrderShape a sh:NodeShape ; sh:targetClass ex:Order ; sh:property [ sh:path ex:currency ; sh:minCount 1 ] .
"""
MAPPING = """prefixes: {ex: "https://example.com/ns#"}
maps:
  - id: order
    iterator: "$"
    subject: {template: "https://example.com/orders/{id}"}
    class: ex:Order
    properties: {ex:currency: currency}
"""
ROLES = "@prefix ex: <https://example.com/ns#> .\nex:ada ex:limit 1 .\n"


def pack(version: str, shapes: str = SHAPES) -> PackSources:
    sources = (Source("shapes", "shapes", shapes, "pack.yaml"), Source("order", "mapping", MAPPING, "pack.yaml", "application/yaml"))
    return PackSources("erp", "orders", version, sources, {"orders": "order"})


def roles(text: str = ROLES) -> Resource:
    return Resource("DataBundle", "erp", "roles", {"version": "1.0.0", "source": {"inline": text}})


class Rig:
    """`url`: of the registry. Everything lies in `folder`."""

    def __init__(self, folder: Path, registry: str, *options: str) -> None:
        self.folder, self.registry_url, self._options = folder, f"{registry}/knhk/packs", options
        self.signer = establish(folder / "keys", "knhk.dev/test", datetime.now(UTC))
        (folder / "keys" / "rollout.key").unlink()
        self.repository = Repository(self.registry_url)
        self.registry = OciRegistry(self.repository, grace_s=0)
        self.authority = new_authority(datetime.now(UTC))
        self.show(server_pair(self.authority, ["localhost", "127.0.0.1"], datetime.now(UTC), timedelta(hours=1)))
        self.clients: list[RemoteBuilder] = []
        self.start()
        self.builder = self.client()

    def show(self, pair: Pair) -> None:
        for name, data in (("tls.crt", pair.certificate), ("tls.key", pair.key), ("ca.crt", self.authority.certificate)):
            (self.folder / name).write_bytes(data)

    def start(self, port: int = 0) -> None:
        files = [
            f"--{option}={self.folder / name}" for option, name in (("certificate", "tls.crt"), ("key", "tls.key"), ("authority", "ca.crt"))
        ]
        argv = [sys.executable, "-m", "knhk.builder", "--keys", str(self.folder / "keys"), "--registry", self.registry_url, *files]
        argv += [
            "--scratch",
            str(self.folder / "scratch"),
            "--address",
            "127.0.0.1",
            "--port",
            str(port),
            "--grace",
            "0",
            "--health-port",
            "0",
            *self._options,
        ]
        environment = {**os.environ, "KNHK_PROOF_CASES": "20"}
        self._log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=self._log, env=environment, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"https://127\.0\.0\.1:(\d+) (http://\S+)\n", line)
        assert found is not None, (line, self.said())
        self.port, self.health = int(found[1]), found[2]

    def until_warm(self) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while "knhk_builder_workers 0" in self.metrics():
            assert time.monotonic() < deadline_s, self.said()
            time.sleep(0.1)

    def metrics(self) -> str:
        with urlopen(f"{self.health}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def client(self, uri: str = OPERATOR, authority: Pair | None = None) -> RemoteBuilder:
        pair = client_pair(authority or self.authority, uri, datetime.now(UTC), timedelta(hours=1))

        def identity() -> ssl.SSLContext:
            context = ssl.create_default_context(cadata=self.authority.certificate.decode())
            load(context, Served(pair.certificate, pair.key, b""))
            return context

        found = RemoteBuilder(f"https://localhost:{self.port}", identity)
        self.clients.append(found)
        return found

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and b"build_worker" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except (OSError, ValueError):
                continue
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._closed_streams()

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(60) == 0, self.said()
            self._closed_streams()
        self.repository.close()

    def _closed_streams(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()
