"""Decision receipts by kubectl, through the real API server, by people with a role in one namespace; nobody else is heard."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.receipt_index import MISSES, OWN
from knhk.cli import main
from knhk.model.faults import AlreadyExists, Waiting

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "receipts"))
from control_plane import Cluster
from log_of_entries import CONTROLS, LIMITS, OTHERS, PACKS, Written, leaf
from receipts_process import ReceiptsServer, kubectl_of

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
DENIED = 7
PATHS = "/apis/receipts.knhk.dev/v1alpha1/namespaces/erp"
Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """1,205 decisions of three packs in two namespaces, and one request that nothing tells the namespace of."""
    made = Written(tmp_path_factory.mktemp("receipts"))
    made.add(*(made.event("Signed", pack) for pack in PACKS))
    made.leaves(leaf(n, verdict=2 if n < DENIED else 1) for n in range(1100))
    made.add(*(leaf(n, ring=b"RING0002", pack=LIMITS, flags=n & 1) for n in range(5)))
    made.leaves(leaf(n, ring=b"RING0003", pack=OTHERS, verdict=2) for n in range(100))
    made.add(leaf(1, ring=b"RING0009", pack=bytes(20), kind=4, verdict=2))
    return made


@pytest.fixture(scope="module")
def server(
    cluster: Cluster, client: KubeClient, servers: dict[str, Path], written: Written, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReceiptsServer]:
    found = ReceiptsServer(cluster, client, servers["kubectl"], written.folder, tmp_path_factory.mktemp("server") / "own")
    yield found
    found.close()


@pytest.fixture(scope="module")
def risk(
    cluster: Cluster, client: KubeClient, servers: dict[str, Path], server: ReceiptsServer, tmp_path_factory: pytest.TempPathFactory
) -> Kubectl:
    """kubectl of a person who has role Risk in namespace erp, and nothing else."""
    admin = kubectl_of(servers["kubectl"], cluster.kubeconfig, tmp_path_factory.mktemp("admin"))
    with contextlib.suppress(AlreadyExists):
        client.call("POST", "/api/v1/namespaces", body={"metadata": {"name": "erp"}})
    assert admin("apply", "--server-side", "-f", str(ROOT / "manifests" / "base" / "people" / "risk.yaml")).returncode == 0
    admin("create", "rolebinding", "rosa", "-n", "erp", "--clusterrole=knhk-risk", "--user=rosa")
    return kubectl_of(servers["kubectl"], cluster.user("rosa"), tmp_path_factory.mktemp("rosa"))


def read(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_question_of_the_issue_is_answered_as_a_table(risk: Kubectl) -> None:
    said = read(risk("get", "decisionreceipts", "-n", "erp", "--field-selector", "verdict=DENY,pack=invoice-controls"))
    head, *rows = said.splitlines()
    assert head.split() == ["NAME", "VERDICT", "PACK", "KIND", "CLASS", "MODE", "TIME"]
    assert [row.split()[1:3] for row in rows] == [["DENY", "invoice-controls@1.0.0"]] * DENIED
    wide = read(risk("get", "drcpt", "-n", "erp", "-l", "pack in (limits),arm=candidate", "-o", "wide"))
    assert [row.split()[-2:] for row in wide.splitlines()[1:]] == [["candidate", "1106"], ["candidate", "1104"]]


def test_a_list_goes_on_page_by_page_and_gives_each_receipt_once(risk: Kubectl) -> None:
    """kubectl asks for 500 at a time by itself."""
    named = read(risk("get", "decisionreceipts", "-n", "erp", "-o", "name")).splitlines()
    assert len(named) == len(set(named)) == 1105
    found, token = list[int](), ""
    while True:
        path = f"/apis/receipts.knhk.dev/v1alpha1/namespaces/erp/decisionreceipts?limit=400&continue={token}"
        page = json.loads(read(risk("get", "--raw", path)))
        found += [item["spec"]["logIndex"] for item in page["items"]]
        assert page["metadata"]["resourceVersion"] == "1209"
        if not (token := page["metadata"].get("continue", "")):
            break
    assert found == list(range(1107, 2, -1))


def test_what_is_asked_for_beyond_the_bound_comes_in_pages(risk: Kubectl) -> None:
    page = json.loads(read(risk("get", "--raw", "/apis/receipts.knhk.dev/v1alpha1/namespaces/erp/decisionreceipts?limit=1000000")))
    assert len(page["items"]) == 500
    assert page["metadata"]["continue"]


def test_an_object_is_evidence_that_verifies_down_to_the_root(
    risk: Kubectl, written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = read(risk("get", "decisionreceipts", "-n", "erp", "--field-selector", "verdict=DENY", "-o", "name")).split()[0]
    (tmp_path / "receipt.yaml").write_text(read(risk("get", name, "-n", "erp", "-o", "yaml")))
    keys = ("--root", str(written.folder.parent / "keys" / "root.pub"), "--keys", str(written.folder / "keys.json"))
    assert main(["receipt", "verify", str(tmp_path / "receipt.yaml"), *keys, "-o", "json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert any("DECISION DENY" in step["detail"] for step in steps)
    assert any("inclusion" in step["what"] and step["ok"] for step in steps)


@pytest.mark.parametrize(
    ("kind", "chosen", "says"),
    [("decisionreceipt", "verdict=DENY", "DECISION DENY"), ("policyreceipt", "event=Signed", "Signed of pack/erp/")],
)
def test_one_object_is_a_file_that_verifies_without_the_product(
    risk: Kubectl, written: Written, tmp_path: Path, kind: str, chosen: str, says: str
) -> None:
    """As docs/risk.md tells it."""
    name = read(risk("get", kind, "-n", "erp", "--field-selector", chosen, "-o", "name")).split()[0].partition("/")[2]
    (tmp_path / "r.json").write_text(read(risk("get", kind, name, "-n", "erp", "-o", "json")))
    keys = ("--root", str(written.folder.parent / "keys" / "root.pub"), "--keys", str(written.folder / "keys.json"))
    command = [sys.executable, "-B", "-m", "knhk_verify", *keys, str(tmp_path / "r.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, says in done.stdout) == (0, True), done.stdout + done.stderr


def test_policy_events_are_asked_for_though_no_receipt_of_them_is_left(
    risk: Kubectl, written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = read(risk("get", "policyreceipts", "-n", "erp", "--field-selector", "event=Signed,time=2026-11-20"))
    head, *rows = said.splitlines()
    assert head.split() == ["NAME", "EVENT", "PACK", "STAGE", "VERDICT", "ACTOR", "INDEX", "TIME"]
    assert [row.split()[:3] for row in rows] == [
        ["signed-00000001", "Signed", "limits@1.0.0"],
        ["signed-00000000", "Signed", "invoice-controls@1.0.0"],
    ]
    labelled = read(risk("get", "prcpt", "-n", "erp", "-l", f"packDigest={LIMITS[:20].hex()}", "-o", "name"))
    assert labelled == "policyreceipt.receipts.knhk.dev/signed-00000001\n"
    (tmp_path / "event.yaml").write_text(read(risk("get", "policyreceipt", "signed-00000001", "-n", "erp", "-o", "yaml")))
    keys = ("--root", str(written.folder.parent / "keys" / "root.pub"), "--keys", str(written.folder / "keys.json"))
    assert main(["receipt", "verify", str(tmp_path / "event.yaml"), *keys, "-o", "json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert any("Signed of pack/erp/limits@1.0.0" in step["detail"] for step in steps)
    assert any("inclusion" in step["what"] and step["ok"] for step in steps)


class Follows:
    """`kubectl get -w`, line by line."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def line(self) -> list[str]:
        assert self.process.stdout is not None
        found = self.process.stdout.readline()
        assert found, "kubectl ended"
        return found.split()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_kubectl_follows_both_as_the_log_takes_them_in(
    cluster: Cluster, servers: dict[str, Path], risk: Kubectl, written: Written, tmp_path: Path
) -> None:
    """Through the real API server: what is listed first, then each once, in the log's order."""
    command = [str(servers["kubectl"]), f"--kubeconfig={cluster.user('rosa')}", f"--cache-dir={tmp_path}", "get", "-n", "erp", "-w"]
    with contextlib.ExitStack() as stack:
        decided, happened = (
            stack.enter_context(contextlib.closing(Follows([*command, *words])))
            for words in (("drcpt", "-l", "pack=limits,arm=candidate"), ("prcpt", "--field-selector=pack=limits"))
        )
        assert [decided.line()[1] for _ in range(3)] == ["VERDICT", "ADMIT", "ADMIT"]
        assert happened.line()[:2] == ["NAME", "EVENT"]
        assert happened.line()[0] == "signed-00000001"
        size = int(json.loads(read(risk("get", "--raw", f"{PATHS}/policyreceipts")))["metadata"]["resourceVersion"])
        written.add(
            leaf(7000, ring=b"RING0002", pack=LIMITS, flags=1),
            leaf(7001, ring=b"RING0002", pack=LIMITS),
            written.event("Promoted", OTHERS),
            written.event("Promoted", LIMITS, stage="production", evidence={"verdict": "Pass"}),
            leaf(7002, ring=b"RING0002", pack=LIMITS, flags=1, verdict=2),
        )
        assert happened.line()[:5] == [f"promoted-{size + 3:08d}", "Promoted", "limits@1.0.0", "production", "Pass"]
        names = [leaf(number, ring=b"RING0002")[100:116].hex() + "-candidate" for number in (7000, 7002)]
        assert [decided.line()[:2] for _ in range(2)] == [[names[0], "ADMIT"], [names[1], "DENY"]]


def test_kubectl_knows_the_kind(risk: Kubectl) -> None:
    rows = [row.split() for row in read(risk("api-resources", "--api-group=receipts.knhk.dev")).splitlines()]
    assert rows[1:] == [
        ["decisionreceipts", "drcpt", "receipts.knhk.dev/v1alpha1", "true", "DecisionReceipt"],
        ["policyreceipts", "prcpt", "receipts.knhk.dev/v1alpha1", "true", "PolicyReceipt"],
    ]
    assert "in-toto statement" in read(risk("explain", "policyreceipts.status.statement"))
    assert "nanoseconds" in read(risk("explain", "decisionreceipts.status.time"))
    assert "tlog-proof" in read(risk("explain", "decisionreceipts.spec.proof"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("get", "decisionreceipts", "-n", "crm"), 'cannot list resource "decisionreceipts"'),
        (("get", "decisionreceipts", "-A"), "at the cluster scope"),
        (("get", "decisionreceipts", "-n", "knhk-system"), "forbidden"),
        (("get", "decisionreceipts", "-n", "crm", (b"RING0003" + bytes(8)).hex()), 'cannot get resource "decisionreceipts"'),
        (("get", "decisionreceipts", "-n", "erp", (b"RING0003" + bytes(8)).hex()), "not found"),
        (("get", "decisionreceipts", "-n", "erp", "nonsense"), "not found"),
        (("delete", "decisionreceipts", "-n", "erp", (b"RING0001" + bytes(8)).hex()), "forbidden"),
        (("get", "decisionreceipts", "-n", "erp", "--field-selector", "colour=red"), "must be one of"),
        (("get", "--raw", "/apis/receipts.knhk.dev/v1alpha1/namespaces/erp/decisionreceipts?continue=x"), "token"),
        (("get", "--raw", "/apis/receipts.knhk.dev/v1alpha1/namespaces/crm/decisionreceipts?watch=true"), "cannot watch"),
        (("get", "--raw", f"{PATHS}/decisionreceipts?watch=true"), "list them"),
        (("get", "policyreceipts", "-n", "crm"), 'cannot list resource "policyreceipts"'),
        (("get", "policyreceipts", "-n", "erp", "promoted-00000001"), "not found"),
    ],
)
def test_what_may_not_be_asked_is_refused_with_why(risk: Kubectl, arguments: tuple[str, ...], says: str) -> None:
    done = risk(*arguments)
    assert done.returncode != 0, done.stdout
    assert says in done.stderr


def test_a_right_that_is_taken_away_counts_at_once(risk: Kubectl, client: KubeClient) -> None:
    path = "/apis/rbac.authorization.k8s.io/v1/namespaces/erp/rolebindings/rosa"
    before = client.call("GET", path)
    client.call("DELETE", path)
    try:
        deadline = 100
        while (
            done := risk("get", "decisionreceipts", "-n", "erp", "-o", "name")
        ).returncode == 0:  # the authorizer itself hears of it by a watch
            deadline -= 1
            assert deadline
        assert "forbidden" in done.stderr
    finally:
        del before["metadata"]["resourceVersion"], before["metadata"]["uid"]
        client.call("POST", path.rpartition("/")[0], body=before)


def test_who_says_by_himself_whom_he_asks_for_is_not_heard(server: ReceiptsServer, cluster: Cluster) -> None:
    """Neither without a certificate, nor with one of the cluster's own clients: only the front proxy vouches."""
    forged = {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"}
    path = "/apis/receipts.knhk.dev/v1alpha1/decisionreceipts"
    assert asked(server, path, forged, server.context()) == 401
    cluster.user("mallory")
    with_certificate = server.context()
    pki = cluster.folder / "pki"
    with_certificate.load_cert_chain(pki / "user-mallory.crt", pki / "user-mallory.key")
    assert asked(server, path, forged, with_certificate) in (401, 0)  # 0: TLS itself refused
    vouched = server.context()
    vouched.load_cert_chain(pki / "front-proxy-client.crt", pki / "front-proxy-client.key")
    assert asked(server, path, forged, vouched) == 200
    assert asked(server, path, {}, vouched) == 401
    assert asked(server, path, {"X-Remote-User": "nobody"}, vouched) == 403
    assert asked(server, "/readyz", {}, server.context()) == 200


def test_who_is_in_a_thousand_groups_asks_as_everybody_does(server: ReceiptsServer, cluster: Cluster) -> None:
    """The API server says each group in a header of its own; a directory gives a person up to 1,015."""
    vouched = server.context()
    pki = cluster.folder / "pki"
    vouched.load_cert_chain(pki / "front-proxy-client.crt", pki / "front-proxy-client.key")
    with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", server.port, context=vouched, timeout=60)) as connection:
        connection.putrequest("GET", "/apis/receipts.knhk.dev/v1alpha1/decisionreceipts")
        connection.putheader("X-Remote-User", "rosa")
        for number in range(1014):
            connection.putheader("X-Remote-Group", f"CN=group-{number},OU=Finance,DC=example,DC=com")
        connection.putheader("X-Remote-Group", "system:masters")
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 200, answer.read(1000)


def asked(server: ReceiptsServer, path: str, headers: dict[str, str], context: ssl.SSLContext) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(urllib.request.Request(f"{server.url}{path}", headers=headers), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def test_what_nothing_tells_the_namespace_of_is_ours(server: ReceiptsServer, client: KubeClient) -> None:
    rows = client.call("GET", "/apis/receipts.knhk.dev/v1alpha1/namespaces/knhk-system/decisionreceipts")["items"]
    assert [row["status"]["kind"] for row in rows] == ["REFUSED"]


def test_a_decision_is_there_as_soon_as_the_log_has_it(risk: Kubectl, written: Written) -> None:
    written.add(leaf(5000, pack=CONTROLS))
    name = (b"RING0001" + (5000).to_bytes(8, "big")).hex()
    size = str(written.served.size)
    path = f"/apis/receipts.knhk.dev/v1alpha1/namespaces/erp/decisionreceipts?resourceVersion={size}&fieldSelector=metadata.name%3D{name}"
    assert [item["metadata"]["name"] for item in json.loads(read(risk("get", "--raw", path)))["items"]] == [name]
    later = risk("get", "--raw", path.replace(f"={size}&", "=999999&"))
    assert "Too large resource version" in later.stderr


class Ask:
    """`knhk receipt …` on a machine without home, log and keys, with the kubeconfig of rosa alone."""

    def __init__(self, cluster: Cluster, written: Written, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._home, self._kubeconfig, self._capsys = home, cluster.user("rosa"), capsys
        self._keys = ("--root", str(written.folder.parent / "keys" / "root.pub"), "--keys", str(written.folder / "keys.json"))

    def __call__(self, *words: str, trusting: bool = False, code: int = 0) -> Any:
        asked = ["--home", str(self._home), "receipt", *words, "--kubeconfig", str(self._kubeconfig), "-o", "json"]
        assert main([*asked, *(self._keys if trusting else ())]) == code
        said = self._capsys.readouterr()
        return json.loads(said.out or said.err)

    def of_file(self, file: Path) -> Any:
        assert main(["--home", str(self._home), "receipt", "verify", str(file), *self._keys, "-o", "json"]) == 0
        return json.loads(self._capsys.readouterr().out)


TWICE = (b"RING0002" + (90).to_bytes(8, "big")).hex()
Twice = tuple[int, int]


@pytest.fixture(scope="module")
def twice(written: Written, server: ReceiptsServer, client: KubeClient) -> Twice:
    """Entries of a receipt that both arms gave, of a pack that somebody approved and that went live."""
    approved = written.event("Approved", LIMITS, actor="ann", stage="production"), written.event("Promoted", LIMITS, stage="production")
    written.add(*approved, *(leaf(90, ring=b"RING0002", pack=LIMITS, verdict=2, flags=arm) for arm in (0, 1)))
    size, path = written.served.size, "/apis/receipts.knhk.dev/v1alpha1/decisionreceipts"
    for _ in range(60):  # each waits up to seconds, there
        with contextlib.suppress(Waiting):
            client.call("GET", path, {"resourceVersion": str(size), "limit": "1"})
            break
    return size - 2, size - 1


@pytest.fixture
def ask(risk: Kubectl, cluster: Cluster, written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    return Ask(cluster, written, tmp_path / "none", capsys)


@pytest.mark.parametrize("words", [(TWICE, "-n", "erp"), (f"erp/{TWICE}",)])
def test_a_decision_is_verified_by_its_receipt_id_with_the_steps_of_its_files(
    ask: Ask, risk: Kubectl, twice: Twice, tmp_path: Path, words: tuple[str, ...]
) -> None:
    of_files = list[dict[str, Any]]()
    for name in (TWICE, f"{TWICE}-candidate"):
        file = tmp_path / name
        file.write_text(read(risk("get", "decisionreceipt", name, "-n", "erp", "-o", "json")))
        of_files += [{**step, "what": step["what"].replace(str(file), f"erp/{name}")} for step in ask.of_file(file)["steps"]]
    told = ask("verify", *words, trusting=True)
    assert told["verified"]
    assert [step for step in of_files if step not in told["steps"]] == []
    assert all(any(step["what"].startswith(f"erp/{name}: inclusion") for step in of_files) for name in (TWICE, f"{TWICE}-candidate"))


@pytest.mark.parametrize(("index", "says"), [("1104", "DECISION ADMIT"), ("1", "Signed of pack/erp/limits@1.0.0")])
def test_an_entry_is_verified_and_shown_by_its_index(ask: Ask, index: str, says: str) -> None:
    assert any(says in step["detail"] for step in ask("verify", index, "-n", "erp", trusting=True)["steps"])
    assert [row["index"] for row in ask("show", index, "-n", "erp")["entries"]] == [int(index)]


def test_a_receipt_is_shown_as_the_cluster_has_it(ask: Ask, twice: Twice) -> None:
    told = ask("show", TWICE, "-n", "erp")
    assert [(row["index"], row["flags"], row["subject"]) for row in told["entries"]] == [
        (twice[0], [], "pack/erp/limits@1.0.0"),
        (twice[1], ["candidate"], "pack/erp/limits@1.0.0"),
    ]
    assert told["observations"] == []


def test_a_receipt_has_its_lineage_for_who_may_read_receipts(ask: Ask, twice: Twice) -> None:
    """What made its pack live, and each row held against its proof; its payload is another's to read."""
    told = ask("lineage", TWICE, "-n", "erp", "--verify", trusting=True)
    assert [(row["index"], row["arm"]) for row in told["rows"]] == list(zip(twice, ("stable", "candidate"), strict=True))
    for row in told["rows"]:
        assert (row["verdict"], row["pack"]["name"], row["record"], row["verified"]) == ("DENY", "erp/limits@1.0.0", "unread", True)
        assert [approval["approver"] for approval in row["approvals"]] == ["ann"]
        assert "Promoted" in [event["event"] for event in row["live"]]
    assert (told["verified"], told["missing"]) == (True, [])
    assert any("inclusion" in step["what"] and step["ok"] for step in told["steps"])


OTHER = (b"RING0003" + bytes(8)).hex()  # of namespace crm


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("verify", "0" * 32, "-n", "erp"), 1, f"namespace erp: no receipt {'0' * 32} in its log"),
        (("verify", OTHER, "-n", "erp"), 1, "namespace erp: no receipt"),
        (("verify", OTHER, "-n", "crm"), 3, "forbidden"),
        (("verify", OTHER), 3, "or a namespace must be named: -n NAMESPACE"),
        (("show", "999999", "-n", "erp"), 1, "namespace erp: no entry 999999 in its log"),
        (("lineage", "0" * 32, "-n", "erp"), 3, f"no receipt {'0' * 32} in the cluster's log, and as a name: "),
    ],
)
def test_a_receipt_that_is_not_there_or_not_theirs_to_read_is_told(ask: Ask, words: tuple[str, ...], code: int, says: str) -> None:
    assert says in ask(*words, trusting=words[0] != "show", code=code)["error"]


def test_what_a_guard_made_up_hides_nothing_from_kubectl(risk: Kubectl, ask: Ask, written: Written) -> None:
    """The answers that come first have no row, but say where to go on; kubectl, and `knhk receipt list`, do."""
    made_up = (leaf(n, ring=b"LIAR0001", pack=CONTROLS) for n in range(10000, 10000 + OWN + 1 + 2 * MISSES))
    written.leaves(b"".join((each[:6], (number + 1).to_bytes(2, "big"), each[8:])) for number, each in enumerate(made_up))
    wanted, selector = (b"LIAR0001" + (10000 + OWN).to_bytes(8, "big")).hex(), f"region={OWN + 1},pack=invoice-controls"
    path = f"{PATHS}/decisionreceipts?resourceVersion={written.served.size}&fieldSelector={selector.replace('=', '%3D')}&limit=500"
    for _ in range(60):  # each waits up to seconds, there
        if (first := risk("get", "--raw", path)).returncode == 0:
            break
    page = json.loads(read(first))
    assert (page["items"], bool(page["metadata"]["continue"])) == ([], True)
    assert read(risk("get", "drcpt", "-n", "erp", "--field-selector", selector, "-o", "name")).split("/")[1:] == [f"{wanted}\n"]
    shown = risk("get", "drcpt", "-n", "erp", "--field-selector", selector)
    assert ([row.split()[0] for row in read(shown).splitlines()], shown.stderr) == (["NAME", wanted], "")
    assert [row["receipt"] for row in ask("list", "-n", "erp", "--field-selector", selector)["receipts"]] == [wanted]
