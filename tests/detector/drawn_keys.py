"""Public keys with directions drawn from a fixed seed: cheaper than secret keys, which expand a seed."""

from __future__ import annotations

import numpy as np

from stablesig_detector.key import PublicKey

D = 120
STATISTICS = "0" * 64


def drawn_key(
    n: int,
    *,
    dimension: int = D,
    version: str = "spectrum-test",
    statistics: str = STATISTICS,
    bits: int = 48,
) -> PublicKey:
    """The n-th key."""
    direction = np.random.default_rng([n, dimension]).standard_normal(dimension)
    direction_q = np.rint(direction / np.linalg.norm(direction) * 2**20).astype(np.int32)
    return PublicKey(direction_q, bits, version, statistics)
