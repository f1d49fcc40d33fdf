"""What the agent asks its Envoy."""

from __future__ import annotations

import asyncio
from pathlib import Path

WITHIN_S = 1.0


async def listens(admin_socket: Path) -> bool:
    """Whether Envoy has its listeners open: its admin interface says LIVE only from then on."""
    try:
        async with asyncio.timeout(WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(admin_socket)
            try:
                writer.write(b"GET /ready HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, ValueError):  # of a time-out too
        return False
