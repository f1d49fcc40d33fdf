"""The files of a commit below a folder of ours: only plain files of plain names, each within bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from knhk.adapters.expectation_files import files_of
from knhk.model.commits import MAX_FILE_BYTES, Entry, Tree, is_plain_path
from knhk.model.expectations import TESTS_FILE
from knhk.model.faults import Fault, Refused
from knhk.ports.repository import Repository

RESOURCES = (".yaml", ".yml")
SUFFIXES = (*RESOURCES, ".json", ".jsonld", ".xml")
_SHOWN = 160


def write_out(repository: Repository, commit: str, chosen: Sequence[str], folder: Path) -> Tree:
    """Writes resources and payloads of a commit at and below the chosen paths (none: all). Raises Refused with every path that must not
    be there: symbolic links, submodules, odd names, files beyond the bounds."""
    carried = repository.entries(commit, chosen)
    above = [entry for entry in _above(repository, commit, chosen) if entry not in set(carried)]
    named = {path.strip("/") for path in chosen}
    ours = [entry for entry in carried if entry.path.endswith(SUFFIXES) or (entry.path in named and entry.kind != "file")]
    faults = [fault for entry in ours for fault in _faults(entry)]
    if faults:
        raise Refused(faults)
    good = [entry for entry in above if not _faults(entry)]
    _write(repository, [*ours, *good], folder)
    _write(repository, _payloads_above(repository, commit, good, folder), folder)
    return Tree(folder, _resources(ours), _resources(good))


def _write(repository: Repository, entries: Sequence[Entry], folder: Path) -> None:
    for entry, data in repository.read(entries) if entries else ():
        file = folder / entry.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def _payloads_above(repository: Repository, commit: str, above: Sequence[Entry], folder: Path) -> list[Entry]:
    """What expectations name that lie above the chosen paths. Faulty ones are told where they are read."""
    files: set[Path] = set()
    for entry in above:
        if PurePosixPath(entry.path).name == TESTS_FILE:
            with suppress(Refused):
                files |= files_of(folder / entry.path)
    named = sorted(str(file.relative_to(folder)) for file in files if file.is_relative_to(folder) and not file.is_file())
    return [entry for entry in repository.entries(commit, named) if not _faults(entry)] if named else []


def _above(repository: Repository, commit: str, chosen: Sequence[str]) -> list[Entry]:
    """Resources that lie directly in the folders above the chosen paths: a DataBundle is shared by the packs below it."""
    inner = [PurePosixPath(path.strip("/").removeprefix("./") or ".") for path in chosen]
    folders = sorted({str(path.parent) for path in inner if str(path) != "."})
    found = [entry for folder in folders for entry in repository.entries(commit, (folder,), deep=False)]
    return [entry for entry in found if entry.path.endswith(RESOURCES)]


def _faults(entry: Entry) -> list[Fault]:
    shown = "".join(c if c.isprintable() else "?" for c in entry.path)[:_SHOWN]
    if not is_plain_path(entry.path):
        return [Fault(shown, "a path", "must be printable, without reserved parts, and at most 512 characters long")]
    if entry.kind != "file":
        return [Fault(shown, f"a {entry.kind}", "must be a plain file: nothing outside of the commit is read")]
    if entry.size > MAX_FILE_BYTES:
        return [Fault(shown, f"{entry.size} bytes", f"must have at most {MAX_FILE_BYTES} bytes")]
    return []


def _resources(entries: Iterable[Entry]) -> tuple[str, ...]:
    return tuple(entry.path for entry in entries if entry.path.endswith(RESOURCES))
