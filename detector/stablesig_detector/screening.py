"""A quick look first: most unmarked images are ruled out by a part of their windows.

`Screen` measures an image in stages, each of more windows than the one before; the last is what `detect`
does. A stage whose corrected p-value is above its gate ends the look: the image is not detected, and the
evidence is that of this stage. What is measured of an image, and the gates, are fixed before any key is seen,
so that what is reported is a p-value as exact as that of `detect`. For let p_k be that of stage k, g_k its
gate, and p what is reported; the last stage has the gate 0. For any level a let k be the first stage with
g_k <= a. No stage before it reports a p-value as low as a, as it would be above that stage's gate. If k does,
p_k <= a; if a later one does, k has let the image through, and p_k <= g_k <= a. So

    P(p <= a)  <=  P(p_k <= a)  <=  a.

Only the last stage detects (no gate is below the false positive rate), so what a screened look detects,
`detect` detects too, with the same numbers. docs/scale.md says what the screen loses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .detection import DEFAULT_FPR, Detection, check_key, check_request, detect, weigh_one
from .errors import UsageError
from .luma import read_luma
from .matching import highest
from .sampled_spectrum import LUMA_DIMENSION, sampled_spectrum, windows
from .search import TRANSFORMS, Family, Geometry
from .spectrum import DIMENSION, FEATURE_VERSION, MIN_SIDE, permutation
from .statistics import unit_rows

if TYPE_CHECKING:
    from .decoding import ImageArray
    from .key_entry import Key
    from .key_set import KeySet
    from .whitening import Whitening


@dataclass(frozen=True)
class Stage:
    """One look at a part of the windows.

    most: windows measured at most, for each octave (`sampled_spectrum`); never more than half of them.
    gate: the corrected p-value above which an image is ruled out, 0..1. At most this share of unmarked images
    goes on to the next stage.  noise: variance that measuring only a part adds to a feature, natural
    logarithm squared, about.  luma: luma alone is measured.
    """

    most: tuple[int, ...]
    gate: float
    noise: float
    luma: bool = False


# Chosen with benchmarks/screening.py; docs/scale.md has the table.
LUMA_STAGES = (Stage((324, 324), 0.05, 4e-4, luma=True),)
STAGES = (Stage((576, 324), 0.05, 4e-4),)
_KNOWN_KEYS = 1 << 14


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a screened look came to.

    detections: as `detect(..., best=1)` gives them: the strongest key, and any further key that is detected
    screened: a part of the windows ruled the image out, and the evidence is that of this part
    """

    detections: list[Detection]
    screened: bool


class Screen:
    """Looks for many keys in many images, and leaves off early where it can.

    keys: at least one, all for this detector (`KeySet.for_detector`).  fpr: as for `detect`.  search: "none"
    or "fast"; the hypotheses of "full" need more than is measured here.  luma_stages, stages: what is looked
    at in turn, before everything is measured.  whitening: statistics other than those shipped.

    Raises UsageError for a request that cannot be answered, KeyFileError for keys drawn for other features.
    """

    def __init__(
        self,
        keys: KeySet,
        fpr: float = DEFAULT_FPR,
        search: str = "fast",
        *,
        luma_stages: tuple[Stage, ...] = LUMA_STAGES,
        stages: tuple[Stage, ...] = STAGES,
        whitening: Whitening | None = None,
    ) -> None:
        check_request(keys, fpr, search)
        if search not in TRANSFORMS:
            raise UsageError(f'a screen is for the searches "none" and "fast"; got {search!r}; leave it off')
        if whitening is None:
            from .whitening import load_default

            whitening = load_default()
        for block in keys.blocks:
            check_key(block.entries[0].key, FEATURE_VERSION, DIMENSION, whitening.sha256)
        self._keys, self._fpr, self._search, self._whitening = keys, fpr, search, whitening
        self._luma_looks = [Look(stage, search, whitening) for stage in luma_stages]
        self._looks = [Look(stage, search, whitening) for stage in stages]
        self._known: dict[int, Key] = {}  # to make an entry of a packed registry takes longer than to use it

    def rule_out(self, data: bytes, name: str = "image") -> Detection | None:
        """Look at the luma of a JPEG file, which is read faster than its colours.

        The evidence for the strongest key if it rules the image out. Else None, also for other formats and
        for what `luma.read_luma` leaves alone: read the file and `look` at its pixels. Raises no ImageError.
        """
        luma = read_luma(data, name)
        if luma is None or min(luma.shape) < MIN_SIDE:
            return None
        return self._first(self._luma_looks, luma)

    def look(self, pixels: ImageArray) -> Verdict:
        """Look for every key in an image, (H, W, 3) RGB in 0..255. Raises ImageError if it is too small."""
        if (found := self._first(self._looks, pixels)) is not None:
            return Verdict([found], True)
        return Verdict(detect(pixels, self._keys, self._fpr, self._search, self._whitening, best=1), False)

    def _first(self, looks: Sequence[Look], pixels: ImageArray | NDArray[np.uint8]) -> Detection | None:
        """The evidence for the strongest key, of the first look that rules the image out."""
        height, width = pixels.shape[:2]
        for look in looks:
            found = self._strongest(look.family(pixels), height, width)
            # No gate below the false positive rate: what that asks for is left to the last stage.
            if found.log10_p_value > math.log10(max(look.stage.gate, self._fpr)):
                return found
        return None

    def _strongest(self, family: Family, height: int, width: int) -> Detection:
        """The evidence for the key with the lowest p-value, which pays for all."""
        rows, n_keys = unit_rows(family.features), len(self._keys)
        keys = [self._key(place) for place in highest(rows, self._keys.blocks, 1)]
        cosines = [rows @ key.direction for key in keys]  # exact; mostly of one key
        best = max(range(len(keys)), key=lambda place: float(cosines[place].max()))
        return weigh_one(
            keys[best], family, cosines[best], self._fpr, n_keys=n_keys, width=width, height=height
        )

    def _key(self, place: int) -> Key:
        key = self._known.get(place)
        if key is None:
            if len(self._known) >= _KNOWN_KEYS:
                self._known.clear()
            key = self._known[place] = self._keys.entries[place].key
        return key


class Look:
    """A stage, ready for images.

    Where few windows are averaged, what they leave to chance drowns the features that hardly vary between
    images, which the whitening makes loud. Each whitened feature is weighed by v / (v + noise), v being its
    variance before whitening: to the Gaussian model behind the whitening the weights of a matched filter, if
    chance adds the same variance to all. Of luma alone, the features of colour are given the values that
    leave the vector shortest, to the same model the expected ones. All this depends on no image and no key.
    """

    def __init__(self, stage: Stage, search: str, whitening: Whitening) -> None:
        self.stage = stage
        names = TRANSFORMS[search]
        self._geometries = tuple(Geometry(name) for name in names)
        measured = LUMA_DIMENSION if stage.luma else DIMENSION
        self._orders = np.stack([permutation(name)[:measured] for name in names])  # (M, D) or less
        variance = 1.0 / (whitening.matrix**2).sum(axis=1)
        weighed = whitening.matrix * (variance / (variance + stage.noise))[:, None]
        matrix, missing = weighed[:, :measured], weighed[:, measured:]
        if missing.size:
            basis, _ = np.linalg.qr(missing)
            matrix = matrix - basis @ (basis.T @ matrix)
        self._mean, self._matrix = whitening.mean[:measured], np.ascontiguousarray(matrix.T)

    def family(self, pixels: ImageArray) -> Family:
        """The features under all hypotheses, of an image or, for a stage of luma, of its luma."""
        height, width = pixels.shape[:2]
        most = tuple(
            min(limit, math.prod(windows(height, width, octave)) // 2)
            for octave, limit in enumerate(self.stage.most)
        )
        values = sampled_spectrum(pixels, most)[self._orders]
        return Family(self._geometries, (values - self._mean) @ self._matrix, len(self._geometries))
