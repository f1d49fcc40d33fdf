"""Data bundles: closure of roles, and the artifact read back by the page (formats/bundle.md)."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest

from knhk.model.faults import Refused
from knhk_gen import perfect
from knhk_gen.bundle import build
from knhk_gen.perfect import Seed, hash64, place_of
from knhk_hot import perfect as native

HEAD = "@prefix abac: <https://knhk.dev/ns/abac#> . @prefix fin: <https://f.x/> . @prefix u: <https://u.x/> .\n"
TEXT = (
    HEAD
    + """fin:limit abac:inheritable true . fin:secret abac:inheritable false .
fin:a fin:limit 5 ; fin:secret "no" .
fin:b abac:inherits fin:a ; fin:limit 10 ; fin:note "hi"@EN .
fin:c abac:inherits fin:b , fin:c .
u:x abac:hasRole fin:c .
u:y abac:hasRole fin:a ; fin:limit 7 ."""
)
ABAC, FIN = "https://knhk.dev/ns/abac#", "https://f.x/"


def read(data: bytes) -> tuple[dict[str, set[tuple[str, str, str, int]]], str | None]:
    """Subjects and the caller template, by the page, each string looked up by the perfect hash."""
    magic, nstr, ntri, area_n, template, r, x = struct.unpack_from("<8s4I2Q", data)
    assert magic == b"KNHKBND2"
    at, parts = 40, []
    for kind, count in (("H", nstr // 4 + 1), ("I", nstr // 32 + 2), ("I", nstr + 1), ("I", nstr + 1)):
        parts.append(struct.unpack_from(f"<{count}{kind}", data, at))
        at = _up(at + struct.calcsize(f"<{count}{kind}"))
    pilots, remap, offsets, first = parts
    strings = [data[at + a : at + b].decode() for a, b in pairwise(offsets)]
    assert [place_of(hash64(s.encode(), Seed(r, x)), nstr, pilots, remap) for s in strings] == list(range(nstr))
    at = _up(at + area_n)
    assert len(data) == at + 16 * ntri
    triples = [struct.unpack_from("<3IB3x", data, at + 16 * i) for i in range(ntri)]
    found = {}
    for subject, (begin, end) in zip(strings, pairwise(first), strict=True):
        own = triples[begin:end]
        assert own == sorted(set(own))
        if own:
            found[subject] = {(strings[p], strings[v], strings[d], k) for p, v, d, k in own}
    assert first[-1] == ntri
    return found, None if template == 0xFFFFFFFF else strings[template]


def _up(n: int) -> int:
    return n + -n % 8


def values(rows: set[tuple[str, str, str, int]], p: str) -> set[str]:
    return {v for q, v, _, _ in rows if q == p}


def test_roles_are_closed_and_inheritable_properties_follow() -> None:
    subjects, template = read(build(TEXT, "roles.ttl", "https://u.x/{}"))
    assert template == "https://u.x/{}"
    assert values(subjects["https://u.x/x"], ABAC + "hasRole") == {FIN + "a", FIN + "b", FIN + "c"}
    assert values(subjects["https://u.x/x"], FIN + "limit") == {"5", "10"}
    assert values(subjects["https://u.x/y"], FIN + "limit") == {"5", "7"}
    assert not values(subjects["https://u.x/x"], FIN + "secret")
    assert (FIN + "note", "hi", "en", 3) in subjects[FIN + "b"]


def test_the_same_text_gives_the_same_bytes_whatever_its_order() -> None:
    lines = TEXT.splitlines()
    other = "\n".join([lines[0], *reversed(lines[1:])])
    assert build(TEXT, "a", "") == build(other, "b", "")


def test_an_empty_bundle_is_a_bundle() -> None:
    assert read(build("", "a", "")) == ({}, None)


def test_all_faults_with_their_lines() -> None:
    text = HEAD + 'u:x abac:hasRole "clerk" ;\n fin:part [ ] ;\n abac:hasrole fin:a .\nfin:limit abac:inheritable "yes" .'
    with pytest.raises(Refused) as refused:
        build(text, "roles.ttl", "no template")
    wheres = {f.where for f in refused.value.faults}
    assert wheres == {"roles.ttl", "roles.ttl:2", "roles.ttl:3", "roles.ttl:4", "roles.ttl:5"}


def test_whoever_places_the_strings_the_bytes_are_the_same() -> None:
    assert build(TEXT, "a", "", native.place) == build(TEXT, "a", "", perfect.place)
