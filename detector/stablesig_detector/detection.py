"""Looking for keys in an image, and the evidence that comes out.

An image is measured once, however many the keys. Its whitened features, one vector for each geometric
hypothesis, meet all directions in one matrix product; the best hypothesis of each key is kept, and its
p-value pays for everything that was tried (hypotheses and keys, Bonferroni), so that the false positive rate
holds for the call as a whole. `search` says what the hypotheses are and why their price is right.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError, KeyFileError, UsageError
from .image import ImageSource, load_image
from .key import PublicKey, SecretKey
from .search import FULL_GRID, Family, Geometry, search_fully
from .search import TRANSFORMS as TRANSFORMS
from .statistics import binomial_log10_p, bonferroni_log10, cosine_statistic, spherical_log10_p

if TYPE_CHECKING:
    from .whitening import Whitening

Key: TypeAlias = SecretKey | PublicKey

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
    keys: Sequence[Key],
    fpr: float = DEFAULT_FPR,
    search: str = "fast",
    whitening: Whitening | None = None,
) -> list[Detection]:
    """Look for each of `keys` in one image; one Detection a key, in the order given.

    image: whatever `load_image` reads.  fpr: false positive rate in (0, 1) over the whole call.  search:
    "none" tries the image as it is; "fast" also its mirror image and quarter turns (4 hypotheses), in the
    same time; "full" also every rotation, and scales 0.3 to 3 (4,920 hypotheses), in some seconds.
    whitening: statistics other than those shipped.

    Raises ImageError (unreadable, or too small), KeyFileError (a key drawn for other features or statistics),
    StatisticsError (damaged statistics), UsageError (no keys, fpr outside (0, 1), unknown search).
    """
    from .spectrum import DIMENSION, FEATURE_VERSION, spectrum

    _check_request(keys, fpr, search)
    if whitening is None:
        from .whitening import load_default

        whitening = load_default()
    for key in keys:
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
        return weigh_families(families, keys, fpr, hypotheses=FULL_GRID.size, width=width, height=height)
    features = {name: whitening.apply(measured.transformed(name)) for name in TRANSFORMS[search]}
    return weigh(features, keys, fpr, width=width, height=height)


def weigh(
    features: Mapping[str, NDArray[np.float64]], keys: Sequence[Key], fpr: float, *, width: int, height: int
) -> list[Detection]:
    """The evidence in features measured already: {transform: (D,) whitened features} -> one Detection a key.

    `keys` must have been checked against these features (`check_key`). width, height: of the image, px.
    """
    geometries = tuple(Geometry(name) for name in features)
    family = Family(geometries, np.stack(list(features.values())), len(geometries))
    return weigh_families([family], keys, fpr, hypotheses=len(geometries), width=width, height=height)


def weigh_families(
    families: Sequence[Family], keys: Sequence[Key], fpr: float, *, hypotheses: int, width: int, height: int
) -> list[Detection]:
    """The evidence in families of hypotheses, at least one, each with its own factor: one Detection a key.

    hypotheses: how many the families stand for.  keys, width, height: as for `weigh`.
    """
    directions = np.stack([key.direction for key in keys])
    best, statistics = zip(*(_best(family, directions) for family in families), strict=True)  # F times (N,)
    log10_p = np.stack([spherical_log10_p(cosines, directions.shape[1]) for cosines in statistics])
    factors = np.array([family.factor for family in families])
    winners = np.argmin(log10_p + np.log10(factors)[:, None], axis=0)
    detections = []
    for row, (key, winner) in enumerate(zip(keys, winners, strict=True)):
        family, index = families[winner], best[winner][row]
        geometry = family.geometries[index]
        bits = _read_bits(family.features[index], key) if isinstance(key, SecretKey) else None
        matches = None
        if bits is not None and isinstance(key, SecretKey):
            matches = sum(read == sent for read, sent in zip(bits, key.message, strict=True))
        detections.append(
            Detection(
                key_id=key.id,
                statistic=float(statistics[winner][row]),
                log10_p_value=bonferroni_log10(float(log10_p[winner, row]), family.factor * len(keys)),
                fpr=fpr,
                transform=geometry.transform,
                hypotheses=hypotheses,
                n_keys=len(keys),
                matches=matches,
                n_bits=None if matches is None else key.n_bits,
                bits_log10_p=None if matches is None else binomial_log10_p(matches, key.n_bits),
                message_bits=bits,
                feature_version=key.feature_version,
                dimension=key.dimension,
                width=width,
                height=height,
                scale=geometry.scale,
                rotation=geometry.total_rotation,
                hypothesis_factor=family.factor,
            )
        )
    return detections


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


def _check_request(keys: Sequence[Key], fpr: float, search: str) -> None:
    """Raise UsageError if this cannot be looked for."""
    if isinstance(keys, (SecretKey, PublicKey)):
        raise UsageError("keys is a sequence; got a single key; pass [key]")
    if len(keys) == 0:
        raise UsageError("there are no keys to look for; pass at least one")
    if not 0.0 < fpr < 1.0:
        raise UsageError(f"a false positive rate lies between 0 and 1, both excluded; got {fpr}")
    if search not in SEARCHES:
        raise UsageError(f'a search is "none", "fast" or "full"; got {search!r}')


def _read_bits(phi: NDArray[np.float64], key: SecretKey) -> tuple[int, ...]:
    """The message that an image holds: (D,) features -> K bits, 1 where the carrier's cosine is positive."""
    return tuple(int(cosine > 0.0) for cosine in cosine_statistic(phi, key.carriers)[:, 0])
