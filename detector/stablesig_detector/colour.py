"""Colour profiles: what an image looks like in sRGB, the colour space of generated images.

A picture that was generated in sRGB and then saved in another colour space (a print shop's CMYK, a
telephone's Display P3) holds other numbers for the same colours; undoing that with the profile in the file
gives back the numbers of the picture as it was generated. Grey profiles only bend the tone curve and are left
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from PIL import Image

Conversion: TypeAlias = "Callable[[Image.Image], Image.Image]"

_MAX_PROFILE = 4 << 20  # bytes; the profiles of printers run to 3 MB
_SPACES = {"RGB": "RGB ", "RGBA": "RGB ", "P": "RGB ", "PA": "RGB ", "CMYK": "CMYK"}


def srgb_conversion(image: Image.Image) -> tuple[Conversion | None, str | None]:
    """How pixels of `image` become sRGB, by its profile, and a note about it; (None, None): they need not.

    The conversion takes an image or a strip of it, with its mode, and returns RGB or RGBA. A profile that is
    damaged, foreign to the mode, or larger than 4 MB is left aside, and the note says so. Never raises.
    """
    profile = image.info.get("icc_profile")
    if image.mode == "LAB":
        return _lab_conversion(), "colours converted from Lab to sRGB"
    if image.mode not in _SPACES or not isinstance(profile, bytes) or not profile:
        return None, None
    if _is_srgb(profile):
        return None, None
    if len(profile) > _MAX_PROFILE:
        return None, f"colour profile of {len(profile):,} bytes left aside"
    from io import BytesIO

    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if source.profile.xcolor_space != _SPACES[image.mode]:
            return None, f"colour profile left aside: it is not for {image.mode} samples"
        name = _printable(source.profile.profile_description)
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        into = "RGB" if image.mode == "CMYK" else "RGBA" if image.has_transparency_data else "RGB"
        mode = "CMYK" if image.mode == "CMYK" else into
        transform = ImageCms.buildTransform(
            source, target, mode, into, renderingIntent=ImageCms.Intent.PERCEPTUAL
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None, "damaged colour profile left aside"

    def convert(strip: Image.Image) -> Image.Image:
        return transform.apply(strip if strip.mode == mode else strip.convert(mode))

    return convert, f'colours converted from "{name}" to sRGB'


def _lab_conversion() -> Conversion:
    from PIL import ImageCms

    target = ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), target, "LAB", "RGB").apply


def _is_srgb(profile: bytes) -> bool:
    """Whether the profile calls itself sRGB, without starting the colour engine (ICC.1:2022, 7.3, 9.2.41)."""
    for entry in range(min(int.from_bytes(profile[128:132], "big"), 100)):
        tag = profile[132 + 12 * entry : 144 + 12 * entry]
        if tag[:4] == b"desc":
            start, size = int.from_bytes(tag[4:8], "big"), int.from_bytes(tag[8:12], "big")
            return b"sRGB" in profile[start : start + min(size, 512)].replace(b"\0", b"")
    return False


def _printable(text: str | None) -> str:
    return "".join(c for c in (text or "").strip() if c.isprintable() and c != '"')[:40] or "its profile"
