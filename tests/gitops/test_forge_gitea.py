"""Port Forge on a real Gitea."""

from __future__ import annotations

from urllib.error import HTTPError

import pytest
from git_repo import Person, Repo
from gitea_server import Gitea

from knhk.adapters.forge_gitea import GiteaForge
from knhk.model.faults import Stalled, Waiting
from knhk.ports.forge import Check, CheckState, Reversal

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("gitea")]


@pytest.fixture(scope="module")
def people(gitea: Gitea) -> dict[str, str]:
    return {name: gitea.user(name) for name in ("ann", "bob", "bot")}


@pytest.fixture(scope="module")
def repo(gitea: Gitea, people: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """ann's repository, with bob as a reviewer and bot as the control plane."""
    gitea.call("POST", "user/repos", {"name": "policies", "default_branch": "main"}, "ann")
    for name in ("bob", "bot"):
        gitea.call("PUT", f"repos/ann/policies/collaborators/{name}", {"permission": "write"}, "ann")
    made = Repo(tmp_path_factory.mktemp("forge") / "repo")
    made.commit({"a.yaml": "1\n", "b.yaml": "1\n"}, Person("ann"))
    gitea.push(made, "ann/policies", "ann", "main")
    return made


@pytest.fixture(scope="module")
def forge(gitea: Gitea, people: dict[str, str]) -> GiteaForge:
    return GiteaForge(gitea.url, "ann/policies", people["bot"])


def pull(gitea: Gitea, repo: Repo, branch: str, files: dict[str, str | None]) -> tuple[int, str]:
    """A pull request by ann; its number and head."""
    repo.git("fetch", "-q", gitea.remote("ann/policies", "ann"), "main")
    repo.git("checkout", "-q", "-B", branch, "FETCH_HEAD")
    head = repo.commit(files, Person("ann"), f"change of {branch}")
    gitea.push(repo, "ann/policies", "ann", branch)
    made = gitea.call("POST", "repos/ann/policies/pulls", {"base": "main", "head": branch, "title": branch}, "ann")
    return int(made["number"]), head


def merge(gitea: Gitea, number: int) -> str:
    return gitea.merge("ann/policies", number, "bob")


def review(gitea: Gitea, number: int, who: str, event: str) -> None:
    gitea.call("POST", f"repos/ann/policies/pulls/{number}/reviews", {"event": event, "body": "x"}, who)


def test_open_pull_requests_and_the_one_that_made_a_commit(gitea: Gitea, repo: Repo, forge: GiteaForge) -> None:
    number, head = pull(gitea, repo, "first", {"a.yaml": "2\n"})
    (found,) = [p for p in forge.open_pulls("main") if p.number == number]
    assert (found.author, found.head) == ("ann", head)
    assert forge.open_pulls("other") == ()
    review(gitea, number, "bob", "APPROVED")
    review(gitea, number, "bot", "APPROVED")
    review(gitea, number, "bot", "REQUEST_CHANGES")
    commit = merge(gitea, number)
    merged = forge.merged(commit)
    assert merged is not None
    assert (merged.number, merged.author, merged.approvers) == (number, "ann", ("bob",))
    assert forge.merged(head) is None
    assert [p for p in forge.open_pulls("main") if p.number == number] == []


def test_an_approval_of_an_earlier_head_does_not_count(gitea: Gitea, repo: Repo, forge: GiteaForge) -> None:
    number, _ = pull(gitea, repo, "stale", {"a.yaml": "3\n"})
    review(gitea, number, "bob", "APPROVED")
    repo.commit({"a.yaml": "evil\n"}, Person("ann"))
    gitea.push(repo, "ann/policies", "ann", "stale")
    merged = forge.merged(merge(gitea, number))
    assert merged is not None
    assert merged.approvers == ()


def test_a_red_status_blocks_a_protected_branch(gitea: Gitea, repo: Repo, forge: GiteaForge) -> None:
    rule = {"rule_name": "main", "enable_status_check": True, "status_check_contexts": ["knhk/policy"], "enable_push": True}
    gitea.call("POST", "repos/ann/policies/branch_protections", rule, "ann")
    try:
        number, head = pull(gitea, repo, "guarded", {"b.yaml": "2\n"})
        assert forge.check(head, "knhk/policy") is None
        for state in (CheckState.PENDING, CheckState.FAILURE):
            forge.report(head, Check("knhk/policy", state, "told", "http://127.0.0.1/x"))
            assert forge.check(head, "knhk/policy") == Check("knhk/policy", state, "told", "http://127.0.0.1/x")
            with pytest.raises(HTTPError):
                merge(gitea, number)
        forge.report(head, Check("knhk/policy", CheckState.SUCCESS, "told"))
        assert merge(gitea, number)
    finally:
        gitea.call("DELETE", "repos/ann/policies/branch_protections/main", None, "ann")


def test_one_comment_is_made_and_changed(gitea: Gitea, repo: Repo, forge: GiteaForge) -> None:
    number, _ = pull(gitea, repo, "talk", {"c.yaml": "1\n"})
    gitea.call("POST", f"repos/ann/policies/issues/{number}/comments", {"body": "<!-- m -->\nof somebody else"}, "ann")
    for text in ("one", "two", "two"):
        forge.comment(number, "<!-- m -->", text)
    rows = gitea.call("GET", f"repos/ann/policies/issues/{number}/comments")
    assert [row["body"] for row in rows] == ["<!-- m -->\nof somebody else", "<!-- m -->\ntwo"]


def test_a_revert_is_opened_once_and_stays_closed(gitea: Gitea, repo: Repo, forge: GiteaForge) -> None:
    number, _ = pull(gitea, repo, "bad", {"a.yaml": "bad\n", "new.yaml": "x\n", "b.yaml": None})
    merge(gitea, number)
    repo.git("fetch", "-q", gitea.remote("ann/policies", "ann"), "main")
    blobs = {name: repo.git("rev-parse", f"FETCH_HEAD:{name}") for name in ("a.yaml", "new.yaml")}
    wanted = Reversal("knhk/revert-1", "main", 'Revert "bad"', "why", {"a.yaml": b"good\n", "new.yaml": None, "b.yaml": b"1\n"}, blobs)
    url = forge.revert(wanted)
    assert forge.revert(wanted) == url
    repo.git("fetch", "-q", gitea.remote("ann/policies", "ann"), "knhk/revert-1")
    assert repo.git("show", "FETCH_HEAD:a.yaml") == "good"
    assert set(repo.git("ls-tree", "--name-only", "FETCH_HEAD").split()) >= {"a.yaml", "b.yaml"}
    assert "new.yaml" not in repo.git("ls-tree", "--name-only", "FETCH_HEAD").split()
    gitea.call("PATCH", f"repos/ann/policies/pulls/{url.rpartition('/')[2]}", {"state": "closed"}, "ann")
    assert forge.revert(wanted) == url


def test_who_may_not_and_what_is_not_there(gitea: Gitea, repo: Repo) -> None:
    with pytest.raises(Stalled) as caught:
        GiteaForge(gitea.url, "ann/policies", "s3cr3t-but-wrong").open_pulls("main")
    assert "s3cr3t" not in str(caught.value) + repr(GiteaForge(gitea.url, "ann/policies", "s3cr3t"))
    with pytest.raises(Waiting):
        GiteaForge("http://127.0.0.1:9", "ann/policies", "x").open_pulls("main")
