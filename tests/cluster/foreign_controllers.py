"""Controllers that others wrote, on a cluster of tests: their definitions, and their processes."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from knhk.adapters.kube_client import KubeClient
from knhk.model.faults import AlreadyExists, NotFound

sys.path.insert(0, str(Path(__file__).parent))
from definitions import PATH as DEFINITIONS
from definitions import conditions
from guarded_pods import there
from waiting import until

READY_WITHIN_S = 240.0
ENDS_WITHIN_S = 60.0


@contextmanager
def defined(client: KubeClient, files: Sequence[Path]) -> Iterator[None]:
    """While the context lasts these CustomResourceDefinitions are served; then they and their objects are gone."""
    documents = [yaml.safe_load(file.read_text()) for file in files]
    names = [document["metadata"]["name"] for document in documents]
    try:
        for document in documents:
            with suppress(AlreadyExists):
                client.call("POST", DEFINITIONS, body=document)
        until(lambda: all(conditions(client, name).get("Established") == "True" for name in names), READY_WITHIN_S)
        yield
    finally:
        for name in names:
            with suppress(NotFound):  # one that was refused before
                client.call("DELETE", f"{DEFINITIONS}/{name}")
        until(lambda: all(is_gone(client, f"{DEFINITIONS}/{name}") for name in names), READY_WITHIN_S)


@contextmanager
def serving(command: Sequence[str], log: Path, health: str = "", **environment: str) -> Iterator[None]:
    """A process, from when its `health` answers until it has ended; its folder is that of its log."""
    alone: Mapping[str, str] = {"HOME": str(log.parent), "PATH": os.environ["PATH"], "TMPDIR": str(log.parent)}
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env={**alone, **environment}, cwd=log.parent) as process:
        try:
            until(lambda: process.poll() is not None or not health or _answers(health), READY_WITHIN_S)
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            yield
        finally:
            process.terminate()
            try:
                process.wait(ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def said(logs: Sequence[Path]) -> str:
    """Their last words."""
    return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-3000:]}" for log in logs)


def is_gone(client: KubeClient, path: str) -> bool:
    return there(client, path) is None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.HTTPError, OSError):
        return False
