"""Looking for keys in an image, and the evidence that comes out.

An image is measured once, however many the keys. Its whitened features, one vector for each geometric
hypothesis, meet all directions in one matrix product; the best hypothesis of each key is kept, and its
p-value pays for everything that was tried (hypotheses and keys, Bonferroni), so that the false positive rate
holds for the call as a whole. `search` says what the hypotheses are and why their price is right.

Of very many keys all are tried and paid for, but only the strongest are looked at exactly and reported
(`matching`): the answer is the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError, KeyFileError, UsageError
from .image import ImageSource, load_image
from .key import PublicKey, SecretKey
from .key_entry import Key as Key
from .key_set import KeySet
from .matching import strongest
from .search import FULL_GRID, Family, Geometry, search_fully
from .search import TRANSFORMS as TRANSFORMS
from .statistics import binomial_log10_p, bonferroni_log10, cosine_statistic, spherical_log10_p

if TYPE_CHECKING:
    from .whitening import Whitening

DEFAULT_FPR = 1e-6
SEARCHES = (*TRANSFORMS, "full")
_KEYS_AT_ONCE = 1024  # bounds the memory of their cosines with every hypothesis


@dataclass(frozen=True)
class Detection:
    """What one image says about one key.

    `detected` False means that this key was not found at this rate, nothing about how the image was made.

    key_id: id of the key
    statistic: cosine between whitened features and key direction, -1..1, of the best hypothesis
    log10_p_value: log10 of its p-value times hypothesis_factor and n_keys; at most 0
    fpr: the false positive rate asked for, over all hypotheses and keys of the call
    transform: of the hypothesis that won, how the image was turned after it was decoded: "identity", "flip"
        (mirrored), "rot90", or "rot90flip" (mirrored, then turned)
    hypotheses: how many geometries were tried, or could not be measured and were paid for all the same
    n_keys: how many keys were tried
    matches, n_bits: message bits that read right, of how many; None for a public key, which has no carriers
    bits_log10_p: log10 P(Bin(n_bits, 1/2) >= matches), for comparison with the literature; not corrected for
        the hypotheses and keys tried
    message_bits: the bits as read, 0 or 1; None for a public key. Not in `repr`: in a marked image they are
        the secret message
    feature_version, dimension: the features that were measured
    width, height: of the upright image, px
    scale: of the hypothesis that won, how much larger the image is than when it was decoded: 0.5 is half the
        side; 1 but in the search "full"
    rotation: of the hypothesis that won, degrees anticlockwise after mirroring, in (-90, 90], the quarter
        turn of `transform` included; half turns leave no trace in a spectrum
    hypothesis_factor: what the p-value was multiplied by for the geometries: `hypotheses`, but in the search
        "full" less for common geometries and more for rare ones (see `search`)
    """

    key_id: str
    statistic: float
    log10_p_value: float
    fpr: float
    transform: str
    hypotheses: int
    n_keys: int
    matches: int | None
    n_bits: int | None
    bits_log10_p: float | None
    message_bits: tuple[int, ...] | None = field(repr=False)
    feature_version: str
    dimension: int
    width: int
    height: int
    scale: float
    rotation: float
    hypothesis_factor: int

    @property
    def detected(self) -> bool:
        """Whether the corrected p-value is at most the false positive rate asked for."""
        return self.log10_p_value <= math.log10(self.fpr)

    @property
    def p_value(self) -> float:
        """The corrected p-value, 0..1; 0 where it is below the smallest float (log10_p_value still tells)."""
        return float(10.0**self.log10_p_value)


def detect(
    image: ImageSource,
    keys: Sequence[Key] | KeySet,
    fpr: float = DEFAULT_FPR,
    search: str = "fast",
    whitening: Whitening | None = None,
    *,
    best: int | None = None,
) -> list[Detection]:
    """Look for each of `keys` in one image; one Detection a key, in the order given.

    image: whatever `load_image` reads.  fpr: false positive rate in (0, 1) over the whole call.  search:
    "none" tries the image as it is; "fast" also its mirror image and quarter turns (4 hypotheses), in the
    same time; "full" also every rotation, and scales 0.3 to 3 (4,920 hypotheses), in some seconds.
    whitening: statistics other than those shipped.  best: report only the `best` keys with the lowest
    p-values, and any further key that is detected, the lowest p-value first. All keys are tried and paid for
    all the same; of a KeySet, only those reported are looked at exactly.

    Raises ImageError (unreadable, or too small), KeyFileError (a key drawn for other features or statistics),
    StatisticsError (damaged statistics), UsageError (no keys, fpr outside (0, 1), unknown search, best < 1).
    """
    from .spectrum import DIMENSION, FEATURE_VERSION, spectrum

    check_request(keys, fpr, search, best)
    if whitening is None:
        from .whitening import load_default

        whitening = load_default()
    # Of a set, one key of each block stands for all.
    for key in [block.entries[0].key for block in keys.blocks] if isinstance(keys, KeySet) else keys:
        check_key(key, FEATURE_VERSION, DIMENSION, whitening.sha256)
    pixels = load_image(image)
    try:
        measured = spectrum(pixels)
    except ImageError as error:  # too small; it saw the pixels only
        raise ImageError(
            f"{os.fspath(image)}: {error}" if isinstance(image, (str, os.PathLike)) else str(error)
        ) from None
    height, width = pixels.shape[:2]
    if search == "full":
        families = search_fully(pixels, measured, whitening)
        return weigh_families(
            families, keys, fpr, hypotheses=FULL_GRID.size, width=width, height=height, best=best
        )
    features = {name: whitening.apply(measured.transformed(name)) for name in TRANSFORMS[search]}
    return weigh(features, keys, fpr, width=width, height=height, best=best)


def weigh(
    features: Mapping[str, NDArray[np.float64]],
    keys: Sequence[Key] | KeySet,
    fpr: float,
    *,
    width: int,
    height: int,
    best: int | None = None,
) -> list[Detection]:
    """The evidence in features measured already: {transform: (D,) whitened features} -> one Detection a key.

    `keys` must have been checked against these features (`check_key`). width, height: of the image, px.
    best: as for `detect`.
    """
    geometries = tuple(Geometry(name) for name in features)
    family = Family(geometries, np.stack(list(features.values())), len(geometries))
    return weigh_families(
        [family], keys, fpr, hypotheses=len(geometries), width=width, height=height, best=best
    )


def weigh_families(
    families: Sequence[Family],
    keys: Sequence[Key] | KeySet,
    fpr: float,
    *,
    hypotheses: int,
    width: int,
    height: int,
    best: int | None = None,
) -> list[Detection]:
    """The evidence in families of hypotheses, at least one, each with its own factor: one Detection a key.

    hypotheses: how many the families stand for.  keys, width, height: as for `weigh`.  best: as for `detect`.
    """
    image = _Image(tuple(families), fpr, hypotheses, width, height)
    if not isinstance(keys, KeySet):
        return _cut(*image.look_for(keys, len(keys)), best)
    if best is None:
        return image.look_for(keys.keys, len(keys))[0]
    count = best
    while True:
        looked_at = [keys.entries[place].key for place in strongest(families, keys.blocks, count)]
        found, scores = image.look_for(looked_at, len(keys))
        # If not all of the `count` strongest are detected, no key that was not looked at is.
        if len(looked_at) == len(keys) or sum(detection.detected for detection in found) < count:
            return _cut(found, scores, best)
        count *= 8


def weigh_one(
    key: Key,
    family: Family,
    cosines: NDArray[np.float64],
    fpr: float,
    *,
    n_keys: int,
    width: int,
    height: int,
) -> Detection:
    """The evidence for one of `n_keys` keys: (M,) cosines with a family's features -> the best of them."""
    index = int(cosines.argmax())
    statistic = min(max(float(cosines[index]), -1.0), 1.0)
    paid = bonferroni_log10(spherical_log10_p(statistic, key.dimension), family.factor * n_keys)
    image = _Image((family,), fpr, len(family.geometries), width, height)
    return image.detection(key, family, index, statistic, paid, n_keys)


@dataclass(frozen=True, eq=False)
class _Image:
    """What was measured of an image, and how it is to be judged; the fields are `weigh_families`'."""

    families: tuple[Family, ...]
    fpr: float
    hypotheses: int
    width: int
    height: int

    def look_for(self, keys: Sequence[Key], n_keys: int) -> tuple[list[Detection], NDArray[np.float64]]:
        """One Detection a key, and its log10 p before the keys are paid for and it ends at 1: (N,).

        n_keys: how many were tried in all, and are paid for.
        """
        families = self.families
        directions = np.stack([key.direction for key in keys])
        best, statistics = zip(*(_best(family, directions) for family in families), strict=True)  # F x (N,)
        log10_p = np.stack([spherical_log10_p(cosines, directions.shape[1]) for cosines in statistics])
        scores = log10_p + np.log10([family.factor for family in families])[:, None]
        winners = np.argmin(scores, axis=0)
        detections = [
            self.detection(
                key,
                families[winner],
                best[winner][row],
                float(statistics[winner][row]),
                bonferroni_log10(float(log10_p[winner, row]), families[winner].factor * n_keys),
                n_keys,
            )
            for row, (key, winner) in enumerate(zip(keys, winners, strict=True))
        ]
        return detections, scores.min(axis=0)

    def detection(
        self, key: Key, family: Family, index: int, statistic: float, log10_p_value: float, n_keys: int
    ) -> Detection:
        """The evidence for a key under the hypothesis that fits it best, `index` of `family`."""
        geometry = family.geometries[index]
        bits = matches = None
        if isinstance(key, SecretKey):
            bits = _read_bits(family.features[index], key)
            matches = sum(read == sent for read, sent in zip(bits, key.message, strict=True))
        return Detection(
            key_id=key.id,
            statistic=statistic,
            log10_p_value=log10_p_value,
            fpr=self.fpr,
            transform=geometry.transform,
            hypotheses=self.hypotheses,
            n_keys=n_keys,
            matches=matches,
            n_bits=None if matches is None else key.n_bits,
            bits_log10_p=None if matches is None else binomial_log10_p(matches, key.n_bits),
            message_bits=bits,
            feature_version=key.feature_version,
            dimension=key.dimension,
            width=self.width,
            height=self.height,
            scale=geometry.scale,
            rotation=geometry.total_rotation,
            hypothesis_factor=family.factor,
        )


def _cut(found: list[Detection], scores: NDArray[np.float64], best: int | None) -> list[Detection]:
    """The `best` with the lowest scores and whatever else is detected, lowest first; all if None."""
    if best is None:
        return found
    order = np.argsort(scores, kind="stable").tolist()
    return [found[place] for rank, place in enumerate(order) if rank < best or found[place].detected]


def _best(family: Family, directions: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The best hypothesis of a family for each of N directions: its place and its cosine, (N,) each."""
    places, cosines = [], []
    for start in range(0, len(directions), _KEYS_AT_ONCE):
        table = cosine_statistic(family.features, directions[start : start + _KEYS_AT_ONCE])  # (n, M)
        places.append(table.argmax(axis=1))
        cosines.append(table.max(axis=1))
    return np.concatenate(places), np.concatenate(cosines)


def check_key(key: Key, feature_version: str, dimension: int, statistics_sha256: str) -> None:
    """Raise KeyFileError unless `key` was drawn for these features and whitening statistics."""
    if (key.feature_version, key.dimension) != (feature_version, dimension):
        raise KeyFileError(
            f"key {key.id} is for {key.feature_version} in {key.dimension} dimensions, this detector measures"
            f" {feature_version} in {dimension}; use the release that drew the key, or draw a new one"
        )
    if key.statistics_sha256 != statistics_sha256:
        raise KeyFileError(
            f"key {key.id} is for whitening statistics {key.statistics_sha256[:16]}..., this detector has "
            f"{statistics_sha256[:16]}...; use the release that drew the key, or draw a new one"
        )


def check_request(keys: Sequence[Key] | KeySet, fpr: float, search: str, best: int | None = None) -> None:
    """Raise UsageError if this cannot be looked for."""
    if isinstance(keys, (SecretKey, PublicKey)):
        raise UsageError("keys is a sequence; got a single key; pass [key]")
    if len(keys) == 0:
        raise UsageError("there are no keys to look for; pass at least one")
    if not 0.0 < fpr < 1.0:
        raise UsageError(f"a false positive rate lies between 0 and 1, both excluded; got {fpr}")
    if search not in SEARCHES:
        raise UsageError(f'a search is "none", "fast" or "full"; got {search!r}')
    if best is not None and best < 1:
        raise UsageError(f"at least one key is reported; got best={best}")


def _read_bits(phi: NDArray[np.float64], key: SecretKey) -> tuple[int, ...]:
    """The message that an image holds: (D,) features -> K bits, 1 where the carrier's cosine is positive."""
    return tuple(int(cosine > 0.0) for cosine in cosine_statistic(phi, key.carriers)[:, 0])
