"""Objects in a bucket of any S3, by obstore. Keys of access, region and endpoint come from the environment, by the names that AWS gives
them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, AWS_REGION, AWS_WEB_IDENTITY_TOKEN_FILE, …), or from where the program runs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore import exceptions
from obstore.store import S3Store as Bucket

from knhk.model.faults import AlreadyExists, Conflict, NotFound, Stalled, Waiting
from knhk_runtime.objects.port import PLAIN, About, Listed, Stored, checked

if TYPE_CHECKING:
    from obstore import Attributes, PutMode
    from obstore.store import ClientConfig, RetryConfig

AT_ONCE, AHEAD = 16, 32
RETRY_AFTER_S = 1.0
ANSWER_WITHIN = timedelta(seconds=20)
CONNECT_WITHIN = timedelta(seconds=5)
RETRIES, RETRY_WITHIN = 3, timedelta(seconds=15)
_REFUSED = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, exceptions.NotSupportedError)


class S3Store:
    """`ObjectStore` below a prefix of a bucket. The bucket must be there, and know conditional writes (If-None-Match, If-Match).
    Raises Stalled when the environment does not say how to reach it."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.name = f"s3://{bucket}/{prefix}".rstrip("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        options: ClientConfig = {"allow_http": endpoint.startswith("http://"), "timeout": ANSWER_WITHIN, "connect_timeout": CONNECT_WITHIN}
        retries: RetryConfig = {"max_retries": RETRIES, "retry_timeout": RETRY_WITHIN}
        try:
            self._bucket = Bucket(bucket, prefix=checked(prefix) if prefix else None, client_options=options, retry_config=retries)
        except (exceptions.BaseError, ValueError) as error:
            raise Stalled("Store", f"{self.name}: {_told(error)}") from error
        self._many = ThreadPoolExecutor(AT_ONCE, "objects")

    def get(self, key: str) -> Stored:
        with self._errors(key):
            found = obstore.get(self._bucket, checked(key))
            return Stored(found.bytes().to_bytes(), _etag(found.meta["e_tag"]))

    def get_all(self, keys: Iterable[str]) -> Iterator[bytes]:
        asked = deque[Future[Stored]]()
        for key in keys:
            asked.append(self._many.submit(self.get, key))
            if len(asked) == AHEAD:
                yield asked.popleft().result().data
        while asked:
            yield asked.popleft().result().data

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._errors(key):
            size = obstore.head(self._bucket, checked(key))["size"]
            if start >= size:
                return b""
            return obstore.get_range(self._bucket, key, start=start, length=min(length, size - start)).to_bytes()

    def put(self, key: str, data: bytes, about: About = PLAIN) -> str:
        return self._put(key, data, about, "overwrite")

    def put_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> None:
        done = [self._many.submit(self.put, key, data, about) for key, data in items]
        for error in [one.exception() for one in done]:
            if error is not None:
                raise error

    def create(self, key: str, data: bytes, about: About = PLAIN) -> str:
        return self._put(key, data, about, "create")

    def create_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> list[tuple[str, bytes]]:
        done = [(item, self._many.submit(self.create, *item, about)) for item in items]
        errors = [(item, one.exception()) for item, one in done]
        for _, error in errors:
            if error is not None and not isinstance(error, AlreadyExists):
                raise error
        return [item for item, error in errors if error is not None]

    def swap(self, key: str, data: bytes, etag: str, about: About = PLAIN) -> str:
        try:
            return self._put(key, data, about, {"e_tag": etag})
        except NotFound as error:  # what some servers say when it is gone
            raise Conflict(f"{self.name}/{key} is gone") from error

    def list(self, folder: str = "") -> Iterator[Listed]:
        with self._errors(folder):
            for page in obstore.list(self._bucket, checked(folder) if folder else None):
                for row in page:
                    yield Listed(row["path"], row["size"])

    def delete(self, keys: Sequence[str]) -> None:
        try:
            with self._errors(", ".join(keys[:1])):
                if keys:
                    obstore.delete(self._bucket, [checked(key) for key in keys])
        except NotFound:
            return

    def _put(self, key: str, data: bytes, about: About, mode: PutMode) -> str:
        headers: Attributes = {"Content-Type": about.content_type}
        if about.cache_control:
            headers["Cache-Control"] = about.cache_control
        with self._errors(key):
            # One request, so that a condition holds for all of it.
            return _etag(obstore.put(self._bucket, checked(key), data, attributes=headers, mode=mode, use_multipart=False)["e_tag"])

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        where = f"{self.name}/{key}"
        try:
            yield
        except (exceptions.NotFoundError, FileNotFoundError) as error:
            raise NotFound(f"{where}: there is no such object") from error
        except exceptions.AlreadyExistsError as error:
            raise AlreadyExists(f"{where} is there already") from error
        except exceptions.PreconditionError as error:
            raise Conflict(f"{where} is no longer what it was") from error
        except _REFUSED as error:
            raise Stalled("StoreRefused", f"{where}: {_told(error)}") from error
        except exceptions.BaseError as error:
            raise Waiting("Store", f"{where}: {_told(error)}", RETRY_AFTER_S) from error


def _etag(given: str | None) -> str:
    if given is None:
        raise Stalled("StoreWithoutEtags", "the store gives no etags: it cannot be written to under conditions")
    return given


def _told(error: Exception) -> str:
    """What went wrong, in one line."""
    return " ".join(str(error).split("\n\nDebug source", 1)[0].split())[:300]
