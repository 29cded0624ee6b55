"""The detector of stablesig: reads keys, measures images, weighs the evidence. It never needs PyTorch.

>>> from stablesig_detector import detect, load_key
>>> [found] = detect("photo.png", [load_key("publisher.pub.json")])      # doctest: +SKIP
>>> found.detected, found.p_value                                        # doctest: +SKIP
(True, 3.1e-12)
"""

from .detection import DEFAULT_FPR, Detection, detect
from .errors import (
    DecoderError,
    ImageError,
    KeyFileError,
    OutputError,
    OutputExistsError,
    StableSigError,
    StatisticsError,
    TrainingError,
    UsageError,
)
from .image import load_image
from .key import PublicKey, SecretKey, load_key, load_secret_key, public_key_path
from .statistics import binomial_log10_p, bonferroni_log10, spherical_log10_p, spherical_threshold

__all__ = [
    "DEFAULT_FPR",
    "DecoderError",
    "Detection",
    "ImageError",
    "KeyFileError",
    "OutputError",
    "OutputExistsError",
    "PublicKey",
    "SecretKey",
    "StableSigError",
    "StatisticsError",
    "TrainingError",
    "UsageError",
    "binomial_log10_p",
    "bonferroni_log10",
    "detect",
    "load_image",
    "load_key",
    "load_secret_key",
    "public_key_path",
    "spherical_log10_p",
    "spherical_threshold",
]
