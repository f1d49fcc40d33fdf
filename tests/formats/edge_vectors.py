"""Writes formats/vectors/edges.json: `PYTHONPATH=tests/hot python tests/formats/edge_vectors.py`.

What a reader must still accept and what it must refuse, for each format. The bytes come from tests/hot/hot_wire.py, an encoder written
from the pages and apart from the product's code; each refused row is one such encoding with one thing wrong, and says what must hold.
"""

from __future__ import annotations

import copy
import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hot_vectors import ADMITTED, CAPACITY, DENIED, FACTS, PARKED, PLAN, SALT, TEMPLATE
from hot_wire import TIME_NS, XSD, Arm, Record, action, bundle, bytes32, frame, iri, literal, observation, ring_header, ring_record, tagged

VECTORS = Path(__file__).parents[2] / "formats" / "vectors"
Row = dict[str, Any]


def patched(data: bytes, at: int, new: bytes) -> bytes:
    """`data` with `new` written over it at `at` (from the end when negative)."""
    at %= len(data)
    return data[:at] + new + data[at + len(new) :]


def row(name: str, must: str, data: bytes, **more: Any) -> Row:
    return {"name": name, "must": must, "bytes": data.hex()} | more


# ---- O ------------------------------------------------------------------------------------------


def _o(name: str, body: bytes = b"", zeros: int = 0, **fields: Any) -> Row:
    """An accepted O; the last `zeros` bytes of the body are zero and not written out."""
    data = observation(body + bytes(zeros), **fields)
    made: Row = {
        "time_ns": str(fields.get("time_ns", TIME_NS)),
        "region": fields.get("region", "local"),
        "route": fields.get("route", "create"),
        "attributes": sorted(fields.get("attributes", {}).items()),
        "body_sha256": hashlib.sha256(body + bytes(zeros)).hexdigest(),
    }
    key = hashlib.sha256(b"knhk.dev/o-key/v1\n" + data[:4] + bytes(8) + data[12:]).hexdigest()
    return {"name": name, "bytes": data[: len(data) - zeros].hex(), "zeros": zeros, "fields": made, "o_key": key}


def observations() -> Row:
    many = {f"a{i:02}": "" for i in range(64)}
    good = observation(b"{}", attributes={"a": "1", "b": "2"})
    large = (1 << 20) + 1
    text = "UTF-8 in its one form"
    return {
        "accepted": [
            _o("64 attributes, empty values", attributes=many),
            _o("a value of 4,096 bytes", attributes={"sub": "x" * 4096}),
            _o("a region of 63 bytes, all its letters", region="az09-" + "x" * 58),
            _o("a name of 63 bytes, all its letters", attributes={"az09_.-" + "x" * 56: "1"}),
            _o("characters of 2, 3 and 4 bytes", attributes={"sub": "ü€😀"}),
            _o("names in order of bytes", attributes={"a": "1", "a-": "2", "a.b": "3", "a0": "4", "a_": "5", "aa": "6"}),
            _o("a body of 1 MiB", zeros=1 << 20),
        ],
        "refused": [
            row("empty", "begin with KNO1", b""),
            row("magic alone", "hold all fields", b"KNO1"),
            row("a version to come", "begin with KNO1", patched(good, 0, b"KNO2")),
            row("region of 64 bytes", "region: at most 63 bytes", observation(b"", region="x" * 64)),
            row("region with a dot", "region: a-z, 0-9, -", observation(b"", region="eu.1")),
            row("region with a line feed", "region: a-z, 0-9, -", observation(b"", region="eu\n")),
            row("route that is no UTF-8", text, patched(good, 21, b"\xff")),
            row("route past the end", "lengths within the bytes", patched(good, 19, b"\xff\xff")),
            row("equal names", "names strictly ascending", patched(good, 103, b"a")),
            row("descending names", "names strictly ascending", patched(good, 95, b"c")),
            row("empty name", "names of 1 to 63 bytes", observation(b"", attributes={"": "1"})),
            row("name of 64 bytes", "names of 1 to 63 bytes", observation(b"", attributes={"x" * 64: "1"})),
            row("name with a blank", "names: a-z, 0-9, _ . -", patched(good, 95, b" ")),
            row("name with a line feed", "names: a-z, 0-9, _ . -", observation(b"", attributes={"a\n": "1"})),
            row("value of 4,097 bytes", "values of at most 4,096 bytes", observation(b"", attributes={"a": "x" * 4097})),
            row("overlong slash", text, observation(b"", attributes={"a": "xx"}).replace(b"xx", b"\xc0\xaf")),
            row("surrogate", text, observation(b"", attributes={"a": "xxx"}).replace(b"xxx", b"\xed\xa0\x80")),
            row("beyond U+10FFFF", text, observation(b"", attributes={"a": "xxxx"}).replace(b"xxxx", b"\xf4\x90\x80\x80")),
            row("character cut off", text, observation(b"", attributes={"a": "x"}).replace(b"\1x", b"\1\xc3")),
            row("more attributes than there are", "lengths within the bytes", patched(good, 91, b"\0\3")),
            row("fewer attributes than there are", "no bytes after the body", patched(good, 91, b"\0\1")),
            row("body longer than stated", "no bytes after the body", patched(good, 109, b"\0\0\0\1")),
            row("body past the end", "lengths within the bytes", patched(good, 109, b"\xff\xff\xff\xff")),
            row("body of 1 MiB and a byte", "a body of at most 1 MiB", observation(bytes(large))[:-large], zeros=large),
        ],
    }


# ---- A ------------------------------------------------------------------------------------------


def _a(verdict: int, guards: int, failing: tuple[int, ...], triples: tuple[bytes, ...]) -> bytes:
    return action(verdict, guards, failing)[:-2] + struct.pack(">H", len(triples)) + b"".join(map(bytes32, triples))


def actions() -> Row:
    lines = tuple(b"<https://e.x/s> <https://e.x/p> <https://e.x/o%d> ." % i for i in range(9))
    rows: list[tuple[int, int, tuple[int, ...], tuple[bytes, ...]]] = [
        (1, 0, (), ()), (1, 3, (), lines[:2]), (2, 64, (0,), ()), (1, 65, (64,), lines[:8]), (2, 65_535, (65_534,), ()),
    ]  # fmt: skip
    good = _a(1, 3, (1,), lines[:2])
    ascend = "triples strictly ascending"
    return {
        "accepted": [
            {"verdict": v, "guards": n, "failing": list(f), "triples": [t.decode() for t in ts], "bytes": _a(v, n, f, ts).hex()}
            for v, n, f, ts in rows
        ],
        "refused": [
            row("empty", "begin with KNA1", b""),
            row("a version to come", "begin with KNA1", patched(good, 0, b"KNA2")),
            row("no verdict", "verdict 1 or 2", patched(good, 4, b"\0")),
            row("verdict 3", "verdict 1 or 2", patched(good, 4, b"\3")),
            row("reserved", "reserved 0", patched(good, 5, b"\1")),
            row("bit of guard 3 of 3", "unused bits 0", patched(good, 8, b"\x0a")),
            row("bits cut off", "ceil(n/8) bytes of bits", action(1, 9, ())[:9]),
            row("no number of triples", "a number of triples", good[:9]),
            row("nine triples", "at most 8 triples", _a(1, 3, (), lines)),
            row("triples descending", ascend, _a(1, 3, (), lines[1::-1])),
            row("a triple twice", ascend, _a(1, 3, (), lines[:1] * 2)),
            row("triple past the end", "lengths within the bytes", good[:-1]),
            row("trailing byte", "no bytes after the triples", good + b"\0"),
        ],
    }


# ---- frames and outbox records ------------------------------------------------------------------


def _frame(payload: bytes) -> bytes:
    length = struct.pack(">I", len(payload))
    return length + struct.pack(">I", zlib.crc32(length + payload)) + payload


def _segment(number: int, *frames: bytes) -> bytes:
    return b"KNHKSEG1" + struct.pack(">Q", number) + b"".join(frames)


def frames() -> Row:
    first, second = frame(ADMITTED, SALT), frame(DENIED, SALT)
    whole = _segment(5, first, second)
    both = [first[8:].hex(), second[8:].hex()]
    end = len(whole) - len(second)

    def segment(name: str, data: bytes, payloads: list[str], end: int) -> Row:
        return {"name": name, "number": 5, "bytes": data.hex(), "payloads": payloads, "end": end}

    crc = "the crc of length and payload"
    return {
        "accepted": [
            segment("head alone", _segment(5), [], 16),
            segment("two records", whole, both, len(whole)),
            segment("torn in the payload", whole[:-1], both[:1], end),
            segment("torn in the head of a frame", whole[: end + 7], both[:1], end),
            segment("room that was never written", whole + bytes(64), both, len(whole)),
        ],
        "refused": [
            row("empty", "16 bytes of head", b"", number=5),
            row("other magic", "KNHKSEG1", patched(whole, 0, b"KNHKSEG2"), number=5),
            row("another segment", "the number of its name", whole, number=6),
            row("payload altered", crc, patched(whole, 60, bytes([whole[60] ^ 1])), number=5),
            row("last payload altered", crc, patched(whole, -1, bytes([whole[-1] ^ 1])), number=5),
            row("crc altered", crc, patched(whole, 20, bytes([whole[20] ^ 128])), number=5),
        ],
        "records_refused": _records_refused(),
    }


def _records_refused() -> list[Row]:
    good, denied, parked = (frame(record, SALT)[8:] for record in (ADMITTED, DENIED, PARKED))
    o_at = 28 + 118 + 4
    other_time = observation(b"", time_ns=1)
    return [
        row("empty", "all fields", b""),
        row("type 2", "type 1", patched(good, 0, b"\2")),
        row("no leaf", "1 or 2 leaves", patched(good, 1, b"\0")),
        row("three leaves", "1 or 2 leaves", patched(good, 1, b"\3")),
        row("unknown flag", "flags 0 to 2", patched(good, 3, b"\3")),
        row("cut", "lengths within the bytes", good[:-1]),
        row("trailing byte", "no bytes after A", good + b"\0"),
        row("O past the end", "lengths within the bytes", patched(good, o_at - 4, b"\xff\xff\xff\xff")),
        row("other salt", "H(O) of salt and O", patched(good, 12, b"\xff")),
        row("other O", "H(O) of salt and O", good.replace(b'{"id":"1"}', b'{"id":"2"}')),
        row("other A", "H(A) of salt and A", patched(good, -5, b"\4")),
        row("second leaf with other A", "H(A) of salt and A", patched(denied, -3, b"\1")),
        row("time of the leaf", "the time of O", patched(good, 28 + 92, other_time[4:12])),
        row("leaf of version 2", "a leaf of leaf.md", patched(good, 28, b"\2")),
        row("verdict of the leaf", "the verdict of A", patched(good, 28 + 3, b"\2")),
        row("disposition with an A", "no A of a disposition", parked[:-4] + bytes32(ADMITTED.arms[0].a)),
        row("O that is none", "an O of observation.md", _record_of(Record(ADMITTED.receipt, ADMITTED.o + b"\0"))),
        row("A that is none", "an A of action.md", _record_of(Record(ADMITTED.receipt, ADMITTED.o, (Arm(a=b"KNA1"),)))),
    ]


def _record_of(record: Record) -> bytes:
    return frame(record, SALT)[8:]


# ---- ring ---------------------------------------------------------------------------------------


def ring() -> Row:
    """A file: `header`, zeros to 4,096 with head and tail set, `bytes`, zeros to `size`. Refused at `position`, null: the file."""
    good = ring_record(ADMITTED, 0)
    head = len(good)
    after = ring_record(DENIED, head)
    big = struct.pack("<I", 1 << 22)

    def bad(name: str, must: str, data: bytes, position: int | None = 0, **more: Any) -> Row:
        usual = {"header": ring_header(CAPACITY)[:64].hex(), "head": len(data), "tail": 0, "size": 4096 + CAPACITY, "position": position}
        return row(name, must, data, **(usual | more))

    def header(at: int, new: bytes) -> dict[str, Any]:
        return {"header": patched(ring_header(CAPACITY)[:64], at, new).hex(), "position": None}

    def record(name: str, must: str, at: int, new: bytes) -> Row:
        return bad(name, must, patched(good, at, new))

    power, sizes, within = (
        "a capacity that is a power of two, at least 4 MiB",
        "a file of header and capacity",
        "a length that holds the record",
    )
    return {
        "refused": [
            bad("other magic", "KNHKRNG1", good, **header(0, b"KNHKRNG2")),
            bad("version 2", "version 1", good, **header(8, b"\2")),
            bad("capacity of 3 MiB", power, good, **header(32, struct.pack("<Q", 3 << 20)), size=4096 + (3 << 20)),
            bad("capacity of 6 MiB", power, good, **header(32, struct.pack("<Q", 6 << 20)), size=4096 + (6 << 20)),
            bad("capacity of 2 MiB", power, good, **header(32, struct.pack("<Q", 2 << 20)), size=4096 + (2 << 20)),
            bad("file cut", sizes, good, None, size=4095 + CAPACITY),
            bad("head behind tail", "tail at most head", good, tail=128 + head, position=128 + head),
            bad("more than the capacity", "head - tail at most the capacity", good, head=CAPACITY + 64),
            bad("head within a record's line", "multiples of 64", good, head=head - 1),
            record("reserved, not committed", "commit = position + 1", 0, bytes(8)),
            record("commit of another lap", "commit = position + 1", 0, struct.pack("<Q", CAPACITY + 1)),
            record("length 0", within, 8, bytes(4)),
            record("length 65", within, 8, b"\x41"),
            record("length shorter than the record", within, 8, b"\x80\0"),
            record("length past head", within, 8, struct.pack("<I", head + 64)),
            record("type 3", "type 1 or 2", 12, b"\3"),
            record("no arm", "1 or 2 arms", 54, b"\0"),
            record("three arms", "1 or 2 arms", 54, b"\3"),
            record("byte 55", "0", 55, b"\1"),
            record("O without time", "an O", 48, b"\x0b\0\0\0"),
            record("O past the record", within, 48, big[:2] + b"\1\0"),
            record("kind 0", "kind 1 to 4", 76, b"\0"),
            record("kind 5", "kind 1 to 4", 76, b"\5"),
            record("class 4", "class 0 to 3", 77, b"\4"),
            record("verdict 3", "verdict 0 to 2", 78, b"\3"),
            record("mode 0", "mode 1 or 2", 79, b"\0"),
            record("mode 3", "mode 1 or 2", 79, b"\3"),
            record("reserved byte of an arm", "0", 81, b"\1"),
            record("A past the record", within, 84, b"\xff\xff\0\0"),
            bad("second record", "1 or 2 arms", good + patched(after, 54, b"\3"), head),
        ]
    }


# ---- bundle -------------------------------------------------------------------------------------

TURTLE = """@prefix e: <https://e.x/> . @prefix abac: <https://knhk.dev/ns/abac#> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
e:limit abac:inheritable true .
e:clerk e:limit "500.5"^^xsd:decimal ; e:note "for all" .
e:boss abac:inherits e:clerk .
<https://e.x/users/anna> abac:hasRole e:boss ; e:name "Anna"@DE ; e:nick "" .
"""
ABAC, EX = "https://knhk.dev/ns/abac#", "https://e.x/"
# The closure, by hand: anna has boss and so clerk, whose limit is inheritable and whose note is not.
CLOSED = {
    EX + "limit": [(ABAC + "inheritable", literal("true", XSD + "boolean"))],
    EX + "clerk": [(EX + "limit", literal("500.5", XSD + "decimal")), (EX + "note", literal("for all"))],
    EX + "boss": [(ABAC + "inherits", iri(EX + "clerk"))],
    EX + "users/anna": [
        (ABAC + "hasRole", iri(EX + "boss")),
        (ABAC + "hasRole", iri(EX + "clerk")),
        (EX + "limit", literal("500.5", XSD + "decimal")),
        (EX + "name", tagged("Anna", "de")),
        (EX + "nick", literal("")),
    ],
}


def bundles() -> Row:
    built = bundle(CLOSED, TEMPLATE)
    return {"built": [{"name": "closure", "turtle": TURTLE, "caller": TEMPLATE, "bytes": built.hex()}], "refused": _bundles_refused()}


def _bundles_refused() -> list[Row]:
    good = bundle(FACTS, TEMPLATE)
    nstr, ntri, area = struct.unpack_from("<3I", good, 8)
    remap = 40 + 2 * (nstr // 4 + 1) + 7 & ~7
    offsets = remap + 4 * (nstr // 32 + 2) + 7 & ~7
    first = offsets + 4 * (nstr + 1) + 7 & ~7
    text = first + 4 * (nstr + 1) + 7 & ~7
    triples = text + area + 7 & ~7
    u32, u64 = struct.Struct("<I").pack, struct.Struct("<Q").pack
    r, x = struct.unpack_from("<2Q", good, 24)
    typed = next(at for at in range(triples, len(good), 16) if good[at + 12] != 1)
    owner = next(i for i in range(nstr) if good[first + 4 * i] < good[first + 4 * i + 4])

    def bad(name: str, must: str, at: int, new: bytes) -> Row:
        return row(name, must, patched(good, at, new))

    within, place, tiled = "indexes in range", "every string at its place", "first triples from 0, ascending, to the last"
    return [
        row("empty", "KNHKBND2", b""),
        row("cut", "the length that the header gives", good[:-1]),
        row("trailing byte", "the length that the header gives", good + b"\0"),
        bad("version 1", "KNHKBND2", 0, b"KNHKBND1"),
        bad("one string more", "the length that the header gives", 8, u32(nstr + 2)),
        bad("more strings than can be", "the length that the header gives", 8, u32(0xFFFFFFFF)),
        bad("no strings", "at least one string", 8, u32(0)),
        bad("one triple more", "the length that the header gives", 12, u32(ntri + 1)),
        bad("caller template out of range", within, 20, u32(nstr)),
        bad("r of 0", "r from 1", 24, u64(0)),
        bad("r of 2⁶⁰", "r below 2⁶⁰", 24, u64(1 << 60)),
        bad("another r", place, 24, u64(r ^ 2)),
        bad("another x", place, 32, u64(x ^ 1)),
        bad("another pilot", place, 40, bytes([good[40] ^ 1])),
        bad("remap out of range", within, remap, u32(nstr)),
        bad("first offset", "offsets from 0, ascending, to the end of the area", offsets, u32(1)),
        bad("descending offsets", "offsets from 0, ascending, to the end of the area", offsets + 4, u32(area)),
        bad("last offset", "offsets from 0, ascending, to the end of the area", offsets + 4 * nstr, u32(area - 1)),
        bad("string of another place", place, text + area - 1, b"z"),
        bad("string that is no UTF-8", "UTF-8", text + area - 1, b"\xff"),
        bad("first triple of the first string", tiled, first, u32(1)),
        bad("triple of no subject", tiled, first + 4 * nstr, u32(ntri - 1)),
        bad("descending first triples", tiled, first + 4 * owner + 4, u32(ntri + 1)),
        bad("predicate out of range", within, triples, u32(nstr)),
        bad("value out of range", within, triples + 4, u32(nstr)),
        bad("datatype out of range", within, typed + 8, u32(nstr)),
        bad("kind 0", "kind 1 to 3", triples + 12, b"\0"),
        bad("kind 4", "kind 1 to 3", triples + 12, b"\4"),
        bad("padding of a triple", "0", triples + 13, b"\1"),
    ]


# ---- GuardPlan ----------------------------------------------------------------------------------


def guardplans() -> Row:
    """Plans that no evaluator may load (`plan`), and bytes that are no canonical plan (`text`)."""

    def without(change: Mapping[str, Any], at: int = 1) -> Row:
        made = copy.deepcopy(dict(PLAN.document))
        made["guards"][at] |= change
        return made

    def bad(name: str, must: str, expr: Row) -> Row:
        return {"name": name, "must": must, "plan": without({"expr": expr})}

    def test(v: Row) -> Row:
        return {"op": "all", "p": EX + "p", "test": v}

    text = PLAN.canonical().decode()
    return {
        "refused": [
            bad("unknown form of E", "a form of E", {"op": "guess"}),
            bad("unknown form below and", "a form of E", {"op": "and", "args": [{"op": "const", "value": True}, {"op": "guess"}]}),
            bad("unknown form of V", "a form of V", test({"t": "guess"})),
            {"name": "ask without query", "must": "its query in cold.asks", "plan": _cold(without({"kind": "ask"}))},
            {"name": "shape that is not there", "must": "its shape in cold.shapes", "plan": _cold(without({"class": "W1"}))},
        ],
        "text_refused": [
            {"name": "white space", "text": text.replace(":", ": ", 1)},
            {"name": "keys out of order", "text": '{"version":1,' + text.removeprefix("{").removesuffix(',"version":1}') + "}"},
            {"name": "a key twice", "text": text.removesuffix("}") + ',"version":1}'},
            {"name": "a fraction", "text": text.replace('"version":1}', '"version":1.0}')},
            {"name": "line feed", "text": text + "\n"},
            {"name": "cut", "text": text[:-1]},
        ],
    }


def _cold(plan: Row) -> Row:
    del plan["guards"][1]["expr"]
    return plan


# ---- log ----------------------------------------------------------------------------------------


def logs() -> Row:
    """The checkpoint and the proof of log.json, each with one thing wrong; verified with the vkey there."""
    known = json.loads((VECTORS / "log.json").read_bytes())
    note, proof = known["checkpoint"], known["proof"]["text"]
    origin, size, root = note.split("\n")[:3]
    signature = note.rstrip("\n").rsplit("\n", 1)[1]
    swap = "B" if signature[-10] == "A" else "A"
    lines = proof.split("\n")

    def bad(name: str, must: str, text: str) -> Row:
        return {"name": name, "must": must, "text": text}

    key = "a signature by the key of the log"
    return {
        "checkpoints_refused": [
            bad("empty", "a note", ""),
            bad("size altered", key, note.replace(f"\n{size}\n", f"\n{int(size) + 1}\n")),
            bad("root altered", key, note.replace(root, ("A" if root[0] != "A" else "B") + root[1:])),
            bad("origin altered", key, note.replace(origin, origin + "2", 1)),
            bad("signature altered", key, note.replace(signature, signature[:-10] + swap + signature[-9:])),
            bad("no signature", key, note.replace(signature + "\n", "")),
            bad("no line feed at the end", "a line feed after each line", note[:-1]),
            bad("no blank line", "a blank line before the signatures", note.replace("\n\n", "\n")),
        ],
        "proofs_refused": [
            bad("other version", "c2sp.org/tlog-proof@v1", proof.replace("tlog-proof@v1", "tlog-proof@v2")),
            bad("other index", "the path of the index", proof.replace("index 4242\n", "index 4243\n")),
            bad("index beyond the size", "an index below the size", proof.replace("index 4242\n", f"index {size}\n")),
            bad("a hash less", "the length of the path", "\n".join(lines[:2] + lines[3:])),
            bad("a hash more", "the length of the path", "\n".join(lines[:3] + lines[2:])),
            bad("hashes in another order", "the path of the index", "\n".join([*lines[:2], lines[3], lines[2], *lines[4:]])),
            bad("checkpoint altered", key, proof.replace(f"\n{size}\n", f"\n{int(size) + 1}\n")),
        ],
    }


PARTS = {
    "observation": observations, "action": actions, "frame": frames, "ring": ring, "bundle": bundles, "guardplan": guardplans, "log": logs,
}  # fmt: skip


def made() -> bytes:
    """The file."""
    return (json.dumps({name: part() for name, part in PARTS.items()}, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


if __name__ == "__main__":
    (VECTORS / "edges.json").write_bytes(made())
