"""A Git repository, read only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from knhk.model.commits import Commit, Entry, Signature


class Repository(Protocol):
    """Promises:

    - Nothing that a repository holds runs: no hooks, filters, attributes, external programs or configuration of its own.
    - Nothing is written to it, and no call reaches for the network.
    - Every call is bounded in time and in what it reads. Raises Refused for what is not there or is beyond the bounds, with what it must
      be, and Stalled when the git program is absent or refuses the folder.
    - A commit is named by its whole id in every answer: branches move, commits do not.
    """

    def resolve(self, revision: str) -> str:
        """The id of the commit that a revision (branch, tag, id, HEAD~1 …) names."""
        ...

    def merge_base(self, one: str, other: str) -> str:
        """The best common ancestor of two commits."""
        ...

    def commit(self, commit: str) -> Commit:
        """What a commit says of itself."""
        ...

    def signature(self, commit: str, allowed_signers: str) -> Signature:
        """Whether a key that `allowed_signers` (ssh-keygen's format) names signed the commit."""
        ...

    def entries(self, commit: str, paths: Sequence[str] = (), *, deep: bool = True) -> tuple[Entry, ...]:
        """Files, symbolic links and submodules of the commit's tree at and below the paths (none: all), in order of path. Not `deep`: those
        that lie directly in the folders that `paths` names."""
        ...

    def changed(self, before: str, after: str, paths: Sequence[str] = ()) -> tuple[str, ...]:
        """Paths that the two trees say otherwise, at and below `paths` (none: all), in order."""
        ...

    def last_change(self, commit: str, path: str) -> str:
        """The commit, on the line of first parents, that brought the path as it is: of a merged change its merge."""
        ...

    def writers(self, commit: str) -> tuple[str, ...]:
        """E-mail addresses of authors, committers and co-authors, in lower case: of the commit, and of a merge all that it brought. They
        are what commits say. Raises Refused when a merge brought too many commits to tell."""
        ...

    def read(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, bytes]]:
        """The bytes of files, in the order asked for."""
        ...


@dataclass(frozen=True)
class Remote:
    """A repository elsewhere. `secret`: username and password, or identity and known_hosts for ssh; ca.crt for a private authority.
    `insecure`: the password may go there over plain http."""

    url: str
    secret: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    insecure: bool = False


class Mirrors(Protocol):
    """Copies of remote repositories. Promises: what a server sends is checked before it is kept, bounded in bytes and time; credentials go
    to that server only, and are in no argument, log or error; only protocols that the wiring allows are used. Calls may take a minute:
    never on the controller's loop. Several threads may call; those that ask for one repository wait for each other, others do not. What a
    Repository gave is still there after a later fetch. An error says in our words what failed: what a server said is for the log."""

    def fetch(self, remote: Remote, branch: str, pulls: Collection[int] = ()) -> Repository:
        """The copy, with the newest state of the branch and of the heads of these pull requests (`refs/pull/N/head`). Raises Waiting when
        trying again may help, Stalled when a person must act (no such branch, no access, a protocol that is not allowed, a
        password over plain http)."""
        ...

    def keep(self, urls: Collection[str]) -> None:
        """Forgets the copies of all other remotes."""
        ...
