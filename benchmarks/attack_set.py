"""What happens to a picture between the decoder and the detector in these benchmarks.

They are attacks of the suite "targets" of `stablesig evaluate`, by their names there, and two beside them.
"""

from __future__ import annotations

from collections.abc import Callable

from stablesig.image_attacks import brightness, through_file
from stablesig.suites import IMAGE_SUITES
from stablesig.suites import NO_ATTACK as UNCHANGED
from stablesig.suites import available as runnable
from stablesig_train.held_out import Pixels, crop

__all__ = ["NO_ATTACK", "ORDER", "Attack", "Pixels", "available", "crop"]

Attack = Callable[[Pixels, int], Pixels]  # (picture, place) -> attacked; `place` seeds what is random

NO_ATTACK = "no attack"  # the suite calls it "none", which among targets that were missed reads as all met
_BESIDE: dict[str, Attack] = {
    "PNG": lambda image, _: through_file(image, "PNG"),
    "brightness x0.5": lambda image, _: brightness(image, 0.5),
}
ORDER = (
    NO_ATTACK,
    "PNG",
    "JPEG 80",
    "JPEG 50",
    "JPEG 30",
    "WebP 50",
    "AVIF 50",
    "crop 25 %",
    "crop 10 %",
    "brightness x0.5",
    "brightness x2",
    "contrast x2",
    "flip",
    "noise 12/255",
    "blur 1 px",
    "crop 50 % + brightness x2 + JPEG 80",
)


def available() -> tuple[dict[str, Attack], tuple[str, ...]]:
    """The attacks by name, in the order of the report, and the names that this Pillow has no codec for."""
    found, missing = runnable(IMAGE_SUITES["targets"])
    attacks = _BESIDE | {attack.name: attack.apply for attack in found}
    attacks[NO_ATTACK] = attacks.pop(UNCHANGED)
    left_out = tuple(name for name in ORDER if name in missing)
    return {name: attacks[name] for name in ORDER if name not in left_out}, left_out
