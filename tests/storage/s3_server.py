"""A real S3 server on a free port, over a folder of the test run."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from loopback_ports import free_port

ACCESS, SECRET = "for-tests", "for-tests-only"
READY_WITHIN_S = 240.0


@dataclass(frozen=True)
class S3Server:
    """`folder` holds a folder for each bucket, with its objects as files."""

    url: str
    folder: Path

    def environment(self) -> dict[str, str]:
        """What a client needs to know."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def bucket(self, name: str) -> str:
        """A new bucket; its address."""
        (self.folder / name).mkdir()
        return f"s3://{name}"


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    raise AssertionError(f"versitygw did not get ready: {log.read_text()[-2000:]}")


@contextmanager
def running(program: Path, folder: Path, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """While the context lasts."""
    data = folder / "buckets"
    data.mkdir(parents=True)
    port, log = free_port(), folder / "log.txt"
    environment = {"ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET, "HOME": str(folder), "PATH": "/usr/bin:/bin"}
    command = [str(program), "-p", f"{host}:{port}", "-q", "--health", "/health", "posix", str(data)]
    with log.open("wb") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=folder) as process:
        try:
            _wait(f"http://{host}:{port}", process, log)
            yield S3Server(f"http://{host}:{port}", data)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
