"""Port Repository over git: what a commit says, who signed it, and fetches that stay within bounds and give no secret away."""

from __future__ import annotations

import base64
import resource
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from git_repo import Person, Repo, person

from knhk.adapters import git_program, repository_git
from knhk.adapters.mirrors_git import GitMirrors
from knhk.adapters.repository_git import checkout
from knhk.model.commits import Signed, globbed, stem
from knhk.model.faults import Refused, Stalled, Waiting
from knhk.ports.repository import Remote
from local_http import Answer, serving

ALL = ("file", "http")


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "repo")


@pytest.fixture
def alice(tmp_path: Path) -> Person:
    return person("alice", tmp_path)


@pytest.fixture
def mirrors(tmp_path: Path) -> GitMirrors:
    return GitMirrors(tmp_path / "mirrors", ALL)


def allowed(*people: Person) -> str:
    return "".join(f'{who.email} namespaces="git" {who.public}\n' for who in people)


def test_a_commit_is_told_as_it_is(repo: Repo, alice: Person) -> None:
    first = repo.commit({"a.yaml": "a"})
    second = repo.commit({"b.yaml": "b"}, alice, "a subject\n\nand more")
    found = checkout(repo.folder).commit(second)
    assert (found.id, found.parents, found.author, found.subject) == (second, (first,), "alice <alice@example.com>", "a subject")


def test_signatures_by_allowed_keys_only_are_good(repo: Repo, alice: Person, tmp_path: Path) -> None:
    bob = person("bob", tmp_path)
    by_alice, by_nobody = repo.commit({"a": "1"}, alice), repo.commit({"a": "2"})
    seen = checkout(repo.folder)
    good = seen.signature(by_alice, allowed(alice, bob))
    assert (good.status, good.signer) == (Signed.GOOD, "alice@example.com")
    assert seen.signature(by_alice, allowed(bob)).status is Signed.UNKNOWN
    assert seen.signature(by_alice, "").status is Signed.UNKNOWN
    assert seen.signature(by_nobody, allowed(alice)).status is Signed.NONE


def test_a_signature_of_another_commit_is_bad(repo: Repo, alice: Person) -> None:
    signed = repo.git("cat-file", "commit", repo.commit({"a": "1"}, alice))
    forged = repo.git("hash-object", "-t", "commit", "-w", "--stdin", given=signed.replace("a change", "another").encode() + b"\n")
    assert checkout(repo.folder).signature(forged, allowed(alice)).status in (Signed.BAD, Signed.UNKNOWN)


def test_a_key_that_may_sign_other_things_only_is_not_good(repo: Repo, alice: Person) -> None:
    commit = repo.commit({"a": "1"}, alice)
    other = allowed(alice).replace('namespaces="git"', 'namespaces="file"')
    assert checkout(repo.folder).signature(commit, other).status is not Signed.GOOD


def test_the_last_change_of_a_merged_file_is_its_merge(repo: Repo) -> None:
    first = repo.commit({"a.yaml": "1", "b.yaml": "1"})
    repo.git("checkout", "-q", "-b", "side")
    repo.commit({"b.yaml": "2"})
    repo.git("checkout", "-q", "main")
    merged = repo.merge("side")
    after = repo.commit({"c.yaml": "1"})
    seen = checkout(repo.folder)
    assert seen.last_change(after, "a.yaml") == first
    assert seen.last_change(after, "b.yaml") == merged


def test_all_who_had_a_hand_in_a_merge_are_told(repo: Repo, alice: Person) -> None:
    repo.commit({"a.yaml": "1"}, Person("first"))
    repo.git("checkout", "-q", "-b", "side")
    repo.commit({"b.yaml": "2"}, alice, "one\n\nCo-authored-by: Bob <BOB@example.com>\nCo-Authored-By: cyd <cyd@example.com>\n")
    repo.git("commit", "-q", "--amend", "--no-edit", "--author", "Dan <dan@example.com>", who=alice)
    repo.commit({"b.yaml": "3"}, Person("eve"))
    repo.git("checkout", "-q", "main")
    merged = repo.merge("side", Person("forge"))
    alone = repo.commit({"c.yaml": "1"}, Person("fay"))
    seen = checkout(repo.folder)
    assert seen.writers(merged) == tuple(f"{name}@example.com" for name in ("alice", "bob", "cyd", "dan", "eve", "forge"))
    assert seen.writers(alone) == ("fay@example.com",)


def test_a_merge_of_too_many_commits_has_no_known_writers(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository_git, "MAX_MERGED", 2)
    repo.commit({"a": "0"})
    repo.git("checkout", "-q", "-b", "side")
    for n in range(3):
        repo.commit({"a": str(n + 1)})
    repo.git("checkout", "-q", "main")
    with pytest.raises(Refused, match="must bring at most 2"):
        checkout(repo.folder).writers(repo.merge("side"))


def test_a_mirror_follows_the_branch(repo: Repo, mirrors: GitMirrors) -> None:
    first = repo.commit({"a.yaml": "1"})
    assert mirrors.fetch(Remote(repo.url), "main").resolve("refs/heads/main") == first
    repo.git("commit", "-q", "--amend", "-m", "rewritten")
    assert mirrors.fetch(Remote(repo.url), "main").resolve("refs/heads/main") == repo.head() != first


@pytest.mark.parametrize(
    ("url", "branch", "reason"),
    [("file:///nowhere/at/all", "main", "NoRepository"), ("{repo}", "other", "NoBranch"), ("ssh://host/x", "main", "NoAccess"),
     ("ext::sh -c touch%20pwned", "main", "Protocol"), ("git://127.0.0.1/x", "main", "Protocol")],
)  # fmt: skip
def test_what_cannot_be_fetched_says_who_must_act(repo: Repo, mirrors: GitMirrors, url: str, branch: str, reason: str) -> None:
    repo.commit({"a.yaml": "1"})
    with pytest.raises((Stalled, Waiting)) as caught:
        mirrors.fetch(Remote(url.format(repo=repo.url)), branch)
    assert getattr(caught.value, "reason", "") == reason


def test_a_path_is_no_repository_where_file_is_not_allowed(repo: Repo, tmp_path: Path) -> None:
    repo.commit({"a.yaml": "1"})
    with pytest.raises(Stalled, match="protocol"):
        GitMirrors(tmp_path / "m", ("https",)).fetch(Remote(repo.url), "main")


def test_a_repository_beyond_the_bound_is_not_kept(repo: Repo, mirrors: GitMirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.git("config", "core.compression", "0")
    repo.commit({"large": base64.b64encode(bytes(range(256)) * 4000).decode()})
    monkeypatch.setattr(git_program, "MAX_WRITTEN", 64 << 10)
    with pytest.raises((Waiting, Stalled)):
        mirrors.fetch(Remote(repo.url), "main")
    assert sum(f.stat().st_size for f in mirrors.place(Remote(repo.url)).rglob("*") if f.is_file()) < 256 << 10


def test_a_tree_that_names_billions_of_files_is_refused_and_takes_no_room(repo: Repo) -> None:
    """Twelve objects, of which each names the one before ten times."""
    entry = f"100644 blob {repo.git('hash-object', '-w', '--stdin')}"
    for _ in range(11):
        made = repo.git("mktree", given="".join(f"{entry}\t{n}\n" for n in range(10)).encode())
        entry = f"040000 tree {made}"
    head = repo.git("commit-tree", "-m", "bomb", made)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused, match=r"must say at most 96 MiB|must be done within 60 s"):  # whichever a machine comes to first
        checkout(repo.folder).entries(head)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10  # KiB


class Listener:
    """An HTTP server that refuses and remembers what it was told."""

    def __init__(self) -> None:
        self.url = ""
        self.told: list[str] = []

    def answer(self, _: str, headers: Message) -> Answer:
        self.told.append(headers.get("Authorization", ""))
        return Answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    with serving(made.answer) as url:
        made.url = f"{url}/erp/policies.git"
        yield made


def test_credentials_reach_their_server_and_nothing_else(listener: Listener, mirrors: GitMirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[object] = []
    popen: Any = git_program.subprocess.Popen

    def seen(command: object, **rest: Any) -> Any:
        commands.append(command)
        return popen(command, **rest)

    monkeypatch.setattr(git_program.subprocess, "Popen", seen)
    secret = {"username": b"reader", "password": b"s3cr3t-t0ken\n"}
    with pytest.raises(Stalled) as caught:
        mirrors.fetch(Remote(listener.url, secret, insecure=True), "main")
    assert caught.value.reason == "NoAccess"
    wanted = "Basic " + base64.b64encode(b"reader:s3cr3t-t0ken").decode()
    assert wanted in listener.told
    kept = "".join(f.read_text(errors="replace") for f in mirrors.place(Remote(listener.url)).rglob("*") if f.is_file())
    for text in (str(caught.value), repr(Remote(listener.url, secret)), str(commands), kept):
        assert "s3cr3t" not in text
        assert wanted[6:] not in text


def test_a_password_never_goes_over_plain_http_by_itself(listener: Listener, mirrors: GitMirrors) -> None:
    with pytest.raises(Stalled, match="must be https, for a password goes there"):
        mirrors.fetch(Remote(listener.url, {"password": b"s3cr3t"}), "main")
    assert listener.told == []


def test_what_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="must be a checkout"):
        checkout(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "names", "others", "root"),
    [
        ("**/*.yaml", ("a.yaml", "x/y/a.yaml"), ("a.yml", "a.yaml/b"), ""),
        ("policies/*.yaml", ("policies/a.yaml",), ("policies/x/a.yaml", "a.yaml"), "policies"),
        ("policies/**", ("policies/a.yaml", "policies/x/y"), ("policies2/a",), "policies"),
        ("a/**/b/?.yaml", ("a/b/1.yaml", "a/x/y/b/1.yaml"), ("a/b/12.yaml", "b/1.yaml"), "a"),
        ("a/pack.yaml", ("a/pack.yaml",), ("a/packxyaml", "x/a/pack.yaml"), "a/pack.yaml"),
    ],
)
def test_globs_name_paths(pattern: str, names: tuple[str, ...], others: tuple[str, ...], root: str) -> None:
    glob = globbed(pattern)
    assert [path for path in names if not glob.fullmatch(path)] == []
    assert [path for path in others if glob.fullmatch(path)] == []
    assert stem(pattern) == root
