"""What manifests/monitoring asks of Prometheus: rules that it takes, about series that our processes tell, from ports that they have."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp.test_utils import make_mocked_request
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knhk.adapters.system import SystemClock
from knhk.adapters.telemetry_prometheus import PrometheusTelemetry
from knhk.admission.metrics import Metrics
from knhk.builder import server as builder
from knhk.keys.metrics import Metrics as OfKeys
from knhk.receipts.__main__ import _bytes
from knhk.receipts.metrics import Metrics as OfReceipts
from knhk.wiring.archive import Metrics as OfArchive
from knhk_runtime.keyfile import raw_public
from knhk_runtime.sequencer.core import Log, LogKey
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.mirrors import MirroringRegions
from knhk_runtime.sequencer.server import Sequencer
from knhk_runtime.sequencer.server import Surface as LogSurface
from knhk_runtime.sequencer.witnesses import Witnesses
from knhk_runtime.tlog.notes import format_vkey
from knhk_runtime.tlog.policy import Policy
from knhk_runtime.witness.core import WitnessKey
from knhk_runtime.witness.server import Surface as WitnessSurface
from knhk_runtime.witness.watching import Files, Watching
from knhk_verify.note import COSIGNATURE, Verifier

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject

HERE = Path(__file__).resolve().parent
MANIFESTS = HERE.parents[1] / "manifests"
RULES = GoProject("monitoring", HERE, {"rules": "."}, ("-trimpath",), cgo=False, tells="monitoring", about="a reader of Prometheus' rules")
OF_PROMETHEUS = {"job", "pod"}  # labels that a scrape adds


@pytest.fixture(scope="module")
def rules() -> str:
    """The program; built in seconds."""
    try:
        return str(RULES.built(("rules",), build=True)["rules"])
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")


async def of_the_log(folder: Path) -> str:
    """What a log tells that waits for a witness, and for its mirror."""
    key = Ed25519PrivateKey.generate()
    log = Log(folder / "log", LogKey(Verifier("log", raw_public(key)), key.sign), Disk())
    witness = Verifier("witness", bytes(32), COSIGNATURE)
    policy, own = Policy({}, {witness: "http://witness"}, witness), Verifier("log", raw_public(key))
    asked, mirrors = Witnesses(policy, own, lambda url, body: _never()), MirroringRegions(policy, own, log.root, lambda url: _never())
    surface = LogSurface(Sequencer(log, witnesses=asked, regions=mirrors))
    try:
        return str((await surface.metrics(make_mocked_request("GET", "/metrics"))).text)
    finally:
        log.close()


async def _never() -> tuple[int, bytes]:
    raise OSError("nobody listens")


async def of_the_witness(folder: Path) -> str:
    """What a witness tells that follows and mirrors a log which cannot be read."""
    key = Ed25519PrivateKey.generate()
    (folder / "policy").write_text(f"log {format_vkey(Verifier('log', bytes(32)))} https://log.example\nquorum none\n")
    own = WitnessKey(Verifier("w", raw_public(key), COSIGNATURE), key.sign)
    surface = WitnessSurface(Watching(folder / "witness", own, Files(folder / "policy", None, None), str(folder / "mirror")))
    surface.followed.errors["log"] = "no answer"
    return str((await surface.metrics(make_mocked_request("GET", "/metrics"))).text)


def told(folder: Path) -> dict[str, set[str]]:
    """Series that our processes tell → their labels."""
    telemetry, admission = PrometheusTelemetry(SystemClock()), Metrics()
    telemetry.turned(0, 0.0)
    telemetry.queued()
    telemetry.reconciled("PolicyPack", "error", 0.0, 0.0)
    telemetry.built("signed", 1.0)
    telemetry.moved("RolledBack")
    telemetry.judged("Fail")
    telemetry.rolled_back(1.0)
    telemetry.leads("knhk-operator", lambda: True)
    telemetry.requested("GET", "host", 200)
    admission.took("/parse", 200, 0.001, "allowed")
    text = telemetry.text().decode() + admission.text() + "\n".join(builder.metrics_text({"running": 1}, warm=1)) + "\n"
    receipts = OfReceipts(lambda: 0.0, lambda: 0, lambda: 0, lambda: 0, lambda: 1.0)
    receipts.took("list", 200, 0.01)
    keys = OfKeys(lambda: 0, lambda: 0, lambda: {"erp": 0.5})
    keys.took("keys", 200, 0.01)
    keys.over_quota("erp", "orders")
    text += keys.text().decode()
    text += OfArchive().text().decode() + receipts.text().decode()
    text += asyncio.run(of_the_log(folder)) + asyncio.run(of_the_witness(folder))
    rows = re.findall(r"^([a-z_]+)(?:\{(.*)\})? ", text, re.MULTILINE)
    return {name: set(re.findall(r'([a-z_]+)="', labels)) for name, labels in rows} | {"up": set()}


def test_prometheus_takes_the_rules_and_every_series_of_theirs_exists(rules: str, tmp_path: Path) -> None:
    holds(rules, MANIFESTS / "monitoring" / "alerts.yaml", tmp_path)


def test_every_panel_of_the_dashboard_asks_for_series_that_exist(rules: str, tmp_path: Path) -> None:
    """Its expressions, as if each were a rule."""
    panels = json.loads((MANIFESTS / "monitoring" / "dashboard.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    groups = [{"name": "dashboard", "rules": [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(asked)]}]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    holds(rules, tmp_path / "rules.yaml", tmp_path)


def holds(rules: str, path: Path, folder: Path) -> None:
    """Prometheus takes the file, and our processes tell every series and label that it names."""
    done = subprocess.run([rules, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    known = told(folder)
    assert done.stdout
    for line in done.stdout.splitlines():
        name, *labels = line.split()
        assert name in known, line
        assert set(labels) <= known[name] | OF_PROMETHEUS, line


def test_a_rule_that_is_none_is_found(rules: str, tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text("groups: [{name: a, rules: [{alert: A, expr: 'sum(up'}]}]")
    done = subprocess.run([rules, str(tmp_path / "alerts.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "unclosed left parenthesis" in done.stderr


def test_each_job_finds_a_port_that_its_pods_have() -> None:
    ports = dict(_ports())
    jobs = yaml.safe_load((MANIFESTS / "monitoring" / "scrape.yaml").read_text())["scrape_configs"]
    assert {job["job_name"] for job in jobs} == {
        *("knhk-operator", "knhk-builder", "knhk-admission"),
        *("knhk-archive", "knhk-receipts", "knhk-log", "knhk-witness", "knhk-keys"),
    }
    for job in jobs:
        (kept,) = [row["regex"] for row in job["relabel_configs"] if row.get("action") == "keep"]
        name, port = kept.split(";")
        assert name == {"knhk-archive": "knhk-log"}.get(job["job_name"], job["job_name"])
        assert port in ports[name]
        assert job.get("scheme", "http") == ports[name][port]


def test_the_room_of_the_index_that_is_told_is_that_of_its_volume() -> None:
    """And of the chart both come from one value."""
    (found,) = (
        document
        for document in yaml.safe_load_all((MANIFESTS / "components" / "receipts" / "deployment.yaml").read_text())
        if document["kind"] == "Deployment"
    )
    pod = found["spec"]["template"]["spec"]
    (room,) = (volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "index")
    assert f"--index-bound={room}" in pod["containers"][0]["args"]
    assert [_bytes(text) for text in (room, "1.5Ti", "32G", "3.4359738368e+10", "5")] == [1 << 35, 3 << 39, 32 * 10**9, 1 << 35, 5]
    for wrong in ("", "0", "32GB", "-1", "much", "1e"):
        with pytest.raises(argparse.ArgumentTypeError):
            _bytes(wrong)


def _ports() -> Iterator[tuple[str, Mapping[str, str]]]:
    """Workload → names of its ports that a probe asks by HTTP, with the scheme; of the log's, which a client without a certificate may only
    open, that of its own."""
    for path in (*(MANIFESTS / "base").rglob("*.yaml"), *(MANIFESTS / "components").glob("*/*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document["kind"] in ("Deployment", "StatefulSet"):
                asked = (c.get("readinessProbe") or c["livenessProbe"] for c in document["spec"]["template"]["spec"]["containers"])
                probes: list[dict[str, Any]] = [probe["httpGet"] for probe in asked if "httpGet" in probe]
                ports = {probe["port"]: probe.get("scheme", "HTTP").lower() for probe in probes}
                name = document["metadata"]["name"]
                yield name, ports | ({"log": "https"} if name == "knhk-log" else {})
