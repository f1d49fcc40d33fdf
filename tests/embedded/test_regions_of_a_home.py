"""Regions of a home: what an EnforcementPoint says is in its leaves, and names the folders of the archive."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from knhk.wiring.home import Home
from knhk_runtime.tlog.folder import log_entries
from knhk_verify.leaf import LEAF_SIZE, parse_leaf
from loopback_ports import free_port

pytestmark = pytest.mark.server

POINT = """apiVersion: knhk.dev/v1alpha1
kind: EnforcementPoint
metadata: {{name: in-{region}, namespace: erp}}
spec:
  mode: Sidecar
  region: {region}
  listen: {{port: {port}}}
  upstream: {{host: 127.0.0.1, port: 1}}
  match: [{{name: create, method: POST, path: /orders, action: create}}]
"""


class Cli:
    def __init__(self, home: Home, folder: Path) -> None:
        self.home, self.folder, self.ports = home, folder, dict[str, int]()

    def run(self, *words: str) -> Any:
        argv = (sys.executable, "-m", "knhk.cli", "--home", str(self.home.root), *words)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def point(self, region: str) -> None:
        port = self.ports[region] = free_port()
        path = self.folder / f"{region}.yaml"
        path.write_text(POINT.format(region=region, port=port))
        self.run("apply", "-f", str(path))

    def ready(self, region: str) -> dict[str, Any]:
        conditions = self.run("get", "enforcementpoint", f"erp/in-{region}").get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == "Ready"), {"reason": "", "status": ""})

    def until_ready(self, region: str, reason: str) -> dict[str, Any]:
        deadline = time.monotonic() + 240
        while (found := self.ready(region))["reason"] != reason:
            assert time.monotonic() < deadline, found
        return found

    def order(self, region: str) -> None:
        """One request, which no pack judges and the baseline denies."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[region], timeout=60)
        connection.request("POST", "/orders", b"{}", {"content-type": "application/json"})
        assert connection.getresponse().status == 403
        connection.close()

    def regions(self) -> list[int]:
        """Of the leaves in the log, in order."""
        return [parse_leaf(entry).region for entry in log_entries(self.home.log) if len(entry) == LEAF_SIZE]

    def until_logged(self, count: int) -> None:
        deadline = time.monotonic() + 240
        while len(self.regions()) < count:
            assert time.monotonic() < deadline, self.regions()


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    found = Cli(Home(tmp_path / "home"), tmp_path)
    yield found
    with suppress(AssertionError):
        found.run("down")


def test_a_point_s_region_is_in_its_leaves_and_names_a_folder_of_the_archive(cli: Cli) -> None:
    cli.home.root.mkdir()
    (cli.home.root / "regions").write_text("eu,us\n")
    cli.run("up", "--timeout-s", "240")
    for region in ("us", "eu", "ap"):
        cli.point(region)
    told = cli.until_ready("ap", "UnknownRegion")
    assert told["status"] == "Unknown"
    assert told["message"].startswith("spec.region: 'ap': must be one of eu, us, or be added after these")
    for count, region in enumerate(("us", "eu"), 1):
        cli.until_ready(region, "Running")
        cli.order(region)
        cli.until_logged(count)
    assert cli.regions() == [1, 0]
    assert json.loads((cli.home.log / "meta.json").read_text())["regions"] == ["eu", "us"]
    cli.run("down")
    assert cli.run("log", "archive")["rows"] == 2
    assert sorted(path.name for path in (cli.home.root / "delta").glob("region=*")) == ["region=eu", "region=us"]
    (cli.home.root / "regions").write_text("eu,us,ap\n")
    cli.run("up", "--timeout-s", "240")
    cli.until_ready("ap", "Running")
    cli.order("ap")
    cli.until_logged(3)
    assert cli.regions() == [1, 0, 2]
    cli.run("down")
    cli.run("log", "archive")
    assert sorted(path.name for path in (cli.home.root / "delta").glob("region=*")) == ["region=ap", "region=eu", "region=us"]
