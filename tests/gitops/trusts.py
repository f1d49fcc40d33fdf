"""What an administrator said, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from git_repo import Person as Signer

from knhk.model.trust import Person, Trust, TrustedForge, TrustedRepository

FORGE = "http://forge"


@dataclass
class FakeTrusts:
    said: Trust = field(default_factory=Trust)

    def read(self) -> Trust:
        return self.said

    def say(self, **changed: Any) -> None:
        """Other members of what is said."""
        self.said = replace(self.said, digest=f"{self.said.digest}x", **changed)

    def repository(self, **changed: Any) -> None:
        """Other members of the one repository that is named."""
        self.say(repositories=(replace(self.said.repositories[0], **changed),))

    def knows(self, *people: Signer, **users: str) -> None:
        """People by their keys; `users`: names at the forge."""
        found = tuple(Person(who.name, (who.public,), (who.email,)) for who in people)
        self.say(people=found, forges=tuple(replace(one, logins=users) for one in self.said.forges))


def trusting(url: str, forge: str = FORGE, **more: Any) -> FakeTrusts:
    """Namespace erp may follow `url`, whose branch main counts as merged whoever signed it; its forge is believed."""
    about: dict[str, Any] = {"secrets": frozenset({"forge"}), "branches": frozenset({"main"}), "signed": False, "insecure": True, **more}
    repository = TrustedRepository(url, frozenset({"erp", "knhk-system"}), forge=forge, **about)
    return FakeTrusts(Trust((repository,), (TrustedForge("Gitea", forge, {}, insecure=True),)))
