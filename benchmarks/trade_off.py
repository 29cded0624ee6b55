"""What a decibel costs: detection against PSNR for one watermarked decoder.

    python benchmarks/trade_off.py --original taef2:DIR --watermarked OUT/key-0/vae \
        --key OUT/key-0.pub.json --test KODAK

The change of the weights, watermarked less original, is scaled until the test images sit at each PSNR in
turn; nothing is trained anew. So the curve tells what one run gives for more or less fidelity.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from attack_set import NO_ATTACK, available

from stablesig.reconstruction import centre_crop
from stablesig_detector.detection import DEFAULT_FPR, detect
from stablesig_detector.errors import StableSigError
from stablesig_detector.image import as_uint8, load_image
from stablesig_detector.key import load_key
from stablesig_train.decoders import load_autoencoder
from stablesig_train.held_out import hold_psnr, mean_db, prepare, psnr_db
from stablesig_train.photographs import list_images

SIDE = 512  # px, of the centre crops
SHOWN = (NO_ATTACK, "JPEG 80", "JPEG 50", "crop 25 %", "crop 10 %", "noise 12/255")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--original", required=True, help="autoencoder before watermarking")
    parser.add_argument("--watermarked", required=True, help="the vae folder that `stablesig embed` wrote")
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True, help="folder of images of at least 512 px")
    parser.add_argument("--every", type=int, default=1, help="use every N-th test image")
    parser.add_argument("--psnr", type=float, nargs="+", default=[38, 39, 40, 41, 42, 44])
    options = parser.parse_args()
    try:
        key = load_key(options.key)
        original = load_autoencoder(options.original)
        attacks, _ = available()
        images = [
            np.ascontiguousarray(centre_crop(as_uint8(load_image(path)), SIDE))
            for path in list_images(options.test)[:: options.every]
        ]
        held_out = prepare(original, images)
        print(f"{len(held_out.originals)} images, key {key.id}, TPR at {DEFAULT_FPR:g} / median log10 p\n")
        print("| PSNR mean / worst | " + " | ".join(SHOWN) + " |\n" + "|---" * (len(SHOWN) + 1) + "|")
        for target in options.psnr:
            # loaded anew: the scaling works in place
            _, pictures = hold_psnr(load_autoencoder(options.watermarked), original, held_out, target)
            quality = [psnr_db(*pair) for pair in zip(pictures, held_out.originals, strict=True)]
            cells = [f"{mean_db(quality):.1f} / {min(quality):.1f} dB"]
            for name in SHOWN:
                found = [
                    detect(attacks[name](picture, index), [key])[0] for index, picture in enumerate(pictures)
                ]
                share = sum(one.detected for one in found) / len(found)
                cells.append(f"{share:.0%} / {np.median([one.log10_p_value for one in found]):.1f}")
            print("| " + " | ".join(cells) + " |", flush=True)
    except StableSigError as error:
        print(f"trade_off: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
