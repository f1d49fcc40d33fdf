"""Files that are made where none were: all or nothing, and never over what a person wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from knhk.model.faults import Fault, Refused


def planned(folder: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Path → "create" or "unchanged". Raises Refused with every file that is there and says something else."""
    state: dict[str, str] = {}
    faults = []
    for name, data in files.items():
        found = _found(folder / name)
        if found is not None and found != data:
            must = "must be moved away, or choose another folder with --out: what is there is never overwritten"
            faults.append(Fault(str(folder / name), "is there and differs", must))
        state[name] = "create" if found is None else "unchanged"
    if faults:
        raise Refused(faults)
    return state


def write(folder: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Writes what is missing; path → "create" or "unchanged". Raises Refused, before anything is written, as `planned`."""
    state = planned(folder, files)
    for name, data in files.items():
        if state[name] == "create":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("xb") as file:
                file.write(data)
    return state


def _found(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        return b""
