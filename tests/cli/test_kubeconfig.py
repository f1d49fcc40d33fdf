"""What leads to no cluster, or to no log, is told as that, with what to give, and not in the words of a library."""

from __future__ import annotations

import json
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.unreached import why
from knhk.cli import load, main
from knhk.cli.framework import COMMANDS
from knhk_runtime.record import encode_leaf
from knhk_verify.leaf import Leaf
from local_http import Answer, serving

OF_LIBRARIES = ("Errno", "object", "HTTPSConnectionPool", "urlopen", "_ssl", "Max retries", "Invalid kube-config")
MUST = "give a kubeconfig, such as `kubectl config view --minify --flatten` prints"
SERVER = '{"clusters": [{"name": "a", "cluster": {"server": "%s"}}], "contexts": [{"name": "a", "context": {"cluster": "a"}}],'
SERVER += '"current-context": "a", "users": []}'
PERSON = ("anna", "-n", "erp")
ASKING = [
    ("get", "policypacks"),
    ("describe", "PolicyPack", "x"),
    ("apply", "-f", str(Path(__file__).parents[2] / "examples" / "consent" / "pack.yaml")),
    ("delete", "policypack", "erp/x"),
    ("approve", "x", "--stage", "production"),
    ("consent", "list", "-n", "ats"),
    ("consent", "grant", "c-117", "--purpose", "https://example.com/x", "--controller", "Example Ltd"),
    ("consent", "withdraw", "c-117", "--purpose", "https://example.com/x"),
    ("receipt", "list"),
    ("receipt", "show", "5f" * 16),
    ("receipt", "query", "FROM decisions"),
    ("receipt", "verify", "5f" * 16, "--root", "A" * 43 + "=", "--keys", "{folder}/keys.json"),
    ("receipt", "lineage", "5f" * 16),
    ("receipt", "lineage", *PERSON),
    ("receipt", "export", "--format", "csv", "--out", "{folder}/out.csv"),
    ("receipt", "export", "--subject", *PERSON, "--reason", "x", "--out", "{folder}/out"),
    ("receipt", "erase", *PERSON, "--basis", "x"),
    ("receipt", "hold", *PERSON, "--reference", "x"),
    ("receipt", "release", "5f" * 16, "-n", "erp"),
    ("receipt", "retain", "-n", "erp"),
    ("cluster", "turn"),
]
ELSEWHERE = {"restore", "receipt reapply"}  # restore reads the log before; reapply is no command for a cluster, and says so
Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    (tmp_path / "keys.json").write_text("{}")

    def asked(*words: object) -> tuple[int, str]:
        told = (str(word).format(folder=tmp_path) for word in words)
        code = main(["--home", str(tmp_path / "home"), *told, "-o", "json"])
        return code, str(json.loads(capsys.readouterr().err.splitlines()[-1])["error"])

    return asked


@pytest.mark.parametrize(
    ("text", "amiss"),
    [
        (None, "it is a folder: give a kubeconfig"),
        ("", "it is no kubeconfig: give a kubeconfig"),
        ("words", "it is no kubeconfig: give a kubeconfig"),
        ("- a list", "it is no kubeconfig: give a kubeconfig"),
        ("a: b: c", "it is no YAML: give a kubeconfig"),
        ("clusters: [{}]", "current-context"),
    ],
)
def test_a_file_that_leads_to_no_cluster_is_told(ask: Ask, text: str | None, amiss: str, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    if text is None:
        file.mkdir()
    else:
        file.write_text(text)
    code, said = ask("get", "policypacks", "--kubeconfig", file)
    assert (code, said.startswith(f"NoCluster: {file}: must lead to a cluster: ")) == (3, True)
    assert amiss in said


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_every_command_that_asks_a_cluster_tells_what_it_was_given(ask: Ask, tmp_path: Path, words: tuple[str, ...]) -> None:
    file = tmp_path / "none.conf"
    code, said = ask(*words, "--kubeconfig", file)
    assert (code, said) == (3, f"NoCluster: {file}: must lead to a cluster: it is not there: {MUST}")
    file.write_text(SERVER % "https://127.0.0.1:9")
    code, said = ask(*words, "--kubeconfig", file)
    assert (code, said.startswith("ApiServerUnreachable: the API server https://127.0.0.1:9 does not answer (/api")) == (3, True), said
    assert ": nobody listens there: it must be one that is reached from here" in said
    assert not [word for word in OF_LIBRARIES if word in said]


def test_no_command_that_takes_a_kubeconfig_is_left_out() -> None:
    load()
    takes = {words for words, made in COMMANDS.items() if any("--kubeconfig" in argument.names for argument in made.arguments)}
    asked = {" ".join(words[: 2 if " ".join(words[:2]) in COMMANDS else 1]) for words in ASKING}
    assert takes - asked == ELSEWHERE


@pytest.fixture
def page() -> Iterator[int]:
    """Port of what is no API server and no log."""
    with serving(lambda path, _: Answer(404 if "apis" in path else 503, b"<html><body>not here</body></html>")) as url:
        yield int(url.rpartition(":")[2])


@contextmanager
def cluster(folder: Path, answer: Callable[[str], tuple[int, Any]]) -> Iterator[Path]:
    """A kubeconfig for an API server that answers a path so: code and document."""

    def told(path: str, _: Message) -> Answer:
        code, document = answer(path)
        return Answer(code, json.dumps(document).encode(), {"Content-Type": "application/json"})

    with serving(told) as url:
        file = folder / "kubeconfig"
        file.write_text(SERVER % url)
        yield file


def bare(path: str) -> tuple[int, Any]:
    """Of a cluster without any receipt, which is too busy to tell of anything else."""
    if "decisionreceipts" in path or "/namespaces/" not in path:
        return 200, {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}
    return 500, {"kind": "Status", "code": 500, "message": "busy", "details": {}}


def test_of_a_receipt_that_is_not_there_that_is_said_first(ask: Ask, tmp_path: Path) -> None:
    with cluster(tmp_path, bare) as file:
        code, said = ask("receipt", "lineage", "5f" * 16, "-n", "erp", "--kubeconfig", file)
    assert code == 3
    assert f"no receipt {'5f' * 16} in the cluster's log, and as a name: " in said


def endless(path: str) -> tuple[int, Any]:
    """A first page of one decision, and next ones that would be the same for ever."""
    leaf = encode_leaf(Leaf(1, 1, 2, 1, 0, 0, bytes(32), bytes(32), bytes(20), 1795179600000000000, bytes(range(16))))
    one = {"metadata": {"namespace": "erp"}, "status": {"flags": []}, "spec": {"logIndex": 7, "leaf": b64encode(leaf).decode()}}
    items = [] if "continue=" in path else [one]
    return 200, {"kind": "List", "metadata": {"resourceVersion": "8", "continue": "7.8"}, "items": items}


def busy(path: str) -> tuple[int, Any]:
    """The same first page; then there are too many requests."""
    if "continue=" in path:
        return 429, {"kind": "Status", "code": 429, "reason": "TooManyRequests", "message": "busy", "details": {}}
    return endless(path)


def test_a_list_that_is_cut_short_gives_what_it_has_and_where_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with cluster(tmp_path, busy) as file:
        code = main(["receipt", "list", "--kubeconfig", str(file), "--limit", "3", "-o", "json"])
    said = capsys.readouterr()
    told, note = json.loads(said.out), json.loads(said.err)["note"]
    assert (code, [row["index"] for row in told["receipts"]], told["continue"]) == (3, [7], "7.8")
    assert note.startswith("there may be more: --continue 7.8 goes on: ")
    assert note.endswith("decisionreceipts: busy")


def test_a_list_that_would_never_end_is_told(ask: Ask, tmp_path: Path) -> None:
    for words in (("list",), ("export", "--format", "csv", "--out", tmp_path / "out.csv")):
        with cluster(tmp_path, endless) as file:
            code, said = ask("receipt", *words, "--kubeconfig", file)
        assert (code, "decisionreceipts: the next page is said to be the one that was asked for" in said) == (3, True), said


def test_what_is_no_api_server_is_told(ask: Ask, page: int, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    for scheme, told in (("http", "a page for people, as no API server does"), ("https", "what listens there does not speak TLS")):
        file.write_text(SERVER % f"{scheme}://127.0.0.1:{page}")
        code, said = ask("receipt", "list", "--kubeconfig", file)
        assert (code, told in said, "<html>" in said) == (3, True, False), said


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("http://127.0.0.1:9", "nobody listens there"),
        ("https://127.0.0.1:{page}", "what listens there does not speak TLS"),
        ("http://127.0.0.1:{page}", "answers 503"),
        ("https://nobody.invalid", "its name is not known here"),
        ("http://", "no host given"),
    ],
)
def test_a_log_that_is_not_reached_is_told(ask: Ask, page: int, place: str, told: str) -> None:
    for words in (("list",), ("show", "0"), ("query", "FROM decisions")):
        code, said = ask("receipt", *words, "--log", place.format(page=page))
        assert (code, said.startswith("Log: the log is not reached: ")) == (3, True), said
        assert f"{told}: must be the place of a log that is reached from here, by who may read it" in said
        assert not [word for word in OF_LIBRARIES if word in said]


def test_a_certificate_that_nobody_vouches_for_is_told() -> None:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_message = "self-signed certificate"
    assert why(OSError(error)) == "nobody who is trusted here vouches for its certificate (self-signed certificate)"
