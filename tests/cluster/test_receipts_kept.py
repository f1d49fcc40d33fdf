"""Receipts on the real API server: what they say in columns and labels, and that the oldest leave it when there are too many."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection, place
from knhk.cli import main

sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster
from operator_process import EXAMPLES, PACK, Operator, rests, seen, until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
KEPT = 3


def logged(operator: Operator, capsys: pytest.CaptureFixture[str]) -> list[int]:
    """Indexes of all policy events, as `knhk receipt list` of the log tells them."""
    assert main(["--home", str(operator.home), "receipt", "list", "--kind", "POLICY", "--limit", "1000", "-o", "json"]) == 0
    return sorted(row["index"] for row in json.loads(capsys.readouterr().out)["receipts"])


def indexes(client: KubeClient) -> list[int]:
    return sorted(row["spec"]["logIndex"] for row in client.call("GET", collection("Receipt", "erp"))["items"])


def test_the_newest_receipts_stay_and_the_log_shows_the_others(
    clean: KubeClient, cluster: Cluster, kubectl: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The operator that keeps all of them says what they are of; the next one has a bound."""
    operator = Operator(tmp_path / "home", cluster.kubeconfig, "--receipts-kept=namespace=0,all=0")
    try:
        kubectl("apply", "-f", str(EXAMPLES / "finance-roles.yaml"), "-f", str(EXAMPLES / "1.0.0" / "pack.yaml"))
        seen(clean, operator, place(PACK), rests)
        told = logged(operator, capsys)
        assert indexes(clean) == told
        assert len(told) > KEPT
        who = clean.call("GET", collection("Receipt", "erp"))["items"][0]["spec"]["actor"]
        head, *rows = kubectl("get", "receipts").splitlines()
        assert head.split() == ["NAME", "EVENT", "PACK", "STAGE", "VERDICT", "ACTOR", "INDEX", "AGE"]
        assert all(who in row for row in rows)
        assert len(kubectl("get", "receipts", "-l", "event=Signed,pack=invoice-controls,packDigest", "-o", "name").splitlines()) == 1
        assert operator.end(signal.SIGTERM) == 0, operator.said()
        operator = Operator(tmp_path / "home", cluster.kubeconfig, f"--receipts-kept=namespace={KEPT},all=0")
        until(lambda: len(indexes(clean)) == KEPT, operator)
        assert indexes(clean) == told[-KEPT:]
        assert logged(operator, capsys) == told
        assert main(["--home", str(operator.home), "receipt", "verify", str(told[0])]) == 0
        assert "the event is signed" in capsys.readouterr().out
    finally:
        if operator.process.poll() is None:
            assert operator.end(signal.SIGTERM) == 0, operator.said()
