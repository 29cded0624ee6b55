"""A Merkle tree over the training images, so that one published hash commits to all of them.

Hashing and proofs are those of Certificate Transparency: RFC 6962, section 2.1 (the tree, the audit path),
and RFC 9162, section 2.1.3.2 (how a path is checked). A leaf is the SHA-256 of an image file, 32 bytes;
leaves are sorted, so the root does not depend on names or order. Who holds the root can be shown that an
image was among them, without being shown the others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

_DIGEST_BYTES = 32


def image_leaves(digests: Iterable[str]) -> list[bytes]:
    """Hexadecimal SHA-256 digests as leaves: distinct, sorted. Raises ValueError for what is no digest."""
    distinct = set(digests)
    for digest in distinct:
        if not isinstance(digest, str) or re.fullmatch(r"[0-9a-f]{64}", digest) is None:
            raise ValueError(f"a SHA-256 digest has 64 hexadecimal digits; got {str(digest)[:80]!r}")
    return [bytes.fromhex(digest) for digest in sorted(distinct)]


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root, 32 bytes, of leaves in this order; of none it is the SHA-256 of nothing (RFC 6962, 2.1)."""
    if not leaves:
        return hashlib.sha256().digest()
    level = [_leaf(leaf) for leaf in leaves]
    while len(level) > 1:  # pairs from the left give the same tree as splitting at the largest power of two
        paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[2 * len(paired) :]
    return level[0]


def audit_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The hashes beside the way from leaf `index` up to the root, lowest first (RFC 6962, 2.1.1).

    Raises IndexError unless 0 <= index < number of leaves.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"there are {len(leaves)} leaves; got index {index}")
    level, path = [_leaf(leaf) for leaf in leaves], []
    while len(level) > 1:
        beside = index ^ 1
        if beside < len(level):  # the last of an odd number goes up as it is
            path.append(level[beside])
        paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[2 * len(paired) :]
        index //= 2
    return tuple(path)


def root_of_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that `path` leads to from leaf `index` of `size`; None if it has the wrong length for them.

    The algorithm is that of RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size or any(len(digest) != _DIGEST_BYTES for digest in path):
        return None
    place, last, reached = index, size - 1, _leaf(leaf)
    for beside in path:
        if last == 0:
            return None
        if place & 1 or place == last:
            reached = _node(beside, reached)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            reached = _node(reached, beside)
        place, last = place >> 1, last >> 1
    return reached if last == 0 else None


def _leaf(content: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + content).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
