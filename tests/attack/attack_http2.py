"""An HTTP/2 client that sends what it is told, wrong or not: h2 without its own checks."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from types import TracebackType

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import ContinuationFrame, HeadersFrame

PATIENCE_S = 1.0  # streams of wrong length wait for a rest that does not come
Fields = Sequence[tuple[str, str]]


class Http2:
    """One connection with prior knowledge."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        config = h2.config.H2Configuration(
            client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=None
        )
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self._flush()

    def __enter__(self) -> Http2:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def send(self, headers: Fields, body: bytes, trailers: Fields = (), *, continuation: bool = False) -> int | None:
        """The status of the answer; None when the stream or the connection was ended without one."""
        stream = self._h2.get_next_available_stream_id()
        ends = not body and not trailers
        with contextlib.suppress(ConnectionError, TimeoutError, h2.exceptions.ProtocolError):
            block = self._h2.encoder.encode([(name.encode(), value.encode()) for name, value in headers], huffman=False)
            self._socket.sendall(_frames(stream, block, ends, continuation))
            if body:
                self._data(stream, body, not trailers)
            if trailers:
                last = self._h2.encoder.encode([(name.encode(), value.encode()) for name, value in trailers], huffman=False)
                self._socket.sendall(_frames(stream, last, True, continuation))
            return self._status()
        return None

    def _data(self, stream: int, body: bytes, ends: bool) -> None:
        from hyperframe.frame import DataFrame

        for start in range(0, len(body), 16_000):
            part = body[start : start + 16_000]
            frame = DataFrame(stream, data=part, flags=["END_STREAM"] if ends and start + 16_000 >= len(body) else [])
            self._socket.sendall(frame.serialize())

    def _status(self) -> int | None:
        """Reads frames by hand: h2 knows nothing of the stream that was opened behind its back."""
        import hyperframe.frame as frames

        reader = self._socket.makefile("rb")
        while head := reader.read(9):
            frame, length = frames.Frame.parse_frame_header(memoryview(head))
            frame.parse_body(memoryview(reader.read(length)))
            if isinstance(frame, HeadersFrame):
                fields = dict(self._h2.decoder.decode(frame.data, raw=True))
                return int(fields[b":status"])
            if isinstance(frame, frames.RstStreamFrame | frames.GoAwayFrame):
                return None
        return None


def _frames(stream: int, block: bytes, ends: bool, continuation: bool) -> bytes:
    """HEADERS, cut into CONTINUATION frames of 20 bytes when told so."""
    parts = [block[i : i + 20] for i in range(0, len(block), 20)] if continuation else [block]
    first = HeadersFrame(stream, data=parts[0], flags=["END_STREAM"] if ends else [])
    made = [first, *(ContinuationFrame(stream, data=part) for part in parts[1:])]
    made[-1].flags.add("END_HEADERS")
    return b"".join(frame.serialize() for frame in made)
