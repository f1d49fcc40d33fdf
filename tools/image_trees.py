"""Trees of a container image from what distributors publish: Debian packages and wheels. Pure: bytes in, trees out."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from knhk.packaging.container import File, Folder, Link, Tree

PACKAGES = "usr/local/lib/python3.11/dist-packages"
_AR = b"!<arch>\n"
_AR_HEADER = 60
# Of Debian's packages: what no process of ours reads. Copyright files stay.
_LEFT_OUT = re.compile(
    r"usr/share/(man|locale|lintian|bug|icons|pixmaps|applications|doc-base|gcc|gdb)/"
    r"|usr/share/doc/[^/]+/(?!copyright$)"
    r"|usr/lib/python3\.11/(ensurepip|lib2to3|pydoc_data|idlelib|turtledemo|test)/"
    r"|usr/lib/[^/]+/gconv/|usr/share/zoneinfo/(right|posix)/"
)


class BadPackage(Exception):
    """A package that is not what it should be."""


def deb_tree(data: bytes) -> dict[str, File | Link | Folder]:
    """The files of a Debian package (deb(5)), without what is left out of images."""
    made: dict[str, File | Link | Folder] = {}
    with tarfile.open(fileobj=io.BytesIO(_data_member(data))) as tar:
        for member in tar:
            path = str(PurePosixPath(member.name)).removeprefix("./")
            if path == "." or _LEFT_OUT.match(path):
                continue
            if member.issym():
                made[path] = Link(member.linkname)
            elif member.isfile() or member.islnk():
                file = tar.extractfile(member)
                assert file is not None
                made[path] = File(file.read(), member.mode & 0o777)
            elif member.isdir() and member.mode & 0o7777 != 0o755:
                made[path] = Folder(member.mode & 0o7777)
    return made


def _data_member(data: bytes) -> bytes:
    for name, content in _ar(data):
        if name.startswith("data.tar"):
            return content
    raise BadPackage("a Debian package must hold data.tar")


def _ar(data: bytes) -> Iterator[tuple[str, bytes]]:
    if not data.startswith(_AR):
        raise BadPackage("a Debian package must be an ar archive")
    at = len(_AR)
    while at < len(data):
        header = data[at : at + _AR_HEADER]
        size = int(header[48:58])
        at += _AR_HEADER
        yield header[:16].decode().strip().rstrip("/"), data[at : at + size]
        at += size + size % 2


def wheel_tree(data: bytes) -> dict[str, File | Link | Folder]:
    """The files of a wheel where an installer would put them (PyPA's binary distribution format), without its scripts."""
    made: dict[str, File | Link | Folder] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as wheel:
        for info in wheel.infolist():
            place = _place(info.filename)
            if place is not None and not info.is_dir():
                made[place] = File(wheel.read(info), 0o755 if (info.external_attr >> 16) & 0o111 else 0o644)
    return made


def _place(name: str) -> str | None:
    root, _, rest = name.partition("/")
    if not root.endswith(".data"):
        return f"{PACKAGES}/{name}"
    kind, _, path = rest.partition("/")
    return {"purelib": f"{PACKAGES}/{path}", "platlib": f"{PACKAGES}/{path}", "data": f"usr/local/{path}"}.get(kind)


def merged(*trees: Tree) -> dict[str, File | Link | Folder]:
    """The later tree wins."""
    made: dict[str, File | Link | Folder] = {}
    for tree in trees:
        made |= tree
    return made
