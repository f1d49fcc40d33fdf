"""PolicyPacks and DataBundles as files: a YAML file, or a folder that holds one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from knhk.api import parse
from knhk.model.faults import Fault, Refused
from knhk.model.resource import Resource

PACK_FILE = "pack.yaml"
MAX_FILE_BYTES = 4 << 20


@dataclass(frozen=True)
class Found:
    """A PolicyPack and the DataBundle that it reads, if it names one; with the files that hold them."""

    pack: Resource
    file: Path
    bundle: Resource | None


def find(path: Path) -> Found:
    """The PolicyPack in a file or folder, and its DataBundle from the same file, that folder or the one above.

    Faults name files as the caller would: relative to `path` when it is a folder. Raises Refused with every fault.
    """
    file = _pack_file(path)
    resources = _read(file)
    packs = [r for r in resources if r.kind == "PolicyPack"]
    if len(packs) != 1:
        raise Refused([Fault(str(file), f"{len(packs)} resources of kind PolicyPack", "must hold exactly one")])
    return Found(packs[0], file, _bundle(packs[0], resources, file))


def bundle_name(pack: Resource) -> str | None:
    """The DataBundle that a pack reads, of its own namespace."""
    return next((str(row["name"]) for row in pack.spec.get("dataBundles", ())), None)


def _pack_file(path: Path) -> Path:
    """The file itself; of a folder its pack.yaml, or the one YAML file in it that speaks of a PolicyPack."""
    if path.is_file():
        return path
    must = f"must be a PolicyPack file, or a folder that holds {PACK_FILE} or one other PolicyPack file"
    if not path.is_dir():
        raise Refused([Fault(str(path), "no such file", must)])
    if (path / PACK_FILE).is_file():
        return path / PACK_FILE
    files = [file for file in sorted(_yaml_files(path)) if _speaks_of(file, b"PolicyPack")]
    if len(files) != 1:
        found = f"no {PACK_FILE}" if not files else f"no {PACK_FILE}, but {', '.join(file.name for file in files)}"
        raise Refused([Fault(str(path), found, must)])
    return files[0]


def _speaks_of(file: Path, kind: bytes) -> bool:
    try:
        return file.stat().st_size <= MAX_FILE_BYTES and kind in file.read_bytes()
    except OSError:
        return False


def _read(file: Path) -> list[Resource]:
    with file.open("rb") as opened:
        data = opened.read(MAX_FILE_BYTES + 1)
    return parse(data, str(file))


def _bundle(pack: Resource, beside: Iterable[Resource], file: Path) -> Resource | None:
    name = bundle_name(pack)
    if name is None:
        return None
    folder = file.parent
    others = sorted(
        {*_yaml_files(folder), *_yaml_files(folder.parent)} - {file},
        key=lambda f: (f.parent != folder, f),
    )
    for resource in (*beside, *(r for other in others for r in _bundles_of(other))):
        if (resource.kind, resource.namespace, resource.name) == (
            "DataBundle",
            pack.namespace,
            name,
        ):
            return resource
    where = f"{file}:{pack.lines.get('spec.dataBundles', 1)}"
    must = f"must name a DataBundle of namespace {pack.namespace} in {folder} or the folder above"
    raise Refused([Fault(where, name, must)])


def data_bundle(file: Path) -> Resource:
    """The DataBundle of a YAML file. Raises Refused when it holds none, or several."""
    found = [resource for resource in _read(file) if resource.kind == "DataBundle"]
    if len(found) != 1:
        raise Refused([Fault(str(file), f"{len(found)} DataBundles", "must hold one DataBundle")])
    return found[0]


def _yaml_files(folder: Path) -> list[Path]:
    return [*folder.glob("*.yaml"), *folder.glob("*.yml")]


def _bundles_of(file: Path) -> list[Resource]:
    """Resources of a file that speaks of DataBundles; files about something else are nobody's business here."""
    if not _speaks_of(file, b"DataBundle"):
        return []
    return _read(file)
