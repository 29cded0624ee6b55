"""`evaluate`: what a watermarked decoder costs in quality, and what attacks leave of its watermark.

    OUT.partial/     while it runs; --resume goes on from it (`evaluation_journal`)
    OUT/report.json  everything that was measured, and from what (data/evaluation.schema.json)
    OUT/report.html  the same for the eye, with plots and pictures, in one file
    OUT/results.csv  a row for each image and attack

OUT appears when all of it is there, by one rename.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig.evaluation_inputs import find_held_out, load_decoders, read_watermarked
from stablesig.evaluation_journal import Journal, check_places
from stablesig.evaluation_measure import Instrument, mapper
from stablesig.evaluation_pictures import Pictures, decode_pictures
from stablesig.evaluation_provenance import Inputs
from stablesig.evaluation_run import EvaluationStep, Loop, Progress
from stablesig.evaluation_settings import (
    DEFAULT_SUITE,
    EvaluationSettings,
    choose,
    find_suites,
    is_built_in,
    needs_decoders,
)
from stablesig.evaluation_summary import Evaluation, summarise
from stablesig.extras import needs_train
from stablesig_detector.detection import check_key
from stablesig_detector.errors import ImageError, UsageError
from stablesig_detector.spectrum import DIMENSION, FEATURE_VERSION
from stablesig_detector.whitening import load_default

if TYPE_CHECKING:
    from stablesig.suites import Suite
    from stablesig_detector.detection import Key
    from stablesig_detector.whitening import Whitening

__all__ = ["Evaluation", "EvaluationSettings", "EvaluationStep", "evaluate"]

_log = logging.getLogger(__name__)


def evaluate(
    folder: str | Path,
    key: Key,
    images: str | Path,
    out: str | Path,
    settings: EvaluationSettings | None = None,
    *,
    suites: Sequence[str | Suite[Any]] = (DEFAULT_SUITE,),
    original: str | Path | None = None,
    others: Sequence[str | Path] = (),
    jobs: int = 1,
    device: str = "auto",
    resume: bool = False,
    progress: Progress | None = None,
    on_warning: Callable[[str], None] | None = None,
    whitening: Whitening | None = None,
) -> Evaluation:
    """Decode held-out images with the original and the watermarked decoder, attack them, and look for `key`.

    folder: what `embed` wrote.  images: a folder of photographs that it was not trained on; of the very
    folder that it was trained on, only the images that it held out are used.  out: a folder that does not
    exist.  suites: names from `stablesig.suites`, "all", or suites of your own.  original: the autoencoder
    before `embed`, needed where watermark.json does not say where it is.  others: further autoencoders for
    round trips (default: the one that ships).  jobs: processes that attack and measure; more than one needs a
    program that starts under `if __name__ == "__main__"`.  resume: go on with the run in OUT.partial.
    progress: called with an `EvaluationStep` after each attacked picture.  on_warning: called with a line for
    each image that is skipped (default: logging).  whitening: statistics other than those shipped.

    The numbers depend on the inputs, the settings and the suites, not on jobs. Raises OutputExistsError,
    OutputError, UsageError, KeyFileError (another key than the one embedded), DecoderError, ImageError (no
    image can be used), MissingExtraError. An interruption leaves OUT.partial.
    """
    started = time.monotonic()
    out, warn = Path(out), on_warning or _log.warning
    settings = EvaluationSettings() if settings is None else settings
    if jobs < 1:
        raise UsageError(f"there is at least one job; got {jobs}")
    partial = check_places(out, resume)
    whitening = load_default() if whitening is None else whitening
    check_key(key, FEATURE_VERSION, DIMENSION, whitening.sha256)
    with needs_train("evaluate"):
        import matplotlib  # noqa: F401  # asked for before hours of measuring, as the report needs it
        import torch  # noqa: F401

        from stablesig_train.devices import choose_device
    wanted = find_suites(suites)
    watermarked = read_watermarked(Path(folder), key)
    decoders = load_decoders(
        watermarked,
        None if original is None else str(original),
        [str(source) for source in others],
        choose_device(device),
        shipped=needs_decoders(wanted),
    )
    if settings.size % (stride := decoders.original.stride):
        raise UsageError(f"size is a multiple of the autoencoder's stride, {stride}; got {settings.size}")
    inputs = Inputs(
        watermarked,
        key,
        find_held_out(Path(images), watermarked, warn),
        decoders,
        settings,
        tuple(choose(wanted, len(decoders.others))),
        None if original is None else str(original),
    )
    journal = (Journal.resume if resume else Journal.start)(partial, inputs.identity())
    try:
        result = _measure(inputs, whitening, journal, out, jobs, progress, warn, started)
    except (ImageError, UsageError):  # wrong inputs; after any other failure --resume can go on
        if not journal.scores:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(partial, ignore_errors=True)
    return result


def _measure(
    inputs: Inputs,
    whitening: Whitening,
    journal: Journal,
    out: Path,
    jobs: int,
    progress: Progress | None,
    warn: Callable[[str], None],
    started: float,
) -> Evaluation:
    """Everything after the inputs were checked: decode, attack, measure, count, write."""
    from stablesig.evaluation_report import write_report

    earlier = sum(scores.seconds for scores in journal.scores.values())  # in sessions before this one
    settings, folder = inputs.settings, journal.folder / "pictures"
    pictures = Pictures.load(folder) or decode_pictures(
        inputs.images.files,
        inputs.decoders.original,
        inputs.decoders.marked,
        folder,
        size=settings.size,
        limit=settings.limit,
        warn=warn,
    )
    own = tuple(one.suite for one in inputs.chosen if not is_built_in(one.suite))
    instrument = Instrument(pictures, inputs.key, whitening, own, settings.seed)
    with mapper(instrument, jobs) as run:
        qualities = list(run("quality", range(len(pictures))))
        Loop(instrument, inputs.decoders, settings, journal, run, progress).measure_all(inputs.chosen)
    seconds = earlier + time.monotonic() - started
    result = summarise(out, inputs, pictures, qualities, journal.scores, seconds)
    write_report(result, inputs, instrument, qualities, journal.folder, jobs)
    return result
