"""A pull request that takes a denied commit back. Its branch is named after the commit, so that it is opened once, whatever crashes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from knhk.model.commits import Entry
from knhk.model.faults import Fault, KnhkError, Refused, Stalled, Waiting
from knhk.model.resource import Resource
from knhk.ports.forge import Reversal
from knhk.ports.repository import Repository
from knhk.reconcilers.pulling import Git, forge_of, remote_of

LOOK_S = 0.1
MAX_FILES = 300
MAX_BYTES = 16 << 20
_log = logging.getLogger("knhk.repositories")


@dataclass
class Reverter:
    """Opens reverts beside the loop."""

    git: Git
    _work: dict[tuple[str, str], Future[str]] = field(default_factory=dict)
    _not_before_s: dict[tuple[str, str], float] = field(default_factory=dict)

    def open(self, repository: Resource, row: Mapping[str, Any], now_s: float) -> tuple[str, float | None]:
        """The address of the revert of a denied commit, or why people must make it; empty while it is being opened, with seconds until
        the next look."""
        key = (str(repository.key), row["commit"])
        work = self._work.get(key)
        if work is None:
            if (left_s := self._not_before_s.get(key, 0.0) - now_s) > 0:
                return "", left_s
            self._work[key] = self.git.lane(repository.spec["url"]).submit(self._open, repository, dict(row))
            return "", LOOK_S
        if not work.done():
            return "", LOOK_S
        del self._work[key]
        try:
            return work.result(), None
        except Refused as refused:
            return f"must be reverted by hand: {refused.faults[0]}", None
        except (KnhkError, OSError) as error:
            _log.warning("%s: the revert of %s waits: %s", repository.key, row["commit"][:12], error)
            wait_s = error.retry_after_s if isinstance(error, Waiting) else float(repository.spec["intervalSeconds"])
            self._not_before_s[key] = now_s + wait_s
            return "", wait_s

    def _open(self, repository: Resource, row: Mapping[str, Any]) -> str:
        forge = forge_of(self.git, repository)
        if forge is None:
            raise Stalled("NoForge", "no forge to open a pull request at")
        branch, commit = repository.spec["branch"], str(row["commit"])
        mirror = self.git.mirrors.fetch(remote_of(self.git, repository), branch)
        about = mirror.commit(commit)
        if not about.parents:
            raise Refused([_by_hand(commit, "it has no parent")])
        files, now = _files(mirror, about.parents[0], commit, mirror.resolve(f"refs/heads/{branch}"))
        body = "\n".join(
            [f"This takes {commit} back.", "", *(f"    {line}" for line in str(row["reason"]).splitlines()), "", _WHY.format(commit=commit)]
        )
        return forge.revert(Reversal(f"knhk/revert-{commit[:12]}", branch, f'Revert "{about.subject}"', body, files, now))


_WHY = "What it brought was rolled back, and is not applied again from this commit. Merge this so that the branch says what is enforced."


def _files(mirror: Repository, before: str, commit: str, head: str) -> tuple[dict[str, bytes | None], dict[str, str]]:
    """What each path that the commit changed said before, and the blobs that lie there now. Raises Refused for what has changed since."""
    paths = mirror.changed(before, commit)
    if len(paths) > MAX_FILES:
        raise Refused([_by_hand(commit, f"it changes {len(paths)} files")])
    old, new, now = ({entry.path: entry for entry in mirror.entries(at, paths)} for at in (before, commit, head))
    files: dict[str, bytes | None] = {}
    for path in paths:
        if _blob(now, path) == _blob(old, path):
            continue  # somebody took it back already
        if _blob(now, path) != _blob(new, path):
            raise Refused([_by_hand(commit, f"{path} was changed since")])
        files[path] = None
    if not files:
        raise Refused([_by_hand(commit, "nothing of it is left in the branch")])
    wanted = [old[path] for path in files if path in old]
    if any(entry.kind != "file" for entry in wanted) or sum(entry.size for entry in wanted) > MAX_BYTES:
        raise Refused([_by_hand(commit, "it changes links, submodules or large files")])
    for entry, data in mirror.read(wanted) if wanted else ():
        files[entry.path] = data
    return files, {path: now[path].blob for path in files if path in now}


def _blob(entries: Mapping[str, Entry], path: str) -> str:
    return entries[path].blob if path in entries else ""


def _by_hand(commit: str, why: str) -> Fault:
    return Fault(f"commit {commit[:12]}", why, "must be a commit that can be taken back file by file")
