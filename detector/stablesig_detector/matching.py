"""Which of many keys are worth an exact look: a first product in single precision that loses none of them.

Within a family of hypotheses the p-value falls as the cosine rises, so the `count` keys with the lowest
p-values over all families are among the `count` with the highest cosines of each. Those are found in single
precision, with an allowance for all that it can be wrong by, and only they are looked at in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .carriers import DIRECTION_SCALE
from .key_block import KeyBlock
from .search import Family
from .statistics import unit_rows

# Keys in one product: few, so that their directions stay in the cache while all hypotheses meet them, and
# OpenBLAS takes its kernels for small matrices, which do not copy their operands first.
_KEYS_AT_ONCE = 256
_COSINES_AT_ONCE = 1 << 22  # bounds the memory of the products, 16 MB


def strongest(families: Sequence[Family], blocks: Sequence[KeyBlock], count: int) -> list[int]:
    """Places, in order, among all keys of `blocks` that hold the `count` lowest p-values over all families.

    blocks: of the families' dimension D.  count: 1 or more. There may be more places than `count`, as near
    ties are kept. Takes n D M multiplications for n keys and M hypotheses, in single precision.
    """
    if count >= (total := sum(map(len, blocks))):
        return list(range(total))
    chosen: set[int] = set()
    for family in families:
        features = unit_rows(family.features)
        if not features.any():  # points nowhere: every key has the same p-value
            chosen.update(range(count))
            continue
        chosen.update(highest(features, blocks, count))
    return sorted(chosen)


def highest(features: NDArray[np.float64], blocks: Sequence[KeyBlock], count: int) -> list[int]:
    """Places, in order, that hold the `count` keys of `blocks` with the highest cosines.

    features: (M, D) unit rows, of which each key's best counts.  count: from 1 to the number of keys. There
    may be more places, as near ties are kept.
    """
    parts = list(_best_cosines(features, blocks))
    cosines = parts[0] if len(parts) == 1 else np.concatenate(parts)  # (n,)
    total = len(cosines)
    least = cosines.max() if count == 1 else np.partition(cosines, total - count)[total - count]
    # A cosine that is not a number comes from a damaged pack: the exact look refuses it.
    return np.flatnonzero(~(cosines < least - 2 * _allowance(features.shape[1]))).tolist()


def _best_cosines(features: NDArray[np.float64], blocks: Sequence[KeyBlock]) -> Iterator[NDArray[np.float32]]:
    """The highest cosine of each key with any hypothesis, about: (M, D) unit rows -> (n,), in parts."""
    phi = np.ascontiguousarray(features, dtype=np.float32)
    room = max(_COSINES_AT_ONCE // len(phi), 1)
    for block in blocks:
        for first in range(0, len(block), room):
            directions = block.directions[first : first + room]
            cosines = np.empty((len(phi), len(directions)), dtype=np.float32)
            for start in range(0, len(directions), _KEYS_AT_ONCE):
                few = slice(start, start + _KEYS_AT_ONCE)
                np.matmul(phi, directions[few].T, out=cosines[:, few])
            yield cosines.max(axis=0)


def _allowance(dimension: int) -> float:
    """How far a cosine of `_best_cosines` can be from the exact one.

    A product of D terms in precision e = 2^-24 is off by at most D e / (1 - D e) sum |u_i phi_i|, in whatever
    order it is added (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1), and
    the sum is at most 1; rounding phi adds e, and the stored direction has norm 1 within sqrt(D) / 2^20.
    """
    terms = (dimension + 2) * 2.0**-24
    return terms / (1.0 - terms) + math.sqrt(dimension) / DIRECTION_SCALE + 1e-9
