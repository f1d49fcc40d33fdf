"""Object stores of every kind, the real S3 server among them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from memory_store import MemoryStore  # noqa: E402
from s3_server import S3Server, running  # noqa: E402
from versitygw_binary import versitygw  # noqa: E402

from go_binaries import CannotBuild  # noqa: E402
from knhk_runtime.objects.folder import FolderStore  # noqa: E402
from knhk_runtime.objects.opening import open_store  # noqa: E402
from knhk_runtime.objects.port import ObjectStore  # noqa: E402

KINDS = ("memory", "folder", pytest.param("s3", marks=[pytest.mark.server]))
_buckets = count()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One for the session; without its program the tests that need it say so."""
    try:
        program = versitygw(build=False)
    except CannotBuild as error:
        pytest.skip(f"no S3 server: {error}")
    with running(program, tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_address(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, and the environment of its clients."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server.bucket(f"bucket-{next(_buckets)}")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store."""
    match request.param:
        case "memory":
            return MemoryStore()
        case "folder":
            return FolderStore(tmp_path / "objects")
    return open_store(f"{request.getfixturevalue('s3_address')}/some/prefix")
