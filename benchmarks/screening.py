"""What a screen costs and loses: looks at a part of an image's windows, and cascades of them.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/screening.py --unmarked photos \
        --marked key-0.pub.json marked-0 --marked key-1.pub.json marked-1

Every marked picture is attacked and looked at in part and in full. For each cascade and number of keys it
prints what share of the unmarked pictures goes on after each look, the average time that this comes to, and
how many of the images that `detect` finds are lost. For the unmarked pictures keys are drawn at random, in
sets; a marked one is looked for with its own key alone, at the price of all. Times are of the processor in
this thread, means over the unmarked pictures as JPEGs (quality 90) of 512 x 512 px.

A cascade is written as in "Y324+144@0.1,576+324@0.05": windows of full-size and of half-size planes, then the
gate; Y for luma alone, which a JPEG gives before its colours.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import statistics as summary
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stablesig_detector.decoding import decode
from stablesig_detector.image import image_files
from stablesig_detector.key import PublicKey, load_key
from stablesig_detector.key_entry import KeyEntry
from stablesig_detector.key_set import KeySet, detector_space
from stablesig_detector.luma import read_luma
from stablesig_detector.screening import LUMA_STAGES, STAGES, Look, Screen, Stage
from stablesig_detector.search import DIHEDRAL
from stablesig_detector.spectrum import DIMENSION, spectrum
from stablesig_detector.statistics import spherical_log10_p, spherical_threshold, unit_rows
from stablesig_detector.whitening import load_default

FPR = 1e-6
KEYS = (1, 1_000, 100_000)
DRAWN = 20_000  # keys for the unmarked pictures, in sets of up to 1,000
SIDE = 512  # px, of unmarked pictures
ROUNDS = 3  # of each timing
CASCADES = (
    "576+324@0.05",
    "Y144+81@0.05,576+324@0.05",
    "Y225+144@0.05,576+324@0.05",
    "Y324+144@0.05,576+324@0.05",
    "Y324+144@0.2,576+324@0.05",
    "Y324+324@0.05,576+324@0.05",  # the one that ships
    "Y324+324@0.2,576+324@0.05",
    "Y576+324@0.05,576+324@0.05",
)
Pixels = NDArray[np.uint8]
Rows = NDArray[np.float64]


def jpeg_bytes(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(jpeg_bytes(picture, quality))).convert("RGB")


def middle(picture: Image.Image, share: float) -> Image.Image:
    """The middle with `share` of the area."""
    width, height = (round(side * math.sqrt(share)) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def resized(picture: Image.Image, scale: float) -> Image.Image:
    size = round(picture.width * scale), round(picture.height * scale)
    return picture.resize(size, Image.Resampling.BICUBIC)


PNG = "PNG"
ATTACKS: dict[str, Callable[[Image.Image], Image.Image]] = {
    PNG: lambda picture: picture,  # no luma to be had alone: straight to the stages of pixels
    "JPEG 95": lambda picture: jpeg(picture, 95),
    "JPEG 80": lambda picture: jpeg(picture, 80),
    "JPEG 50": lambda picture: jpeg(picture, 50),
    "crop 25 %": lambda picture: jpeg(middle(picture, 0.25), 90),
    "resize 0.9": lambda picture: jpeg(resized(picture, 0.9), 90),
}


def cascade(text: str) -> tuple[Stage, ...]:
    """The stages of a cascade, with the noise of the shipped ones."""
    stages = []
    for part in text.replace(" ", "").split(","):
        windows, gate = part.removeprefix("Y").split("@")
        luma = part.startswith("Y")
        noise = (LUMA_STAGES if luma else STAGES)[0].noise
        stages.append(Stage(tuple(map(int, windows.split("+"))), float(gate), noise, luma))
    return tuple(stages)


def luma_of(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).convert("L"))


def pictures(folder: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in image_files(folder)]


def unmarked_pixels(folders: Sequence[Path]) -> list[Pixels]:
    """SIDE x SIDE px each; every second one as JPEG 80. Smaller pictures are enlarged."""
    found = []
    for index, picture in enumerate(picture for folder in folders for picture in pictures(folder)):
        scale = SIDE / min(picture.size)
        size = max(SIDE, round(picture.width * scale)), max(SIDE, round(picture.height * scale))
        square = picture.resize(size, Image.Resampling.LANCZOS).crop((0, 0, SIDE, SIDE))
        found.append(np.asarray(jpeg(square, 80) if index % 2 else square))
    return found


def log10_p(cosines: Rows, n_keys: int) -> Rows:
    """Corrected for four geometries and the keys."""
    return np.minimum(spherical_log10_p(cosines, DIMENSION) + math.log10(len(DIHEDRAL) * n_keys), 0.0)


def best_of_sets(rows: Rows, directions: NDArray[np.float32], n_keys: int) -> Rows:
    """(N, 4, D) unit rows and (K, D) -> (N, K / n_keys): the highest cosine in each set of n_keys keys."""
    found = [
        (four @ directions.T).max(axis=0).reshape(-1, n_keys).max(axis=1) for four in rows.astype(np.float32)
    ]
    return np.asarray(found, dtype=np.float64)


class Study:
    """Pictures, and what looks say of them, each look once."""

    def __init__(self, marked: Sequence[tuple[Path, Path]], unmarked: Sequence[Path]) -> None:
        self._marked = [
            (name, load_key(key).direction, np.asarray(attack(picture)))
            for key, folder in marked
            for picture in pictures(folder)
            for name, attack in ATTACKS.items()
        ]
        self.attacks = np.array([name for name, _, _ in self._marked])
        self.unmarked = unmarked_pixels(unmarked)
        self._drawn = unit_rows(np.random.default_rng(0).standard_normal((DRAWN, DIMENSION))).astype(
            np.float32
        )
        self._statistics: dict[object, Rows] = {}
        self._best: dict[object, Rows] = {}
        full = Stage((1 << 30, 1 << 30), 0.0, 0.0)
        self.full = self.statistic(full, lambda pixels: _all_features(pixels))

    def statistic(self, stage: Stage, features: Callable[[Pixels], Rows] | None = None) -> Rows:
        """Of each marked image with its own key, (N,)."""
        name = stage.most, stage.luma
        if name not in self._statistics:
            features = features or _features_of(stage)
            self._statistics[name] = np.array(
                [(unit_rows(features(pixels)) @ key).max() for _, key, pixels in self._marked]
            )
        return self._statistics[name]

    def unmarked_best(self, stage: Stage, n_keys: int) -> Rows:
        """Of each unmarked picture with the best of each set of keys, (N, sets)."""
        name = stage.most, stage.luma
        if name not in self._best:
            features = _features_of(stage)
            self._best[name] = np.stack([unit_rows(features(pixels)) for pixels in self.unmarked])
        return best_of_sets(self._best[name], self._drawn, n_keys)

    def row(self, text: str, n_keys: int) -> dict[str, Any]:
        """{"cascade", "keys", "shares": that go on after each stage, "lost": {attack: [lost, of found]}}."""
        found = log10_p(self.full, n_keys) <= math.log10(FPR)
        kept = np.ones(len(found), bool)
        # 100,000 keys are not drawn for each picture: what goes on of 1,000 at the same gate does instead.
        sets = min(n_keys, 1_000)
        onward: NDArray[np.bool_] | None = None
        shares = []
        for stage in cascade(text):
            passes = log10_p(self.statistic(stage), n_keys) <= math.log10(stage.gate)
            kept &= passes | (stage.luma & (self.attacks == PNG))
            # A corrected p-value ends at 1, and so a gate of 1 lets all go on.
            rate = stage.gate / (len(DIHEDRAL) * sets)
            least = -1.0 if stage.gate >= 1 else spherical_threshold(rate, DIMENSION)
            over = self.unmarked_best(stage, sets) >= least
            onward = over if onward is None else onward & over
            shares.append(float(onward.mean()))
        lost = {
            name: [
                int((found & ~kept & (self.attacks == name)).sum()),
                int((found & (self.attacks == name)).sum()),
            ]
            for name in ATTACKS
        }
        return {"cascade": text, "keys": n_keys, "shares": shares, "lost": lost}


def _features_of(stage: Stage) -> Callable[[Pixels], Rows]:
    look = Look(stage, "fast", load_default())
    return lambda pixels: look.family(luma_of(pixels) if stage.luma else pixels).features


def _all_features(pixels: Pixels) -> Rows:
    measured = spectrum(pixels)
    return np.stack([load_default().apply(measured.transformed(name)) for name in DIHEDRAL])


def drawn_keys(n: int) -> KeySet:
    space = detector_space()
    directions = np.random.default_rng(1).standard_normal((n, space.dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return KeySet.of(
        KeyEntry(
            PublicKey(
                np.rint(row * 2**20).astype(np.int32), 48, space.feature_version, space.statistics_sha256
            )
        )
        for row in directions
    )


def times(unmarked: Sequence[Pixels], texts: Sequence[str], n_keys: int) -> dict[str, Any]:
    """Milliseconds, means over the pictures: {"decode", "luma", "read", "detect", cascade..., "bytes"}.

    decode: by Pillow alone; luma: of luma alone.  read: as `detect` reads.  The others are of everything from
    the bytes to the verdict but for the SHA-256. The kinds of work take turns, so that what else the machine
    does meets all of them; of each and each picture the least of ROUNDS counts.
    """
    files = [jpeg_bytes(Image.fromarray(pixels), 90) for pixels in unmarked]
    keys = drawn_keys(n_keys)
    work: dict[str, Callable[[bytes], object]] = {
        "decode": lambda data: Image.open(io.BytesIO(data)).load(),
        "luma": lambda data: read_luma(data, ""),
        "read": lambda data: decode(data, "", both=True),
    }
    for text in ("", *texts):
        stages = cascade(text) if text else ()
        work[text or "detect"] = _scan(
            Screen(
                keys,
                luma_stages=tuple(stage for stage in stages if stage.luma),
                stages=tuple(stage for stage in stages if not stage.luma),
            )
        )
    taken: dict[str, list[float]] = {name: [] for name in work}
    for data in files:
        least = dict.fromkeys(work, math.inf)
        for _ in range(ROUNDS):
            for name, one in work.items():
                start = time.thread_time()
                one(data)
                least[name] = min(least[name], time.thread_time() - start)
        for name, seconds in least.items():
            taken[name].append(1e3 * seconds)
    means = {name: summary.fmean(values) for name, values in taken.items()}
    return means | {"bytes": summary.fmean(map(len, files))}


def _scan(screen: Screen) -> Callable[[bytes], object]:
    def one(data: bytes) -> object:
        return screen.rule_out(data) or screen.look(decode(data, "", both=True).pixels)

    return one


def table(rows: Sequence[dict[str, Any]], taken: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"Decoding by Pillow {taken['decode']:.2f} ms, luma alone {taken['luma']:.2f} ms, in full "
        f"{taken['read']:.2f} ms, `detect` {taken['detect']:.2f} ms; JPEGs of "
        f"{taken['bytes'] / 1000:.0f} KB.\n",
        "| cascade | keys | ms | of decoding | go on, % | " + " | ".join(f"lost: {name}" for name in ATTACKS),
        "|:---|---:|---:|---:|:---|" + "---:|" * len(ATTACKS),
    ]
    lines[1] += " |"
    for row in rows:
        shares = ", ".join(f"{100 * share:.1f}" for share in row["shares"])
        lost = " | ".join(f"{lost} of {found}" for lost, found in row["lost"].values())
        ms = f"{row['ms']:.2f} | {taken['decode'] / row['ms']:.2f}" if "ms" in row else "|"
        lines.append(f"| {row['cascade']} | {row['keys']:,} | {ms} | {shares} | {lost} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--marked", type=Path, nargs=2, action="append", required=True, metavar=("KEY", "FOLDER"),
        help="a key, and a folder of pictures that carry its mark; may be repeated",
    )  # fmt: skip
    parser.add_argument("--unmarked", type=Path, action="append", required=True, help="may be repeated")
    parser.add_argument("--cascade", action="append", help="may be repeated; several by default")
    parser.add_argument("--keys", type=int, nargs="+", default=list(KEYS))
    parser.add_argument("--timed-keys", type=int, default=1_000, help="keys for the times")
    parser.add_argument("--json", type=Path, help="write everything here")
    options = parser.parse_args()
    texts = options.cascade or list(CASCADES)
    study = Study([tuple(pair) for pair in options.marked], options.unmarked)
    taken = times(study.unmarked, texts, options.timed_keys)
    rows = []
    for n_keys in options.keys:
        for text in texts:
            row = study.row(text, n_keys)
            if n_keys == options.timed_keys:
                row["ms"] = taken[text]
            rows.append(row)
    if options.json:
        options.json.write_text(json.dumps({"times": taken, "rows": rows}, indent=2) + "\n")
    print(table(rows, taken))
    return 0


if __name__ == "__main__":
    sys.exit(main())
