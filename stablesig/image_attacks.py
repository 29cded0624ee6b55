"""What happens to a picture between the decoder and the detector: one function an operation, nothing undone.

Pictures are (H, W, 3) uint8 RGB. Everything is deterministic in the arguments; what is random is drawn from a
generator that `place` seeds. Codecs are Pillow's, real files in memory. The colour operations are Pillow's
ImageEnhance, which is what torchvision's adjust_brightness, adjust_contrast, adjust_saturation and
adjust_sharpness call for PIL images (torchvision/transforms/_functional_pil.py). `crop` and `jpeg` are those
that `stablesig embed` reports on. The strengths are data, in `image_suites`.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from stablesig_train.held_out import Pixels, crop, jpeg

NOISE_SIGMA = 12.0  # of 255
BLUR_SIGMA_PX = 1.0
PLATFORM_JPEG = 85  # quality at which `thumbnail` and `screenshot` are saved
SCREENSHOT_SHARE = 0.8  # of the area that is left of a screenshot
_TEXT, _TEXT_SIZE, _TEXT_TOP, _RED = "Lorem Ipsum", 0.15, 0.5, (255, 0, 0)


def to_pixels(values: NDArray[np.floating[Any]]) -> Pixels:
    """Rounded to whole grey levels and clipped to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def encoded(image: Pixels, format_: str, **options: Any) -> bytes:
    """A file of Pillow's; `options` go to Image.save."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format_, **options)
    return file.getvalue()


def decoded(file: bytes) -> Pixels:
    """The picture that a file shows."""
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


def through_file(image: Pixels, format_: str, **options: Any) -> Pixels:
    """The picture as it comes back from a file of Pillow's."""
    return decoded(encoded(image, format_, **options))


# --- geometry


def flip(image: Pixels) -> Pixels:
    """Mirrored left to right."""
    return np.ascontiguousarray(image[:, ::-1])


def quarter_turn(image: Pixels) -> Pixels:
    """Turned by 90 degrees counter-clockwise, without loss: sides change places."""
    return np.ascontiguousarray(np.rot90(image))


def rotate(image: Pixels, degrees: float, resample: Image.Resampling) -> Pixels:
    """Rotated counter-clockwise round its centre in a frame of the same size: black corners, lost corners."""
    return np.asarray(Image.fromarray(image).rotate(degrees, resample, expand=False))


def scale(image: Pixels, factor: float, resample: Image.Resampling) -> Pixels:
    """Both sides times `factor`, rounded down; Pillow's filters widen when they reduce (antialiasing)."""
    height, width = (max(1, int(side * factor)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), resample))


def centre_crop(image: Pixels, share: float) -> Pixels:
    """The middle `share` of the area, in the picture's own shape, sides rounded down.

    The corner is where torchvision's center_crop has it. The sides have no lower limit.
    """
    sides = image.shape[:2]
    tall, wide = (max(1, int(side * share**0.5)) for side in sides)
    top, left = round((sides[0] - tall) / 2), round((sides[1] - wide) / 2)
    return image[top : top + tall, left : left + wide]


def crop_side(image: Pixels, ratio: float, place: int) -> Pixels:
    """Both sides times `ratio`, rounded down, from a random corner, any pixel being as likely as another."""
    height, width = image.shape[:2]
    tall, wide = (max(1, int(side * ratio)) for side in (height, width))
    generator = np.random.default_rng(place)
    top, left = (int(generator.integers(0, room, endpoint=True)) for room in (height - tall, width - wide))
    return image[top : top + tall, left : left + wide]


def perspective(image: Pixels, distortion: float, place: int) -> Pixels:
    """Corners moved inwards by up to `distortion` of half a side each, at random; bilinear, black outside.

    The draw is that of torchvision's RandomPerspective: whole pixels, uniform, for each corner and direction.
    """
    height, width = image.shape[:2]
    generator = np.random.default_rng(place)
    most = (int(distortion * (width // 2)), int(distortion * (height // 2)))
    inwards = generator.integers(0, most, size=(4, 2), endpoint=True)
    corners = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)])
    moved = corners + inwards * np.where(corners == 0, 1, -1)
    # Pillow wants the map from the new picture to the old one: (ax + by + c, dx + ey + f) / (gx + hy + 1)
    rows, values = [], []
    for (x, y), (old_x, old_y) in zip(moved, corners, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -old_x * x, -old_x * y), (0, 0, 0, x, y, 1, -old_y * x, -old_y * y)]
        values += [old_x, old_y]
    coefficients = np.linalg.solve(np.array(rows, dtype=np.float64), np.array(values, dtype=np.float64))
    warped = Image.fromarray(image).transform(
        (width, height), Image.Transform.PERSPECTIVE, coefficients.tolist(), Image.Resampling.BILINEAR
    )
    return np.asarray(warped)


# --- colour


def brightness(image: Pixels, factor: float) -> Pixels:
    """Samples times `factor`, clipped at white."""
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(image)).enhance(factor))


def contrast(image: Pixels, factor: float) -> Pixels:
    """Distance from the picture's mean grey times `factor`, clipped at black and white."""
    return np.asarray(ImageEnhance.Contrast(Image.fromarray(image)).enhance(factor))


def saturation(image: Pixels, factor: float) -> Pixels:
    """Distance from each pixel's own grey (BT.601 luma) times `factor`, clipped; 0 leaves no colour."""
    return np.asarray(ImageEnhance.Color(Image.fromarray(image)).enhance(factor))


def sharpness(image: Pixels, factor: float) -> Pixels:
    """Distance from the picture smoothed by Pillow's 3 x 3 SMOOTH filter times `factor`, clipped."""
    return np.asarray(ImageEnhance.Sharpness(Image.fromarray(image)).enhance(factor))


def grey(image: Pixels) -> Pixels:
    """BT.601 luma in all three channels."""
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))


def hue(image: Pixels, turn: float) -> Pixels:
    """Hue of the HSV hexcone moved on by `turn` of a full turn; value and saturation stay.

    As torchvision's adjust_hue, whose factor is `turn`, but in floating point: no 8-bit HSV in between.
    """
    rgb = image.astype(np.float64)
    value = rgb.max(axis=2)
    chroma = value - rgb.min(axis=2)
    r, g, b = np.moveaxis(rgb, 2, 0)
    safe = np.where(chroma > 0, chroma, 1.0)
    sector = np.where(
        value == r, (g - b) / safe, np.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    )  # sixths of a turn from red; of no matter where there is no chroma
    channels = []
    for offset in (5, 3, 1):  # A. R. Smith's hexcone, written once for all three channels
        k = (offset + sector + 6 * turn) % 6
        channels.append(value - chroma * np.clip(np.minimum(k, 4 - k), 0, 1))
    return to_pixels(np.stack(channels, axis=2))


# --- noise, blur, overlay


def noise(image: Pixels, sigma: float, place: int) -> Pixels:
    """Independent Gaussian noise of `sigma` (of 255) on every sample, rounded and clipped."""
    return to_pixels(image + np.random.default_rng(place).normal(0.0, sigma, image.shape))


def blur(image: Pixels, sigma: float) -> Pixels:
    """Gaussian blur of `sigma` px, as Pillow approximates it by box blurs."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def gaussian_kernel(size: int, sigma: float) -> NDArray[np.float64]:
    """(size,) samples of a Gaussian of `sigma` px round their middle, of sum 1; size is odd."""
    offset = np.arange(size) - size // 2
    weights = np.exp(-0.5 * (offset / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def smoothed(values: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H, W, C) filtered along rows and columns by an odd kernel, mirrored at the edges."""
    reach = len(kernel) // 2
    for axis in (0, 1):
        length = values.shape[axis]
        padding = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(values, padding, mode="reflect")
        values = sum(
            (weight * padded.take(range(start, start + length), axis) for start, weight in enumerate(kernel)),
            np.zeros_like(values),
        )
    return values


def blur_kernel(image: Pixels, size: int) -> Pixels:
    """Gaussian blur by a `size` x `size` kernel, sigma = 0.15 size + 0.35 px.

    That is torchvision's gaussian_blur where no sigma is given, mirrored edges included.
    """
    return to_pixels(smoothed(image.astype(np.float64), gaussian_kernel(size, 0.15 * size + 0.35)))


def median(image: Pixels, size: int) -> Pixels:
    """The median of each channel over `size` x `size` px; edge pixels repeat outwards."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.MedianFilter(size)))


def overlay_text(image: Pixels) -> Pixels:
    """The words "Lorem Ipsum" in opaque red from the middle of the left edge, 0.15 of the shorter side high.

    Size, colour and place are the defaults of AugLy's overlay_text; the font is Pillow's own.
    """
    height, width = image.shape[:2]
    canvas = Image.fromarray(image)
    font = ImageFont.load_default(max(1.0, _TEXT_SIZE * min(height, width)))
    ImageDraw.Draw(canvas).text((0, _TEXT_TOP * height), _TEXT, fill=_RED, font=font)
    return np.asarray(canvas)


# --- several in a row


def crop_brighten_compress(image: Pixels, place: int) -> Pixels:
    """Half of the area from a place off the grid, brightness x2, JPEG 80."""
    return jpeg(brightness(crop(image, 0.5, place), 2.0), 80)


def thumbnail(image: Pixels, longest: int) -> Pixels:
    """Reduced (Lanczos) until the longer side is `longest` px, never enlarged, then JPEG PLATFORM_JPEG."""
    height, width = image.shape[:2]
    factor = longest / max(height, width)
    if factor < 1:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    return jpeg(image, PLATFORM_JPEG)


def screenshot(image: Pixels, factor: float, place: int) -> Pixels:
    """Shown at `factor` (bilinear), cut to SCREENSHOT_SHARE of the area off the grid, JPEG PLATFORM_JPEG."""
    shown = scale(image, factor, Image.Resampling.BILINEAR)
    return jpeg(crop(shown, SCREENSHOT_SHARE, place), PLATFORM_JPEG)
