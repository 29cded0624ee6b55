"""What many keys add to one detection: the time against 1, 10, 1,000 and 100,000 keys, in one run.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/many_keys.py --out /tmp/many-keys

Draws keys at random, packs them as `stablesig registry pack` does, opens the pack, and weighs the features of
one drawn picture against the first N keys, the numbers of keys in turn, many times over. The time is that of
the processor in this thread, so that other work on the machine shows less; still, it shares the memory with
that work. OUT keeps the pack (93 MB for 100,000 keys), and a second run takes it from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from stablesig_detector.detection import weigh
from stablesig_detector.key import PublicKey
from stablesig_detector.key_block import KeyBlock, Rearranged, blocks_of
from stablesig_detector.key_entry import KeyEntry
from stablesig_detector.key_set import KeySet, detector_space
from stablesig_detector.registry_pack import open_pack, write_pack
from stablesig_detector.search import TRANSFORMS
from stablesig_detector.spectrum import spectrum
from stablesig_detector.whitening import load_default

COUNTS = (1, 10, 1_000, 100_000)
PACK = "keys.safetensors"


def drawn_pack(path: Path, n: int, seed: int = 0) -> Path:
    """A pack of n random keys for this detector."""
    space = detector_space()
    rng = np.random.default_rng(seed)
    entries = []
    for number in range(n):
        direction = rng.standard_normal(space.dimension)
        direction_q = np.rint(direction / np.linalg.norm(direction) * 2**20).astype(np.int32)
        key = PublicKey(direction_q, 48, space.feature_version, space.statistics_sha256)
        entries.append(KeyEntry(key, f"provider {number % 1000}", not_before=date(2025, 1, 1)))
    return write_pack(path, blocks_of(entries), name="drawn", stamp="").path


def first_keys(block: KeyBlock, count: int) -> KeySet:
    """The first keys of a block, on the block's own memory."""
    entries = Rearranged(block.entries, range(count))
    few = KeyBlock(block.space, block.directions[:count], block.ids[:count], entries)
    return KeySet((few,), date(2025, 6, 1))


def features(seed: int) -> dict[str, Any]:
    """What `detect` weighs: the whitened features of a drawn picture and of its three turns."""
    picture = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    measured = spectrum(picture)
    return {name: load_default().apply(measured.transformed(name)) for name in TRANSFORMS["fast"]}


def milliseconds(work: Callable[[], object]) -> float:
    """Processor time of this thread."""
    start = time.thread_time()
    work()
    return 1e3 * (time.thread_time() - start)


def measure(pack: Path, counts: tuple[int, ...], rounds: int, best: int) -> dict[str, Any]:
    """{"open_ms", "first_ms", "rows": [{"keys", "ms" (all), "added_ms" (each less that of one key)}]}."""
    opened: list[Any] = []
    open_ms = milliseconds(lambda: opened.append(open_pack(pack)))
    [block] = opened[0].blocks
    sets = {count: first_keys(block, count) for count in counts}
    seen = features(1)

    def look(count: int) -> float:
        return milliseconds(lambda: weigh(seen, sets[count], 1e-6, width=256, height=256, best=best))

    first_ms = look(max(counts))  # pages of the pack come into memory
    taken: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            taken[count].append(look(count))
    one = taken[min(counts)]
    rows = [
        {
            "keys": count,
            "ms": taken[count],
            "added_ms": [many - single for many, single in zip(taken[count], one, strict=True)],
        }
        for count in counts
    ]
    return {"open_ms": open_ms, "first_ms": first_ms, "bytes": pack.stat().st_size, "rows": rows}


def table(measured: dict[str, Any]) -> str:
    """The rows in Markdown: least and median, and what is added to one key."""
    lines = [
        "| keys | processor time, least / median | added to one key, least / median |",
        "|---:|---:|---:|",
    ]
    for row in measured["rows"]:
        ms, added = row["ms"], row["added_ms"]
        lines.append(
            f"| {row['keys']:,} | {min(ms):.2f} / {statistics.median(ms):.2f} ms "
            f"| {min(added):.2f} / {statistics.median(added):.2f} ms |"
        )
    lines.append(
        f"\nThe pack of {measured['bytes'] / 1e6:.0f} MB opened in {measured['open_ms']:.2f} ms; the "
        f"first look, which brings it into memory, took {measured['first_ms']:.1f} ms."
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the pack; made if missing")
    parser.add_argument("--keys", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--best", type=int, default=5, help="keys that are reported")
    parser.add_argument("--json", type=Path, help="write all times here")
    options = parser.parse_args()
    counts = tuple(sorted({1, *options.keys}))
    options.out.mkdir(parents=True, exist_ok=True)
    pack = options.out / PACK
    if not pack.exists():
        print(f"drawing {max(counts):,} keys", file=sys.stderr)
        drawn_pack(pack, max(counts))
    have = sum(map(len, open_pack(pack).blocks))
    if have < max(counts):
        parser.error(f"{pack} holds {have:,} keys only; remove it, or name another folder")
    measured = measure(pack, counts, options.rounds, options.best)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=2) + "\n")
    print(table(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
