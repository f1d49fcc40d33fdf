"""Canonical JSON (formats/signed.md): equal to RFC 8785 for objects of strings, integers, booleans, null and lists."""

from __future__ import annotations

import hashlib
import json
from types import NoneType

type_error = "canonical JSON must hold strings, integers, booleans, null, lists and objects only"


_SCALAR = (str, bool, int, NoneType)


def _check(value: object, path: str) -> None:
    if isinstance(value, _SCALAR):
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{path}: {type_error}")
            if not isinstance(item, _SCALAR):
                _check(item, f"{path}.{key}")
        return
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):  # a named tuple is an object that nobody has written out
        for i, item in enumerate(value):
            if not isinstance(item, _SCALAR):
                _check(item, f"{path}[{i}]")
        return
    raise TypeError(f"{path}: {type_error}, not {type(value).__name__}")


def canonical(value: object) -> bytes:
    """Bytes of `value`: UTF-8, keys sorted by code point, no white space. Raises TypeError for floats and other types."""
    _check(value, "$")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_hex(data: bytes) -> str:
    """SHA-256 of `data`, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
