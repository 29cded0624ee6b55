"""The guard: one bad item costs that item, in time, memory or a crash, and the others come in order."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stablesig_detector import guard
from stablesig_detector.errors import ImageError, KeyFileError, UsageError
from stablesig_detector.guard import Failure, guarded

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
limits_memory = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited on Linux")


def _work(item: Any) -> Any:
    match item:
        case "sleep":
            time.sleep(60)
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)  # a segmentation fault would print a traceback here
        case "leave":
            os._exit(7)
        case "grow":
            return len(bytearray(1 << 28))
        case "refuse":
            raise KeyFileError("k.json: is no key")
        case "defect":
            raise ZeroDivisionError("division\nby zero")
        case "process":
            return os.getpid()
        case "unsendable":
            return lambda: None
    return ("done", item)


@forks
@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_in_order_whatever_happens_to_some(jobs: int) -> None:
    items = [1, "crash", 2, "refuse", "leave", 3, "defect", 4]
    results = list(guarded(_work, items, jobs=jobs))
    assert [r.item if isinstance(r, Failure) else r[1] for r in results] == items
    failures = {r.item: r for r in results if isinstance(r, Failure)}
    assert {item: failure.kind for item, failure in failures.items()} == {
        "crash": "died",
        "refuse": "error",
        "leave": "died",
        "defect": "defect",
    }
    assert str(failures["crash"].error) == "crash: made its reader crash (SIGKILL); use another copy"
    assert "(exit code 7)" in str(failures["leave"].error)
    assert isinstance(failures["refuse"].error, KeyFileError)
    assert str(failures["refuse"].error) == "k.json: is no key"
    assert "ZeroDivisionError: division by zero" in str(failures["defect"].error)


@forks
def test_an_item_that_takes_too_long_is_given_up() -> None:
    start = time.monotonic()
    stuck, done = guarded(_work, ["sleep", 1], seconds=0.2)
    assert isinstance(stuck, Failure)
    assert stuck.kind == "time"
    assert str(stuck.error) == "sleep: took more than 0.2 s; make it smaller"
    assert done == ("done", 1)
    assert time.monotonic() - start < 50  # not the 60 s that it sleeps


@forks
@limits_memory
def test_an_item_that_takes_too_much_memory_is_given_up() -> None:
    before, grown, after = guarded(_work, [1, "grow", 2], memory_bytes=1 << 26)
    assert (before, after) == (("done", 1), ("done", 2))
    assert isinstance(grown, Failure)
    assert grown.kind == "memory"
    assert str(grown.error) == "grow: does not fit in memory; make it smaller"
    assert list(guarded(_work, ["grow"], memory_bytes=None)) == [1 << 28]


@forks
@limits_memory
def test_memory_that_earlier_items_left_behind_is_not_held_against_an_item() -> None:
    kept = []

    def hoard(megabytes: int) -> int:
        kept.append(bytearray(megabytes << 20))
        return len(kept)

    assert list(guarded(hoard, [60, 60], memory_bytes=90 << 20)) == [1, 1]


@limits_memory  # which is to say, on Linux
def test_a_worker_whose_caller_was_killed_ends_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_ORPHANED", 0.1)
    note = tmp_path / "worker"

    def hang(_: int) -> None:
        note.write_text(str(os.getpid()))
        time.sleep(60)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forking beside threads
        caller = os.fork()
    if caller == 0:
        try:
            list(guarded(hang, [1], seconds=0.4))
        finally:
            os._exit(0)
    worker = int(_soon(lambda: note.exists() and note.read_text()))
    os.kill(caller, signal.SIGKILL)
    os.waitpid(caller, 0)
    assert _soon(lambda: _has_ended(worker))


def _soon(found: Callable[[], Any]) -> Any:
    """What `found` gives once it gives something."""
    for _ in range(1000):
        if value := found():
            return value
        time.sleep(0.01)
    raise AssertionError("nothing came of it")


def _has_ended(process: int) -> bool:
    """Also as a zombie, where whoever adopts orphans does not reap them."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


class _OnceOnly:
    """Goes from the caller to the worker, and cannot go back."""

    name = "large"
    caller = os.getpid()

    def __reduce__(self) -> Any:
        if os.getpid() != self.caller:
            raise AssertionError("it is on its way back")
        return _OnceOnly, ()


def _refuse(item: _OnceOnly) -> None:
    raise ImageError(f"{item.name}: is refused")


@forks
def test_a_failure_does_not_carry_its_item_back() -> None:
    item = _OnceOnly()
    [failure] = guarded(_refuse, [item])
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.item) == ("error", item)
    assert str(failure.error) == "large: is refused"


@forks
def test_one_process_serves_many_items_and_none_is_left_behind() -> None:
    workers = set(guarded(_work, ["process"] * 20))
    assert len(workers) == 1
    assert os.getpid() not in workers
    results = guarded(_work, ["process"] * 20, jobs=2)
    first = next(results)
    results.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


@forks
def test_a_closure_and_its_big_data_need_no_pickling() -> None:
    lock = iter(range(3))  # cannot be pickled
    assert list(guarded(lambda item: (item, next(lock)), ["a", "b"])) == [("a", 0), ("b", 1)]


@forks
def test_results_larger_than_a_pipe_come_through() -> None:
    assert [len(result) for result in guarded(lambda n: b"x" * n, [5_000_000, 10, 5_000_000], jobs=2)] == [
        5_000_000,
        10,
        5_000_000,
    ]


@forks
def test_a_result_that_cannot_be_sent_is_a_defect() -> None:
    result, after = guarded(_work, ["unsendable", 1])
    assert isinstance(result, Failure)
    assert result.kind == "defect"
    assert after == ("done", 1)


@forks
def test_items_are_drawn_as_they_are_needed() -> None:
    drawn = []

    def items() -> Iterator[int]:
        for number in range(1000):
            drawn.append(number)
            yield number

    results = guarded(_work, items(), jobs=2)
    assert next(results) == ("done", 0)
    assert len(drawn) <= 20
    results.close()  # type: ignore[attr-defined]


def test_what_the_items_raise_is_raised_here() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ImageError("the folder is gone")

    results = guarded(_work, items())
    with pytest.raises(ImageError, match="the folder is gone"):
        list(results)


def test_no_items_give_no_results() -> None:
    assert list(guarded(_work, [])) == []


def test_at_least_one_worker() -> None:
    with pytest.raises(UsageError, match="at least one worker is needed; got 0"):
        guarded(_work, [], jobs=0)


def test_without_fork_everything_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(guard.os, "fork", raising=False)
    here, refused, defect = guarded(_work, ["process", "refuse", "defect"])
    assert here == os.getpid()
    assert isinstance(refused, Failure)
    assert isinstance(defect, Failure)
    assert (refused.kind, defect.kind) == ("error", "defect")
