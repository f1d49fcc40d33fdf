"""A world whose controller works on PolicyRepositories: a real Git repository, the real git program, and everything else in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes import InlineExecutor
from forge_fake import FakeForge
from git_repo import Person, Repo
from rollout_world import PACK, World, bundle, pack, point
from trusts import FakeTrusts, trusting

from knhk.adapters.mirrors_git import GitMirrors
from knhk.model.faults import NotFound, Stalled
from knhk.model.resource import Key, Resource
from knhk.ports.checks import Verdict
from knhk.ports.forge import CheckState
from knhk.ports.repository import Remote
from knhk.reconcilers.pulling import Git

REPOSITORY = Key("PolicyRepository", "erp", "policies")
POINT = Key("EnforcementPoint", "erp", "p1")
DATA = Key("DataBundle", "erp", "roles")
OWNER = "knhk.dev/repository"
FORGE = "  forge: {kind: Gitea, url: http://forge, secretRef: {name: forge}}\n"
FILES: dict[str, str | None] = {
    "point.yaml": point(),
    "roles.yaml": bundle(),
    "orders/pack.yaml": pack("1.0.0", bundles="{name: roles}"),
    "README.md": "no resource",
    "other.yaml": "a: file of somebody else\n",
}


@dataclass
class FakeSecrets:
    known: dict[tuple[str, str], Mapping[str, bytes]] = field(default_factory=dict)

    def read(self, namespace: str, name: str) -> Mapping[str, bytes]:
        if (namespace, name) not in self.known:
            raise Stalled("NoSecret", f"{namespace}/{name}: must be there")
        return self.known[namespace, name]


@dataclass
class FakeChecks:
    """Says of each head what it is told to."""

    state: CheckState = CheckState.SUCCESS
    asked: list[tuple[str, str]] = field(default_factory=list)

    def check(self, remote: Remote, base: str, head: str, paths: Sequence[str]) -> Verdict:
        self.asked.append((base, head))
        return Verdict(self.state, "policies pass", "## preview")


@dataclass
class House:
    """A world whose controller works on PolicyRepositories; a forge beside it."""

    repo: Repo
    folder: Path
    forge: FakeForge = field(default_factory=FakeForge)
    secrets: FakeSecrets = field(default_factory=FakeSecrets)
    checks: FakeChecks = field(default_factory=FakeChecks)
    executor: Executor = field(default_factory=InlineExecutor)
    bad: frozenset[str] = frozenset()
    trusts: FakeTrusts = field(init=False)

    def __post_init__(self) -> None:
        self.trusts = trusting(self.repo.url)
        self.secrets.known["erp", "forge"] = {"token": b"t"}
        mirrors = GitMirrors(self.folder / "mirrors", ("file",))
        self.git = Git(mirrors, self.secrets, self.trusts, lambda *_: self.forge, self.checks, lambda _: self.executor)
        self.world = World(git=self.git, bad=self.bad, trusts=self.trusts)

    def follow(self, spec: str = "", name: str = "policies", namespace: str = "erp") -> None:
        head = f"apiVersion: knhk.dev/v1alpha1\nkind: PolicyRepository\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        self.world.apply(f"{head}spec:\n  url: {self.repo.url}\n{spec}")

    def pulled(self) -> Resource:
        """After the next pull, and what follows from it."""
        self.world.annotate(REPOSITORY, requestedAt=str(self.world.clock.ns))
        self.world.run(4)
        return self.status_of()

    def status_of(self) -> Resource:
        return self.world.get(REPOSITORY)

    def ready(self) -> tuple[str, str]:
        found = self.world.ready(REPOSITORY)
        return found["status"], found["reason"]

    def message(self) -> str:
        return str(self.world.ready(REPOSITORY)["message"])

    def has(self, key: Key) -> bool:
        try:
            self.world.get(key)
        except NotFound:
            return False
        return True

    def until_live(self, version: str = "1.0.0") -> None:
        self.world.until(lambda: self.has(PACK))
        self.world.until_phase("Live", version)

    def predicates(self, kind: str) -> list[dict[str, Any]]:
        return [s["predicate"] for s in self.world.log.statements() if s["predicate"]["kind"] == kind]


def signed_by(*people: Person) -> str:
    rows = "".join(f"    - {{name: {who.email}, user: {who.name}, key: '{who.public}'}}\n" for who in people)
    return f"  signature:\n    require: Signed\n    signers:\n{rows}"
