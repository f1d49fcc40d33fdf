"""RFC 6962 Merkle trees: hashes, and the verification of inclusion and consistency proofs (RFC 9162 §2.1)."""

from collections.abc import Sequence
from hashlib import sha256

from knhk_verify.errors import demand

HASH, EMPTY = 32, sha256(b"").digest()  # bytes of a hash; the root of no entries


def leaf_hash(entry: bytes) -> bytes:
    """SHA256(00‖entry), RFC 6962 §2.1."""
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA256(01‖left‖right), RFC 6962 §2.1."""
    return sha256(b"\1" + left + right).digest()


def verify_inclusion(leaf: bytes, index: int, size: int, root: bytes, path: Sequence[bytes]) -> None:
    """Raises Bad unless `path` leads from the leaf at `index` to `root`. Once the way has met the last leaf's, neighbours are left."""
    demand(0 <= index < size, "inclusion proof", f"index {index} must be below the size {size}")
    meet = (index ^ size - 1).bit_length()
    must = meet + (index >> meet).bit_count()
    demand(len(path) == must, "inclusion proof", f"has {len(path)} hashes: must have {must} for entry {index} of {size}")
    for level, hash_ in enumerate(path):
        leaf = node_hash(hash_, leaf) if level >= meet or index >> level & 1 else node_hash(leaf, hash_)
    demand(leaf == root, "inclusion proof", f"does not lead from entry {index} to the root of size {size}")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> None:
    """Raises Bad unless `path` shows that (old, old_root) is the beginning of (new, new_root); from the old tree's last perfect subtree."""
    if not 0 < old < new:
        same = not path and old <= new and old_root == (EMPTY if old == 0 else new_root)
        demand(same, "consistency proof", f"from size {old} to {new}: must lead to a larger tree, or have equal roots and no hashes")
        return
    level = (old & -old).bit_length() - 1
    last, meet = old - 1 >> level, (old - 1 ^ new - 1).bit_length() - level
    must = 1 + meet + (last >> meet).bit_count()  # one that is the whole old tree is left out, or stands there and is another
    hashes = [old_root, *path] if old == 1 << level and (len(path) < must or path[0] == old_root) else list(path)
    demand(len(hashes) == must, "consistency proof", f"with {len(path)} hashes leads from no tree of {old} to one of {new}")
    left = right = hashes[0]
    for step, hash_ in enumerate(hashes[1:]):
        both = step >= meet or last >> step & 1
        left, right = (node_hash(hash_, left), node_hash(hash_, right)) if both else (left, node_hash(right, hash_))
    demand(left == old_root or right != new_root, "consistency proof", f"split view: the tree of {new} begins with another of size {old}")
    demand((left, right) == (old_root, new_root), "consistency proof", f"does not lead from the root of size {old} to that of {new}")
