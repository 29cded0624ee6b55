"""Everything that a run of the benchmark measures, image by image, and the file that keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from stablesig_detector.errors import UsageError

FORMAT = "stablesig-benchmark"
FORMAT_VERSION = 1
FILE_NAME = "results.json"

OTHER_KEY = "other key"
ORIGINAL_DECODER = "original decoder"


@dataclass(frozen=True)
class TestImage:
    """A test image: name, SHA-256 of its file, and the size of the centre crop that was decoded, px."""

    name: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class KeyRun:
    """One embedding. `psnr_db` is by image, against the original decoder, equal images counted as 100 dB."""

    id: str
    config: dict[str, Any]  # settings of `stablesig embed`
    machine: str
    seconds: float  # wall time of the command
    peak_bytes: int  # most resident memory of its process
    cost_from: str  # "wait4", or "watermark.json" for an embedding that this benchmark did not start
    psnr_db: list[float]


@dataclass(frozen=True)
class Score:
    """A marked and attacked image, and its own key. `key` and `image` are indices into the results' lists."""

    key: int
    image: int
    attack: str
    statistic: float
    log10_p: float  # Bonferroni factor included
    transform: str


@dataclass(frozen=True)
class NullScore:
    """An image, not attacked, that does not carry the key it is tested for."""

    source: str  # OTHER_KEY or ORIGINAL_DECODER
    key: int  # that it is tested for
    decoder: int | None  # index of the key that it does carry, if any
    image: int
    log10_p: float  # Bonferroni factor included: at least as large as a uniform variable
    log10_p_identity: float  # of the image as it is, one hypothesis: uniform over keys


@dataclass(frozen=True)
class Results:
    """A run; `write` and `read` keep it as OUT/results.json."""

    arguments: dict[str, Any]
    versions: dict[str, str | None]
    machine: str  # that measured; each KeyRun has its own
    cores: int  # that the benchmark may use
    statistics_sha256: str
    images: list[TestImage]
    keys: list[KeyRun]
    scores: list[Score]
    nulls: list[NullScore]
    detect_seconds: list[float]  # `stablesig detect` on one image from a new process, run by run
    left_out: list[str]  # attacks that this Pillow has no codec for

    def write(self, folder: Path) -> None:
        """Write FILE_NAME into `folder`, in place of an earlier one."""
        content = {"format": FORMAT, "version": FORMAT_VERSION} | asdict(self)
        beside = folder / f"{FILE_NAME}.partial"
        beside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        beside.replace(folder / FILE_NAME)

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Read what `write` wrote. Raises UsageError for a file that is missing or something else."""
        path = folder / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; name the --out folder of a finished run") from error
        except ValueError as error:
            raise UsageError(f"{path} is not JSON; run the benchmark again") from error
        kind = (content.pop("format", None), content.pop("version", None)) if type(content) is dict else None
        if kind != (FORMAT, FORMAT_VERSION):
            raise UsageError(f"{path} is no {FORMAT} of version {FORMAT_VERSION}; run the benchmark again")
        if set(content) != {field.name for field in fields(cls)}:
            raise UsageError(f"{path} has other fields than this release's; run the benchmark again")
        rows = {"images": TestImage, "keys": KeyRun, "scores": Score, "nulls": NullScore}
        try:
            return cls(
                **content | {name: [row(**item) for item in content[name]] for name, row in rows.items()}
            )
        except TypeError as error:
            raise UsageError(f"{path}: {error}; run the benchmark again") from error
