"""The replay of an archive as an Indexed Job: what `knhk log job` writes is what a real API server takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from control_plane import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(300)]
IMAGE = "registry.example.com/knhk-operator@sha256:" + "0" * 64


def written(*more: str) -> Any:
    words = [
        sys.executable,
        "-m",
        "knhk.cli",
        "log",
        "job",
        *more,
        "--pull=https://registry.example.com/knhk",
        f"--image={IMAGE}",
        "-o",
        "json",
    ]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize(
    "places",
    [
        ("s3://audit/delta", "--log=s3://audit/log", "--secret=audit"),
        ("/var/lib/knhk/delta", "--log=/var/lib/knhk/log", "--claim=data-knhk-log-0", "--shards=3", "--parallel=2"),
    ],
)
def test_the_job_is_taken_and_has_an_index_for_each_shard(cluster: Cluster, servers: dict[str, Path], places: tuple[str, ...]) -> None:
    job = json.dumps(written(*places, "--namespace=default"))
    command = [
        str(servers["kubectl"]),
        f"--kubeconfig={cluster.kubeconfig}",
        "apply",
        "--dry-run=server",
        "--validate=strict",
        "-o",
        "json",
    ]
    taken = json.loads(subprocess.run([*command, "-f", "-"], input=job, check=True, capture_output=True, text=True).stdout)
    policy, item = taken["items"]
    assert policy["spec"]["podSelector"]["matchLabels"] == {"batch.kubernetes.io/job-name": item["metadata"]["name"]}
    spec, (container,) = item["spec"], item["spec"]["template"]["spec"]["containers"]
    shards = 3 if "--shards=3" in places else 8
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", shards, 2 if shards == 3 else 8)
    assert f"--shard=$(KNHK_SHARD)/{shards}" in container["args"]
    assert container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
