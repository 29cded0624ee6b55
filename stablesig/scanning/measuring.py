"""From an input to its rows. The one place that every engine calls, so that all give the same rows.

Nothing that an input holds raises here: whatever is the matter with it is its row. What may pass limits of
time and memory, or crash, is the business of the engine.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from stablesig.backgrounds import look_over_both
from stablesig.detect_output import DETECTED, NOT_DETECTED, UNREADABLE
from stablesig.scanning.item import ErrorKind, Item
from stablesig.scanning.reading import ItemError, ReadOptions, read_item
from stablesig.scanning.row import Row
from stablesig_detector.decoding import decode
from stablesig_detector.detection import Detection, detect
from stablesig_detector.errors import ImageError
from stablesig_detector.formats import format_of
from stablesig_detector.screening import Screen

if TYPE_CHECKING:
    from stablesig.scanning.settings import ScanSettings
    from stablesig_detector.decoding import ImageArray

KEPT = 4096  # images whose evidence a worker keeps for --dedup, some 10 MB
_WARM_SIDE = 160  # px
# What the detector says of a file, and the class of it; the first that is found in the text counts.
_CLASSES: tuple[tuple[str, ErrorKind], ...] = (
    ("does not fit in memory", "memory"),
    ("the spectrum needs at least", "too-small"),
    ("has no pixels", "too-small"),
    ("is more than ", "too-large"),
    ("has more than ", "too-large"),
    (" scans, and up to ", "too-large"),
    (" parts of EXIF data or XMP", "too-large"),
    (" comments; save it", "too-large"),
    ("is truncated or corrupt", "damaged"),
    ("is damaged, or ", "damaged"),
    ("is empty", "damaged"),
)
# Fields that `Row` and `Detection` share.
_EVIDENCE = (
    "statistic", "p_value", "log10_p_value", "n_keys", "hypothesis_factor", "transform", "scale", "rotation",
    "matches", "n_bits", "bits_log10_p",
)  # fmt: skip
_evidence_of = attrgetter(*_EVIDENCE)

Fields = dict[str, Any]  # fields of a `Row`
Read = Callable[[Item, ReadOptions], bytes]


class RetryAloneError(Exception):
    """There was not enough memory, which may be the fault of what was measured before."""


@dataclass
class WorkerState:
    """What a worker keeps from image to image. Make one in each process.

    read: gives the bytes of an item, or raises ItemError; an engine may have them read ahead.  read_began:
    `time.perf_counter()` at which it began to, where that was earlier than it was asked for them.
    """

    read: Read = read_item
    read_began: float | None = None
    _evidence: OrderedDict[str, Sequence[Fields]] = field(default_factory=OrderedDict)
    _screen: Screen | None = None
    _facts: dict[str, tuple[str | None, str | None, str]] = field(default_factory=dict)

    def screen(self, settings: ScanSettings) -> Screen:
        if self._screen is None:
            self._screen = Screen(settings.keys, settings.fpr, settings.search)
        return self._screen

    def facts(self, settings: ScanSettings, key_id: str) -> tuple[str | None, str | None, str]:
        """Provider, model and state of a key. Kept, as an entry of a large registry is costly to make."""
        if key_id not in self._facts:
            if len(self._facts) >= KEPT:
                self._facts.clear()
            entry = settings.keys.entry(key_id)
            state = str(entry.state_on(settings.keys.on))
            self._facts[key_id] = (entry.provider, entry.model_id, state)
        return self._facts[key_id]

    def recall(self, sha256: str) -> Sequence[Fields] | None:
        """The evidence in an image with these bytes, if they are still known."""
        if sha256 in self._evidence:
            self._evidence.move_to_end(sha256)
        return self._evidence.get(sha256)

    def keep(self, sha256: str, rows: Sequence[Fields]) -> None:
        self._evidence[sha256] = rows
        if len(self._evidence) > KEPT:
            self._evidence.popitem(last=False)


def measure_item(item: Item, settings: ScanSettings, state: WorkerState, *, alone: bool = True) -> list[Row]:
    """The rows of one item: one for each key that is detected in it, else one for the strongest key.

    Raises nothing but, where not `alone`, RetryAloneError: a fresh process should try once more.
    """
    started = time.perf_counter()
    digest: tuple[str, int] | None = None
    form: str | None = None
    state.read_began = None
    try:
        data = _bytes(item, settings, state)
        digest = hashlib.sha256(data).hexdigest(), len(data)
        form = format_of(data, item.path)
        found = _evidence(item, data, digest, settings, state)
    except Exception as error:
        error.__traceback__ = None  # whose frames hold on to what filled the memory
        problem, kind = explained(item, error)
        if kind == "memory" and not alone:
            raise RetryAloneError from None
        return [unreadable(item, problem, kind, digest, time.perf_counter() - started, form)]
    started = min(started, state.read_began or started)
    seconds, now = time.perf_counter() - started, datetime.now(UTC)
    return [Row(item.path, item.path_bytes, **fields, seconds=seconds, time=now) for fields in found]


def unreadable(
    item: Item,
    problem: str,
    kind: ErrorKind,
    digest: tuple[str, int] | None = None,
    seconds: float | None = None,
    form: str | None = None,
) -> Row:
    """The row of an item that could not be measured.

    problem: what to tell the user, without the item's name.  digest: SHA-256 and size of its bytes, if they
    could be read.  seconds: that it took.  form: format of the file, if it is one that is known.
    """
    sha256, size = digest or (None, None)
    problem = problem.encode("utf-8", "backslashreplace").decode()
    return Row(
        item.path,
        item.path_bytes,
        UNREADABLE,
        sha256=sha256,
        bytes=size,
        format=form,
        error=problem,
        error_kind=kind,
        seconds=seconds,
        time=datetime.now(UTC),
    )


def explained(item: Item, error: Exception) -> tuple[str, ErrorKind]:
    """What to tell the user of an error that an item caused, without the item's name, and its class."""
    if isinstance(error, MemoryError):
        return "does not fit in memory; make it smaller", "memory"
    text = str(error)
    for name in (item.path, item.location):
        if name and text.startswith(f"{name}: "):
            text = text[len(name) + 2 :]
    if isinstance(error, ItemError):
        return text, error.kind
    if isinstance(error, ImageError):
        return text, next((kind for words, kind in _CLASSES if words in text), "no-image")
    what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return f"met a defect of stablesig ({what}); please report it", "defect"


def warm_up(settings: ScanSettings) -> None:
    """Measure a small image, so that workers forked from this process start with everything loaded.

    Raises what is wrong with the settings and not with an image: KeyFileError, StatisticsError, UsageError.
    """
    import io

    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (_WARM_SIDE, _WARM_SIDE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    state = WorkerState()
    pixels = decode(file.getvalue(), "warming up", both=True).pixels
    for found in _look(pixels, settings, state)[0]:
        state.facts(settings, found.key_id)


def _bytes(item: Item, settings: ScanSettings, state: WorkerState) -> bytes:
    if item.kind == "refused":
        raise ItemError(item.error or "cannot be read", item.error_kind or "defect")
    return state.read(item, settings.read)


def _evidence(
    item: Item, data: bytes, digest: tuple[str, int], settings: ScanSettings, state: WorkerState
) -> Sequence[Fields]:
    """What the rows of an image say, but for its name and the time."""
    sha256, size = digest
    if settings.dedup and (known := state.recall(sha256)) is not None:
        return known
    ruled_out = state.screen(settings).rule_out(data, item.path) if settings.screen else None
    background: str | None = None
    screened = True
    detections: Sequence[Detection]
    if ruled_out is not None:
        form, detections = "JPEG", [ruled_out]
    else:
        image = decode(data, item.path, both=True)
        form = image.format
        if image.over_black is None:
            detections, screened = _look(image.pixels, settings, state)
        else:  # the part of the windows that screening measures knows no second background
            screened = False
            background, _, detections = look_over_both(
                image.pixels,
                image.over_black,
                lambda side: detect(side, settings.keys, settings.fpr, settings.search, best=1),
                only_best=True,
            )
    common: Fields = {
        "sha256": sha256,
        "bytes": size,
        "width": detections[0].width,
        "height": detections[0].height,
        "format": form,
        "background": background,
        "screened": screened,
    }
    detected = [found for found in detections if found.detected]
    strongest = min(detections, key=lambda found: (found.log10_p_value, -found.statistic))
    rows = [common | _fields(found, settings, state) for found in detected or [strongest]]
    if settings.dedup:
        state.keep(sha256, rows)
    return rows


def _look(pixels: ImageArray, settings: ScanSettings, state: WorkerState) -> tuple[Sequence[Detection], bool]:
    """The strongest key and all that are detected; whether part of the windows sufficed to say so."""
    if settings.screen:
        verdict = state.screen(settings).look(pixels)
        return verdict.detections, verdict.screened
    return detect(pixels, settings.keys, settings.fpr, settings.search, best=1), False


def _fields(found: Detection, settings: ScanSettings, state: WorkerState) -> Fields:
    provider, model_id, key_state = state.facts(settings, found.key_id)
    return {
        "verdict": DETECTED if found.detected else NOT_DETECTED,
        "key_id": found.key_id,
        "provider": provider,
        "model_id": model_id,
        "key_state": key_state,
        **dict(zip(_EVIDENCE, _evidence_of(found), strict=True)),
    }
