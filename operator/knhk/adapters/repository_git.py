"""Port Repository by the git program: a checkout of a person, or a bare mirror of ours."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from knhk.adapters.git_program import GitProgram
from knhk.model.commits import MAX_PATH, Commit, Entry, EntryKind, Signature, Signed
from knhk.model.faults import Fault, Refused
from knhk.model.times import rfc3339

MAX_REVISION = 255
MAX_ENTRIES = 50_000
MAX_READ = 64 << 20
MAX_MERGED = 256
_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REVISION = re.compile(r"[\w@/.+=^~{}#-]+", re.ASCII)
_KINDS: dict[str, EntryKind] = {"100644": "file", "100755": "file", "100664": "file", "120000": "symlink", "160000": "submodule"}
_SIGNED = {"G": Signed.GOOD, "U": Signed.UNKNOWN, "B": Signed.BAD, "N": Signed.NONE}
_WHY = {
    Signed.UNKNOWN: "it is signed by a key that the allowed signers do not name",
    Signed.BAD: "its signature does not verify",
    Signed.NONE: "it is not signed",
}
_FOLDER = b"040000 "
_LINE = 160


class GitRepository:
    """Reads objects and references only; see the port."""

    def __init__(self, git: GitProgram) -> None:
        self._git = git

    def resolve(self, revision: str) -> str:
        if len(revision) > MAX_REVISION or revision.startswith("-") or not _REVISION.fullmatch(revision):
            raise Refused([Fault("revision", revision[:_LINE], "must be the name of a branch, a tag or a commit")])
        done = self._git.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", allowed=(0, 1, 128))
        found = done.stdout.decode(errors="replace").strip()
        if not _ID.fullmatch(found):
            raise Refused([Fault("revision", revision, "must name a commit that is there: fetch it first, with its history")])
        return found

    def merge_base(self, one: str, other: str) -> str:
        done = self._git.run("merge-base", _id(one), _id(other), allowed=(0, 1))
        found = done.stdout.decode(errors="replace").strip()
        if not _ID.fullmatch(found):
            raise Refused([Fault("revision", f"{one[:12]} and {other[:12]}", "must have a common ancestor: fetch the whole history")])
        return found

    def commit(self, commit: str) -> Commit:
        form = "%H%x00%P%x00%an <%ae>%x00%ct%x00%s"
        fields = self._git.run("show", "--no-patch", "--no-notes", f"--format=tformat:{form}", _id(commit)).stdout.decode(errors="replace")
        name, parents, author, seconds, subject = fields.rstrip("\n").split("\0")
        time = rfc3339(int(seconds) * 10**9)
        return Commit(name, tuple(parents.split()), _line(author), time, _line(subject))

    def signature(self, commit: str, allowed_signers: str) -> Signature:
        """GPG and X.509 signatures count as unknown: their programs are never started."""
        with tempfile.NamedTemporaryFile("w", prefix="knhk-signers-") as signers:
            signers.write(allowed_signers)
            signers.flush()
            settings = {"gpg.ssh.allowedSignersFile": signers.name, "gpg.ssh.program": "ssh-keygen", "gpg.minTrustLevel": "fully"}
            done = self._git.run(
                "show", "--no-patch", "--no-notes", "--format=tformat:%G?%x00%GS%x00%GF%x00%GT", _id(commit), settings=settings
            )
        letter, signer, key, trust = done.stdout.decode(errors="replace").rstrip("\n").split("\0")
        status = _SIGNED.get(letter, Signed.UNKNOWN)
        if status is Signed.GOOD and trust != "fully":
            status = Signed.UNKNOWN
        return Signature(status, _line(signer or key), _WHY.get(status, ""))

    def entries(self, commit: str, paths: Sequence[str] = (), *, deep: bool = True) -> tuple[Entry, ...]:
        inner = _paths(paths) if deep else tuple(f"{path}/" for path in _paths(paths))
        done = self._git.run("ls-tree", *(("-r",) if deep else ()), "-z", "-l", "--full-tree", _id(commit), "--", *inner)
        rows = done.stdout.split(b"\0")[:-1]
        if len(rows) > MAX_ENTRIES:
            raise Refused([Fault(f"commit {commit[:12]}", f"{len(rows)} files", f"must have at most {MAX_ENTRIES} below the chosen paths")])
        return tuple(sorted(_entry(row) for row in rows if deep or not row.startswith(_FOLDER)))

    def changed(self, before: str, after: str, paths: Sequence[str] = ()) -> tuple[str, ...]:
        words = ("diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-ext-diff", _id(before), _id(after), "--")
        done = self._git.run(*words, *_paths(paths))
        return tuple(sorted(name.decode("utf-8", "surrogateescape") for name in done.stdout.split(b"\0")[:-1]))

    def last_change(self, commit: str, path: str) -> str:
        words = ("log", "-1", "--first-parent", "--diff-merges=first-parent", "--format=tformat:%H", "--no-patch", "--no-notes")
        found = self._git.run(*words, _id(commit), "--", *_paths([path])).stdout.decode().strip()
        return found or commit

    def writers(self, commit: str) -> tuple[str, ...]:
        since = (f"^{commit}^1",) if len(self.commit(commit).parents) > 1 else ("--no-walk",)
        form = "%x01%ae%x00%ce%x00%(trailers:key=Co-authored-by,valueonly,unfold,separator=%x00)"
        words = ("log", f"--max-count={MAX_MERGED + 1}", f"--format=tformat:{form}", "--no-patch", "--no-notes")
        rows = self._git.run(*words, _id(commit), *since).stdout.decode(errors="replace").split("\1")[1:]
        if len(rows) > MAX_MERGED:
            raise Refused([Fault(f"commit {commit[:12]}", f"a merge of {len(rows)} commits", f"must bring at most {MAX_MERGED}")])
        found = {_address(text) for row in rows for text in row.split("\0")}
        return tuple(sorted(found - {""}))

    def read(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, bytes]]:
        wanted = tuple(entries)
        size = sum(entry.size for entry in wanted)
        if size > MAX_READ:
            raise Refused(
                [Fault(str(wanted[0].path), f"{size} bytes in all", f"must be at most {MAX_READ >> 20} MiB below the chosen paths")]
            )
        told = self._git.run("cat-file", "--batch", given="".join(f"{entry.blob}\n" for entry in wanted).encode()).stdout
        at = 0
        for entry in wanted:
            end = told.index(b"\n", at)
            name, kind, length = told[at:end].split(b" ")
            if (name.decode(), kind) != (entry.blob, b"blob"):
                raise Refused([Fault(entry.path, kind.decode(errors="replace"), "must be a file that the repository holds")])
            at = end + 1 + int(length) + 1
            yield entry, told[end + 1 : at - 1]


def checkout(folder: Path) -> GitRepository:
    """The repository of a folder that somebody works in. Nothing is fetched. Raises Stalled when it is none."""
    git = GitProgram(folder)
    try:
        git.run("rev-parse", "--git-dir")
    except Refused as refused:
        must = f"must be a checkout or a bare repository ({refused.faults[0].must})"
        raise Refused([Fault(str(folder), "no Git repository", must)]) from refused
    return GitRepository(git)


def _id(commit: str) -> str:
    """What is handed to git is an id, so that no name of a branch is ever taken for an option."""
    if not _ID.fullmatch(commit):
        raise Refused([Fault("commit", commit[:_LINE], "must be the whole id of a commit")])
    return commit


def _paths(paths: Sequence[str]) -> tuple[str, ...]:
    """Path filters as git takes them, literally; the root filters nothing."""
    clean = [path.strip("/").removeprefix("./") for path in paths]
    for path in clean:
        if len(path) > MAX_PATH or ".." in path.split("/") or not path.isprintable():
            raise Refused([Fault("path", path[:_LINE], "must be a path inside the repository")])
    return () if any(path in ("", ".") for path in clean) else tuple(clean)


def _entry(row: bytes) -> Entry:
    about, _, path = row.partition(b"\t")
    mode, _, blob, size = about.decode().split()
    return Entry(path.decode("utf-8", "surrogateescape"), _KINDS.get(mode, "symlink"), blob, int(size) if size.isdecimal() else 0)


def _address(text: str) -> str:
    """Of NAME <EMAIL>, or of an address alone."""
    inner = text.rpartition("<")[2].partition(">")[0] if "<" in text else text
    return _line(inner).lower()


def _line(text: str) -> str:
    """A text of strangers as one short line."""
    return "".join(c if c.isprintable() else " " for c in text).strip()[:_LINE]
