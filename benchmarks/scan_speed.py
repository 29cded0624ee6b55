"""How fast `stablesig scan` is: against the number of workers and of keys, and against decoding alone.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/scan_speed.py --out /tmp/scan-speed

Makes a corpus of JPEGs (crops of the images in --images, by default the demo's, each another one) and a pack
of random keys in OUT, once, and scans the corpus with every combination of workers, keys and screening. The
measure of all things is what the same number of processes decode in the same time: each reads its share of
the files and has Pillow decode them, nothing else. All kinds of work take turns, ROUNDS times over.

Reported are images a second (the fastest round), the processor time an image (the least), both as shares of
decoding alone, the memory of a worker (PSS: its share of what it has together with others), and the cost of a
million images at --price a core-hour. Processor time counts the workers and the engine; it suffers less from
other work on the machine than the clock does.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from many_keys import drawn_pack, first_keys
from PIL import Image

from stablesig.scanning.api import scan
from stablesig.scanning.settings import ScanSettings
from stablesig_detector.image import image_files
from stablesig_detector.key_set import KeySet
from stablesig_detector.registry_pack import open_pack

DATA = Path(__file__).parents[1] / "stablesig" / "data"
DEMO = (DATA / "demo-train", DATA / "demo-images")
KEYS = (10, 1_000, 100_000)
# $/h of a core: AWS's example of c5.2xlarge on demand in us-east-1, $0.34 for 8, in its guide to Auto Scaling
PRICE = 0.0425
_WAIT = 0.05  # s between looks at the memory of the workers


@dataclass(frozen=True)
class Work:
    """keys 0: nothing but decoding."""

    jobs: int
    keys: int = 0
    screen: bool = False


@dataclass
class Measured:
    """Of one round, or the best of several. cpu_ms: processor time an image.  pss: of a worker, bytes."""

    images_per_second: float
    cpu_ms: float
    pss: float = 0.0

    def and_another(self, other: Measured) -> Measured:
        """The better of each."""
        return Measured(
            max(self.images_per_second, other.images_per_second),
            min(self.cpu_ms, other.cpu_ms),
            max(self.pss, other.pss),
        )


def corpus(folder: Path, sources: Sequence[Path], count: int, side: int, quality: int) -> list[Path]:
    """`count` JPEGs of side x side px, made unless they are there: random crops, scaled and mirrored."""
    folder = folder / f"{count}-of-{side}px-q{quality}"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:06}.jpg" for number in range(count)]
    if files[-1].exists():
        return files
    originals = [Image.open(path).convert("RGB") for source in sources for path in image_files(source)]
    rng = np.random.default_rng(0)
    for number, file in enumerate(files):
        original = originals[number % len(originals)]
        part = round(min(original.size) * rng.uniform(0.6, 1.0))
        left, top = (int(rng.integers(full - part + 1)) for full in original.size)
        picture = original.resize(
            (side, side), Image.Resampling.LANCZOS, (left, top, left + part, top + part)
        )
        if rng.integers(2):
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture.save(file, "JPEG", quality=quality)
    return files


def decode_all(files: Sequence[Path], jobs: int) -> None:
    """Read and decode the files in `jobs` processes."""
    children = []
    for number in range(jobs):
        child = os.fork()
        if not child:
            for file in files[number::jobs]:
                Image.open(io.BytesIO(file.read_bytes())).load()
            os._exit(0)
        children.append(child)
    for child in children:
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("a process that decodes has failed")


class WorkerMemory(threading.Thread):
    """The largest mean PSS of this process's children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.pss = 0.0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(_WAIT):
            found = [pss for child in _children() if (pss := _pss(child))]
            if found:
                self.pss = max(self.pss, sum(found) / len(found))

    def stop(self) -> float:
        self._over.set()
        self.join()
        return self.pss


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def _pss(process: str) -> int:
    """Bytes; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def timed(work: Callable[[], object], images: int) -> Measured:
    def spent() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in used)

    before, start = spent(), time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return Measured(images / seconds, 1e3 * (spent() - before) / images)


def scanned(files: Sequence[Path], keys: KeySet, work: Work, out: Path) -> Measured:
    """One scan. The look at the memory costs processor time, so that is of a scan without."""

    def once() -> None:
        result = scan([str(files[0].parent)], ScanSettings(keys, screen=work.screen), out, jobs=work.jobs)
        if result.tally.images != len(files):
            raise RuntimeError(f"{result.tally.images} images were scanned, of {len(files)}")
        shutil.rmtree(out) if out.is_dir() else out.unlink()

    return timed(once, len(files))


def memory(files: Sequence[Path], keys: KeySet, work: Work, out: Path) -> float:
    watch = WorkerMemory()
    watch.start()
    try:
        scanned(files, keys, work, out)
    finally:
        pss = watch.stop()
    return pss


def measure(
    files: Sequence[Path], pack: Path, works: Sequence[Work], rounds: int, scratch: Path
) -> dict[Work, Measured]:
    [block] = open_pack(pack).blocks
    sets = {work.keys: first_keys(block, work.keys) for work in works if work.keys}
    best: dict[Work, Measured] = {}
    for _ in range(rounds):
        for work in works:
            if work.keys:
                found = scanned(files, sets[work.keys], work, scratch / "scan.parquet")
            else:
                found = timed(lambda work=work: decode_all(files, work.jobs), len(files))  # type: ignore[misc]
            best[work] = best[work].and_another(found) if work in best else found
    for work in works:
        if work.keys:
            best[work].pss = memory(files, sets[work.keys], work, scratch / "scan.parquet")
    return best


def table(best: dict[Work, Measured], price: float) -> str:
    """Markdown."""
    lines = [
        "| workers | keys | screen | images/s | of decoding | CPU ms an image | of decoding | MB a worker "
        "| $ a million |",
        "|---:|---:|:---|---:|---:|---:|---:|---:|---:|",
    ]
    for work, found in best.items():
        alone = best[Work(work.jobs)]
        keys = f"{work.keys:,} | {'yes' if work.screen else 'no'}" if work.keys else "decoding alone |"
        dollars = found.cpu_ms / 3.6e6 * 1e6 * price
        pss = f"{found.pss / 1e6:.0f}" if work.keys else ""
        lines.append(
            f"| {work.jobs} | {keys} | {found.images_per_second:.0f} "
            f"| {found.images_per_second / alone.images_per_second:.2f} "
            f"| {found.cpu_ms:.2f} | {alone.cpu_ms / found.cpu_ms:.2f} | {pss} | {dollars:.3f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for corpus and keys; made if missing")
    parser.add_argument("--images", type=Path, nargs="+", default=list(DEMO), help="folders of originals")
    parser.add_argument("--count", type=int, default=1_000, help="images of the corpus")
    parser.add_argument("--side", type=int, default=512, help="px")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs")
    parser.add_argument("--jobs", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--keys", type=int, nargs="+", default=list(KEYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--price", type=float, default=PRICE, help="of a core, $/h")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    files = corpus(options.out, options.images, options.count, options.side, options.quality)
    pack = options.out / f"keys-{max(options.keys)}.safetensors"
    if not pack.exists():
        print(f"drawing {max(options.keys):,} keys", file=sys.stderr)
        drawn_pack(pack, max(options.keys))
    works = []
    for jobs in options.jobs:
        works.append(Work(jobs))
        works += [Work(jobs, keys, screen) for keys in options.keys for screen in (False, True)]
    with tempfile.TemporaryDirectory(dir=options.out) as scratch:
        best = measure(files, pack, works, options.rounds, Path(scratch))
    about: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "images": len(files),
        "bytes": sum(file.stat().st_size for file in files) / len(files),
        "price": options.price,
    }
    if options.json:
        rows = [asdict(work) | asdict(found) for work, found in best.items()]
        options.json.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n")
    print(f"{len(files):,} JPEGs of {about['bytes'] / 1000:.0f} KB\n")
    print(table(best, options.price))
    return 0


if __name__ == "__main__":
    sys.exit(main())
