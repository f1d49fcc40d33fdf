"""Whom an administrator believes: which repositories and forges may be asked, what they may tell, and who is who. Whoever writes a
PolicyRepository has no say in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from knhk.model.commits import Source

HOW = "an administrator names it in forges.yaml (docs/gitops.md)"
SSH_KEY = re.compile(r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\.com) [A-Za-z0-9+/=]+", re.ASCII)
_BELOW = re.compile(r"[\w~-][\w.~-]*(/[\w~-][\w.~-]*)*/?", re.ASCII)


@dataclass(frozen=True)
class Person:
    """`user`: as the cluster knows them; `keys`: lines of OpenSSH that they sign with; `emails`: as their commits name them."""

    user: str
    keys: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()

    @property
    def principal(self) -> str:
        """The name under which their keys are looked for."""
        return self.emails[0] if self.emails else self.user


@dataclass(frozen=True)
class TrustedForge:
    """A forge that tells of pull requests and approvers. `logins`: user there → user of the cluster. `insecure`: its token may go over
    plain http."""

    kind: str
    url: str
    logins: Mapping[str, str] = field(default_factory=dict)
    insecure: bool = False


@dataclass(frozen=True)
class TrustedRepository:
    """`url`: of one repository, or, with / at its end, of all below. `namespaces`: whose PolicyRepositories may follow it; `secrets`: of
    those namespaces, which may be sent there, or read for signers; `branches`: what they have counts as merged, if `signed` only what a
    known key signed; `forge`: address of the forge that tells of it; `insecure`: credentials may go over plain http."""

    url: str
    namespaces: frozenset[str]
    secrets: frozenset[str] = frozenset()
    branches: frozenset[str] = frozenset()
    signed: bool = True
    forge: str = ""
    insecure: bool = False

    def names(self, url: str) -> bool:
        """Whether an address is this one, or plainly below it: no dot segments, escapes or users that lead elsewhere."""
        if not self.url.endswith("/"):
            return url == self.url
        return url.startswith(self.url) and _BELOW.fullmatch(url[len(self.url) :]) is not None


@dataclass(frozen=True)
class Authors:
    """Who is behind a commit: as users of the cluster, and what names somebody whom nobody knows. Neither: nothing is known at all."""

    users: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trust:
    """All that administrators said. `digest` tells one state of it from another."""

    repositories: tuple[TrustedRepository, ...] = ()
    forges: tuple[TrustedForge, ...] = ()
    people: tuple[Person, ...] = ()
    digest: str = ""

    def repository(self, namespace: str, url: str) -> TrustedRepository | None:
        """What was said of a repository that a namespace follows: the longest address that names it."""
        named = [one for one in self.repositories if namespace in one.namespaces and one.names(url)]
        return max(named, key=lambda one: len(one.url), default=None)

    def forge(self, namespace: str, url: str) -> TrustedForge | None:
        """The forge that tells of a repository."""
        told = self.repository(namespace, url)
        return None if told is None else next((one for one in self.forges if one.url == told.forge), None)

    def allowed_signers(self) -> str:
        """The keys of all people, as ssh-keygen reads them; each is of its person's `principal`."""
        return "".join(f'{person.principal} namespaces="git" {key}\n' for person in self.people for key in person.keys)

    def signing(self, principal: str) -> str:
        """The user whose key it is."""
        return next((person.user for person in self.people if person.keys and person.principal == principal), "")

    def authors(self, source: Source) -> Authors:
        """Everybody who had a hand in a commit: who signed it, all whose addresses it carries, and who opened its pull request."""
        forge = self.forge(source.repository.partition("/")[0], source.url)
        users = {email: person.user for person in self.people for email in person.emails}
        named = [(f"who signed commit {source.commit[:12]}", source.user)]
        named += [(email, users.get(email, "")) for email in source.writers]
        if source.pull_author:
            named.append((f"{source.pull_author} at the forge", forge.logins.get(source.pull_author, "") if forge else ""))
        return Authors(frozenset(user for _, user in named if user), tuple(name for name, user in named if not user))

    def doubt(self, source: Source) -> str:
        """Why a commit does not count as merged, for people; empty when it does."""
        told = self.repository(source.repository.partition("/")[0], source.url)
        if told is None or source.branch not in told.branches:
            return f"branch {source.branch or '?'} of {source.url or 'its repository'} must be one whose commits count as merged: {HOW}"
        if told.signed and not source.user:
            return f"commit {source.commit[:12]} must be signed by somebody whose key is known: {HOW}"
        return ""


def twice(names: Iterable[str]) -> str:
    """The first name that comes twice; empty when none does."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""
