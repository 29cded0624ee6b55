"""What `evaluate` leaves: report.json and results.csv here, report.html by `evaluation_html`."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig import __version__
from stablesig.detect_output import ABSENCE
from stablesig.evaluation_html import html_report
from stablesig.evaluation_journal import check_free
from stablesig.evaluation_measure import Instrument, Score
from stablesig.evaluation_pictures import Pictures, Subject
from stablesig.evaluation_summary import Evaluation, is_detected
from stablesig.quality import Quality
from stablesig_detector.errors import OutputError

if TYPE_CHECKING:
    from stablesig.evaluation_provenance import Inputs

SCHEMA = "stablesig-evaluation"
SCHEMA_VERSION = 1
NOTES = (
    "A rate's low and high are its exact 95 % binomial interval (Clopper and Pearson 1934) over images, for "
    "this one key and this one decoder.",
    "p-values pay for the geometries that the detector tried; a picture too small to measure counts as not "
    "detected, with p = 1.",
    "Bits are read in the geometry that fits the key best, so chance reads more than half of them right: see "
    "the control's.",
    "With the search auto each attack is judged by the least search that can undo it. Who does not know the "
    "attack has one search for all: full, whose p-values cost more.",
    "PSNR is a mean of dB over pictures; equal pictures count as 100 dB. It compares samples in place: after "
    "a flip, a rotation or a perspective it does not say how a picture looks.",
    "Statistics of pictures that a reader can make again are equations for the key's public direction: keep "
    "this report, results.csv above all, as private as the public key file.",
    ABSENCE,
)
_CSV_HEAD = [
    *("suite", "attack", "search", "image", "image_sha256", "width", "height", "statistic", "log10_p_value"),
    *("transform", "scale", "rotation", "hypotheses", "hypothesis_factor", "matches", "n_bits"),
    *("attack_psnr_db", "original_psnr_db", "control_width", "control_height"),
    *("control_statistic", "control_log10_p_value", "control_unsearched_statistic"),
]


def write_report(
    result: Evaluation,
    inputs: Inputs,
    instrument: Instrument,
    qualities: Sequence[Quality],
    run_folder: Path,
    jobs: int,
) -> None:
    """Write all of `result.out`, beside it first. Raises OutputExistsError, OutputError."""
    folder = run_folder / "result"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted while it wrote
    pictures = instrument.pictures
    content = document(result, inputs, pictures, qualities, jobs)
    try:
        folder.mkdir()
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        (folder / "report.json").write_text(f"{text}\n", encoding="utf-8")
        (folder / "results.csv").write_text(csv_text(result, pictures.subjects), encoding="utf-8", newline="")
        page = html_report(result, inputs.chosen, content, instrument, qualities, run_folder)
        (folder / "report.html").write_text(page, encoding="utf-8")
        check_free(result.out)  # rename would replace an empty folder
        folder.rename(result.out)
    except OSError as error:
        raise OutputError(
            f"{result.out} cannot be written: {error.strerror or error}; free some space, then use --resume"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # gone already if all went well


def document(
    result: Evaluation, inputs: Inputs, pictures: Pictures, qualities: Sequence[Quality], jobs: int
) -> dict[str, Any]:
    """report.json; data/evaluation.schema.json says what its fields mean."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "stablesig_version": __version__,
        **inputs.fields(),
        "images": {
            "manifest_sha256": inputs.images.manifest_sha256,
            "held_out_of_training_folder": inputs.images.split,
            "used": [
                asdict(subject) | {"quality": asdict(one)}
                for subject, one in zip(pictures.subjects, qualities, strict=True)
            ],
            "skipped": pictures.skipped,
        },
        **_results(result),
        "notes": list(NOTES),
        "run": inputs.run_fields(result.seconds, jobs),
    }


def json_summary(result: Evaluation) -> str:
    """What `stablesig evaluate --json` prints: the results of report.json, and where the report is."""
    content = {
        "schema": f"{SCHEMA}-summary",
        "schema_version": SCHEMA_VERSION,
        "report": str(result.out),
        "key_id": result.key_id,
        "images": result.images,
        "fpr": result.fpr,
        **_results(result),
    }
    return json.dumps(content, indent=2, allow_nan=False)


def _results(result: Evaluation) -> dict[str, Any]:
    return {
        "quality": asdict(result.quality),
        "attacks": [asdict(attack) | {"bit_accuracy": attack.bit_accuracy} for attack in result.attacks],
        "control": asdict(result.control),
        "left_out": [asdict(gone) for gone in result.left_out],
    }


def csv_text(result: Evaluation, subjects: Sequence[Subject]) -> str:
    """A row for each attack and image; numbers in full, cells empty where there is nothing to say."""
    fprs = [rate.fpr for rate in result.attacks[0].detected]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_CSV_HEAD, *(f"detected_at_{fpr:g}" for fpr in fprs)])
    for attack, scores in zip(result.attacks, result.scores, strict=True):
        controls = scores.control or (None,) * len(scores.marked)
        for subject, score, control in zip(subjects, scores.marked, controls, strict=True):
            name = [attack.suite, attack.name, attack.search, subject.name, subject.sha256]
            evidence = [score.width, score.height, score.statistic, score.log10_p, score.transform]
            evidence += [score.scale, score.rotation, score.hypotheses, score.hypothesis_factor]
            evidence += [score.matches, score.n_bits]
            evidence += [score.attack_psnr_db, score.original_psnr_db]
            detected = [int(is_detected(score, fpr)) for fpr in fprs]
            writer.writerow([*name, *evidence, *_control_cells(control), *detected])
    return text.getvalue()


def _control_cells(score: Score | None) -> list[object]:
    if score is None:
        return [None] * 5
    return [score.width, score.height, score.statistic, score.log10_p, score.unsearched_statistic]
