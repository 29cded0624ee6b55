"""Looking for keys in an image, and the evidence that comes out.

An image is measured once. Its whitened features, one vector for each geometric hypothesis, meet all
directions in one matrix product; the best hypothesis of each key is kept, and its p-value is multiplied by
everything that was tried (hypotheses times keys, Bonferroni), so that the false positive rate holds for the
call as a whole.
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
from .statistics import binomial_log10_p, bonferroni_log10, cosine_statistic, spherical_log10_p

if TYPE_CHECKING:
    from .whitening import Whitening

Key: TypeAlias = SecretKey | PublicKey

DEFAULT_FPR = 1e-6
# A magnitude spectrum is the same for a picture and its half turn, so eight dihedral transforms fall into
# four classes.
TRANSFORMS = {"none": ("identity",), "fast": ("identity", "flip", "rot90", "rot90flip")}


@dataclass(frozen=True)
class Detection:
    """What one image says about one key.

    `detected` False means that this key was not found at this rate, nothing about how the image was made.

    key_id: id of the key
    statistic: cosine between whitened features and key direction, -1..1, of the best hypothesis
    log10_p_value: log10 of its p-value times hypotheses and keys; at most 0
    fpr: the false positive rate asked for, over all hypotheses and keys of the call
    transform: the hypothesis that won, one of TRANSFORMS: how the image was turned after it was decoded
    hypotheses: how many transforms were tried
    n_keys: how many keys were tried
    matches, n_bits: message bits that read right, of how many; None for a public key, which has no carriers
    bits_log10_p: log10 P(Bin(n_bits, 1/2) >= matches), for comparison with the literature; not corrected for
        the hypotheses and keys tried
    message_bits: the bits as read, 0 or 1; None for a public key. Not in `repr`: in a marked image they are
        the secret message
    feature_version, dimension: the features that were measured
    width, height: of the upright image, px
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
    "none" tries the image as it is; "fast" also its mirror image and quarter turns (4 hypotheses).
    whitening: statistics other than those shipped.

    Raises ImageError (unreadable, or too small), KeyFileError (a key drawn for other features or statistics),
    StatisticsError (damaged statistics), UsageError (no keys, fpr outside (0, 1), unknown search).
    """
    from .spectrum import DIMENSION, FEATURE_VERSION, spectrum

    transforms = _check_request(keys, fpr, search)
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
    features = {transform: whitening.apply(measured.transformed(transform)) for transform in transforms}
    return weigh(features, keys, fpr, width=pixels.shape[1], height=pixels.shape[0])


def weigh(
    features: Mapping[str, NDArray[np.float64]], keys: Sequence[Key], fpr: float, *, width: int, height: int
) -> list[Detection]:
    """The evidence in features measured already: {transform: (D,) whitened features} -> one Detection a key.

    `keys` must have been checked against these features (`check_key`). width, height: of the image, px.
    """
    names = tuple(features)
    phi = np.stack([features[name] for name in names])  # (M, D)
    cosines = cosine_statistic(phi, np.stack([key.direction for key in keys]))  # (N, M)
    best = cosines.argmax(axis=1)
    statistics = cosines[np.arange(len(keys)), best]
    log10_p = bonferroni_log10(spherical_log10_p(statistics, phi.shape[1]), len(names) * len(keys))
    detections = []
    for row, key in enumerate(keys):
        bits = _read_bits(phi[best[row]], key) if isinstance(key, SecretKey) else None
        matches = None
        if bits is not None and isinstance(key, SecretKey):
            matches = sum(read == sent for read, sent in zip(bits, key.message, strict=True))
        detections.append(
            Detection(
                key_id=key.id,
                statistic=float(statistics[row]),
                log10_p_value=float(log10_p[row]),
                fpr=fpr,
                transform=names[int(best[row])],
                hypotheses=len(names),
                n_keys=len(keys),
                matches=matches,
                n_bits=None if matches is None else key.n_bits,
                bits_log10_p=None if matches is None else binomial_log10_p(matches, key.n_bits),
                message_bits=bits,
                feature_version=key.feature_version,
                dimension=key.dimension,
                width=width,
                height=height,
            )
        )
    return detections


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


def _check_request(keys: Sequence[Key], fpr: float, search: str) -> tuple[str, ...]:
    """The hypotheses to try, or UsageError."""
    if isinstance(keys, (SecretKey, PublicKey)):
        raise UsageError("keys is a sequence; got a single key; pass [key]")
    if len(keys) == 0:
        raise UsageError("there are no keys to look for; pass at least one")
    if not 0.0 < fpr < 1.0:
        raise UsageError(f"a false positive rate lies between 0 and 1, both excluded; got {fpr}")
    if search == "full":
        raise UsageError('the search "full" (rotations and scales) is not available yet; use "fast"')
    if search not in TRANSFORMS:
        raise UsageError(f'a search is "none" or "fast"; got {search!r}')
    return TRANSFORMS[search]


def _read_bits(phi: NDArray[np.float64], key: SecretKey) -> tuple[int, ...]:
    """The message that an image holds: (D,) features -> K bits, 1 where the carrier's cosine is positive."""
    return tuple(int(cosine > 0.0) for cosine in cosine_statistic(phi, key.carriers)[:, 0])
