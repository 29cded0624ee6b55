"""A worker that keeps what it freed does not pay for fresh pages again."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from stablesig.scanning.freed_memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    print(-1)
    raise SystemExit
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def image():
    return [b"x" * (3 << 20) for _ in range(4)]
image()
before = faults()
for _ in range(5):
    image()
print(faults() - before)
"""


def faults(how: str) -> int:
    found = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(found.stdout)


def test_pages_come_once() -> None:
    kept = faults("keep")
    if kept < 0:
        pytest.skip("the allocator is not glibc's")
    assert kept < 0.2 * faults("give back")
