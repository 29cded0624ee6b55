"""Look for the watermark of this repository's model in images.

    pip install stablesig
    python detect.py IMAGE...
    python detect.py --key KEY.pub.json IMAGE...      where the key is not published here

Needs NumPy, Pillow and safetensors, and neither PyTorch nor the model; of this repository also watermark.json
and the key. Exit code: 0 all detected, 1 some not, 2 an image or the key could not be read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

from stablesig_detector.detection import detect
from stablesig_detector.errors import StableSigError
from stablesig_detector.key import load_key

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Look for the watermark of this repository's model in images."
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--key", type=Path, default=HERE / "key.pub.json", help="the public key file")
    parser.add_argument("--search", default="fast", choices=["none", "fast", "full"])
    options = parser.parse_args()
    try:
        declared = json.loads((HERE / "watermark.json").read_bytes())["release"]
    except (OSError, ValueError, KeyError, TypeError):
        parser.error(f"{HERE / 'watermark.json'} is missing or damaged; download it from the same repository")
    if not options.key.is_file():
        parser.error(
            f"{options.key} is not there; ask the publisher for the key file, and give it with --key"
        )
    if hashlib.sha256(options.key.read_bytes()).hexdigest() != declared["key_commitment_sha256"]:
        parser.error(f"{options.key} is not the key that this model was published with")
    try:
        key = load_key(options.key)
    except StableSigError as error:
        parser.error(str(error))
    missed, failed = 0, False
    for image in options.images:
        try:
            found = detect(image, [key], search=options.search)[0]
        except StableSigError as error:
            print(error, file=sys.stderr)
            failed = True
            continue
        missed += not found.detected
        verdict = "detected" if found.detected else "not detected (which proves nothing)"
        print(f"{verdict}  p = 1e{found.log10_p_value:.1f}  {image}")
    return 2 if failed else 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
