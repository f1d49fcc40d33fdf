"""Vectors of the wire formats: `PYTHONPATH=tests/hot python tests/hot/hot_vectors.py` writes those of bytes into formats/vectors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hot_plans import EX, KNHK, XSD, a_map, guard, iri, item, lit, mapping, path, plan, prop, ref
from hot_wire import Arm, Record, action, bundle, frame, hash64, observation, perfect, ring_header, ring_record, seeds, tagged
from hot_wire import iri as b_iri
from hot_wire import literal as b_lit

VECTORS = Path(__file__).parents[2] / "formats" / "vectors"
SALT = bytes(range(16))
CAPACITY = 4 << 20
RECEIPT = b"SOURCE01" + (7).to_bytes(8, "big")
ADMITTED = Record(RECEIPT, observation(b'{"id":"1"}', attributes={"sub": "anna"}), (Arm(a=action(1, 3, ())),))
DENIED = Record(
    RECEIPT[:-1] + b"\x08",
    observation(b"{}"),
    (
        Arm(a=action(2, 9, (3, 8)), verdict=2, duration_ns=8_191),
        Arm(b"Q" * 20, mode=2, flags=1, a=action(1, 9, ()), duration_ns=2**32 - 1),
    ),
    cluster=2**64 - 1,
)
PARKED = Record(RECEIPT[:-1] + b"\x09", observation(b""), (Arm(kind=2, klass=0, verdict=0, a=b""),), region=0, cluster=0)


def hashed(domain: str, data: bytes) -> str:
    return hashlib.sha256(f"knhk.dev/{domain}/v1\n".encode() + SALT + data).hexdigest()


def observations() -> dict[str, Any]:
    whole = {
        "smallest": observation(b"", route="", region="", time_ns=0),
        "with attributes": observation(b'{"a":1}', attributes={"action": "approve", "path.id": "7 ü", "sub": "anna"}),
        "largest time, digests": observation(b"\xff\x00", time_ns=2**64 - 1, bundle=bytes(range(32)), evaluator=b"\xee" * 32),
    }
    good = whole["with attributes"]
    broken = {
        "trailing byte": good + b"\0",
        "cut": good[:-1],
        "other magic": b"KNO2" + good[4:],
        "attributes out of order": observation(b"", attributes={"a": "1", "b": "2"}).replace(b"\0\1b", b"\0\1a"),
        "name with a capital": observation(b"", attributes={"Sub": "x"}),
        "value that is no UTF-8": observation(b"", attributes={"a": "xx"}).replace(b"xx", b"\xff\xff"),
        "region with a capital": observation(b"", region="EU"),
        "65 attributes": observation(b"", attributes={f"a{i:02}": "" for i in range(65)}),
    }
    key = {name: hashlib.sha256(b"knhk.dev/o-key/v1\n" + o[:4] + bytes(8) + o[12:]).hexdigest() for name, o in whole.items()}
    return {
        "salt": SALT.hex(),
        "good": [{"name": n, "bytes": o.hex(), "h_o": hashed("o", o), "o_key": key[n]} for n, o in whole.items()],
        "bad": [{"name": n, "bytes": o.hex()} for n, o in broken.items()],
    }


def actions() -> dict[str, Any]:
    rows = [(1, 1, ()), (2, 1, (0,)), (1, 8, (2,)), (2, 9, (1, 8)), (2, 17, (3, 15, 16))]
    made = [(v, n, failing, action(v, n, failing)) for v, n, failing in rows]
    return {
        "salt": SALT.hex(),
        "actions": [{"verdict": v, "guards": n, "failing": list(f), "bytes": a.hex(), "h_a": hashed("a", a)} for v, n, f, a in made],
    }


def frames() -> dict[str, Any]:
    def row(name: str, record: Record) -> dict[str, Any]:
        arms = [{k: v.hex() if isinstance(v, bytes) else v for k, v in vars(arm).items() if k != "duration_ns"} for arm in record.arms]
        fields = {
            "receipt": record.receipt.hex(),
            "region": record.region,
            "cluster": str(record.cluster),
            "o": record.o.hex(),
            "arms": arms,
        }
        return {"name": name, "salt": SALT.hex(), "record": fields, "frame": frame(record, SALT).hex()}

    return {"outbox": [row("admitted", ADMITTED), row("both arms", DENIED), row("parked", PARKED)]}


def ring() -> dict[str, Any]:
    first = ring_record(ADMITTED, 0)
    return {
        "capacity": CAPACITY,
        "header": ring_header(CAPACITY)[:64].hex(),
        "records": [{"position": 0, "bytes": first.hex()}, {"position": len(first), "bytes": ring_record(DENIED, len(first)).hex()}],
        "head": len(first) + len(ring_record(DENIED, 0)),
        "frames": [frame(record, SALT).hex() for record in (ADMITTED, DENIED)],
        "latencies": [{"stable": (b"P" * 20).hex(), "candidate": (b"Q" * 20).hex(), "buckets": [{"47": 1}, {"123": 1}]}],
    }


TEMPLATE = EX + "users/{}"
FACTS = {
    EX + "users/anna": [
        (EX + "limit", b_lit("500.5", XSD + "decimal")),
        (EX + "role", b_iri(EX + "clerk")),
        (EX + "name", tagged("Anna", "de")),
    ],
    EX + "vendors": [(EX + "role", b_iri(EX + "v1"))],
}


HASHED = (b"", b"\0", b"a", b"1234567", b"12345678", b"https://e.x/users/anna", b"\xff" * 7, bytes(14), bytes(15))
KEYS = {
    "one": [b""],
    "three, with a NUL and what is no UTF-8": [b"", b"\0", b"\xff\xfe"],
    "a hundred": [b"https://e.x/%d" % i for i in range(100)],
}


def perfects() -> dict[str, Any]:
    pairs = ((1, 0), seeds([b"some"])[0], (2**60 - 1, 2**64 - 1))
    hashes = [{"key": key.hex(), "r": r, "x": x, "hash": hash64(key, r, x)} for key in HASHED for r, x in pairs]
    placed = []
    for name, keys in KEYS.items():
        p, given = perfect(keys), [key.hex() for key in keys]
        order = [keys.index(key) for key in p.keys]
        placed.append({"name": name, "keys": given, "r": p.r, "x": p.x, "pilots": p.pilots, "remap": p.remap, "order": order})
    return {"hashes": hashes, "placed": placed}


def bundles() -> dict[str, Any]:
    return {
        "bundles": [
            {"name": "empty", "caller": None, "subjects": {}, "bytes": bundle({}).hex()},
            {"name": "users and vendors", "caller": TEMPLATE, "subjects": FACTS, "bytes": bundle(FACTS, TEMPLATE).hex()},
        ]
    }


MAPS = mapping(
    a_map("invoice", [], item("id"), prop("total", ref("total", datatype="decimal")), prop("line", {"child": "line"}), classes=("Thing",)),
    a_map("line", path("lines", "*"), {"kind": "blank"}, prop("n", ref("n"))),
)
PLAN = plan(
    [
        guard("line.minCount", {"op": "count", "p": EX + "line", "min": 1, "max": None}, severity="Warning"),
        guard("total.limit", {"op": "within", "p": EX + "total", "rel": "le", "focus": iri(KNHK + "caller"), "q": EX + "limit"}),
        guard("total.datatype", {"op": "all", "p": EX + "total", "test": {"t": "not", "arg": {"t": "in", "terms": [lit("0", "decimal")]}}}),
    ],
    [MAPS],
    predicates=(EX + "limit", EX + "role"),
)
BODIES = (
    b'{"id":"1","total":500.5,"lines":[{"n":1}]}',
    b'{"id":"1","total":"500.500001"}',
    b'{"id":"1","total":0}',
    b'{"id":"1","id":"2"}',
    b"{}",
)
FAILING = ((), (1, 3), (1, 2), (0,), ())


def guardplans() -> dict[str, Any]:
    rows = []
    for body, failing in zip(BODIES, FAILING, strict=True):
        o = observation(body, attributes={"sub": "anna"})
        denied = bool(set(failing) - {1})
        rows.append({"o": o.hex(), "a": action(2 if denied else 1, 4, failing).hex()})
    return {"plan": PLAN.document, "digest": PLAN.digest, "bundle": bundle(FACTS, TEMPLATE).hex(), "decisions": rows}


FILES = {"observation": observations, "action": actions, "frame": frames, "ring": ring, "bundle": bundles, "guardplan": guardplans}
FILES["perfect"] = perfects


def text_of(name: str) -> str:
    return json.dumps(FILES[name](), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    for each in FILES:
        (VECTORS / f"{each}.json").write_text(text_of(each))
