"""What a Git repository says: commits, their signatures, and the files of their trees. All of it is data that strangers wrote."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

MAX_PATH = 512
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


def is_plain_path(path: str) -> bool:
    """Whether a path of a tree may be written below a folder and told to people: relative, no part that leads elsewhere, printable, and
    short. Trees are made by strangers, and Git itself checks them at some doors only."""
    parts = path.split("/")
    return len(path) <= MAX_PATH and path.isprintable() and "\\" not in path and not any(part.lower() in _RESERVED for part in parts)
