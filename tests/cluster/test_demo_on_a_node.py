"""`make demo-cluster` on the node that tests share: the control plane in pods by its manifests, the story, and all of it taken away."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import definitions
from demo_on_a_node import ROOT, story
from node_pods import Node

from knhk_runtime.tlog.audit import verify_log

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("node"), pytest.mark.timeout(900)]
OURS, THEIRS = "knhk-system", "erp"
ENDS_WITHIN_S = 700
OF_PEOPLE = "policyrepositories,policypacks,enforcementpoints,databundles"


@dataclass(frozen=True)
class Played:
    summary: dict[str, Any]
    words: str


@pytest.fixture(scope="module")
def played(node: Node, guard_image: str, control_images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The story, played by the command that `make demo-cluster` runs; taken away afterwards as docs/cluster.md says."""
    folder = tmp_path_factory.mktemp("demo")
    node.without(OURS)  # what a test before it left there
    command = story(node.cluster, node.program, {"agent": guard_image, **control_images}, folder / "home", folder / "told.json")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=ENDS_WITHIN_S, check=False)
    words = done.stdout + done.stderr
    try:
        assert done.returncode == 0, f"{words}\n{seen(node)}"
        yield Played(json.loads((folder / "told.json").read_text()), words)
    finally:
        node.kubectl("delete", OF_PEOPLE, "--all", "-A")
        node.without(THEIRS)
        node.without(OURS)
        node.kubectl("delete", "-k", str(folder / "home" / "overlay"), "--ignore-not-found")
        definitions.install(node.client)  # they went as well, and other tests need them


def seen(node: Node) -> str:
    """What there is to know of a story that failed."""
    pods = node.kubectl("get", "pods", "-A", "-o", "wide")
    logs = [
        node.kubectl("-n", OURS, "logs", f"deployment/knhk-{name}", "--tail=30", "--ignore-errors") for name in ("operator", "admission")
    ]
    return "\n".join([pods, *logs])


def test_the_story_ends_as_told_in_pods(played: Played) -> None:
    told = played.summary
    assert (told["promoted"], told["rolled_back"]) == (["1.0.0", "1.2.0"], ["1.1.0"])
    assert told["receipts"] == told["decisions"] > 500
    assert (told["wrong_enforced"], told["different"], told["unrecorded"]) == (0, 0, 0)
    assert told["leaves"] >= told["replayed"] > told["receipts"]
    assert told["denied"] > 0
    assert 0 < told["app_rows"] <= told["admitted"]
    assert told["bad_pack_pairs"] > 0
    assert told["receipt_resources"] > 0


def test_a_pod_was_deleted_in_the_middle_of_a_canary(played: Played) -> None:
    assert played.summary["deleted_pod"].startswith("order-to-cash-")
    assert played.summary["deleted_in"]["arm"] == "Canary"
    assert f"deleted pod {played.summary['deleted_pod']}" in played.words


def test_its_log_verifies_apart_from_the_cluster(played: Played) -> None:
    report = verify_log(Path(played.summary["log_dir"]), played.summary["vkey"])
    assert (report.bad, report.receipts) == ([], played.summary["receipts"])
