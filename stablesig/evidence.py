"""One image, held against a set of keys: everything there is to report about it.

`measure` runs in a guarded process, as the image may be hostile; what it returns is small and travels back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stablesig.backgrounds import look_over_both
from stablesig.c2pa import Manifest, manifest_evidence
from stablesig.detect_output import UNREADABLE, VERDICTS
from stablesig.one_line import shown
from stablesig_detector.detection import Detection, detect
from stablesig_detector.errors import ImageError
from stablesig_detector.image import file_bytes
from stablesig_detector.reading import read_image
from stablesig_detector.urls import FetchPolicy, fetch

if TYPE_CHECKING:
    from stablesig_detector.decoding import ImageArray
    from stablesig_detector.key_set import KeySet
    from stablesig_detector.reading import LoadedImage
    from stablesig_detector.sources import Source

ALL_KEYS = 16  # up to so many keys all are reported; of more, the best one and all that are detected


@dataclass(frozen=True, eq=False)
class Request:
    """What to look for, and how.

    keys: at least one, all for this detector.  fpr, search: as for `detect`.  policy: for web addresses.
    explain: whether to draw the picture of local evidence as well.
    """

    keys: KeySet
    fpr: float
    search: str
    policy: FetchPolicy = FetchPolicy()  # noqa: RUF009  frozen
    explain: bool = False


@dataclass(frozen=True)
class LocalSummary:
    """What the tiles of an image say, in numbers.

    side: of a tile, px.  tiles: how many, all paid for.  detected: how many reach the threshold on their own.
    best_log10_p, best_left, best_top: of the tile with the lowest p-value, px.
    """

    side: int
    tiles: int
    detected: int
    best_log10_p: float
    best_left: int
    best_top: int


@dataclass(frozen=True)
class ImageEvidence:
    """One image, and what it says about the keys.

    name: as it was named.  time: UTC, when it was measured.  error: why there is no evidence, or None; the
    fields below are then None or empty.  sha256, size (bytes), format, notes: of the file, see `LoadedImage`.
    width, height: upright, px.  background: "white" or "black", what its transparent parts were laid over;
    None where every pixel is opaque.  detections: for each key, or for the best of many.  manifest: the C2PA
    manifest in the file, if there is one that could be read; manifest_note: why one that is there could not.
    local, picture: where the watermark shows and the PNG that shows it, if that was asked for.
    """

    name: str
    time: datetime
    error: str | None = None
    sha256: str | None = None
    size: int | None = None
    format: str | None = None
    notes: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    background: str | None = None
    detections: tuple[Detection, ...] = ()
    manifest: Manifest | None = None
    manifest_note: str | None = None
    local: LocalSummary | None = None
    picture: bytes | None = field(default=None, repr=False)

    @property
    def verdict(self) -> str:
        """detected (one key is enough), not detected, or unreadable."""
        if self.error is not None:
            return UNREADABLE
        return VERDICTS[any(found.detected for found in self.detections)]

    @property
    def best(self) -> Detection | None:
        """The detection with the lowest p-value; of equal ones that with the highest statistic."""
        return min(self.detections, key=lambda found: (found.log10_p_value, -found.statistic), default=None)


def unreadable(name: str, error: Exception | str) -> ImageEvidence:
    """What is left to say of an image that could not be measured."""
    return ImageEvidence(name, _now(), error=str(error))


def measure(source: Source, request: Request) -> ImageEvidence:
    """Read an image and look for every key in it.

    Raises ImageError naming the source if it cannot be read or is too small, and whatever `detect` raises for
    a request that cannot be answered.
    """
    data = _bytes(source, request.policy)
    image = read_image(data, name=source.name)
    try:
        background, pixels, detections = _detections(image, request)
    except ImageError as error:  # it saw the pixels only
        raise ImageError(f"{source.name}: {error}") from None
    height, width = pixels.shape[:2]
    manifest, manifest_note = manifest_evidence(data)
    evidence = ImageEvidence(
        source.name,
        _now(),
        sha256=image.sha256,
        size=image.bytes,
        format=image.format,
        notes=image.notes,
        width=width,
        height=height,
        background=background,
        detections=tuple(detections),
        manifest=manifest,
        manifest_note=manifest_note,
    )
    return _explained(evidence, pixels, request) if request.explain else evidence


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _bytes(source: Source, policy: FetchPolicy) -> bytes:
    if source.url is not None:
        return fetch(source, policy)
    if source.data is not None:
        return source.data
    assert source.path is not None, "a source has a path, data or an address"
    data, _ = file_bytes(source.path)
    assert data is not None, "a path leads to a file"
    return data


def _detections(image: LoadedImage, request: Request) -> tuple[str | None, ImageArray, Sequence[Detection]]:
    """What its transparent parts lay over, those pixels, and the evidence in them: see `backgrounds`."""
    best = None if len(request.keys) <= ALL_KEYS else 1

    def look(pixels: ImageArray) -> list[Detection]:
        return detect(pixels, request.keys, fpr=request.fpr, search=request.search, best=best)

    return look_over_both(image.pixels, image.over_black, look, only_best=best is not None)


def _explained(evidence: ImageEvidence, pixels: ImageArray, request: Request) -> ImageEvidence:
    """The same with the picture, for the key with the lowest p-value."""
    from stablesig.explain import explain, explanation_png
    from stablesig_detector.whitening import load_default

    found = evidence.best
    assert found is not None, "there is at least one key"
    entry = request.keys.entry(found.key_id)
    words = ", ".join(
        [f"Key {found.key_id}", *([f"provider {entry.provider}"] if entry.provider else [])]
        + ([f"model {entry.model_id}"] if entry.model_id else [])
    )
    if found.n_keys > 1:
        words += f" (the best of {found.n_keys:,} keys)"
    name, words = shown(evidence.name), shown(words)  # Pillow measures no text of several lines
    explanation = explain(name, pixels, found, entry.key.direction, words, load_default())
    local = explanation.local
    row, column = divmod(int(local.log10_p.argmin()), local.log10_p.shape[1])
    summary = LocalSummary(
        local.side,
        local.log10_p.size,
        int(local.detected.sum()),
        float(local.log10_p.min()),
        int(local.lefts[column]),
        int(local.tops[row]),
    )
    return replace(evidence, local=summary, picture=explanation_png(explanation))
