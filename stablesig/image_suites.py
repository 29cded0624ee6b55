"""The suites of attacks on single pictures, as data: what `stablesig.suites.IMAGE_SUITES` holds.

Names of attacks are what reports print. Where an attack has the same name and strength as one that `stablesig
embed` reports on, it is that very function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from stablesig import image_attacks as op
from stablesig.suites import NO_ATTACK, ImageAttack, Suite
from stablesig_detector.spectrum import MIN_SIDE
from stablesig_train.held_out import ATTACKS as EMBED_ATTACKS
from stablesig_train.held_out import Pixels, crop, jpeg

_NEAREST, _BILINEAR, _BICUBIC = Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC

STABLE_SIGNATURE = (
    "Stable Signature (Fernandez et al., ICCV 2023, arXiv 2303.15435; facebookresearch/stable_signature, "
    "run_evals.py and utils_img.py)"
)
VIDEO_SEAL = (
    "Video Seal (Fernandez et al., 2024, arXiv 2412.09492; facebookresearch/videoseal, "
    "videoseal/augmentation, the validation set for images)"
)

Apply = Callable[[Pixels, int], Pixels]


def _always(operation: Callable[..., Pixels], *arguments: Any, **options: Any) -> Apply:
    """An attack that draws nothing at random: operation(image, *arguments, **options)."""
    return lambda image, _: operation(image, *arguments, **options)


def _placed(operation: Callable[..., Pixels], *arguments: Any) -> Apply:
    """An attack that draws at random: operation(image, *arguments, place)."""
    return lambda image, place: operation(image, *arguments, place)


def _unchanged() -> ImageAttack:
    return ImageAttack(NO_ATTACK, "the pictures as they are", EMBED_ATTACKS["none"])


def _webp(quality: int) -> ImageAttack:
    convention = f"quality {quality} of Pillow's lossy WebP encoder, its other settings left alone"
    apply = _always(op.through_file, "WEBP", quality=quality)
    return ImageAttack(f"WebP {quality}", convention, apply, codec="webp")


def _avif(quality: int) -> ImageAttack:
    # By default the encoder uses every core, and its pixels depend on how many there are.
    convention = f"quality {quality} of Pillow's AVIF encoder, one thread, its other settings left alone"
    apply = _always(op.through_file, "AVIF", quality=quality, max_threads=1)
    return ImageAttack(f"AVIF {quality}", convention, apply, codec="avif")


def _jpeg(quality: int) -> ImageAttack:
    name = f"JPEG {quality}"
    convention = f"quality {quality} of libjpeg through Pillow, baseline, chroma 4:2:0"
    return ImageAttack(name, convention, EMBED_ATTACKS.get(name) or _always(jpeg, quality))


def _targets() -> tuple[ImageAttack, ...]:
    sides = "both SIDES times {:g}, rounded down, bicubic, antialiased (Stable Signature names the area)"
    turned = (
        "{:g} degrees counter-clockwise in a frame of the same size, black corners, bicubic (legacy and "
        "video-seal have torchvision's nearest neighbour)"
    )
    corner = (
        "{:g} % of the area in the picture's own shape, but no side under the "
        f"{MIN_SIDE} px that the detector needs, random place off the grid of 8 px"
    )
    return (
        _unchanged(),
        *(_jpeg(quality) for quality in (80, 50, 30)),
        _webp(50),
        _avif(50),
        ImageAttack("crop 25 %", corner.format(25), EMBED_ATTACKS["crop 25 %"]),
        ImageAttack("crop 10 %", corner.format(10), _placed(crop, 0.1)),
        *(
            ImageAttack(
                f"resize side {factor:g}", sides.format(factor), _always(op.scale, factor, _BICUBIC), "full"
            )
            for factor in (0.7, 0.5, 1.5)
        ),
        *(
            ImageAttack(
                f"rotation {degrees}", turned.format(degrees), _always(op.rotate, degrees, _BICUBIC), "full"
            )
            for degrees in (5, 25)
        ),
        ImageAttack(
            "rotation 90",
            "a quarter turn counter-clockwise without loss, sides change places, as viewers turn a picture",
            _always(op.quarter_turn),
        ),
        ImageAttack("flip", "mirrored left to right", _always(op.flip)),
        ImageAttack(
            "brightness x2", "samples times 2, clipped (ImageEnhance.Brightness)", _always(op.brightness, 2.0)
        ),
        ImageAttack(
            "contrast x2",
            "distance from the mean grey times 2, clipped (ImageEnhance.Contrast)",
            _always(op.contrast, 2.0),
        ),
        ImageAttack("saturation 0", "no colour is left (ImageEnhance.Color 0)", _always(op.saturation, 0.0)),
        ImageAttack(
            "saturation x2",
            "distance from each pixel's grey times 2, clipped (ImageEnhance.Color)",
            _always(op.saturation, 2.0),
        ),
        ImageAttack(
            "hue +0.25",
            "HSV hue moved on by a quarter of a full turn, torchvision's hue_factor 0.25",
            _always(op.hue, 0.25),
        ),
        ImageAttack(
            "blur 1 px",
            "Gaussian of sigma 1 px, as Pillow approximates it",
            _always(op.blur, op.BLUR_SIGMA_PX),
        ),
        ImageAttack(
            "noise 12/255",
            "independent Gaussian noise of standard deviation 12 of 255 on every sample",
            _placed(op.noise, op.NOISE_SIGMA),
        ),
        ImageAttack(
            "sharpness x2",
            "distance from the smoothed picture times 2, clipped (ImageEnhance.Sharpness)",
            _always(op.sharpness, 2.0),
        ),
        ImageAttack(
            "crop 50 % + brightness x2 + JPEG 80",
            "half of the area from a random place off the grid, then brightness x2, then JPEG 80 (Stable "
            "Signature's code has brightness x1.5 and the centre: legacy)",
            op.crop_brighten_compress,
        ),
    )


def _combined(factor: float) -> Apply:
    return lambda image, _: jpeg(op.brightness(op.centre_crop(image, 0.5), factor), 80)


def _legacy() -> tuple[ImageAttack, ...]:
    middle = "centre crop that keeps {:g} of the AREA, sides times its square root, rounded down"
    area = (
        "AREA times {:g}: sides times its square root, rounded down, bilinear, antialiased as torchvision's "
        "default is since 0.17"
    )
    turned = (
        "{:g} degrees counter-clockwise, torchvision's rotate: nearest neighbour, same frame, corners filled "
        "(black here; run_evals.py rotates normalised tensors, so there with ImageNet's mean colour)"
    )
    factors = "torchvision's {} with factor {:g}, on PIL images ImageEnhance.{}"
    colours: tuple[tuple[str, Callable[..., Pixels], str, str], ...] = (
        ("brightness", op.brightness, "adjust_brightness", "Brightness"),
        ("contrast", op.contrast, "adjust_contrast", "Contrast"),
        ("saturation", op.saturation, "adjust_saturation", "Color"),
        ("sharpness", op.sharpness, "adjust_sharpness", "Sharpness"),
    )
    return (
        _unchanged(),
        *(
            ImageAttack(f"crop area {share:g}", middle.format(share), _always(op.centre_crop, share))
            for share in (0.5, 0.1)
        ),
        ImageAttack("rotation 25", turned.format(25), _always(op.rotate, 25, _NEAREST), "full"),
        ImageAttack("rotation 90", turned.format(90), _always(op.rotate, 90, _NEAREST)),
        *(_jpeg(quality) for quality in (80, 50)),
        *(
            ImageAttack(
                f"{name} x{factor:g}",
                factors.format(torchvision, factor, pillow),
                _always(operation, factor),
            )
            for name, operation, torchvision, pillow in colours
            for factor in (1.5, 2.0)
        ),
        *(
            ImageAttack(
                f"resize area {share:g}",
                area.format(share) + ('; run_evals.py calls it "resize_07"' if share == 0.5 else ""),
                _always(op.scale, share**0.5, _BILINEAR),
                "full",
            )
            for share in (0.7, 0.5, 0.3, 0.1)
        ),
        ImageAttack(
            "text overlay",
            "AugLy's overlay_text by its defaults: opaque red, 0.15 of the shorter side high, from the "
            'middle of the left edge; the words "Lorem Ipsum", in Pillow\'s own font',
            _always(op.overlay_text),
        ),
        ImageAttack(
            "combined, brightness x1.5",
            "centre crop to 0.5 of the area, brightness x1.5, JPEG 80, as run_evals.py has it",
            _combined(1.5),
        ),
        ImageAttack(
            "combined, brightness x2",
            "the same with brightness x2, the strength of this project's target",
            _combined(2.0),
        ),
    )


def _then_crop_and_darken(quality: int) -> Apply:
    return lambda image, place: op.brightness(op.crop_side(jpeg(image, quality), 0.71, place), 0.5)


def _video_seal() -> tuple[ImageAttack, ...]:
    return (
        _unchanged(),
        ImageAttack("flip", "mirrored left to right", _always(op.flip)),
        *(
            ImageAttack(
                f"rotation {degrees}",
                f"{degrees} degrees counter-clockwise, torchvision's rotate: nearest neighbour, same frame, "
                "black corners",
                _always(op.rotate, degrees, _NEAREST),
                "fast" if degrees == 90 else "full",
            )
            for degrees in (5, 10, 30, 45, 90)
        ),
        *(
            ImageAttack(
                f"resize side {ratio:g}",
                f"both SIDES times {ratio:g} ({ratio**2:.2g} of the area), bilinear, antialiased",
                _always(op.scale, ratio, _BILINEAR),
                "full",
            )
            for ratio in (0.71, 0.55, 0.32)
        ),
        *(
            ImageAttack(
                f"crop side {ratio:g}",
                f"both SIDES times {ratio:g} ({ratio**2:.2g} of the area), random place",
                _placed(op.crop_side, ratio),
            )
            for ratio in (0.71, 0.55, 0.32)
        ),
        *(
            ImageAttack(
                f"perspective {distortion:g}",
                f"torchvision's distortion_scale {distortion:g}: each corner moves inwards by up to that "
                "part of half a side, at random; bilinear, black outside; no search undoes all of it",
                _placed(op.perspective, distortion),
                "full",
            )
            for distortion in (0.1, 0.3, 0.5, 0.8)
        ),
        *(
            ImageAttack(f"{name} x{factor:g}", f"torchvision's adjust_{name}, factor {factor:g}", attack)
            for name, operation in (("brightness", op.brightness), ("contrast", op.contrast))
            for factor in (0.1, 0.25, 0.5, 1.5, 2.0)
            for attack in (_always(operation, factor),)
        ),
        *(
            ImageAttack(
                f"hue {turn:+g}",
                f"torchvision's adjust_hue, hue_factor {turn:+g}: HSV hue moved by that part of a full turn",
                _always(op.hue, turn),
            )
            for turn in (-0.4, -0.2, 0.2, 0.5)
        ),
        ImageAttack("grey", "BT.601 luma in all channels", _always(op.grey)),
        *(_jpeg(quality) for quality in (40, 50, 60, 70, 80, 90)),
        *(
            ImageAttack(
                f"blur kernel {size}",
                f"torchvision's gaussian_blur, kernel_size {size}: {size} x {size} px, sigma 0.15 x {size} + "
                f"0.35 = {0.15 * size + 0.35:.2f} px",
                _always(op.blur_kernel, size),
            )
            for size in (3, 5, 9, 13, 17)
        ),
        *(
            ImageAttack(
                f"median {size}",
                f"the median of each channel over {size} x {size} px, kernel_size {size}",
                _always(op.median, size),
            )
            for size in (3, 5, 9, 13, 17)
        ),
        *(
            ImageAttack(
                f"JPEG {quality} + crop side 0.71 + brightness x0.5",
                f"in this order: JPEG {quality}, both sides times 0.71 from a random place, brightness x0.5",
                _then_crop_and_darken(quality),
            )
            for quality in (80, 60, 40)
        ),
    )


def _twice(first: Apply, second: Apply) -> Apply:
    return lambda image, place: second(first(image, place), place)


def _off_grid(image: Pixels, _: int) -> Pixels:
    """Four rows and columns cut off, so that a second JPEG's blocks straddle those of the first."""
    return image[4:, 4:]


def _codecs() -> tuple[ImageAttack, ...]:
    again = "JPEG {} and then {} of what comes back"
    return (
        *(_jpeg(quality) for quality in (95, 90, 80, 70, 60, 50, 40, 30, 20, 10)),
        *(
            ImageAttack(
                f"JPEG {quality} 4:4:4",
                f"quality {quality}, baseline, chroma at full resolution",
                _always(op.through_file, "JPEG", quality=quality, subsampling="4:4:4"),
            )
            for quality in (80, 50, 30)
        ),
        *(
            ImageAttack(
                f"JPEG {quality} progressive",
                f"quality {quality}, progressive, chroma 4:2:0: other coding of the same coefficients",
                _always(op.through_file, "JPEG", quality=quality, progressive=True),
            )
            for quality in (80, 50)
        ),
        *(_webp(quality) for quality in (80, 50, 20)),
        *(_avif(quality) for quality in (80, 50, 20)),
        ImageAttack(
            "JPEG 90, JPEG 50", again.format(90, "JPEG 50"), _twice(_jpeg(90).apply, _jpeg(50).apply)
        ),
        ImageAttack(
            "JPEG 75 twice, off the grid",
            "JPEG 75, four rows and columns cut off, JPEG 75 again: the second grid straddles the first",
            _twice(_twice(_jpeg(75).apply, _off_grid), _jpeg(75).apply),
        ),
        ImageAttack(
            "JPEG 80, WebP 50",
            again.format(80, "WebP 50"),
            _twice(_jpeg(80).apply, _webp(50).apply),
            codec="webp",
        ),
        ImageAttack(
            "WebP 80, JPEG 70",
            "WebP 80 and then JPEG 70 of what comes back",
            _twice(_webp(80).apply, _jpeg(70).apply),
            codec="webp",
        ),
    )


def _platform() -> tuple[ImageAttack, ...]:
    return (
        *(
            ImageAttack(
                f"thumbnail {longest}",
                f"the longer side reduced to {longest} px (Lanczos), never enlarged, then JPEG "
                f"{op.PLATFORM_JPEG}: of a picture of up to {longest} px, that JPEG only",
                _always(op.thumbnail, longest),
                "full",
            )
            for longest in (1080, 640, 320)
        ),
        *(
            ImageAttack(
                f"screenshot x{factor:g}",
                f"both sides times {factor:g} (bilinear), {100 * op.SCREENSHOT_SHARE:g} % of the area from a "
                f"random place off the grid, JPEG {op.PLATFORM_JPEG}",
                _placed(op.screenshot, factor),
                "full",
            )
            for factor in (0.8, 0.9, 1.1, 1.25)
        ),
    )


IMAGE_SUITES: dict[str, Suite[ImageAttack]] = {
    suite.name: suite
    for suite in (
        Suite(
            "targets",
            "the attacks that this project sets itself targets for",
            "this project's table of targets; operations as in Stable Signature unless said otherwise",
            _targets(),
        ),
        Suite("legacy", "Stable Signature's own attacks", STABLE_SIGNATURE, _legacy()),
        Suite(
            "video-seal",
            "the attacks of the Video Seal evaluation on images but its median filter, at some of its "
            "strengths, and grey",
            VIDEO_SEAL,
            _video_seal(),
        ),
        Suite(
            "codecs",
            "image codecs over their range, chroma subsampling, progressive files and two generations",
            "Pillow's encoders; quality is each encoder's own scale",
            _codecs(),
        ),
        Suite(
            "platform",
            "what sites and screens do to a picture: thumbnails, and screenshots of it shown at another size",
            "this project's own choice of settings",
            _platform(),
        ),
    )
}
