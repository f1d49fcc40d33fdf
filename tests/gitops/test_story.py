"""The whole story on a real Gitea: pull request, status and preview, merge, canary, rollback, revert. Only the points are not real: their
statistics are made up, so that a rollout takes no traffic."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from git_repo import Repo, person
from gitea_server import Gitea
from rollout_world import PACK, World, pack, point
from trusts import trusting

from knhk.adapters.mirrors_git import GitMirrors
from knhk.adapters.review_process import ReviewProcess
from knhk.adapters.webhook_server import Hooks, serving
from knhk.model.faults import NotFound
from knhk.model.resource import Key, Resource
from knhk.reconcilers.pulling import Git
from knhk.wiring.git import forge

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("gitea"), pytest.mark.timeout(300)]

REPOSITORY = Key("PolicyRepository", "erp", "policies")
WITHIN_S = 240.0
LIMIT = "sh:minCount 1 ; sh:maxInclusive 4"
TESTS = """require: {coverage: 0, mutation: 0}
cases:
  - {name: a large order, route: create, body: '{"total": 5}', verdict: %s, attributes: {sub: a}}
  - {name: without a total, route: create, body: '{}', verdict: DENY, attributes: {sub: a}}
"""


class Secrets:
    """erp's: what the control plane may read, its forge token, and the key of the webhook."""

    def __init__(self, token: str) -> None:
        self._known = {
            "read": {"username": b"bot.s", "password": token.encode()},
            "forge": {"token": token.encode()},
            "hook": {"token": b"hook-key"},
        }

    def read(self, namespace: str, name: str) -> Mapping[str, bytes]:
        assert namespace == "erp"
        return self._known[name]


class Inbox:
    """The store as the webhook's threads see it; what they write waits for the world's own thread."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.written: queue.Queue[Resource] = queue.Queue()

    def get(self, key: Key) -> Resource:
        return self._world.store.get(key)

    def update(self, resource: Resource) -> Resource:
        self.written.put(resource)
        return resource


class Story:
    """ann writes, bob reviews and merges, bot is the control plane."""

    def __init__(self, gitea: Gitea, folder: Path) -> None:
        self.gitea, self.name = gitea, "ann.s/policies"
        token = {name: gitea.user(name) for name in ("ann.s", "bob.s", "bot.s")}["bot.s"]
        self.ann = person("ann", folder)
        self.repo = Repo(folder / "work")
        gitea.call("POST", "user/repos", {"name": "policies", "default_branch": "main"}, "ann.s")
        for name in ("bob.s", "bot.s"):
            gitea.call("PUT", f"repos/{self.name}/collaborators/{name}", {"permission": "write"}, "ann.s")
        mirrors = GitMirrors(folder / "mirrors", ("http",))
        self.executor = ThreadPoolExecutor(3)
        self.checks = ReviewProcess(mirrors, folder / "checks")
        self.secrets = Secrets(token)
        trusts = trusting(f"{gitea.url}/{self.name}.git", gitea.url, secrets=frozenset({"read", "forge"}))
        trusts.knows(self.ann, gitea.forge)
        git = Git(mirrors, self.secrets, trusts, forge, self.checks, lambda _: self.executor)
        self.world = World(git=git, bad=frozenset({"2.0.0"}), trusts=trusts)
        self.inbox = Inbox(self.world)

    def until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not true():
            assert time.monotonic() < deadline, f"{what}: {self.status()}"
            while not self.inbox.written.empty():
                self.world.store.update(replace(self.inbox.written.get(), resource_version=""))
            self.world.step()
            time.sleep(0.05)

    def status(self) -> Mapping[str, Any]:
        return self.world.get(REPOSITORY).status

    def until_live(self, version: str) -> None:
        self.until(lambda: self._phase() == ("Live", version), f"{version} is live")

    def _phase(self) -> tuple[str, str]:
        try:
            revision = self.world.get(PACK).status.get("revision", {})
        except NotFound:
            return "", ""
        return revision.get("phase", ""), revision.get("version", "")

    def propose(self, branch: str, files: dict[str, str | None]) -> int:
        self.repo.git("fetch", "-q", self.gitea.remote(self.name, "ann.s"), "main")
        self.repo.git("checkout", "-q", "-B", branch, "FETCH_HEAD")
        self.change(branch, files)
        row = {"base": "main", "head": branch, "title": branch}
        return int(self.gitea.call("POST", f"repos/{self.name}/pulls", row, "ann.s")["number"])

    def change(self, branch: str, files: dict[str, str | None]) -> str:
        self.repo.commit(files, self.ann, branch)
        return self.gitea.push(self.repo, self.name, "ann.s", branch)

    def checked(self, number: int) -> str:
        """The state of the check of a pull request's head, when it is made."""
        head = self.gitea.call("GET", f"repos/{self.name}/pulls/{number}")["head"]["sha"]

        def state() -> str:
            rows = self.gitea.call("GET", f"repos/{self.name}/commits/{head}/statuses?sort=recentupdate")
            mine = [row for row in rows if row["context"] == "knhk/policy"]
            return str(max(mine, key=lambda row: int(row["id"]))["status"]) if mine else ""  # within a second only the id tells the order

        self.until(lambda: state() in ("success", "failure", "error"), f"pull request {number} is checked")
        return state()

    def preview(self, number: int) -> str:
        rows = self.gitea.call("GET", f"repos/{self.name}/issues/{number}/comments")
        (mine,) = [row["body"] for row in rows if row["user"]["login"] == "bot.s"]
        return str(mine)

    def sources(self, version: str) -> list[Any]:
        said = [s["predicate"] for s in self.world.log.statements()]
        return [p["evidence"].get("source") for p in said if p.get("pack", {}).get("version") == version]


@pytest.fixture
def story(gitea: Gitea, tmp_path: Path) -> Iterator[Story]:
    made = Story(gitea, tmp_path)
    hooks = Hooks(made.inbox, made.secrets, lambda: str(time.time_ns()))
    with serving(hooks, "127.0.0.1", 0) as port:
        config = {"url": f"http://127.0.0.1:{port}/hooks/erp/policies", "content_type": "json", "secret": "hook-key"}
        row = {"type": "gitea", "config": config, "events": ["push", "pull_request"], "active": True}
        gitea.call("POST", f"repos/{made.name}/hooks", row, "ann.s")
        yield made
    made.checks.close()
    made.executor.shutdown(cancel_futures=True)


def test_from_a_pull_request_to_a_canary_and_from_a_rollback_to_its_revert(story: Story) -> None:
    gitea, world = story.gitea, story.world
    story.repo.commit({"point.yaml": point(), "pack.yaml": pack("1.0.0"), "tests.yaml": TESTS % "ADMIT"}, story.ann)
    gitea.push(story.repo, story.name, "ann.s", "main")
    rule = {"rule_name": "main", "enable_status_check": True, "status_check_contexts": ["knhk/policy"], "enable_push": False}
    gitea.call("POST", f"repos/{story.name}/branch_protections", rule, "ann.s")
    signers = "".join(f"    - {{name: {who.email}, user: {who.name}, key: '{who.public}'}}\n" for who in (story.ann, gitea.forge))
    world.apply(
        f"apiVersion: knhk.dev/v1alpha1\nkind: PolicyRepository\nmetadata: {{name: policies, namespace: erp}}\nspec:\n"
        f"  url: {gitea.url}/{story.name}.git\n  intervalSeconds: 3600\n  credentials: {{secretRef: {{name: read}}}}\n"
        f"  webhook: {{secretRef: {{name: hook}}}}\n  forge: {{kind: Gitea, url: {gitea.url}, secretRef: {{name: forge}}}}\n"
        f"  signature:\n    require: Signed\n    signers:\n{signers}"
    )
    story.until_live("1.0.0")

    # A change that misses its expectations: red, with a preview, and no merge.
    number = story.propose("limit", {"pack.yaml": pack("1.1.0", constraint=LIMIT)})
    assert story.checked(number) == "failure", story.preview(number)
    assert "verdict is DENY, expected ADMIT" in story.preview(number)
    with pytest.raises(HTTPError):
        gitea.merge(story.name, number, "bob.s")

    # Mended: green, the changed verdict is shown, and the merge starts a rollout by itself.
    story.change("limit", {"tests.yaml": TESTS % "DENY"})
    assert story.checked(number) == "success"
    assert "1 of 2 samples change their verdict" in story.preview(number)
    gitea.call("POST", f"repos/{story.name}/pulls/{number}/reviews", {"event": "APPROVED", "body": "yes"}, "bob.s")
    merged = gitea.merge(story.name, number, "bob.s")
    story.until_live("1.1.0")
    wanted = {
        "commit": merged,
        "pullRequest": f"{gitea.url}/{story.name}/pulls/{number}",
        "pullRequestAuthor": "ann.s",
        "approvers": ["bob.s"],
    }
    found = story.sources("1.1.0")
    assert len(found) >= 6
    assert [source for source in found if not wanted.items() <= source.items() or source["signer"] != "forge@example.com"] == []

    # One that the judge finds wrong: its commit is denied, and a revert is proposed.
    bad = story.propose("bad", {"pack.yaml": pack("2.0.0", constraint=LIMIT)})
    assert story.checked(bad) == "success"
    commit = gitea.merge(story.name, bad, "bob.s")
    story.until(lambda: any("revert" in row for row in story.status().get("denied", ())), "a revert is open")
    (denied,) = story.status()["denied"]
    assert denied["commit"] == commit
    revert = gitea.call("GET", f"repos/{story.name}/pulls/{denied['revert'].rpartition('/')[2]}")
    assert (revert["head"]["ref"], revert["state"]) == (f"knhk/revert-{commit[:12]}", "open")
    assert world.document()["stable"]["version"] == "1.1.0"

    # The revert is a pull request like any other.
    assert story.checked(revert["number"]) == "success"
    gitea.merge(story.name, revert["number"], "bob.s")
    story.until_live("1.1.0")
    assert world.get(PACK).spec["version"] == "1.1.0"
