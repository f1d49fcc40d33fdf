"""Proofs and tiles against a tree written straight from RFC 6962's definition."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knhk_runtime.sequencer.edge import Edge
from knhk_runtime.tlog.tree import TILE, Tiles, consistency_proof, inclusion_proof, parse_tile_path, range_root, tile_path
from knhk_verify.errors import Bad
from knhk_verify.tree import leaf_hash, verify_consistency, verify_inclusion

LEAVES = [leaf_hash(b"%d" % i) for i in range(700)]


def naive(hashes: list[bytes]) -> bytes:
    """MTH(D[n]) of RFC 6962 §2.1, word for word."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while 2 * k < len(hashes):
        k *= 2
    return sha256(b"\1" + naive(hashes[:k]) + naive(hashes[k:])).digest()


def read(level: int, index: int) -> bytes:
    return naive(LEAVES[index << level : (index + 1) << level])


ROOTS = [naive(LEAVES[:size]) for size in range(301)]


def test_known_answers_of_rfc_6962() -> None:
    # Certificate Transparency's test tree: roots of its first 0, 1, 2, 3 leaves.
    entries = [b"", b"\x00", b"\x10"]
    assert [naive([leaf_hash(e) for e in entries[:n]]).hex()[:16] for n in range(4)] == [
        "e3b0c44298fc1c14",
        "6e340b9cffb37a98",
        "fac54203e7cc696c",
        "aeb6bcfe274b70a1",
    ]


@pytest.mark.parametrize("size", [*range(1, 301)])
def test_every_inclusion_proof_verifies_and_no_other_leaf_does(size: int) -> None:
    assert range_root(read, 0, size) == ROOTS[size]
    for index in {0, size // 3, size // 2, size - 1, *range(size if size < 40 else 0)}:
        path = inclusion_proof(read, index, size)
        verify_inclusion(LEAVES[index], index, size, ROOTS[size], path)
        for wrong_leaf, wrong_index, wrong_size, wrong_path in (
            (LEAVES[(index + 1) % 300], index, size, path),
            (LEAVES[index], index, size, [*path, LEAVES[0]]),
            (LEAVES[index], index, size + 300, path),
            *([(LEAVES[index], index, size, path[:-1]), (LEAVES[index], index ^ 1, size, path)] if path else []),
        ):
            with pytest.raises(Bad):
                verify_inclusion(wrong_leaf, wrong_index, wrong_size, ROOTS[size], wrong_path)


@given(st.data())
def test_consistency_proofs_hold_for_prefixes_only(data: st.DataObject) -> None:
    new = data.draw(st.integers(1, 300))
    old = data.draw(st.integers(0, new))
    path = consistency_proof(read, old, new)
    verify_consistency(old, ROOTS[old], new, ROOTS[new], path)
    other = data.draw(st.integers(0, 300).filter(lambda n: n not in (old, new)))
    with pytest.raises(Bad):
        verify_consistency(old, ROOTS[other], new, ROOTS[new], path)
    if old:
        with pytest.raises(Bad):
            verify_consistency(old, ROOTS[old], new, ROOTS[other], path)
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        with pytest.raises(Bad):
            verify_consistency(old, ROOTS[old], new, ROOTS[new], [*path[:at], LEAVES[at], *path[at + 1 :]])
        with pytest.raises(Bad):
            verify_consistency(old, ROOTS[old], new, ROOTS[new], path[:-1])


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_appending_in_any_batches_gives_the_same_tree_and_tiles(batches: list[int]) -> None:
    edge, tiles, size = Edge(), dict[str, bytes](), 0
    for batch in batches:
        added = LEAVES[size : size + batch]
        for level, n, width, data in edge.extend(b"".join(added)):
            tiles[tile_path(level, n, width)] = data
        size += len(added)
    assert edge.size == size
    assert edge.root() == naive(LEAVES[:size])
    reader = Tiles(tiles.__getitem__, size)
    for index in {0, size // 2, size - 1}:
        verify_inclusion(LEAVES[index], index, size, edge.root(), inclusion_proof(reader, index, size))


@given(st.one_of(st.none(), st.integers(0, 63)), st.integers(0, 10**12), st.integers(1, TILE))
def test_tile_paths_read_back(level: int | None, n: int, width: int) -> None:
    assert parse_tile_path(tile_path(level, n, width)) == (level, n, width)


def test_tile_path_example_of_c2sp() -> None:
    assert tile_path(0, 1234067, 8) == "tile/0/x001/x234/067.p/8"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/1",
        "tile/0/x000/001",
        "tile/0/001.p/0",
        "tile/0/001.p/256",
        "tile/00/001",
        "tile/0/../001",
        "tile/0/001/",
        "tile/64a/001",
    ],
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(Bad):
        parse_tile_path(path)
