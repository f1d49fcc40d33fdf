"""An object store by its address."""

from __future__ import annotations

from pathlib import Path

from knhk.model.faults import Stalled
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.objects.port import ObjectStore


def open_store(address: str) -> ObjectStore:
    """`s3://BUCKET[/PREFIX]`, `file:///FOLDER`, or a folder. Raises Stalled."""
    scheme, separator, rest = address.partition("://")
    if not separator or scheme == "file":
        return FolderStore(Path(rest if separator else address))
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise Stalled("Store", f"{address}: must be s3://BUCKET/PREFIX, or a folder")
    from knhk_runtime.objects.s3 import S3Store  # the agent, and who has no S3, does without obstore

    return S3Store(bucket, prefix.strip("/"))
