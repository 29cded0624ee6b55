"""Freed memory is kept for the next step, on a CPU with glibc; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from typing import Any

import pytest

from stablesig_train.allocator import keep_freed_memory

# The fewest page faults of taking, filling and freeing 48 MB, of ten times: glibc maps afresh what is larger
# than 32 MB, each time. The first times fault in any case.
CHURN = """
import resource, torch
from stablesig_train.allocator import keep_freed_memory
{call}
def churn():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(48 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(churn() for _ in range(10)))
"""


def page_faults(call: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", CHURN.format(call=call)], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_taken_again_costs_no_page_faults() -> None:
    default, kept = page_faults(""), page_faults("keep_freed_memory()")
    assert default >= 24  # 48 MB, be they in pages of 4 kB or of 2 MB
    assert kept < 10


@pytest.mark.parametrize("problem", [OSError("libc.so.6: cannot open shared object file"), None])
def test_another_c_library_is_left_alone(problem: OSError | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(name: str) -> Any:
        asked.append(name)
        if problem:
            raise problem
        return object()  # a library without mallopt

    monkeypatch.setattr(ctypes, "CDLL", load)
    keep_freed_memory()
    assert asked == ["libc.so.6"]


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        raise AssertionError(f"{name} was loaded")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", load)
    keep_freed_memory()
