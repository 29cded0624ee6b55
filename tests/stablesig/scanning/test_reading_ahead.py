"""Inputs are read ahead where that pays, each once, and never more than there is room for."""

from __future__ import annotations

import threading
import time

import pytest

from stablesig.scanning import reading_ahead
from stablesig.scanning.item import Item
from stablesig.scanning.reading import ItemError, ReadOptions
from stablesig.scanning.reading_ahead import THREADS, ReadingAhead

OPTIONS = ReadOptions()


class Reads:
    """In place of `read_item`. seconds: that it takes.  size: of what it gives, bytes."""

    def __init__(self) -> None:
        self.seconds, self.size = 0.0, 10
        self.names: list[str] = []
        self.threads: set[str] = set()

    def __call__(self, item: Item, options: ReadOptions) -> bytes:
        self.names.append(item.path)
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        if item.path == "bad":
            raise ItemError("bad: is not there", "missing")
        return item.path.encode().ljust(self.size)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    reads = Reads()
    monkeypatch.setattr(reading_ahead, "read_item", reads)
    return reads


def remote(count: int) -> list[Item]:
    return [Item(f"{place}", "url", "http://x") for place in range(count)]


def test_each_is_read_once_and_gives_its_own_bytes(reads: Reads) -> None:
    items = [*remote(40), Item("local", "file")]
    ahead = ReadingAhead()
    ahead.announce(items)
    ahead.start(OPTIONS)
    assert [ahead.read(item, OPTIONS).split()[0].decode() for item in items] == [item.path for item in items]
    assert sorted(reads.names) == sorted(item.path for item in items)


def test_an_error_is_raised_where_its_item_is_asked_for_and_the_next_goes_on(reads: Reads) -> None:
    items = [Item("bad", "url"), Item("good", "url")]
    ahead = ReadingAhead()
    ahead.announce(items)
    ahead.start(OPTIONS)
    with pytest.raises(ItemError, match="not there"):
        ahead.read(items[0], OPTIONS)
    assert ahead.read(items[1], OPTIONS).startswith(b"good")


def test_files_are_read_ahead_only_once_reading_has_shown_to_be_slow(reads: Reads) -> None:
    items = [Item(f"{place}", "file") for place in range(20)]
    ahead = ReadingAhead()
    ahead.announce(items[:4])
    ahead.start(OPTIONS)
    assert reads.names == []
    reads.seconds = 0.02
    for item in items[:4]:
        ahead.read(item, OPTIONS)
    assert reads.threads == {threading.current_thread().name}
    ahead.announce(items[4:])
    ahead.start(OPTIONS)
    for item in items[4:]:
        ahead.read(item, OPTIONS)
    assert len(reads.threads) > 1
    assert len(reads.names) == 20


def test_nothing_more_is_begun_while_too_much_is_held(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_ahead, "_HELD_BYTES", 1000)
    reads.size = 1000
    items = remote(100)
    ahead = ReadingAhead()
    ahead.announce(items)
    for item in items:
        ahead.start(OPTIONS)
        begun = len(reads.names)
        ahead.read(item, OPTIONS)
        assert begun <= int(item.path) + 2 * THREADS + 1
    assert len(reads.names) == 100
