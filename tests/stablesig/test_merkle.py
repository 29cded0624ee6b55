"""The tree of RFC 6962: known roots, and proofs that hold for their leaf and for nothing else."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablesig.merkle import audit_path, image_leaves, merkle_root, root_of_path

# The leaves and roots that Certificate Transparency's own implementations are tested with.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def by_definition(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962 writes it: split at the largest power of two below the number of leaves."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + by_definition(leaves[:split]) + by_definition(leaves[split:])).digest()


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_the_known_roots_are_reached(size: int) -> None:
    assert merkle_root(LEAVES[:size]).hex() == ROOTS[size]


@given(st.integers(1, 70), st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_proof_holds_for_its_leaf_place_and_size_only(size: int, data: st.DataObject) -> None:
    leaves = [hashlib.sha256(bytes([n])).digest() for n in range(size)]
    index = data.draw(st.integers(0, size - 1))
    root, path = merkle_root(leaves), audit_path(leaves, index)
    assert root == by_definition(leaves)
    assert root_of_path(leaves[index], index, size, path) == root
    assert root_of_path(leaves[index - 1] + b"", index, size, path) != root or size == 1
    assert root_of_path(leaves[index], index, size, (*path, root)) is None
    if path:
        assert root_of_path(leaves[index], index, size, path[:-1]) is None
        changed = (path[0][::-1], *path[1:])
        assert root_of_path(leaves[index], index, size, changed) != root
    assert root_of_path(leaves[index], index + 1, size, path) != root
    assert root_of_path(leaves[index], size, size, path) is None
    assert root_of_path(root, 0, 1, ()) != root, "an inner node passes for a leaf"


def test_a_place_that_is_not_there_has_no_path() -> None:
    with pytest.raises(IndexError, match="there are 2 leaves; got index 2"):
        audit_path(LEAVES[:2], 2)


def test_order_and_repetition_of_images_do_not_matter() -> None:
    digests = [hashlib.sha256(bytes([n])).hexdigest() for n in range(5)]
    assert image_leaves([*reversed(digests), digests[0]]) == sorted(
        bytes.fromhex(digest) for digest in digests
    )
    with pytest.raises(ValueError, match="64 hexadecimal digits; got 'ABC'"):
        image_leaves(["ABC"])
