"""Whitening: from a spectrum to coordinates in which natural images, clean or attacked, spread alike.

phi = W (L - mu), with W = diag(w + ridge)^(-1/2) V^T from the mean mu and covariance V diag(w) V^T of the
spectra L of photographs and of their attacked copies. Natural spectra are smooth, so many directions hardly
vary from image to image: that is where a faint mark is loud. The numbers come from
`python -m stablesig_train.whitening_statistics`, do not depend on any key, and so leave the p-value exact
whatever they are: poor statistics cost strength, not honesty. docs/experiments.md says how the shipped ones
differ from what that command gives today.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import StatisticsError
from .spectrum import DIMENSION, FEATURE_VERSION

DEFAULT_SHA256 = "cff3bfc8aa010695a5a57a35ac75535425a63adb7753880efdb1e7cd27330a6a"


@dataclass(frozen=True, eq=False)
class Whitening:
    """mu (D,) and W (D, D), as they are in the file whose SHA-256 is `sha256`."""

    mean: NDArray[np.float64] = field(repr=False)
    matrix: NDArray[np.float64] = field(repr=False)
    sha256: str

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Spectra (..., D), natural logarithm -> whitened features phi (..., D), of about unit variance."""
        return np.asarray((values - self.mean) @ self.matrix.T)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str, expected_sha256: str | None = None) -> Whitening:
        """Parse the contents of a safetensors file; `where` names it in errors.

        Raises StatisticsError if the file is not what `expected_sha256` says, is damaged, or was computed for
        other features than FEATURE_VERSION.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        digest = hashlib.sha256(data).hexdigest()
        if expected_sha256 is not None and digest != expected_sha256:
            raise StatisticsError(
                f"{where}: SHA-256 is {digest[:16]}..., expected {expected_sha256[:16]}...: the whitening "
                "statistics are damaged or of another release; reinstall stablesig"
            )
        try:
            tensors = load(data)
        except (SafetensorError, ValueError) as error:
            raise StatisticsError(f"{where}: not a safetensors file ({error}); compute it again") from None
        found = {name: tensor.shape for name, tensor in tensors.items()}
        wanted = {
            f"{FEATURE_VERSION}.mean": (DIMENSION,),
            f"{FEATURE_VERSION}.matrix": (DIMENSION, DIMENSION),
        }
        if found != wanted:
            raise StatisticsError(
                f"{where}: holds {found}, the features {FEATURE_VERSION} need {wanted}; compute it again"
            )
        mean, matrix = (tensors[name].astype(np.float64) for name in wanted)
        if not (np.isfinite(mean).all() and np.isfinite(matrix).all()):
            raise StatisticsError(f"{where}: holds numbers that are not finite; compute it again")
        return cls(mean, matrix, digest)

    @classmethod
    def load(cls, path: str | os.PathLike[str], expected_sha256: str | None = None) -> Whitening:
        """Read statistics from a file. Raises StatisticsError as `from_bytes`, or if it cannot be read."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise StatisticsError(
                f"{os.fspath(path)}: {error.strerror}; name a file of whitening statistics"
            ) from None
        return cls.from_bytes(data, where=os.fspath(path), expected_sha256=expected_sha256)


@cache
def load_default() -> Whitening:
    """The statistics that ship with the package, checked against their SHA-256. Raises StatisticsError."""
    data = (resources.files(__package__) / "data" / "whitening.safetensors").read_bytes()
    return Whitening.from_bytes(data, where="whitening.safetensors", expected_sha256=DEFAULT_SHA256)
