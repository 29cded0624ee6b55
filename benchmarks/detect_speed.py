"""What a detection costs on one core, as ratios taken in one run: other work on the machine cancels out.

    python benchmarks/detect_speed.py                       # a drawn texture, about two minutes
    python benchmarks/detect_speed.py --image photo.png --repeats 40

Yardsticks: Pillow's decoding of the same JPEG file, and, where PyTorch is installed, the extractor that
Stable Signature fine-tunes against, with random weights (HiDDeN: eight 3 x 3 convolutions of 64 channels at
full size, one to 48 channels, pooling, a linear layer). Time is the processor's, so that a busy machine shows
less; all candidates take turns, and the least of each is kept. No key file is read and no process started,
but for the last rows.
"""

from __future__ import annotations

import os

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
os.environ.update(ONE_THREAD)  # libraries read it when they are loaded

import argparse  # noqa: E402
import io  # noqa: E402
import math  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from stablesig_detector.carriers import DIRECTION_SCALE  # noqa: E402
from stablesig_detector.detection import detect  # noqa: E402
from stablesig_detector.image import load_image  # noqa: E402
from stablesig_detector.key import PublicKey  # noqa: E402
from stablesig_detector.spectrum import DIMENSION, FEATURE_VERSION, spectrum  # noqa: E402
from stablesig_detector.whitening import load_default  # noqa: E402

SIDES = (256, 512, 1024)  # px
LARGE = (6000, 4000)  # px: 24 megapixels
QUALITY = 90  # of the JPEG files, 4:2:0 as Pillow writes them
BITS = 48
# Not getrusage on Linux: its peak begins with that of the process which started this one.
PRINT_PEAK = """
from pathlib import Path
import resource, sys
status = Path("/proc/self/status")
if status.exists():
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    print(int(line.split()[1]) * 1024)
else:
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""
Task = Callable[[], object]

# What the targets of issue 4 are; a ratio beyond them is shown, and fails nothing.
TARGET_EXTRACTOR, TARGET_JPEG, TARGET_LARGE_S, TARGET_IMPORT_S = 300, 2.0, 0.5, 0.25


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, help="picture to measure; without it a texture is drawn")
    parser.add_argument("--repeats", type=int, default=25, help="turns of which the fastest counts")
    parser.add_argument("--no-extractor", action="store_true", help="leave the convolutions out")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    picture = drawn() if options.image is None else Image.fromarray(load_image(options.image))
    key = drawn_key()
    print("| what | px | time | against | ratio | target |\n|---|---|---|---|---|---|")
    for row in rows(picture, key, options.repeats, extractor=not options.no_extractor):
        print("| " + " | ".join(row) + " |", flush=True)
    return 0


def rows(
    picture: Image.Image, key: PublicKey, repeats: int, *, extractor: bool = True
) -> Iterator[tuple[str, ...]]:
    """The rows of the table, each measured as it is asked for."""
    for side in SIDES:
        yield from _small_image(picture, side, key, repeats, extractor=extractor and side == 512)
    data = jpeg(picture, *LARGE)
    turns = max(1, repeats // 5)
    decoding, whole = fastest([lambda: decoded(data), lambda: detect(data, [key])], turns)
    size = f"{LARGE[0]} x {LARGE[1]}"
    yield _row("whole detection", size, whole, "decoding", f"{whole / decoding:.2f}", f"{TARGET_LARGE_S} s")
    empty, imported = fastest([lambda: run("pass"), lambda: run("import stablesig_detector")], turns)
    yield _row("import stablesig_detector", "", imported - empty, "", "", f"{TARGET_IMPORT_S} s")
    for name, file in (("512 x 512", jpeg(picture, 512, 512)), (size, data)):
        yield "peak memory of a process", name, f"{peak_memory(file, key) / 2**20:.0f} MiB", "", "", ""


def _small_image(
    picture: Image.Image, side: int, key: PublicKey, repeats: int, *, extractor: bool
) -> Iterator[tuple[str, ...]]:
    data = jpeg(picture, side, side)
    pixels = load_image(data)
    tasks: list[Task] = [lambda: decoded(data), lambda: spectrum(pixels), lambda: detect(data, [key])]
    decoding, features, whole = fastest(tasks, repeats)
    yield _row("Pillow decodes JPEG", str(side), decoding, "", "1", "")
    yield _row("features", str(side), features, "decoding", f"{features / decoding:.2f}", "")
    target = f"at most {TARGET_JPEG:g}"
    yield _row("whole detection", str(side), whole, "decoding", f"{whole / decoding:.2f}", target)
    if extractor:
        network = extractor_task(pixels)
        if network is None:
            yield "HiDDeN extractor", str(side), "PyTorch is not installed", "", "", ""
            return
        convolutions, features = fastest([network, lambda: spectrum(pixels)], max(3, repeats // 5))
        yield _row(
            "HiDDeN extractor",
            str(side),
            convolutions,
            "features",
            f"{convolutions / features:.0f}",
            f"at least {TARGET_EXTRACTOR}",
        )


def _row(what: str, size: str, seconds: float, against: str, ratio: str, target: str) -> tuple[str, ...]:
    return what, size, f"{seconds * 1e3:.2f} ms", against, ratio, target


def fastest(tasks: Sequence[Task], repeats: int) -> list[float]:
    """The least time of each task, s; they take turns, so that all see the same machine."""
    least = [math.inf] * len(tasks)
    for turn in range(repeats + 1):
        for place, task in enumerate(tasks):
            start = processor_time()
            task()
            if turn:  # the first fills caches
                least[place] = min(least[place], processor_time() - start)
    return least


def processor_time() -> float:
    """What this process and its finished children have used, s."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows: then without children
        return time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def drawn(side: int = 1024) -> Image.Image:
    """A texture whose amplitude falls with frequency about as in photographs."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) + 1 / side
    waves = np.fft.rfft2(rng.normal(size=(side, side))) / frequency**1.3
    luma = np.fft.irfft2(waves, s=(side, side))
    colours = np.array([1.0, 0.9, 0.7])
    pixels = 128 + 45 * luma[..., None] / luma.std() * colours
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def drawn_key() -> PublicKey:
    """A public key for this detector, of no use to anybody."""
    direction = np.random.default_rng(0).normal(size=DIMENSION)
    quantised = np.rint(direction / np.linalg.norm(direction) * DIRECTION_SCALE).astype(np.int32)
    return PublicKey(quantised, BITS, FEATURE_VERSION, load_default().sha256)


def jpeg(picture: Image.Image, width: int, height: int) -> bytes:
    """A JPEG file of width x height px: tiles of the picture, mirrored so that no edge shows."""
    pixels = np.asarray(picture)
    pixels = np.concatenate([pixels, pixels[::-1]])
    pixels = np.concatenate([pixels, pixels[:, ::-1]], axis=1)
    times = (-(-height // pixels.shape[0]), -(-width // pixels.shape[1]), 1)
    file = io.BytesIO()
    Image.fromarray(np.tile(pixels, times)[:height, :width]).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def decoded(data: bytes) -> object:
    """Pillow's decoding, and nothing else."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def extractor_task(pixels: np.ndarray) -> Task | None:
    """A forward pass of the yardstick; None without PyTorch."""
    try:
        import torch
        from torch import nn
    except ModuleNotFoundError:
        return None
    torch.set_num_threads(1)
    layers: list[nn.Module] = []
    for channels in (3, *(7 * [64])):
        layers += [nn.Conv2d(channels, 64, 3, padding=1), nn.BatchNorm2d(64), nn.GELU()]
    layers += [nn.Conv2d(64, BITS, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(BITS, BITS)).eval()
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255

    def run_network() -> object:
        with torch.inference_mode():
            return network(image)

    return run_network


def run(code: str) -> None:
    """A process of its own."""
    subprocess.run([sys.executable, "-c", code], check=True)


def peak_memory(data: bytes, key: PublicKey) -> int:
    """Peak resident memory of a process that detects one file, bytes. Linux and macOS."""
    with tempfile.TemporaryDirectory() as folder:
        image, key_file = Path(folder, "image.jpg"), Path(folder, "k.pub.json")
        image.write_bytes(data)
        key.save(key_file)
        code = (
            "from stablesig_detector import detect, load_key\n"
            f"detect({str(image)!r}, [load_key({str(key_file)!r})])\n" + PRINT_PEAK
        )
        found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(found.stdout)


if __name__ == "__main__":
    sys.exit(main())
