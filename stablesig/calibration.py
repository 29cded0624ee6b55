"""False positives on images without a watermark: for keys drawn at random, and for each fixed key.

Over the draw of the key the p-value is exact, for any image whatever: observed over nominal must be 1 up to
chance, or the code is wrong. What one fixed key does on many images is another matter: no theorem promises
anything but the mean over keys, only the whitening statistics work towards it. So each key's rate is compared
with its nominal one, and its spread over keys with that of a binomial count.

Two bounds hold whatever the images are. The mean over keys of the rate f of one key is the nominal rate a,
so at most one key in c has f > c a (Markov): multiplying p by 20 keeps 95 % of the keys at or under their
nominal rate. With the second moment, which `calibration_counts` takes from the angles between images, the
same 95 % need only the factor 1 + sqrt(19) sd(f) / a (Cantelli).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stablesig.calibration_counts import (
    KEY_BLOCK,
    Angles,
    angles_between,
    count_exceedances,
    draw_directions,
    nominal_levels,
)
from stablesig.calibration_levels import (
    Curve,
    FixedLevel,
    KeyLevel,
    RandomLevel,
    Spread,
    curve,
    design_effect,
    fixed_levels,
    key_levels,
    random_levels,
    spreads,
)
from stablesig.calibration_measure import (
    Cache,
    Measurement,
    Unreadable,
    find_images,
    fitted_images,
    measure_all,
)
from stablesig_detector.detection import check_key
from stablesig_detector.errors import ImageError, OutputError, OutputExistsError, UsageError
from stablesig_detector.search import TRANSFORMS
from stablesig_detector.spectrum import DIMENSION, FEATURE_VERSION
from stablesig_detector.whitening import load_default

if TYPE_CHECKING:
    from stablesig_detector.detection import Key
    from stablesig_detector.whitening import Whitening

SEARCHES = ("none", "fast")
_CACHE_NAME = "measurements.jsonl"

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is, of how much


@dataclass(frozen=True)
class ClassResult:
    """One folder of images.

    name: of the folder, or its whole path where two share a name.  images: how many count.  duplicates: files
    left out because their bytes equal another's.  fitted: images from which the whitening statistics were
    computed, which flatters them.  random, fixed, keys, spread, curve: see those classes.  mean_cosine: of
    the features of two different images; 0 where they are centred.  effective_dimension: 1 over the mean
    squared cosine; DIMENSION where the directions are spread evenly. Both None for a single image.
    """

    name: str
    folder: Path
    images: int
    unreadable: tuple[Unreadable, ...]
    duplicates: int
    fitted: int
    random: tuple[RandomLevel, ...]
    fixed: tuple[FixedLevel, ...]
    keys: tuple[KeyLevel, ...]
    spread: tuple[Spread, ...]
    mean_cosine: float | None
    effective_dimension: float | None
    curve: Curve

    @property
    def verdict(self) -> str:
        """Of random keys, over the levels with enough expected events: "within", "above", "below" (fewer
        false positives than nominal: conservative) or "too few pairs".
        """
        judged = [level.verdict for level in self.random if level.judged]
        return next((word for word in ("above", "below", "within") if word in judged), "too few pairs")

    @property
    def beyond_chance(self) -> bool:
        """Whether fixed keys differ by more than chance at any level."""
        return any(level.beyond_chance for level in self.fixed)


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` measured. `str` of it is the table that the command prints."""

    classes: tuple[ClassResult, ...]
    n_keys: int
    key_ids: tuple[str, ...]
    search: str
    hypotheses: int
    seed: int
    feature_version: str
    dimension: int
    statistics_sha256: str

    def __str__(self) -> str:
        from stablesig.calibration_text import table

        return table(self)


def partial_folder(out: Path) -> Path:
    """Where an unfinished calibration keeps its measurements."""
    return out.with_name(out.name + ".partial")


def calibrate(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    n_keys: int = 2000,
    keys: Sequence[Key] = (),
    search: str = "none",
    seed: int = 0,
    jobs: int = 1,
    resume: bool = False,
    progress: Progress | None = None,
    on_warning: Callable[[str], None] | None = None,
    whitening: Whitening | None = None,
) -> Calibration:
    """Measure every image of `folders` once and count false positives; write the report folder `out`.

    folders: each with its subfolders is a class of images, none of which may carry a watermark of `keys`.
    n_keys: directions to draw, from `seed`.  keys: real keys to evaluate besides.  search: "none" tests an
    image as it is, for which the p-value is exact; "fast" also flips and quarter turns, for which it is a
    bound.  jobs: processes that measure.  resume: go on with what an interrupted run measured.  progress:
    called with what is done.  on_warning: called with a line for each image that is left out, and if there is
    no plot for want of matplotlib.  whitening: statistics other than those shipped.

    Raises UsageError, OutputExistsError, OutputError, ImageError (a folder without images, or none readable),
    KeyFileError. What was measured by then stays in `partial_folder(out)`.
    """
    out = Path(out)
    _check_request(folders, n_keys, search, jobs)
    whitening = load_default() if whitening is None else whitening
    for key in keys:
        check_key(key, FEATURE_VERSION, DIMENSION, whitening.sha256)
    warn, tell = on_warning or (lambda _: None), progress or (lambda *_: None)
    partial = _free_places(out, resume)
    places = [Path(folder) for folder in folders]
    names = _names(places)
    measured = _measure_folders(places, partial, jobs, tell, warn)
    key_blocks = -(-n_keys // KEY_BLOCK) * len(places)
    done = 0

    def counted() -> None:
        nonlocal done
        done += 1
        tell("counting", done, key_blocks)

    result = Calibration(
        tuple(
            _evaluate(name, images, n_keys, keys, search, seed, whitening, counted)
            for name, images in zip(names, measured, strict=True)
        ),
        n_keys,
        tuple(key.id for key in keys),
        search,
        len(TRANSFORMS[search]),
        seed,
        FEATURE_VERSION,
        DIMENSION,
        whitening.sha256,
    )
    _write(result, out, warn)
    shutil.rmtree(partial, ignore_errors=True)
    return result


@dataclass(frozen=True, eq=False)
class _Measured:
    """The images of one folder that count. values: (n, D) spectra."""

    folder: Path
    values: np.ndarray
    unreadable: tuple[Unreadable, ...]
    duplicates: int
    fitted: int


def _check_request(folders: Sequence[object], n_keys: int, search: str, jobs: int) -> None:
    if not folders:
        raise UsageError("there is nothing to calibrate on; give at least one folder of images")
    if n_keys < 2:
        raise UsageError(f"a spread needs at least 2 keys; got {n_keys}")
    if search not in SEARCHES:
        raise UsageError(f'calibration searches "none" or "fast"; got {search!r}')
    if jobs < 1:
        raise UsageError(f"there is at least 1 job; got {jobs}")


def _free_places(out: Path, resume: bool) -> Path:
    """The folder of the unfinished run. Raises unless `out` is free, and it is there just when resuming."""
    partial = partial_folder(out)
    if os.path.lexists(out):
        raise OutputExistsError(f"results are never overwritten; {out} exists; choose another --out")
    if resume and not (partial / _CACHE_NAME).is_file():
        raise UsageError(
            f"there is nothing to resume: {partial / _CACHE_NAME} is not there; leave out --resume"
        )
    if not resume and os.path.lexists(partial):
        raise OutputExistsError(
            f"{partial} holds what an interrupted run measured; go on with --resume, or remove it"
        )
    return partial


def _names(folders: Sequence[Path]) -> list[str]:
    """One name for each class: the folder's, or its path where that is not enough. Raises UsageError."""
    real = [folder.resolve() for folder in folders]
    for place in real:
        if real.count(place) > 1:
            raise UsageError(f"{place} is given twice; a folder is a class of its own, so give it once")
    short = [place.name for place in real]
    return [
        name if name and short.count(name) == 1 else os.fspath(place)
        for name, place in zip(short, real, strict=True)
    ]


def _measure_folders(
    folders: Sequence[Path], partial: Path, jobs: int, tell: Progress, warn: Callable[[str], None]
) -> list[_Measured]:
    """All classes. The measurements stay in `partial`, unless there are none."""
    files = [find_images(folder) for folder in folders]
    partial.mkdir(parents=True, exist_ok=True)
    cache = Cache(partial / _CACHE_NAME)
    try:
        with cache:
            return [_measure(*each, cache, jobs, tell, warn) for each in zip(folders, files, strict=True)]
    except BaseException:
        if not len(cache):
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _measure(
    folder: Path,
    files: Sequence[Path],
    cache: Cache,
    jobs: int,
    tell: Progress,
    warn: Callable[[str], None],
) -> _Measured:
    seen: set[str] = set()
    values, unreadable, duplicates = [], [], 0
    what = f"measuring {folder.name}"
    for done, outcome in enumerate(measure_all(files, cache, jobs), 1):
        tell(what, done, len(files))
        if not isinstance(outcome, Measurement):
            unreadable.append(outcome)
            warn(f"skipped {outcome.file}: {outcome.reason}")
        elif outcome.sha256 in seen:
            duplicates += 1
        else:
            seen.add(outcome.sha256)
            values.append(outcome.values)
    if not values:
        raise ImageError(
            f"none of the {len(files)} images in {folder} can be measured: {unreadable[0].reason}"
        )
    return _Measured(folder, np.array(values), tuple(unreadable), duplicates, len(seen & fitted_images()))


def _evaluate(
    name: str,
    images: _Measured,
    n_keys: int,
    keys: Sequence[Key],
    search: str,
    seed: int,
    whitening: Whitening,
    on_block: Callable[[], None],
) -> ClassResult:
    transforms, n = TRANSFORMS[search], len(images.values)
    levels = nominal_levels(1.0 / (n * n_keys))
    directions = draw_directions(n_keys, seed)
    counts = count_exceedances(images.values, directions, levels, transforms, whitening, on_block=on_block)
    angles = angles_between(images.values, transforms, whitening, seed)
    upright: Angles | None = angles
    if len(transforms) > 1:
        upright = angles_between(images.values, transforms[:1], whitening, seed)
    effects = [design_effect(angles, level, n, len(transforms)) for level in levels]
    own = np.zeros((0, len(levels)), dtype=np.int64)
    if keys:
        block = np.stack([key.direction for key in keys])
        own = count_exceedances(images.values, [block], levels, transforms, whitening)
    return ClassResult(
        name,
        images.folder,
        n,
        images.unreadable,
        images.duplicates,
        images.fitted,
        random_levels(counts, levels, effects, n),
        fixed_levels(counts, levels, n),
        key_levels([key.id for key in keys], own, levels, n),
        () if upright is None else spreads(upright),
        None if upright is None else upright.mean(upright.cosines),
        None if upright is None else 1.0 / max(upright.mean(upright.cosines**2), 1e-12),
        curve(counts, levels, effects, n),
    )


def _write(result: Calibration, out: Path, warn: Callable[[str], None]) -> None:
    """The report folder, written beside its place and renamed into it."""
    from stablesig.calibration_report import write_report

    try:
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            note = write_report(result, beside)
            beside.chmod(0o755)
            beside.rename(out)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    except OSError as error:
        raise OutputError(
            f"{out} could not be written: {error.strerror or error}; mend that and go on with --resume"
        ) from error
    if note:
        warn(note)
