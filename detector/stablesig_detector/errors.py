"""The one exception tree of stablesig.

Every error that a user can cause is one of these, and its text says what is wrong, what was found and what to
do. The number is the exit code of the command line; 0 and 1 are taken by `stablesig detect` (all detected,
some not).

    StableSigError               9  anything below; catch this to catch them all
    ├── UsageError               2  arguments that do not fit together, or a value outside its range
    ├── ImageError               3  an image that cannot be read, or is too small
    ├── KeyFileError             4  a key file that is missing, damaged, foreign, or for other features
    ├── StatisticsError          5  damaged whitening statistics, or a p-value asked for outside its domain
    ├── DecoderError             6  a VAE folder or file that cannot be loaded or saved
    ├── TrainingError            7  fine-tuning that cannot go on, such as a loss that is not finite
    └── OutputError              8  a result that cannot be written: no space, no permission, no such folder
        └── OutputExistsError    8  a result whose place is taken; nothing is ever overwritten

`stablesig.gate.ReleaseRefusedError` has 10: a release that must not be published, or is not proven.
"""

from __future__ import annotations

from typing import ClassVar


class StableSigError(Exception):
    """Root of the tree. `exit_code` is what the command line returns for it."""

    exit_code: ClassVar[int] = 9


class UsageError(StableSigError):
    """Arguments that do not fit together, or a value outside its range."""

    exit_code: ClassVar[int] = 2


class ImageError(StableSigError):
    """An image that cannot be read or is too small to measure."""

    exit_code: ClassVar[int] = 3


class KeyFileError(StableSigError):
    """A key or key file that is missing, damaged, foreign, or made for other features."""

    exit_code: ClassVar[int] = 4


class StatisticsError(StableSigError):
    """Whitening statistics that are damaged, or a p-value asked for outside its domain."""

    exit_code: ClassVar[int] = 5


class DecoderError(StableSigError):
    """A VAE that cannot be loaded or saved: wrong layout, missing or extra weights."""

    exit_code: ClassVar[int] = 6


class TrainingError(StableSigError):
    """Fine-tuning that cannot go on, such as a loss that is not finite."""

    exit_code: ClassVar[int] = 7


class OutputError(StableSigError):
    """A result that cannot be written: no space, no permission, no such folder."""

    exit_code: ClassVar[int] = 8


class OutputExistsError(OutputError):
    """A result whose place is taken. Nothing is ever overwritten."""
