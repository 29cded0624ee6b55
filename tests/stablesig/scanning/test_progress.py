"""How far a scan is, and how long it will take once it is known how much there is."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from stablesig.scanning import progress
from stablesig.scanning.progress import CountingAhead, ScanProgress, _time
from stablesig.scanning.tally import Tally

from .test_local_engine import has_ended, soon


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_counting_tells_the_total_only_when_it_is_at_its_end() -> None:
    with CountingAhead(lambda: range(1000)) as counting:
        assert soon(lambda: counting.total) == 1000
    with CountingAhead(None) as nothing:
        assert nothing.total is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_counting_ends_with_its_block_and_a_failure_leaves_the_total_unknown() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    def broken() -> Iterator[int]:
        yield 1
        raise OSError

    with CountingAhead(endless) as counting:
        process = counting._process
    assert has_ended(process)
    with CountingAhead(broken) as counting:
        soon(lambda: has_ended(counting._process))
        assert counting.total is None


def test_a_line_says_how_far_how_fast_and_how_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    told = ScanProgress(lambda: 10_000)
    told(Tally(1, 499, Counter()), 500)  # half a second of work and no more: no line
    now[0] += 100.0
    told(Tally(2, 1990, Counter(damaged=8)), 500)
    told(Tally(2, 1991, Counter(damaged=8)), 500)
    assert capsys.readouterr().err == (
        "2,000 of 10,000 images  15.0 images/s  2 detected  8 unreadable  9 min left\n"
    )


def test_lines_come_without_total_and_time_where_they_are_not_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    ScanProgress()(Tally(0, 3, Counter()), 3)
    assert capsys.readouterr().err == "3 images  0.0 images/s  0 detected  0 unreadable\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(45.4, "45 s"), (119, "2 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert _time(seconds) == words
