"""The status and the preview of pull requests: each open one is checked beside the loop, again when its head or the branch moved."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from dataclasses import dataclass, field

from knhk.model.faults import KnhkError
from knhk.model.resource import Key, Resource
from knhk.ports.forge import Check, CheckState, Forge, PullRequest
from knhk.reconcilers.pulling import Git, chosen, forge_of, remote_of

CONTEXT = "knhk/policy"
MARKER = "<!-- knhk/policy -->"
MAX_PULLS = 20
_log = logging.getLogger("knhk.repositories")


@dataclass
class Checker:
    """One run for one repository at a time."""

    git: Git
    _running: dict[Key, Future[None]] = field(default_factory=dict)

    def look(self, repository: Resource) -> None:
        """Checks what is not checked yet, if there is a forge and the last run has ended. What fails is tried again at the next look."""
        running = self._running.get(repository.key)
        if repository.spec["forge"]["kind"] == "None" or (running is not None and not running.done()):
            return
        self._running[repository.key] = self.git.lane(repository.spec["url"]).submit(self._run, repository)

    def _run(self, repository: Resource) -> None:
        try:
            self._check_all(repository)
        except (KnhkError, OSError) as error:
            _log.warning("%s: pull requests are not checked: %s", repository.key, error)
        except Exception:  # nobody asks this future: a bug must be seen
            _log.exception("%s: pull requests are not checked", repository.key)

    def _check_all(self, repository: Resource) -> None:
        forge = forge_of(self.git, repository)
        if forge is None:
            return
        branch = repository.spec["branch"]
        pulls = forge.open_pulls(branch)[:MAX_PULLS]
        if not pulls:
            return
        mirror = self.git.mirrors.fetch(remote_of(self.git, repository), branch, [pull.number for pull in pulls])
        base = mirror.resolve(f"refs/heads/{branch}")
        for pull in pulls:
            head = mirror.resolve(f"refs/pull/{pull.number}/head")
            if head == pull.head and not _is_done(forge.check(head, CONTEXT), base):
                self._check(repository, forge, pull, base)

    def _check(self, repository: Resource, forge: Forge, pull: PullRequest, base: str) -> None:
        against = f" (against {base[:12]})"
        forge.report(pull.head, Check(CONTEXT, CheckState.PENDING, f"is being checked{against}"))
        verdict = self.git.checks.check(remote_of(self.git, repository), base, pull.head, chosen(repository))
        forge.comment(pull.number, MARKER, verdict.text)
        forge.report(pull.head, Check(CONTEXT, verdict.state, f"{verdict.line[:100]}{against}", pull.url))


def _is_done(known: Check | None, base: str) -> bool:
    """A check that a crash or a time-out left behind is made again."""
    return known is not None and known.state in (CheckState.SUCCESS, CheckState.FAILURE) and known.description.endswith(f"{base[:12]})")
