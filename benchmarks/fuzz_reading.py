"""Damage image files of every format in every way and read them: an image or a clean error, nothing else.

    python benchmarks/fuzz_reading.py --cases 20000 --seconds 150     # again until it says that all are done
    python benchmarks/fuzz_reading.py --case 4711                     # one case, in this process

A case is its number: the file, and what is done to it, are drawn from a generator seeded with it. Every case
is read in a worker process under the limits of `stablesig detect` (10 s, 1 GiB above the start). Counted are:
read; clean errors (ImageError); and what should not be: defects (any other exception), time, memory, crashes.
Those are listed by number, their files kept in --out, and make the exit code 1.

--out holds the counter as well, so that a run can be stopped and gone on with.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fuzz_corpus import corpus, png_chunk

from stablesig_detector.formats import FORMATS, register
from stablesig_detector.guard import Failure, guarded
from stablesig_detector.reading import read_image

SEED = 20261124
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 50_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Case:
    """One damaged file. data is made when it is asked for, in the worker."""

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def name(self) -> str:
        return f"case {self.number}"


def damaged(number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """(name of the intact file, the damaged file) of a case."""
    rng = np.random.default_rng((SEED, number))
    names = sorted(files)
    name = names[number % len(names)]
    data = bytearray(files[name])
    is_png = data.startswith(b"\x89PNG")
    if is_png and rng.random() < 0.5:
        damage_rows(data, rng)
    for _ in range(int(rng.choice((0, 1, 2, 8) if is_png else (1, 1, 2, 3, 8)))):
        damage(data, files[names[int(rng.integers(len(names)))]], rng)
    if is_png and rng.random() < 0.8:
        mend_png(data)
    return name, bytes(data)


def place(size: int, rng: np.random.Generator) -> int:
    """A position in a file, in the first 200 bytes every other time: there the headers are."""
    end = min(size, 200) if rng.random() < 0.5 else size
    return int(rng.integers(max(end, 1)))


def damage(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    """Do one thing to `data`, in place."""
    at = place(len(data), rng)
    length = int(rng.choice((1, 2, 4, 16, 200, 5000)))
    match int(rng.integers(9)):
        case 0 if data:
            data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(8))
        case 1:
            data[at : at + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        case 2:  # a field of 1, 2 or 4 bytes, in either order, at a value that was not thought of
            width = int(rng.choice((1, 2, 4)))
            value = int(rng.choice(EXTREMES)) & (1 << 8 * width) - 1
            data[at : at + width] = value.to_bytes(width, "big" if rng.random() < 0.5 else "little")
        case 3:
            del data[at:]
        case 4:
            del data[at : at + length]
        case 5:
            data[at:at] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        case 6:  # a part of the file once more, elsewhere, perhaps many times
            source = place(len(data), rng)
            data[at:at] = bytes(data[source : source + length]) * int(rng.choice((1, 1, 3, 100)))
        case 7:
            source = place(len(other), rng)
            data[at : at + length] = other[source : source + length]
        case _:
            data[at : at + length] = bytes(len(data[at : at + length]))


def damage_rows(data: bytearray, rng: np.random.Generator) -> None:
    """Damage the rows of a PNG before they are packed, where a checksum would stop it at once."""
    at = data.index(b"IDAT") - 4
    size = int.from_bytes(data[at : at + 4], "big")
    rows = bytearray(zlib.decompressobj().decompress(bytes(data[at + 8 : at + 8 + size])))
    for _ in range(int(rng.integers(1, 4))):
        damage(rows, bytes(rows), rng)
    data[at : at + 12 + size] = png_chunk(b"IDAT", zlib.compress(bytes(rows)))


def mend_png(data: bytearray) -> None:
    """Make the checksums of a PNG right again, or its reader would look no further."""
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + size > len(data):
            return
        checksum = zlib.crc32(data[at + 4 : at + 8 + size])
        data[at + 8 + size : at + 12 + size] = checksum.to_bytes(4, "big")
        at += 12 + size


def load_state(path: Path) -> dict[str, object]:
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {"next": 0, "counts": {}, "findings": []}


def run(arguments: argparse.Namespace) -> int:
    files = corpus()
    for form in FORMATS:
        register(form)  # before the workers start
    arguments.out.mkdir(parents=True, exist_ok=True)
    state_path = arguments.out / "state.json"
    state = load_state(state_path)
    counts: Counter[str] = Counter(state["counts"])  # type: ignore[arg-type]
    findings: list[list[object]] = state["findings"]  # type: ignore[assignment]
    number = int(state["next"])  # type: ignore[call-overload]
    end = time.monotonic() + arguments.seconds

    def read(case: Case) -> str:
        return read_image(damaged(case.number, files)[1]).format

    def cases() -> Iterator[Case]:
        for following in range(number, arguments.cases):
            if time.monotonic() > end:
                return
            yield Case(following)

    for outcome in guarded(read, cases(), jobs=arguments.jobs):
        name = sorted(files)[number % len(files)]
        if isinstance(outcome, Failure):
            counts[f"{name} {outcome.kind}"] += 1
            if outcome.kind != "error":
                findings.append([number, name, outcome.kind, str(outcome.error)])
                (arguments.out / f"case-{number}.bin").write_bytes(damaged(number, files)[1])
                print(f"case {number} ({name}): {outcome.error}", file=sys.stderr, flush=True)
        else:
            counts[f"{name} read"] += 1
        number += 1
    state_path.write_text(
        json.dumps({"next": number, "counts": counts, "findings": findings}), encoding="utf-8"
    )
    summarise(number, counts, findings, list(files))
    if number < arguments.cases:
        print(f"{arguments.cases - number:,} cases to go: run it again")
    return 1 if findings else 0


def summarise(number: int, counts: Counter[str], findings: list[list[object]], names: list[str]) -> None:
    kinds = ("read", "error", "defect", "time", "memory", "died")
    print(f"{'file':22}" + "".join(f"{kind:>9}" for kind in kinds))
    for name in names:
        print(f"{name:22}" + "".join(f"{counts[f'{name} {kind}']:9,}" for kind in kinds))
    totals = [sum(counts[f"{name} {kind}"] for name in names) for kind in kinds]
    print(f"{'all':22}" + "".join(f"{total:9,}" for total in totals))
    print(f"{number:,} cases, {len(names)} files; findings: {len(findings)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument(
        "--seconds", type=float, default=150.0, help="stop after these, to go on another time"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("fuzz-out"), help="counter and findings")
    parser.add_argument("--case", type=int, help="read this one case here, and print what comes of it")
    arguments = parser.parse_args()
    if arguments.case is None:
        return run(arguments)
    name, data = damaged(arguments.case, corpus())
    print(f"{name}, {len(data):,} bytes")
    print(read_image(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
