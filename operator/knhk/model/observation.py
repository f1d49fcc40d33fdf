"""O, the observation, as bytes (formats/observation.md). Reading is knhk_runtime.record.parse_observation."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

ZEROS = bytes(32)


def _str16(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def _bytes32(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


@dataclass(frozen=True)
class Observation:
    """All that may influence a decision. `bundle` and `evaluator` are 32 bytes, zeros for none."""

    time_ns: int
    route: str
    body: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)
    region: str = ""
    bundle: bytes = ZEROS
    evaluator: bytes = ZEROS

    def encode(self) -> bytes:
        """The canonical bytes. Raises struct.error for lengths out of range; limits are the reader's to judge."""
        head = b"KNO1" + struct.pack(">Q", self.time_ns) + _str16(self.region) + _str16(self.route)
        named = sorted(self.attributes.items(), key=lambda item: item[0].encode())
        attributes = b"".join(_str16(name) + _bytes32(value.encode()) for name, value in named)
        return head + self.bundle + self.evaluator + struct.pack(">H", len(named)) + attributes + _bytes32(self.body)
