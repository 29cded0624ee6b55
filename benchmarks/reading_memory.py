"""Peak memory and time of reading, by format: the figures behind `_COST` and the bounds in `bounds`.

    python benchmarks/reading_memory.py                  # 16-megapixel files: bytes a pixel of each format
    python benchmarks/reading_memory.py --side 11000     # 121 megapixels: read, or why not

Each file is read in a process of its own, which reports how far its peak resident set rose above what Python,
NumPy and Pillow take. Prints one row a file: bytes a pixel (the file's own bytes left out, since the bound
counts them apart), peak of the whole process in MB, CPU seconds. Makes its files in a temporary folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MEASURE = """
import sys, time
import numpy, PIL.Image
from stablesig_detector.formats import FORMATS, register
from stablesig_detector.reading import read_image
[register(form) for form in FORMATS]
def peak():  # getrusage would tell the peak of the process that started this one, if that was higher
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
before = peak()
start = time.process_time()
try:
    image = read_image(sys.argv[1])
    said = "read"
except Exception as error:
    said = str(error).partition(": ")[2]
print(peak() - before, peak(), time.process_time() - start, said, sep="|")
"""
# name -> (suffix, mode, options for Pillow)
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "PNG RGB": ("png", "RGB", {"compress_level": 1}),
    "PNG RGBA": ("png", "RGBA", {"compress_level": 1}),
    "PNG palette, transparent": ("png", "P", {"compress_level": 1, "transparency": 0}),
    "PNG 16-bit grey": ("png", "I;16", {"compress_level": 1}),
    "JPEG 4:2:0": ("jpg", "RGB", {}),
    "JPEG 4:4:4": ("jpg", "RGB", {"subsampling": 0}),
    "JPEG progressive 4:2:0": ("jpg", "RGB", {"progressive": True}),
    "JPEG progressive 4:4:4": ("jpg", "RGB", {"progressive": True, "subsampling": 0}),
    "JPEG CMYK": ("jpg", "CMYK", {}),
    "JPEG progressive CMYK": ("jpg", "CMYK", {"progressive": True}),
    "WebP": ("webp", "RGB", {"method": 0}),
    "WebP lossless RGBA": ("webp", "RGBA", {"lossless": True, "quality": 0, "method": 0}),
    "AVIF 4:2:0": ("avif", "RGB", {"speed": 10}),
    "AVIF RGBA": ("avif", "RGBA", {"speed": 10}),
    "HEIC": ("heic", "RGB", {}),
    "GIF": ("gif", "P", {}),
    "GIF transparent": ("gif", "P", {"transparency": 0}),
    "TIFF": ("tif", "RGB", {}),
    "TIFF LZW": ("tif", "RGB", {"compression": "tiff_lzw"}),
    "TIFF deflate RGBA": ("tif", "RGBA", {"compression": "tiff_adobe_deflate"}),
    "TIFF one strip": ("tif", "RGB", {"compression": "tiff_adobe_deflate", "strip_size": 1 << 30}),
    "TIFF 16-bit grey": ("tif", "I;16", {}),
    "BMP": ("bmp", "RGB", {}),
    "PPM": ("ppm", "RGB", {}),
}


def picture(side: int, mode: str) -> Image.Image:
    """Smooth, with a little noise: nothing that only a blank image would make cheap."""
    y, x = np.mgrid[0:side, 0:side].astype(np.uint16)
    grey = ((x // 8 + y // 16) & 255).astype(np.uint8) ^ ((x * 7 + y * 13) & 3).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257)
    image = Image.fromarray(grey)
    if mode == "P":
        return image.convert("P")
    bands = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image, image][: len(mode)]
    return Image.merge(mode, bands)


def write(kind: str, side: int, folder: Path) -> Path:
    suffix, mode, options = KINDS[kind]
    if suffix == "heic":
        import pillow_heif

        pillow_heif.register_heif_opener()
    strip_size = options.get("strip_size")
    if strip_size:
        from PIL import TiffImagePlugin

        TiffImagePlugin.STRIP_SIZE = strip_size
    path = folder / f"image.{suffix}"
    picture(side, mode).save(path, **{key: value for key, value in options.items() if key != "strip_size"})
    return path


def measured(path: Path) -> tuple[int, int, float, str]:
    """(rise of the peak, bytes; peak, bytes; CPU seconds; "read" or why not)."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    rise, peak, seconds, said = run.stdout.strip().split("|", 3)
    return int(rise), int(peak), float(seconds), said


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=4000, help="px; the images are square")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    arguments = parser.parse_args()
    print(f"{'kind':28} {'megapixels':>10} {'file MB':>8} {'bytes/px':>8} {'peak MB':>8} {'CPU s':>6}")
    for kind in KINDS:
        if arguments.only.lower() not in kind.lower():
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = write(kind, arguments.side, Path(folder))
            except (OSError, ImportError, ValueError, KeyError) as error:
                print(f"{kind:28} cannot be written here: {error}")
                continue
            size, pixels = path.stat().st_size, arguments.side**2
            rise, peak, seconds, said = measured(path)
        row = f"{kind:28} {pixels / 1e6:10.1f} {size / 1e6:8.1f}"
        if said == "read":
            row += f" {(rise - size) / pixels:8.2f} {peak / 1e6:8.0f} {seconds:6.2f}"
        else:
            row += f"   {said}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
