"""What a Git repository says: commits, their signatures, and the files of their trees. All of it is data that strangers wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

MAX_PATH = 512
MAX_FILE_BYTES = 4 << 20
_RESERVED = frozenset({"", ".", "..", ".git"})

EntryKind = Literal["file", "symlink", "submodule"]


class Signed(StrEnum):
    """How a commit is signed."""

    GOOD = "Good"  # by a key that the policy allows, for one of its principals
    UNKNOWN = "Unknown"  # by a key that the policy does not name
    BAD = "Bad"  # the signature does not fit the commit
    NONE = "None"


@dataclass(frozen=True)
class Signature:
    """`signer`: the principal of the key, or its fingerprint where the policy names none; `why`: what a person reads otherwise."""

    status: Signed
    signer: str = ""
    why: str = ""


@dataclass(frozen=True)
class Commit:
    """A commit, named by its whole object id. `author` as NAME <EMAIL>, `time` the committer's, RFC 3339 UTC."""

    id: str
    parents: tuple[str, ...]
    author: str
    time: str
    subject: str


@dataclass(frozen=True, order=True)
class Entry:
    """One path of a commit's tree; `size` in bytes, 0 for what is no file."""

    path: str
    kind: EntryKind
    blob: str
    size: int


@dataclass(frozen=True)
class Tree:
    """Files of one commit, written below `folder`: `paths` of the resources that it carries, and `beside`, those that lie in the folders
    above the chosen paths and may be read by them."""

    folder: Path
    paths: tuple[str, ...]
    beside: tuple[str, ...]


def is_plain_path(path: str) -> bool:
    """Whether a path of a tree may be written below a folder and told to people: relative, no part that leads elsewhere, printable, and
    short. Trees are made by strangers, and Git itself checks them at some doors only."""
    parts = path.split("/")
    return len(path) <= MAX_PATH and path.isprintable() and "\\" not in path and not any(part.lower() in _RESERVED for part in parts)


@dataclass(frozen=True)
class Source:
    """Where a resource comes from: the commit that brought it as it is, and who stands behind that. `repository` as NAMESPACE/NAME of its
    PolicyRepository, `url` and `branch` what that followed then; `author` is what the commit says of itself. `signer` and `user` are known
    by a key that an administrator named, pull request and approvers by a forge that is believed; `writers` are the e-mail addresses of all
    who wrote it, as commits say. What is not known is empty."""

    repository: str
    commit: str
    url: str = ""
    branch: str = ""
    author: str = ""
    signer: str = ""
    user: str = ""
    pull_request: str = ""
    pull_author: str = ""
    approvers: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()

    def document(self) -> dict[str, object]:
        """As status and policy events carry it; what is empty is left out."""
        texts = {"repository": self.repository, "commit": self.commit, "url": self.url, "branch": self.branch}
        texts |= {"author": self.author, "signer": self.signer, "user": self.user}
        texts |= {"pullRequest": self.pull_request, "pullRequestAuthor": self.pull_author}
        lists = {"approvers": self.approvers, "writers": self.writers}
        return {name: text for name, text in texts.items() if text} | {name: list(found) for name, found in lists.items() if found}


def source_of_document(document: Mapping[str, Any]) -> Source:
    """What `Source.document` wrote."""
    return Source(
        document["repository"],
        document["commit"],
        document.get("url", ""),
        document.get("branch", ""),
        document.get("author", ""),
        document.get("signer", ""),
        document.get("user", ""),
        document.get("pullRequest", ""),
        document.get("pullRequestAuthor", ""),
        tuple(document.get("approvers", ())),
        tuple(document.get("writers", ())),
    )


def globbed(pattern: str) -> re.Pattern[str]:
    """Paths that a glob pattern names: ** is any number of folders, * and ? stay inside of one name."""
    parts = [_part(part) for part in pattern.split("/")]
    joined = "".join(part if part == _FOLDERS else f"{part}/" for part in parts[:-1])
    return re.compile(joined + (".*" if parts[-1] == _FOLDERS else parts[-1]))


_FOLDERS = "(?:[^/]+/)*"


def _part(part: str) -> str:
    if part == "**":
        return _FOLDERS
    return "".join({"*": "[^/]*", "?": "[^/]"}.get(c, re.escape(c)) for c in part)


def stem(pattern: str) -> str:
    """The folder or file below which everything lies that a glob pattern names; empty for the root."""
    parts = pattern.split("/")
    plain = next((i for i, part in enumerate(parts) if "*" in part or "?" in part), len(parts))
    return "/".join(parts[:plain])
