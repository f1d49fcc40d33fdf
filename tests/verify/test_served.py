"""A log by the paths that it serves: roots, proofs and the first difference, against trees written out in full."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knhk_runtime.sequencer.edge import Edge
from knhk_runtime.tlog.served import Served, first_difference
from knhk_runtime.tlog.tree import TILE, tile_path
from knhk_verify.errors import Bad
from knhk_verify.note import parse_path
from knhk_verify.tree import leaf_hash, verify_consistency, verify_inclusion

NOTE = "log.example\n"


def files(entries: list[bytes], *sizes: int) -> dict[str, bytes]:
    """All tiles of a log that had a checkpoint at each of these sizes, and of its last size; partial tiles stay."""
    edge, found, at = Edge(), dict[str, bytes](), 0
    for size in (*sizes, len(entries)):
        for level, n, width, data in edge.extend(b"".join(map(leaf_hash, entries[at:size]))):
            found[tile_path(level, n, width)] = data
        for n in range(at // TILE, -(-size // TILE)):
            chunk = entries[n * TILE : min(size, (n + 1) * TILE)]
            found[tile_path(None, n, len(chunk))] = b"".join(len(e).to_bytes(2, "big") + e for e in chunk)
        at = size
    return found


def served(entries: list[bytes], size: int | None = None, found: dict[str, bytes] | None = None) -> Served:
    return Served("log", (files(entries) if found is None else found).get, len(entries) if size is None else size)


def entries_of(count: int, changed: int | None = None) -> list[bytes]:
    return [b"entry %d%s" % (i, b" changed" if i == changed else b"") for i in range(count)]


@given(st.data())
def test_the_first_difference_is_the_first(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 700), min_size=2, max_size=2))
    at = data.draw(st.integers(0, min(sizes) - 1))
    one, other = served(entries_of(sizes[0])), served(entries_of(sizes[1], changed=at))
    assert first_difference(one.read, other.read, min(sizes)) == at
    assert first_difference(one.read, served(entries_of(sizes[1])).read, min(sizes)) is None


@given(st.integers(1, 600), st.data())
def test_proofs_verify(size: int, data: st.DataObject) -> None:
    log, index, old = served(entries_of(size)), data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    inclusion = parse_path(log.inclusion(index, NOTE).partition("\n")[2], "index", "proof")
    verify_inclusion(leaf_hash(log.entry(index)), index, size, log.root(size), inclusion.path)
    growth = parse_path(log.consistency(old, NOTE), "old", "proof")
    assert growth.start == old
    verify_consistency(old, log.root(old), size, log.root(size), growth.path)


def test_an_older_size_is_served_by_the_full_tiles_that_took_the_place_of_partial_ones() -> None:
    entries = entries_of(300)
    found = {path: data for path, data in files(entries, 5).items() if ".p/5" not in path}
    old = served(entries, 5, found)
    assert old.root(5) == served(entries[:5]).root(5)
    assert list(old.entries()) == entries[:5]


def test_what_is_not_there_is_told_with_its_path() -> None:
    entries = entries_of(300)
    found = files(entries)
    missing = {path: served(entries, found={p: d for p, d in found.items() if p != path}) for path in found}
    with pytest.raises(Bad, match=r"log/tile/entries/001\.p/44: is not there"):
        missing["tile/entries/001.p/44"].entry(299)
    with pytest.raises(Bad, match=r"log/tile/0/001\.p/44: is not there"):
        missing["tile/0/001.p/44"].root(300)
    with pytest.raises(Bad, match="is not under the checkpoint of size 300"):
        served(entries).entry(300)
    cut = found | {"tile/entries/001.p/44": found["tile/entries/001.p/44"][:-11]}
    with pytest.raises(Bad, match="must have 44"):
        served(entries, found=cut).entry(256)
