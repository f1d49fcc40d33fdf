"""Real registries on loopback: Debian's docker-registry, and one with the referrers API, built once from a pinned Go module."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from go_binaries import GoProject

HERE = Path(__file__).resolve().parent
_OCI11 = GoProject("oci11", HERE / "oci11", {"oci11": "."}, ("-trimpath",), cgo=False, tells="oci11", about="a registry (a minute)")


@contextmanager
def debian_registry(folder: Path, **more: object) -> Iterator[str]:
    """The URL of a docker-registry that keeps its things in `folder`; `more`: sections of its configuration."""
    if shutil.which("docker-registry") is None:
        pytest.skip("not run: Debian's package docker-registry is absent")
    http = {"addr": "127.0.0.1:0", **dict(more.pop("http", {}))}  # type: ignore[call-overload]
    storage = {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}}
    config = {"version": 0.1, "log": {"level": "info", "formatter": "json"}, "storage": storage, "http": http, **more}
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    environment = {"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"}
    command = ["docker-registry", "serve", str(folder / "config.yml")]
    log = folder / "server.log"
    with log.open("wb") as said, subprocess.Popen(command, env=environment, stdout=said, stderr=said) as process:
        try:
            scheme = "https" if "tls" in http else "http"
            yield f"{scheme}://{_address(log, process)}"
        finally:
            process.kill()


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    while process.poll() is None:
        found = re.search(r"listening on (127\.0\.0\.1:[0-9]+)", log.read_text(errors="replace"))
        if found:
            return found[1]
        time.sleep(0.02)
    raise AssertionError(log.read_text(errors="replace"))


@contextmanager
def oci11_registry() -> Iterator[str]:
    """The URL of the registry of oci11/."""
    if shutil.which("go") is None:
        pytest.skip("not run: the go command is absent")
    program = _OCI11.built(("oci11",), build=True)["oci11"]
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://{process.stdout.readline().strip()}"
        process.kill()
