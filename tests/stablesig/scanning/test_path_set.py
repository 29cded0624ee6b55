"""The set of identities, against Python's own set, and what it takes."""

from __future__ import annotations

import hashlib
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablesig.scanning import path_set
from stablesig.scanning.path_set import PathSet


def identities(start: int, stop: int) -> list[bytes]:
    return [hashlib.blake2b(b"%d" % n, digest_size=16).digest() for n in range(start, stop)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settles after a few, so that short tests meet every part."""
    monkeypatch.setattr(path_set, "_RECENT", 8)


@pytest.mark.usefixtures("small")
@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.integers(0, 40).map(lambda n: hashlib.blake2b(b"%d" % n, digest_size=16).digest()),
            st.sampled_from([bytes(16), b"a" + bytes(15), bytes(15) + b"a", b"\xff" * 16, b"ab" + bytes(14)]),
        ),
        max_size=120,
    )
)
def test_it_answers_as_a_plain_set_does(added: list[bytes]) -> None:
    mine, plain = PathSet(), set[bytes]()
    for identity in added:
        assert (identity in mine) == (identity in plain)
        assert mine.add(identity) == (identity not in plain)
        plain.add(identity)
        assert len(mine) == len(plain)
    assert all(identity in mine for identity in plain)


def test_many_at_once_are_the_same_as_one_at_a_time() -> None:
    some = identities(0, 5000)
    mine = PathSet(some + some[:100])
    assert len(mine) == 5000
    mine.update(iter(identities(4000, 8000)))
    assert len(mine) == 8000
    assert all(identity in mine for identity in identities(0, 8000))
    assert not any(identity in mine for identity in identities(8000, 9000))
    assert not mine.add(some[17])


def test_one_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        PathSet().add(b"short")
    with pytest.raises(ValueError, match="16 bytes"):
        PathSet([b"short"])


def test_it_takes_little_more_than_the_identities_themselves() -> None:
    coming = (hashlib.blake2b(b"%d" % n, digest_size=16).digest() for n in range(140_000))
    tracemalloc.start()
    try:
        mine = PathSet(coming)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(mine) == 140_000
    assert taken < 22 * 140_000
