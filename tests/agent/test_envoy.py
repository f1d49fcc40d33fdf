"""Whether Envoy listens is what its admin interface says, and nothing is a no."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from knhk_runtime.envoy import listens


async def asked(socket: Path, answer: bytes) -> bool:
    """What is found when the admin interface answers so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(serve, socket):
        return await listens(socket)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nLIVE\n\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nPRE_INITIALIZING\n", False),
        (b"", False),
    ],
)
def test_envoy_listens_when_it_says_so(answer: bytes, found: bool, tmp_path: Path) -> None:
    assert asyncio.run(asked(tmp_path / "admin.sock", answer)) is found


def test_an_envoy_that_is_not_there_does_not_listen(tmp_path: Path) -> None:
    assert asyncio.run(listens(tmp_path / "admin.sock")) is False
