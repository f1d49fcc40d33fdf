"""A Git repository that a test writes, with people who sign by SSH keys."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Person:
    """Who commits; `key` is the file of an SSH key, None for one who does not sign."""

    name: str
    key: Path | None = None

    @property
    def email(self) -> str:
        return f"{self.name}@example.com"

    @property
    def public(self) -> str:
        assert self.key is not None
        return self.key.with_suffix(".pub").read_text().strip()


NOBODY = Person("nobody")


def person(name: str, folder: Path) -> Person:
    """Somebody with a fresh key."""
    key = folder / f"{name}-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)], check=True, stdin=subprocess.DEVNULL)
    return Person(name, key)


class Repo:
    """A working copy with a branch main."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    @property
    def url(self) -> str:
        return f"file://{self.folder}"

    def git(self, *words: str, given: bytes = b"", who: Person = NOBODY, env: dict[str, str] | None = None) -> str:
        alone = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
        named = {f"GIT_{role}_NAME": who.name for role in ("AUTHOR", "COMMITTER")}
        mailed = {f"GIT_{role}_EMAIL": who.email for role in ("AUTHOR", "COMMITTER")}
        signs = () if who.key is None else ("-c", "gpg.format=ssh", "-c", f"user.signingKey={who.key}", "-c", "commit.gpgSign=true")
        given_env = {**alone, **named, **mailed, **(env or {})}
        done = subprocess.run(["git", *signs, *words], cwd=self.folder, env=given_env, input=given, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def commit(self, files: dict[str, str | None], who: Person = NOBODY, message: str = "a change") -> str:
        """Writes files (None: removes them) and commits; the commit's id."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink() if text is None else path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message, who=who)
        return self.head()

    def merge(self, branch: str, who: Person = NOBODY) -> str:
        """Merges a branch by a merge commit."""
        self.git("merge", "-q", "--no-ff", "-m", f"merge {branch}", branch, who=who)
        return self.head()

    def head(self, name: str = "HEAD") -> str:
        return self.git("rev-parse", name)
