"""What it costs `stablesig scan --follow` to watch folders in which nothing, or one new file, has come.

    python benchmarks/idle_look.py                          # 100,000 files in 100 folders
    python benchmarks/idle_look.py --files 100000 --folders 1

Makes a tree of empty files in a temporary folder, lets the watcher find all of them and takes them as
scanned. Times are of the processor in this thread, medians; the peak memory is that of the process. Needs the
scan extra.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stablesig.detect_output import UNREADABLE
from stablesig.scanning.committed import Committed
from stablesig.scanning.row import Row
from stablesig.scanning.watched_tree import WatchedTree


def milliseconds(work: Callable[[], object]) -> float:
    """Processor time of this thread."""
    start = time.thread_time()
    work()
    return 1e3 * (time.thread_time() - start)


def make_tree(root: Path, files: int, folders: int) -> None:
    for folder in range(folders):
        place = root / f"{folder:04}"
        place.mkdir()
        for number in range(folder, files, folders):
            (place / f"{number:07}.jpg").touch()


def take_all(tree: WatchedTree) -> int:
    """Look until nothing waits, and say that all is durable; how many files came."""
    taken = 0
    while True:
        tree.poll()
        before = taken
        for arrival in tree.ready():
            tree.durable(arrival, [Row(arrival.item.path, arrival.item.path_bytes, UNREADABLE)])
            taken += 1
        if taken == before and not tree.backlog:
            return taken


def stat_all(root: Path) -> None:
    for folder in os.scandir(root):
        with os.scandir(folder) as entries:
            for entry in entries:
                os.stat(entry.path)  # noqa: PTH116  as a watcher without memory would


def measure(root: Path, files: int, folders: int, rounds: int, steady: float) -> dict[str, float]:
    """steady: s to wait after the first look; folders that changed lately are read again as a whole."""
    make_tree(root, files, folders)
    tree = WatchedTree([str(root)], Committed(), settle=0.0, interval=1.0)
    first = milliseconds(lambda: take_all(tree))
    time.sleep(steady)
    take_all(tree)
    time.sleep(min(steady, 0.1))
    idle = [milliseconds(tree.poll) for _ in range(rounds)]
    new = []
    for number in range(rounds):
        (root / "0000" / f"new-{number}.jpg").touch()
        new.append(milliseconds(tree.poll))
        take_all(tree)
        time.sleep(steady)
        take_all(tree)
    return {
        "first look": first,
        "idle look": statistics.median(idle),
        "look with one new file": statistics.median(new),
        "stat of every file": milliseconds(lambda: stat_all(root)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--folders", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steady", type=float, default=3.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), given.files, given.folders, given.rounds, given.steady)
    print(f"{given.files:,} files in {given.folders:,} folders")
    for name, value in found.items():
        print(f"{name:<24} {value:>10,.1f} ms")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(f"{'peak memory':<24} {peak:>10,.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
