"""PolicyPacks and DataBundles as files: a YAML file, or a folder that holds one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from knhk.api import is_selected, parse, with_hooks
from knhk.model.faults import Fault, Refused
from knhk.model.packs import Found
from knhk.model.resource import Resource

PACK_FILE = "pack.yaml"
MAX_FILE_BYTES = 4 << 20


def find(path: Path) -> Found:
    """The PolicyPack in a file or folder; its DataBundle and HookRegistries from the same file, that folder or the one above.

    Faults name files as the caller would: relative to `path` when it is a folder. Raises Refused with every fault.
    """
    file = _pack_file(path)
    resources = _read(file)
    packs = [r for r in resources if r.kind == "PolicyPack"]
    if len(packs) != 1:
        raise Refused([Fault(str(file), f"{len(packs)} resources of kind PolicyPack", "must hold exactly one")])
    whole, _ = with_hooks(packs[0], _registries(packs[0], resources, file))
    return Found(whole, file, _bundle(packs[0], resources, file))


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
    names = [row["name"] for row in pack.spec.get("dataBundles", ())]
    if not names:
        return None
    return _named("DataBundle", names[0], pack, beside, file, "spec.dataBundles")


def _registries(pack: Resource, beside: Iterable[Resource], file: Path) -> dict[str, Resource]:
    """HookRegistries that the pack takes hooks of. Raises Refused for one that gives none."""
    found, faults = {}, []
    for i, selector in enumerate(pack.spec["hooks"]):
        at = f"spec.hooks[{i}]"
        registry = _named("HookRegistry", selector["registry"], pack, beside, file, at)
        if not any(is_selected(hook, selector) for hook in registry.spec["hooks"]):
            faults.append(Fault(f"{file}:{pack.lines.get(at, 1)} {at}", registry.name, "must select at least one hook"))
        found[registry.name] = registry
    if faults:
        raise Refused(faults)
    return found


def _named(kind: str, name: str, pack: Resource, beside: Iterable[Resource], file: Path, at: str) -> Resource:
    folder = file.parent
    others = sorted({*_yaml_files(folder), *_yaml_files(folder.parent)} - {file}, key=lambda f: (f.parent != folder, f))
    for resource in (*beside, *(r for other in others for r in _of_kind(kind, other))):
        if (resource.kind, resource.namespace, resource.name) == (kind, pack.namespace, name):
            return resource
    must = f"must name a {kind} of namespace {pack.namespace} in {folder} or the folder above"
    raise Refused([Fault(f"{file}:{pack.lines.get(at, 1)}", name, must)])


def data_bundle(file: Path) -> Resource:
    """The DataBundle of a YAML file. Raises Refused when it holds none, or several."""
    found = [resource for resource in _read(file) if resource.kind == "DataBundle"]
    if len(found) != 1:
        raise Refused([Fault(str(file), f"{len(found)} DataBundles", "must hold one DataBundle")])
    return found[0]


def _yaml_files(folder: Path) -> list[Path]:
    return [*folder.glob("*.yaml"), *folder.glob("*.yml")]


def _of_kind(kind: str, file: Path) -> list[Resource]:
    """Resources of a file that speaks of this kind; files about something else are nobody's business here."""
    return _read(file) if _speaks_of(file, kind.encode()) else []
