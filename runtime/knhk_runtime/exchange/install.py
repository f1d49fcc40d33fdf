"""The private folder: verified packs and bundles by digest, and the discovery file that Envoy watches."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knhk.model.faults import Fault, Refused
from knhk_runtime.durable import replace_file
from knhk_runtime.exchange.documents import PackRef, Rollout
from knhk_runtime.packstore import FetchedPack, PackStore
from knhk_runtime.point import PointConfig
from knhk_verify.signed import Keys

BOOTSTRAP = "envoy.json"
UNTOLD = "untold"  # there while a file was written that Envoy is to be told of
AGENT_CLUSTER = "knhk_agent"
PROBLEM_BASE = "https://knhk.dev/problems/"


@dataclass(frozen=True)
class Installed:
    """A pack in the private folder."""

    ref: PackRef
    so: Path
    so_sha256: str
    plan: Mapping[str, Any]
    plan_digest: str


@dataclass(frozen=True)
class Fetched:
    """Everything that a rollout document needs, verified, in memory."""

    stable: tuple[PackRef, FetchedPack] | None
    candidate: tuple[PackRef, FetchedPack] | None
    bundle: bytes | None


def fetch(rollout: Rollout, store: PackStore, arch: str, keys: Keys) -> Fetched:
    """Raises Corrupt and Refused as PackStore, and Refused when a pack is not the one that the document names."""
    bundle = store.fetch_bundle(rollout.data, keys) if rollout.data else None
    return Fetched(_fetch_pack(rollout.stable, store, arch, keys), _fetch_pack(rollout.candidate, store, arch, keys), bundle)


def _fetch_pack(ref: PackRef | None, store: PackStore, arch: str, keys: Keys) -> tuple[PackRef, FetchedPack] | None:
    if ref is None:
        return None
    fetched = store.fetch_pack(ref.digest, arch, keys)
    found = fetched.plan.get("pack")
    wanted = {"namespace": ref.namespace, "name": ref.name, "version": ref.version}
    if found != wanted:
        raise Refused([Fault(f"plan of {ref.digest}", str(found)[:200], f"must be of {ref.namespace}/{ref.name} {ref.version}")])
    return ref, fetched


class Private:
    """DIR/private, 0700. Files are named by digest and never change; Envoy and the agent map them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._untold = folder, folder / UNTOLD
        self._sealed: dict[Path, tuple[int, ...] | None] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)

    def put_pack(self, ref: PackRef, pack: FetchedPack) -> Installed:
        path = self.folder / f"{pack.so_sha256}.so"
        self._put(path, pack.so, pack.so_sha256)
        return Installed(ref, path, pack.so_sha256, pack.plan, pack.plan_digest)

    def put_bundle(self, data: bytes) -> tuple[Path, str]:
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / f"{digest}.bnd"
        self._put(path, data, digest)
        return path, digest

    def _put(self, path: Path, data: bytes, digest: str) -> None:
        """A file that is already there and whole keeps its inode: Envoy may have it open."""
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() == digest:
                return
        except FileNotFoundError:
            pass
        if not self._untold.exists():
            replace_file(self._untold, b"")
        replace_file(path, data, 0o500)

    def put_bootstrap(self, data: bytes | None) -> None:
        """What Envoy is started with. The same bytes are not written again."""
        path = self.folder / BOOTSTRAP
        if data is None:
            path.unlink(missing_ok=True)
        elif not path.exists() or path.read_bytes() != data:
            replace_file(path, data)

    def put_discovery(self, texts: Sequence[str]) -> None:
        """Envoy follows the rename. `texts` say the same: the one that is there stays, unless a file that it names was written since, by
        this agent or one that died. Envoy may have refused that file then, and takes the text that it refused for known: the other one is
        written."""
        path = self.folder / "ecds.json"
        there = path.read_text(errors="replace") if path.exists() else ""
        if self._untold.exists() or there not in texts:
            replace_file(path, next(text for text in texts if text != there).encode())
            self._untold.unlink(missing_ok=True)

    def seal(self, names: Iterable[str]) -> None:
        """These files, the discovery file and the bootstrap are what Envoy must find from now on."""
        self._sealed = {path: _stamp(path) for path in (self.folder / name for name in (*names, "ecds.json", BOOTSTRAP))}

    def altered(self) -> list[Path]:
        """Sealed files that are no longer those that were written, or gone."""
        return [path for path, stamp in self._sealed.items() if _stamp(path) != stamp]

    def keep_only(self, names: set[str]) -> None:
        """Removes packs and bundles that no document of late needs; those that are mapped stay mapped."""
        for path in self.folder.iterdir():
            if path.suffix in (".so", ".bnd") and path.name not in names:
                path.unlink(missing_ok=True)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Changes with every write to the file, and with one in its place; None when it is gone."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def shim_config(
    rollout: Rollout,
    point: PointConfig,
    stable: Installed | None,
    candidate: Installed | None,
    bundle: tuple[Path, str] | None,
    ring_dir: Path,
    evaluator: bytes,
    preload: Sequence[str],
    consent: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The configuration of formats/agent.md. `preload`: stable, candidate and bundle, what is to be read first first.
    `consent`: where the shim finds consents."""
    return {
        "version": 1,
        "point": point.point,
        "epoch": rollout.epoch,
        "region": point.region,
        "regionIndex": point.region_index,
        "ringDir": os.fspath(ring_dir),
        "ringBytes": point.ring_bytes,
        "generation": rollout.epoch,
        "baseline": rollout.baseline,
        "mode": rollout.mode,
        "weight": rollout.weight,
        "salt": rollout.salt,
        "stale": False,
        "stable": _pack_file(stable),
        "candidate": _pack_file(candidate),
        "bundle": {"path": os.fspath(bundle[0]), "sha256": bundle[1]} if bundle else None,
        "evaluator": evaluator.hex(),
        "stickyAttribute": point.sticky_attribute,
        "attributes": [{"name": name, "filterState": key} for name, key in point.attributes],
        "agentCluster": AGENT_CLUSTER,
        "parkTimeoutMs": point.park_timeout_ms,
        "durableTimeoutMs": point.durable_timeout_ms,
        "agentGraceSeconds": point.agent_grace_s,
        "failure": point.failure,
        "problemBase": PROBLEM_BASE,
        "notAfterNs": rollout.not_after_ns,
        "consent": consent,
        "residency": {"bytes": point.resident_bytes, "absent": point.absent, "preload": list(preload)},
    }


def _pack_file(pack: Installed | None) -> dict[str, str] | None:
    if pack is None:
        return None
    return {
        "path": os.fspath(pack.so),
        "sha256": pack.so_sha256,
        "digest": pack.ref.digest.removeprefix("sha256:"),
        "name": f"{pack.ref.namespace}/{pack.ref.name}",
        "version": pack.ref.version,
        "durability": pack.ref.durability,
    }


_TYPES = "type.googleapis.com"
_FILTER = f"{_TYPES}/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"


def discovery_version(config: Mapping[str, Any]) -> str:
    """Name of a shim configuration: its epoch and a hash, so that equal ones are not loaded again."""
    value = json.dumps(config, separators=(",", ":"))
    return f"{config['epoch']}-{hashlib.sha256(value.encode()).hexdigest()[:16]}"


def discovery_text(version: str, module_path: Path, config: Mapping[str, Any], blanks: int = 0) -> str:
    """Envoy's discovery file (ECDS, JSON) of the guard; write it by rename. `config` as in formats/agent.md, followed by `blanks`."""
    value = json.dumps(config, separators=(",", ":")) + " " * blanks
    resource = {
        "@type": f"{_TYPES}/envoy.config.core.v3.TypedExtensionConfig",
        "name": "knhk",
        "typed_config": {
            "@type": _FILTER,
            "dynamic_module_config": {"module": {"local": {"filename": os.fspath(module_path)}}, "do_not_close": True},
            "filter_name": "knhk",
            "filter_config": {"@type": f"{_TYPES}/google.protobuf.StringValue", "value": value},
        },
    }
    return json.dumps({"version_info": version, "resources": [resource]}, indent=1) + "\n"
