"""What hosts a Git repository for people: pull requests, their reviews, and the status of commits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class CheckState(StrEnum):
    """What a status says of a commit. Only Success lets a protected branch take it."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"  # the commit must be mended
    ERROR = "error"  # it could not be checked


@dataclass(frozen=True)
class Check:
    """A status of a commit: `context` names the check, `description` is one line, `url` may be empty."""

    context: str
    state: CheckState
    description: str
    url: str = ""


@dataclass(frozen=True)
class PullRequest:
    """`head` is the commit that it asks to merge. `approvers`: users whose last word on that very commit is an approval, without the
    author."""

    number: int
    url: str
    author: str
    head: str
    approvers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reversal:
    """A pull request that takes a commit back: `files` maps each path to what it must say again, None: it must go; `now` maps it to the
    blob that lies there (none: nothing does). `branch` is its one name: asked for again, it is the same pull request."""

    branch: str
    base: str
    title: str
    body: str
    files: Mapping[str, bytes | None]
    now: Mapping[str, str]


class Forge(Protocol):
    """One repository of a forge. Promises: calls may be repeated, after a crash too, and lead to the same state; each is bounded in time
    and in what it reads, and never follows a redirect. Raises Waiting when trying again may help, Stalled when a person must act (no
    access, no such repository)."""

    def open_pulls(self, base: str) -> tuple[PullRequest, ...]:
        """Open pull requests for a branch, oldest first, at most 50; without approvers."""
        ...

    def merged(self, commit: str) -> PullRequest | None:
        """The pull request whose merge made this commit."""
        ...

    def check(self, commit: str, context: str) -> Check | None:
        """The last status of this context."""
        ...

    def report(self, commit: str, check: Check) -> None:
        """Sets the status of a commit."""
        ...

    def comment(self, number: int, marker: str, text: str) -> None:
        """The one comment of ours on a pull request that begins with `marker`, made or changed to say `text`."""
        ...

    def revert(self, reversal: Reversal) -> str:
        """The address of the pull request that takes a commit back; opened if it never was. One that people closed stays closed."""
        ...
