"""The words and numbers in which detections are told, on the terminal, in JSON and in pictures alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stablesig_detector.detection import Detection

DETECTED, NOT_DETECTED, UNREADABLE = "detected", "not detected", "unreadable"
VERDICTS = {True: DETECTED, False: NOT_DETECTED}
ABSENCE = (
    "A watermark that is not detected proves nothing: the image may come from another model, or the "
    "watermark may have been removed."
)
_THOUSANDS = ((15, "million billion"), (12, "trillion"), (9, "billion"), (6, "million"))


def exit_code(verdicts: Iterable[str]) -> int:
    """3 if an image is unreadable (or there is none), else 1 if one is not detected, else 0."""
    found = set(verdicts)
    return 3 if UNREADABLE in found or not found else 1 if NOT_DETECTED in found else 0


def format_p(log10_p: float) -> str:
    """A probability from its log10, to two digits, however small: -2000.5 -> 3.2e-2001."""
    if log10_p > -3:
        return f"{10.0**log10_p:.2g}"
    exponent = int(log10_p // 1)
    mantissa = f"{10.0 ** (log10_p - exponent):.1f}"
    return f"1.0e{exponent + 1:03d}" if mantissa == "10.0" else f"{mantissa}e{exponent:03d}"


def one_in(log10_p: float, n_keys: int = 1) -> str:
    """A p-value as a share of images, in words: -9.6 -> one in 3.9 billion images made without this key ...

    Rounded towards the larger share, so that the words never claim more than the number.
    """
    return (
        f"{_share(log10_p)} made without {'this key' if n_keys == 1 else 'these keys'} would score this high"
    )


def _share(log10_p: float) -> str:
    if log10_p > math.log10(0.5):
        return "up to all of the images"  # a bound: at 0.6 over 4 geometries, each of them has 0.15
    if log10_p > -1:
        return f"up to {math.ceil(10 * 10.0**log10_p - 1e-9)} in 10 images"
    return f"one in {_large_number(-log10_p)} images"


def _large_number(log10: float) -> str:
    """10^log10, at least 10, rounded down to two digits: 4.2 billion, 17,000, 3.9 x 10^22."""
    exponent = math.floor(log10 + 1e-9)
    digits = max(10, math.floor(10.0 ** (log10 - exponent + 1) + 1e-6))  # 10..99
    if exponent < 6:
        return f"{digits * 10 ** (exponent - 1):,}"
    if exponent >= 18:
        return f"{digits / 10:g} x 10^{exponent} (a number of {exponent + 1} digits)"
    power, name = next((power, name) for power, name in _THOUSANDS if exponent >= power)
    return f"{digits * 10 ** (exponent - power) / 10:,g} {name}"


def count(number: int, one: str, many: str) -> str:
    """1 key, 2 keys, 100,000 keys."""
    return f"{number:,} {one if number == 1 else many}"


def price(found: Detection) -> str:
    """What a p-value pays for: 4 geometries and 1 key."""
    geometries = count(found.hypotheses, "geometry", "geometries")
    return f"{geometries} and {count(found.n_keys, 'key', 'keys')}"


def searched_scales(found: Detection) -> bool:
    """Whether scales and rotations were among the geometries tried."""
    from stablesig_detector.search import DIHEDRAL

    return found.scale != 1.0 or found.hypotheses > 2 * len(DIHEDRAL)  # twice: over white and over black


def needed_statistic(found: Detection) -> float:
    """The statistic that this key had to reach in the geometry that fits it best; above 1 if none can."""
    from stablesig_detector.errors import StatisticsError
    from stablesig_detector.statistics import spherical_threshold

    try:
        return spherical_threshold(found.fpr / (found.hypothesis_factor * found.n_keys), found.dimension)
    except StatisticsError:  # so many hypotheses that no cosine pays for them
        return math.inf


def geometry_words(found: Detection) -> str:
    """How the image was changed after it was decoded, as far as the search can tell."""
    turned = {
        "identity": [],
        "flip": ["mirrored"],
        "rot90": ["turned by a quarter"],
        "rot90flip": ["mirrored", "turned by a quarter"],
    }[found.transform]
    if not searched_scales(found):
        return " and ".join(turned) or "not mirrored, not turned by a quarter"
    words = ["mirrored"] if found.transform.endswith("flip") else []
    words.append(f"scale {found.scale:.2f}")
    words.append(f"rotation {found.rotation:+.0f} degrees" if found.rotation else "not rotated")
    return ", ".join(words)
