"""The questions of docs/risk.md, as they stand there, asked with nothing but a kubeconfig of role Risk on the real API server."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection
from knhk.cli import main
from knhk.model.faults import AlreadyExists

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "receipts"))
from control_plane import Cluster
from log_of_entries import CONTROLS, LIMITS, OTHERS, Written, leaf
from receipts_process import ReceiptsServer, kubectl_of

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
QUESTIONS = re.findall(r"^## (\d+)\. .*?```sql\n(.*?)```", (ROOT / "docs" / "risk.md").read_text(), re.DOTALL | re.MULTILINE)
# versions of one pack, by number
STAGED, LATE, TAKEN_BACK, ROLLED = (bytes((10 + n,)) * 32 for n in (1, 2, 3, 4))
HOUR_NS = 3_600 * 10**9
Ask = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """invoice-controls was approved by ann, who wrote it, and promoted, and five days later let again by ben; limits decided before
    anything let it, was enforced unreviewed, then a newer one rolled back; of payments see `_payments`."""
    made, finding = Written(tmp_path_factory.mktemp("risk")), {"finding": {"guard": "limit", "kind": "newDenials"}}
    nobody = {"unreviewed": True, "approvedBy": ["local:root"]}
    made.add(
        made.event("Signed"),
        made.event("Approved", actor="ann", stage="production", time="2026-11-20T11:00:00Z"),
        made.event("Promoted", time="2026-11-20T12:00:00Z", evidence={"approvedBy": ["ann"], "source": {"user": "ann"}}),
        *(leaf(n, verdict=2 if n < 2 else 1, flags={6: 16, 7: 8}.get(n, 0)) for n in range(8)),
        made.event("Promoted", LIMITS, time="2026-11-21T12:00:00Z", evidence=nobody),
        *(leaf(n * 24 * HOUR_NS, ring=b"RING0002", pack=LIMITS) for n in range(3)),
        made.event("RolledBack", LIMITS, time="2026-11-22T12:00:00Z", reason="newDenials of guard limit", evidence=finding),
        made.event("Signed", OTHERS),
        leaf(1, ring=b"RING0003", pack=OTHERS),
        *_payments(made),
        made.event("Approved", actor="zoe", stage="staging", time="2026-11-25T10:00:00Z"),
        made.event("Approved", actor="ben", stage="production", time="2026-11-25T11:00:00Z"),
        _step(made, CONTROLS, "production", "ben", of=None, version="1.0.0", time="2026-11-25T12:00:00Z"),
    )
    return made


def _step(made: Written, pack: bytes, stage: str, *approvers: str, arm: str = "Canary", **more: Any) -> bytes:
    evidence = {"approvedBy": list(approvers)} if approvers else {}
    return made.event("StepAdvanced", pack, stage=stage, arm=arm, step=0, weight=5, evidence=evidence, **more)


def _decisions(pack: bytes, hours: int, count: int = 1) -> list[bytes]:
    """Denials so many hours after 2026-11-20T13:00:00Z."""
    return [leaf(hours * HOUR_NS + n, ring=b"RING0004", pack=pack, verdict=2) for n in range(count)]


def _payments(made: Written) -> list[bytes]:
    """1 was approved for its canary alone and decided twice in production; 2 was approved after its first decision; of 3 an approval was
    taken back before its promotion; 4 was approved by eve, who wrote it, and let by fay, and rolled back before it was ever promoted."""
    first, second, third, fourth = (dict[str, Any](of=("erp", "payments"), version=f"{n}.0.0") for n in (1, 2, 3, 4))
    source = {"source": {"user": "eve"}}
    return [
        made.event("Approved", STAGED, actor="bea", stage="canary", time="2026-11-22T08:00:00Z", **first),
        _step(made, STAGED, "canary", "bea", time="2026-11-22T09:00:00Z", **first),
        *_decisions(STAGED, 45),
        _step(made, STAGED, "production", time="2026-11-22T12:00:00Z", **first),
        *_decisions(STAGED, 48, 2),
        made.event("Promoted", LATE, time="2026-11-23T10:00:00Z", **second),
        *_decisions(LATE, 70),
        made.event("Approved", LATE, actor="cid", stage="production", time="2026-11-23T12:00:00Z", **second),
        _step(made, LATE, "production", "cid", time="2026-11-23T13:00:00Z", **second),
        *_decisions(LATE, 73),
        made.event("Approved", TAKEN_BACK, actor="dan", stage="production", time="2026-11-24T08:00:00Z", **third),
        made.event("Promoted", TAKEN_BACK, time="2026-11-24T09:00:00Z", **third),
        *_decisions(TAKEN_BACK, 93),
        made.event("Signed", ROLLED, time="2026-11-24T14:00:00Z", evidence=source, **fourth),
        made.event("Approved", ROLLED, actor="eve", stage="production", time="2026-11-24T15:00:00Z", **fourth),
        made.event("Approved", ROLLED, actor="fay", stage="production", time="2026-11-24T15:00:00Z", **fourth),
        _step(made, ROLLED, "canary", "fay", time="2026-11-24T16:00:00Z", **fourth),
        _step(made, ROLLED, "production", arm="Shadow", time="2026-11-24T17:00:00Z", **fourth),
        *_decisions(ROLLED, 101),
        made.event("RolledBack", ROLLED, time="2026-11-24T19:00:00Z", reason="newDenials of guard sum", evidence=source, **fourth),
    ]


@pytest.fixture(scope="module")
def ask(
    cluster: Cluster,
    client: KubeClient,
    servers: dict[str, Path],
    written: Written,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[pytest.CaptureFixture[str], str], tuple[int, Any]]]:
    """Asks as Rita, who has role Risk in erp; her machine has no log, no keys and no home."""
    for namespace in ("erp", "crm"):
        with contextlib.suppress(AlreadyExists):
            client.call("POST", "/api/v1/namespaces", body={"metadata": {"name": namespace}})
        client.call("DELETE", collection("Receipt", namespace))  # as if all had left by number: the log has what they told
    admin = kubectl_of(servers["kubectl"], cluster.kubeconfig, tmp_path_factory.mktemp("admin"))
    assert admin("apply", "--server-side", "-f", str(ROOT / "manifests" / "base" / "people" / "risk.yaml")).returncode == 0
    admin("create", "rolebinding", "rita", "-n", "erp", "--clusterrole=knhk-risk", "--user=rita")
    server = ReceiptsServer(cluster, client, servers["kubectl"], written.folder, tmp_path_factory.mktemp("server") / "own")
    home, kubeconfig = tmp_path_factory.mktemp("rita") / "none", cluster.user("rita")

    def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
        code = main(["--home", str(home), "receipt", *words, "--kubeconfig", str(kubeconfig), "-o", "json"])
        said = capsys.readouterr()
        return code, json.loads(said.out or said.err)

    yield asked
    server.close()


ANSWERS: dict[str, list[list[Any]]] = {
    "1": [
        ["52494e47303030310000000000000005", "ADMIT", "invoice-controls", "Promoted", "2026-11-20T12:00:00.000000Z", ["ann"]],
    ],
    "2": [["invoice-controls", "1.0.0", None]],
    "3": [["limits", "1.0.0", 3]],
    "4": [["fail-open", "invoice-controls"], ["brownout", "invoice-controls"], ["Promoted", "limits"]],
    "5": [["Promoted", "limits", 11]],
    "6": [["fail-open", 9], ["brownout", 10]],
    "7": [["RolledBack", "limits", "newDenials of guard limit"], ["RolledBack", "payments", "newDenials of guard sum"]],
    "8": [["invoice-controls", "1.0.0", "ann", 1], ["payments", "4.0.0", "eve", 33]],
    "9": [
        ["invoice-controls", "1.0.0", 8, 2, 25.0],
        ["limits", "1.0.0", 3, 0, 0.0],
        ["payments", "1.0.0", 3, 3, 100.0],
        ["payments", "2.0.0", 2, 2, 100.0],
        ["payments", "3.0.0", 1, 1, 100.0],
        ["payments", "4.0.0", 1, 1, 100.0],
    ],
    "10": [
        ["limits", "1.0.0", "Promoted", "", 2],
        ["limits", "1.0.0", None, None, 1],
        ["payments", "1.0.0", "StepAdvanced", "production", 2],
        ["payments", "2.0.0", "Promoted", "", 1],
        ["payments", "3.0.0", "Promoted", "", 1],
    ],
}
SHOWN = {
    "1": ("receipt", "verdict", "pack", "event", "since", "approved_by"),
    "2": ("pack", "version", "until"),
    "3": ("pack", "version", "judged"),
    "4": ("how", "pack"),
    "5": ("event", "pack", "log_index"),
    "6": ("why", "log_index"),
    "7": ("event", "pack", "reason"),
    "8": ("pack", "version", "actor", "log_index"),
    "9": ("pack", "version", "judged", "denied", "percent"),
    "10": ("pack", "version", "event", "stage", "decisions"),
}


@pytest.mark.parametrize(("number", "sql"), [row for row in QUESTIONS if row[0] in ANSWERS], ids=lambda value: str(value)[:3])
def test_a_question_of_the_docs_is_answered(ask: Ask, capsys: pytest.CaptureFixture[str], number: str, sql: str) -> None:
    code, said = ask(capsys, "query", "-n", "erp", sql)
    assert code == 0, said
    found = [[dict(zip(said["columns"], row, strict=True))[name] for name in SHOWN[number]] for row in said["rows"]]
    wanted = ANSWERS[number]
    assert (found if number in ("4", "5", "6", "7", "9") else sorted(found, key=str)) == wanted


def test_all_ten_are_asked() -> None:
    assert [number for number, _ in QUESTIONS] == [str(n) for n in range(1, 12)]
    assert set(ANSWERS) == {str(n) for n in range(1, 11)}


def test_nothing_of_another_namespace_is_told(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    for sql in ("FROM decisions", "FROM events"):
        code, said = ask(capsys, "query", "-n", "crm", sql)
        assert code == 3
        assert "forbidden" in said["error"]


def test_policy_events_are_listed_by_what_they_say(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ask(capsys, "list", "-n", "erp", "--kind", "POLICY", "--field-selector", "stage=production,actor=ann")
    assert (code, [(row["index"], row["kind"]) for row in said["receipts"]]) == (0, [(1, "POLICY Approved")])


def test_a_receipt_that_has_left_is_verified_by_its_name(
    ask: Ask, cluster: Cluster, written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ask(
        capsys,
        "verify",
        "erp/approved-00000001",
        "--root",
        str(written.folder.parent / "keys" / "root.pub"),
        "--keys",
        str(written.folder / "keys.json"),
    )
    assert code == 0, said
    assert any("Approved of pack/erp/invoice-controls@1.0.0" in step["detail"] for step in said["steps"])


def test_receipts_are_listed_page_by_page_by_the_same_command_as_of_a_log(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    code, first = ask(capsys, "list", "-n", "erp", "--pack", "invoice-controls", "--limit", "5")
    assert (code, [row["index"] for row in first["receipts"]]) == (0, [10, 9, 8, 7, 6])
    code, rest = ask(capsys, "list", "-n", "erp", "--pack", "invoice-controls", "--limit", "5", "--continue", first["continue"])
    assert [row["index"] for row in rest["receipts"]] == [5, 4, 3]
    assert rest["continue"] is None
    assert CONTROLS[:20].hex() == rest["receipts"][0]["pack"]
