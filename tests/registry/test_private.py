"""A real registry behind TLS of its own authority that asks who pulls: what operator, builder and guards are given for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from registry_contract import artifact
from registry_servers import debian_registry

from knhk.adapters.certificates import new_authority, server_pair
from knhk.adapters.registry_oci import OciRegistry
from knhk.model.faults import Stalled
from knhk_runtime.distribution import Repository
from knhk_runtime.layout import Layout
from knhk_runtime.pull import pull

pytestmark = pytest.mark.server
ONE = artifact(b"one")
# "ada:s3cret", as htpasswd -B writes it.
USERS = "ada:$2b$04$v.OXIJe1VkkASrwxNlFX5esMsimFlFRX4/FHNIjX6WAaX1SwEHlKe\n"


@dataclass(frozen=True)
class Private:
    """Where it is, and its authority's certificate."""

    url: str
    authority: bytes


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    """With ONE in it."""
    folder = tmp_path_factory.mktemp("private")
    now = datetime.now(UTC)
    authority = new_authority(now)
    pair = server_pair(authority, ("127.0.0.1",), now, timedelta(days=1))
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)
    (folder / "users").write_text(USERS)
    tls = {"certificate": str(folder / "tls.crt"), "key": str(folder / "tls.key")}
    with debian_registry(folder, http={"tls": tls}, auth={"htpasswd": {"realm": "private", "path": str(folder / "users")}}) as url:
        found = Private(f"{url}/knhk", authority.certificate)
        given = secret(folder, found, "s3cret")
        repository = Repository(found.url, given / ".dockerconfigjson", given / "ca.crt")
        OciRegistry(repository).publish([ONE], "erp/one:1")
        repository.close()
        yield found


def secret(folder: Path, private: Private, password: str) -> Path:
    """A folder as the kubelet mounts a Secret of type kubernetes.io/dockerconfigjson with ca.crt beside it."""
    row = {"username": "ada", "password": password}
    (folder / ".dockerconfigjson").write_text(json.dumps({"auths": {private.url.removesuffix("/knhk"): row}}))
    (folder / "ca.crt").write_bytes(private.authority)
    return folder


def pulled(private: Private, mounted: Path, layout: Path) -> bytes:
    """As an agent pulls: `--pull-auth` and `--pull-ca` name files of a mounted folder."""
    pull(private.url, ONE.digest, layout, auth=mounted / ".dockerconfigjson", tls=mounted / "ca.crt")
    return Layout(layout).read(ONE.digest)


def test_with_authority_and_credentials_an_agent_pulls(private: Private, tmp_path: Path) -> None:
    assert pulled(private, secret(tmp_path, private, "s3cret"), tmp_path / "layout") == ONE.root.data


def test_a_secret_may_come_later_and_change_and_what_lacks_is_named(private: Private, tmp_path: Path) -> None:
    """The folder is mounted before the Secret is made: nothing is in it, and the first failure says which file must hold what."""
    layout = tmp_path / "layout"
    with pytest.raises(Stalled, match=r"ca\.crt must hold its authority"):
        pulled(private, tmp_path, layout)
    (tmp_path / "ca.crt").write_bytes(private.authority)
    with pytest.raises(Stalled, match=r"\.dockerconfigjson must hold some"):
        pulled(private, tmp_path, layout)
    secret(tmp_path, private, "guess")
    with pytest.raises(Stalled, match="401"):
        pulled(private, tmp_path, layout)
    assert pulled(private, secret(tmp_path, private, "s3cret"), layout) == ONE.root.data


def test_another_authority_is_not_believed(private: Private, tmp_path: Path) -> None:
    other = Private(private.url, new_authority(datetime.now(UTC)).certificate)
    with pytest.raises(Stalled, match=r"ca\.crt must hold its authority"):
        pulled(private, secret(tmp_path, other, "s3cret"), tmp_path / "layout")
