"""Fuzzing of the C parts under ASan and UBSan: ``python -m knhk_hot.fuzz [--seconds N] [--seed N]``.

Drivers are in hot_c/fuzz, each with its invariant. They are built with gcc or clang, which bring the sanitizers' runtimes (zig does not),
and run over a corpus that grows by mutation. A failure leaves the input in ``last-input`` of the driver's folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import secrets
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

from knhk_hot import toolchain as t
from knhk_hot.build import EXPAT_FLAGS, EXPAT_SOURCES
from knhk_hot.perfect import place

SANITIZERS = ("-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
DRIVERS = ("decide", "xml", "bundle", "ring")
SAME_DRIVER = {"xml": "decide"}  # other seeds for the same harness
NOT_OURS = ("-fno-sanitize=undefined", "-w")
LINES = [{"qty": 1, "price": "9.99", "day": "20240229", "ref": "k1"}, {"qty": "2", "ref": "k2", "day": "00000000"}]
EXAMPLE = {
    "id": "INV 1",
    "currency": "EUR",
    "total": 12.5,
    "issued": "2026-01-31",
    "paid": True,
    "lines": LINES,
    "peers": [{"k": "k1"}, {"k": "k2"}],
}


class NoSanitizer(RuntimeError):
    """Neither gcc nor clang is here."""


def compiler() -> str:
    """A compiler that brings the runtime of ASan and UBSan."""
    found = shutil.which("gcc") or shutil.which("clang")
    if found is None:
        raise NoSanitizer("sanitizer builds need gcc or clang (Debian: apt-get install gcc)")
    return found


@cache
def _key() -> str:
    parts = [p.read_bytes() for p in sorted((t.SOURCE / "fuzz").glob("*.[ch]"))]
    return hashlib.sha256(b"\0".join([t.source_digest("engine").encode(), *parts])).hexdigest()[:24]


def folder(driver: str) -> Path:
    return t.cache_root() / f"fuzz-{_key()}" / driver


def _compile(out: Path, source: str, *flags: str) -> Path:
    """One sanitized object, made when it is not there."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        made = out.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler(), *SANITIZERS, *flags, "-c", source, "-o", str(made)], cwd=t.SOURCE, check=True)
        made.rename(out)
    return out


def _objects(driver: str) -> list[Path]:
    """Objects of a driver; those of the engine are shared. The parsers are not ours and go without UBSan, which yyjson is slow under."""
    yyjson, expat = t.artifacts().yyjson_include, t.artifacts().expat_include
    common, flags = folder("common"), ("-Iinclude", "-Isrc", f"-isystem{yyjson}", f"-isystem{expat}")
    made = [
        _compile(common / "main.o", "fuzz/fuzz_main.c", *flags),
        _compile(folder(driver) / "fuzz.o", f"fuzz/fuzz_{SAME_DRIVER.get(driver, driver)}.c", *flags),
    ]
    if driver == "ring":
        return [*made, _compile(common / "drain.o", "src/drain.c", *flags)]
    made += [_compile(common / f"{part}.o", f"src/{part}.c", *flags) for part in t.ENGINE]
    for isa, more in t.ISAS[t.HOST].items():
        made.append(_compile(common / f"eval_{isa}.o", "src/eval.c", *flags, *more, f"-DKNHK_EVAL=knhk_eval_{isa}"))
    made.append(_compile(common / "pack_tables.o", "fuzz/pack.c", *flags))
    made += [_compile(common / f"expat_{name}.o", str(expat / f"{name}.c"), *EXPAT_FLAGS, *NOT_OURS) for name in EXPAT_SOURCES]
    return [*made, _compile(common / "yyjson.o", str(yyjson / "yyjson.c"), *NOT_OURS)]


def build_driver(driver: str) -> Path:
    """The sanitized driver."""
    out = folder(driver) / "driver"
    objects = _objects(driver)
    if not out.exists():
        subprocess.run([compiler(), *SANITIZERS, *map(str, objects), "-ldl", "-o", f"{out}.{os.getpid()}"], check=True)
        Path(f"{out}.{os.getpid()}").rename(out)
    return out


def build_drivers() -> tuple[Path, ...]:
    """All sanitized drivers, built when they are not there."""
    return tuple(build_driver(driver) for driver in DRIVERS)


def observation(body: bytes, route: bytes = b"create") -> bytes:
    """A canonical O with two attributes."""
    attributes = {b"action": b"create", b"sub": b"anna"}
    parts = [b"KNO1", (1_790_000_000 * 10**9).to_bytes(8, "big"), b"\0\5local", len(route).to_bytes(2, "big"), route, bytes(64)]
    parts.append(len(attributes).to_bytes(2, "big"))
    for name, value in attributes.items():
        parts += [len(name).to_bytes(2, "big"), name, len(value).to_bytes(4, "big"), value]
    return b"".join([*parts, len(body).to_bytes(4, "big"), body])


def _decide_seeds() -> list[bytes]:
    bodies = [json.dumps(EXAMPLE).encode(), b"{}", b"[]", b"", b'{"a":1,"a":2}', b'{"id":"' + b"\\u00e9" * 40 + b'"}', b"[" * 200]
    bodies.append(json.dumps({f"m{i}": i for i in range(40)}).encode())
    return [observation(body) for body in bodies] + [observation(b"", b"bare"), observation(b"{}", b"other")]


XML_HEAD = b'<?xml version="1.0" encoding="UTF-8"?><Doc xmlns="urn:a" xmlns:b="urn:b">'
XML_ITEM = (
    b'<Item id="1" k="k1"><Name>a&amp;&#x42;<![CDATA[<c>]]></Name><Day>20240229</Day>'
    b'<b:Amt Ccy="EUR">1.234,50-</b:Amt><Ref>k1</Ref><Any/></Item>'
)


def _xml_seeds() -> list[bytes]:
    bomb = b"<!DOCTYPE Doc [" + b"".join(b"<!ENTITY a%d '&a%d;&a%d;'>" % (i + 1, i, i) for i in range(8)) + b"]>"
    bodies = [
        XML_HEAD + 3 * XML_ITEM + b"</Doc>",
        b"\xef\xbb\xbf" + XML_HEAD + XML_ITEM.replace(b"a&amp;", b"<!-- c --><?pi x?>\xf0\x9f\x98\x80\r\n") + b"</Doc>",
        bomb + XML_HEAD[38:] + b"<Item>&a8;</Item></Doc>",
        (XML_HEAD + b"</Doc>").decode().encode("utf-16"),
        XML_HEAD + b"<Item>" * 200,
        XML_HEAD + b"<Item " + b" ".join(b"a%d='%d'" % (i, i) for i in range(300)) + b"/></Doc>",
        XML_HEAD + b"".join(b"<n%d xmlns:p%d='u%d'/>" % (i, i, i) for i in range(300)) + b"</Doc>",
        XML_HEAD + b"<Item><Name>" + b"x" * 20000 + b"&#xD800;\xed\xa0\x80</Name></Item></Doc>",
        XML_HEAD + b"<Item id='1' id='2'/></Doc>",
        b"",
    ]
    return [observation(body, route) for body in bodies for route in (b"xml", b"loose")]


@dataclass(frozen=True)
class _Seed:
    r: int = 0x9E3779B97F4A7C1
    x: int = 0


def bundle_seed() -> bytes:
    """A small data bundle (formats/bundle.md)."""
    keys = [b"", b"5", b"http://www.w3.org/2001/XMLSchema#integer", b"https://e.x/limit", b"https://e.x/u", b"https://e.x/{}"]
    placed = place(keys, _Seed())
    if placed is None:
        raise ValueError("the seed of the fuzzed bundle does not serve")
    pilots, remap, order = placed
    strings = [keys[i] for i in order]
    index = {text: i for i, text in enumerate(strings)}
    first = [int(i > index[b"https://e.x/u"]) for i in range(len(strings) + 1)]
    area, offsets = b"".join(strings), [0, *accumulate(map(len, strings))]
    out = struct.pack("<8s4I2Q", b"KNHKBND2", len(strings), 1, len(area), index[b"https://e.x/{}"], _Seed.r, _Seed.x)
    triple = struct.pack("<IIIB3x", index[b"https://e.x/limit"], index[b"5"], index[b"http://www.w3.org/2001/XMLSchema#integer"], 2)
    words = [struct.pack(f"<{len(part)}I", *part) for part in (remap, offsets, first)]
    for part in (struct.pack(f"<{len(pilots)}H", *pilots), *words, area, triple):
        out += bytes(-len(out) % 8) + part
    return out


def _ring_seed() -> bytes:
    o = b"KNO1" + bytes(20)
    record = struct.pack("<QII16sQQIHBB", 1, 256, 1, bytes(16), 5, 7, len(o), 0, 1, 0)
    record += struct.pack("<20sBBBBB3xII", bytes(20), 1, 1, 1, 1, 0, 11, 0)
    record = (record.ljust(128, b"\0") + o + b"KNA1" + bytes(7)).ljust(256, b"\0")
    second = struct.pack("<QII", 257, 64, 2).ljust(64, b"\0")
    return struct.pack("<HH", 320, 0) + record + second


def corpus(driver: str) -> list[Path]:
    """Seed files of a driver."""
    every = {"decide": _decide_seeds(), "xml": _xml_seeds(), "bundle": [bundle_seed(), b"KNHKBND2"], "ring": [_ring_seed(), b""]}
    place = folder(driver) / "corpus"
    place.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, seed in enumerate(every[driver]):
        path = place / f"{i:03}"
        path.write_bytes(seed)
        paths.append(path)
    return paths


def fuzz(driver: str, seconds: int, seed: int) -> str:
    """Runs a driver; returns what it says. Raises CalledProcessError, with the sanitizer's report, when the invariant breaks."""
    command = [str(build_driver(driver)), str(seed), str(seconds), *map(str, corpus(driver))]
    done = subprocess.run(command, cwd=folder(driver), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m knhk_hot.fuzz", description="Fuzzes the C parts under ASan and UBSan.")
    parser.add_argument("--seconds", type=int, default=60, help="for each driver")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="the same seed gives the same inputs")
    options = parser.parse_args()
    order = list(DRIVERS)
    random.Random(options.seed).shuffle(order)
    for driver in order:
        print(f"fuzz: {driver}, seed {options.seed}, {options.seconds} s", flush=True)
        try:
            print(f"fuzz: {driver}: {fuzz(driver, options.seconds, options.seed)}", flush=True)
        except subprocess.CalledProcessError as error:
            print(error.stderr, file=sys.stderr)
            print(f"fuzz: {driver} failed; its input is {folder(driver) / 'last-input'}", file=sys.stderr)
            return 1
        except NoSanitizer as error:
            print(f"fuzz: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
