"""Look for several publishers' keys in every image of a folder. Needs the base install only.

    python examples/verify_folder.py IMAGES KEY.pub.json [KEY.pub.json ...]

One line an image: its name, the lowest p-value (it pays for all keys and geometries tried), and the key that
was detected. "-" says that none was, which is no statement about the image's origin.
"""

from __future__ import annotations

import sys
from pathlib import Path

import stablesig
from stablesig_detector.errors import ImageError
from stablesig_detector.image import image_files
from stablesig_detector.key import load_key


def main(folder: str, key_files: list[str]) -> int:
    keys = [load_key(path) for path in key_files]
    name_of = {key.id: path for key, path in zip(keys, key_files, strict=True)}
    unreadable = 0
    for path in image_files(Path(folder)):
        try:
            found = stablesig.detect(path, keys)
        except ImageError as error:
            print(error, file=sys.stderr)
            unreadable += 1
            continue
        best = min(found, key=lambda one: one.log10_p_value)
        key = name_of[best.key_id] if best.detected else "-"
        print(f"{path.name}\t1e{best.log10_p_value:.1f}\t{key}")
    return 3 if unreadable else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
