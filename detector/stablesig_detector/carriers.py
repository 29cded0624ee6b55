"""From a seed to carriers, and from carriers to the direction that detectors look for.

The expansion is part of the key file format: it must give the same numbers on every machine and in every
later version (tests/detector/test_key.py holds it to a golden key).

    SHAKE-256(tag || seed) -> little-endian 64-bit words -> midpoints of 2^52 equal cells of (0, 1) -> inverse
    normal distribution -> (D, K) Gaussian matrix, row by row -> QR with diag(R) made positive -> carriers,
    the columns of Q

which makes the carriers Haar-distributed (Mezzadri, "How to generate random matrices from the classical
compact groups", Notices AMS 54, 2007) and hence u = sum_i m_i a_i / sqrt(K) uniform on the sphere for every
message m in {-1, +1}^K.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
AnyArray = TypeVar("AnyArray", NDArray[np.float64], NDArray[np.int32])

DIRECTION_SCALE = 2**20  # integer steps per unit: u is stored to 5e-7, far above the error of any QR

_EXPANSION_TAG = b"stablesig carriers 1\0"
_FINGERPRINT_TAG = b"stablesig key id 1\0"
_FINGERPRINT_DIGITS = 16


def expand(seed: bytes, dimension: int, n_bits: int) -> FloatArray:
    """`n_bits` carriers from a seed: (n_bits, dimension) float64 with orthonormal rows, read-only."""
    # The standard library's inverse (Wichura's AS 241, good to 1e-16) keeps scipy, 0.2 s to import, out of
    # `detect`.
    from statistics import NormalDist

    words = np.frombuffer(
        hashlib.shake_256(_EXPANSION_TAG + seed).digest(8 * dimension * n_bits), dtype="<u8"
    )
    uniform = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # exact, and never 0 or 1
    inverse = NormalDist().inv_cdf
    gaussian = np.array([inverse(value) for value in uniform.tolist()]).reshape(dimension, n_bits)
    q, r = np.linalg.qr(gaussian)
    return read_only(np.ascontiguousarray((q * np.where(np.diag(r) < 0.0, -1.0, 1.0)).T))


def quantised_direction(carriers: FloatArray, message: Sequence[int]) -> NDArray[np.int32]:
    """u in steps of 1 / DIRECTION_SCALE: (K, D) carriers and K bits, 0 or 1 -> (D,) int32, read-only."""
    signs = 2.0 * np.array(message, dtype=np.float64) - 1.0
    direction = signs @ carriers / math.sqrt(len(message))
    return read_only(np.rint(direction * DIRECTION_SCALE).astype(np.int32))


def unit_direction(direction_q: NDArray[np.int32]) -> FloatArray:
    """u from its integers, renormalised: (D,) int32, not all zero -> (D,) float64 of norm 1, read-only."""
    direction = direction_q.astype(np.float64)
    # fsum is exact: the norm does not depend on the order in which this machine's BLAS adds.
    return read_only(direction / math.sqrt(math.fsum((direction * direction).tolist())))


def fingerprint(feature_version: str, n_bits: int, direction_q: NDArray[np.int32]) -> str:
    """The id of a key: 16 hex digits of SHA-256(tag || feature version || NUL || K || u), integers as
    little-endian int32.
    """
    digest = hashlib.sha256(_FINGERPRINT_TAG + feature_version.encode("ascii") + b"\0")
    digest.update(n_bits.to_bytes(4, "little"))
    digest.update(direction_q.astype("<i4").tobytes())
    return digest.hexdigest()[:_FINGERPRINT_DIGITS]


def read_only(array: AnyArray) -> AnyArray:
    array.flags.writeable = False
    return array
