"""A watermarked folder is a diffusers folder: load it as any other, decode, and verify the picture.

    python examples/decode_with_diffusers.py WATERMARKED/vae KEY.pub.json PHOTO OUT.png

With a whole pipeline it is the same line: `StableDiffusionPipeline.from_pretrained(MODEL, vae=vae)`. Here the
latents come from a photograph instead of a text, so that no large model is needed. Needs the train extra.
"""

from __future__ import annotations

import sys

import diffusers
import numpy as np
import torch
from PIL import Image

import stablesig
from stablesig_detector.key import load_key

STRIDE = 8  # the sides of the picture must be multiples of it


def main(vae_folder: str, key_file: str, photo: str, out: str) -> int:
    vae = diffusers.AutoModel.from_pretrained(vae_folder).eval()
    picture = Image.open(photo).convert("RGB")
    width, height = (side - side % STRIDE for side in picture.size)
    pixels = np.asarray(picture.crop((0, 0, width, height)))
    batch = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1  # (1, 3, H, W) in [-1, 1]
    with torch.inference_mode():
        code = vae.encode(batch)
        latents = code.latents if hasattr(code, "latents") else code.latent_dist.mode()
        decoded = vae.decode(latents).sample[0]
    decoded_pixels = (decoded.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    Image.fromarray(decoded_pixels.permute(1, 2, 0).numpy()).save(out)
    found = stablesig.detect(out, [load_key(key_file)])[0]
    print(f"{'detected' if found.detected else 'not detected'}  p = 1e{found.log10_p_value:.1f}")
    return 0 if found.detected else 1


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
