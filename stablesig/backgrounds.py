"""A picture with transparent parts was watermarked over some background, which the file does not tell.

Both white and black are tried, and the better one counts at twice its p-value (Bonferroni): in `stablesig
detect` and in scans alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from stablesig_detector.statistics import bonferroni_log10

if TYPE_CHECKING:
    from stablesig_detector.decoding import ImageArray
    from stablesig_detector.detection import Detection

    Look: TypeAlias = Callable[[ImageArray], Sequence[Detection]]

WHITE, BLACK = "white", "black"


def look_over_both(
    pixels: ImageArray, over_black: ImageArray | None, look: Look, *, only_best: bool
) -> tuple[str | None, ImageArray, Sequence[Detection]]:
    """What the transparent parts lay over, those pixels, and the evidence in them.

    pixels, over_black: (H, W, 3) over white and over black, as in `LoadedImage`; over_black None: opaque, and
    the background is then None. look: finds the evidence in either. only_best: whether it reports only the
    strongest key and those detected; so does what is returned.
    """
    if over_black is None:
        return None, pixels, look(pixels)
    white, black = (_paid_twice(look(side)) for side in (pixels, over_black))
    strength = [min(found.log10_p_value for found in side) for side in (white, black)]
    chosen = BLACK if strength[1] < strength[0] else WHITE
    first, second = (black, white) if chosen == BLACK else (white, black)
    others = {found.key_id: found for found in second}
    # Key by key the better background: with several keys it need not be the same.
    together = [
        min(found, others.pop(found.key_id, found), key=lambda one: one.log10_p_value) for found in first
    ]
    together += others.values()
    if only_best:  # what was detected before it was paid for twice is not there to stay
        strongest = min(together, key=lambda one: one.log10_p_value)
        together = [found for found in together if found.detected or found is strongest]
    return chosen, over_black if chosen == BLACK else pixels, together


def _paid_twice(found: Sequence[Detection]) -> list[Detection]:
    return [
        replace(
            one,
            log10_p_value=bonferroni_log10(one.log10_p_value, 2),
            hypotheses=2 * one.hypotheses,
            hypothesis_factor=2 * one.hypothesis_factor,
        )
        for one in found
    ]
