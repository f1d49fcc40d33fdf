"""Whose word counts for who asks: only the front proxy's authority that the cluster names now."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from knhk.adapters.certificate_files import CertificateFiles
from knhk.adapters.certificates import Pair, new_authority, server_pair
from knhk.adapters.front_proxy import CONFIG
from knhk.adapters.kube_client import KubeClient
from knhk.model.faults import NotFound, Stalled
from knhk.wiring.receipts import Cluster


@dataclass
class Api:
    """What the cluster says of front proxies; it has no APIService."""

    proxy: str = ""
    asked: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, *_: Any, **__: Any) -> Mapping[str, Any]:
        if path != CONFIG:
            raise NotFound(path)
        return {"data": {"requestheader-client-ca-file": self.proxy, "requestheader-username-headers": json.dumps(["X-Remote-User"])}}


def pem_of(context: ssl.SSLContext) -> list[bytes]:
    return sorted(context.get_ca_certs(binary_form=True))


def der(*authorities: Pair) -> list[bytes]:
    return sorted(base64.b64decode(b"".join(row.certificate.strip().splitlines()[1:-1])) for row in authorities)


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    authority = new_authority(datetime.now(UTC))
    pair = server_pair(authority, ["127.0.0.1"], datetime.now(UTC), timedelta(days=1))
    made = CertificateFiles(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")
    for path, data in ((made.chain, pair.certificate), (made.key, pair.key), (made.authority, authority.certificate)):
        path.write_bytes(data)
    return made


def test_an_authority_that_the_cluster_names_no_more_is_believed_no_more(files: CertificateFiles) -> None:
    before, after = (new_authority(datetime.now(UTC)) for _ in range(2))
    api, turns = Api(before.certificate.decode()), list[list[bytes]]()
    cluster = Cluster(cast(KubeClient, api), files)
    assert not cluster.begun
    cluster.look()
    assert cluster.begun
    cluster.turned = lambda: turns.append(pem_of(cluster.context()))
    cluster.look()
    assert (pem_of(cluster.context()), turns) == (der(before), [])
    api.proxy = (before.certificate + after.certificate).decode()
    cluster.look()
    api.proxy = after.certificate.decode()
    cluster.look()
    assert turns == [der(before, after), der(after)]
    assert pem_of(cluster.context()) == der(after)
    assert cluster.context().verify_mode is ssl.CERT_OPTIONAL


def test_what_is_no_authority_is_told_and_the_one_before_stays(files: CertificateFiles) -> None:
    authority = new_authority(datetime.now(UTC))
    api = Api(authority.certificate.decode())
    cluster = Cluster(cast(KubeClient, api), files)
    cluster.look()
    api.proxy = "no PEM"
    with pytest.raises(Stalled, match="must be PEM"):
        cluster.look()
    assert pem_of(cluster.context()) == der(authority)
