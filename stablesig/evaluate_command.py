"""The command `stablesig evaluate`: options, warnings, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stablesig.failures import interruption_explained, warn
from stablesig.one_line import printable
from stablesig.suites import SUITE_NAMES


def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", show_default=False, help="What stablesig embed wrote."),
    ],
    key: Annotated[
        Path,
        typer.Option(
            "--key",
            "-k",
            metavar="KEY.json",
            show_default=False,
            help="The key that it was embedded with, secret or public; bits are read with the secret one.",
        ),
    ],
    images: Annotated[
        Path,
        typer.Option(
            "--images",
            "-i",
            metavar="DIR",
            show_default=False,
            help="Folder of photographs that were not trained on.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="REPORT",
            show_default=False,
            help="Folder to write; must not exist, even with --resume.",
        ),
    ],
    suites: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            metavar="NAME",
            show_default=False,
            help=f"Attacks to make: {', '.join(SUITE_NAMES)}, or all; may be repeated (default: targets).",
        ),
    ] = None,
    original: Annotated[
        str | None,
        typer.Option(
            "--original",
            metavar="VAE",
            show_default=False,
            help="The autoencoder before embed, as embed takes it; needed where DIR/watermark.json names a "
            "local folder that is not here.",
        ),
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option(
            "--other",
            metavar="VAE",
            show_default=False,
            help="Another autoencoder for the round trips of regeneration; may be repeated (default: the one "
            "that ships).",
        ),
    ] = None,
    size: Annotated[
        int,
        typer.Option("--size", metavar="PX", min=8, help="Cut PX x PX from the centre of each image."),
    ] = 512,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", min=1, show_default=False, help="Use the first N images by name."
        ),
    ] = None,
    fpr: Annotated[
        float,
        typer.Option(
            "--fpr",
            metavar="P",
            help="False positive rate that counts as detected; 1e-3, 1e-6 and 1e-9 are always reported.",
        ),
    ] = 1e-6,
    search: Annotated[
        str,
        typer.Option(
            "--search",
            metavar="none|fast|full|auto",
            help="Geometry that the detector undoes; auto takes the least that can undo each attack.",
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the attacks.")] = 0,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", min=1, help="Processes that attack and measure.")
    ] = 1,
    device: Annotated[
        str,
        typer.Option(
            "--device", metavar="auto|cpu|cuda|mps", help="Where to decode; auto takes a GPU if there is one."
        ),
    ] = "auto",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the unfinished run that is in REPORT.partial."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as one JSON object instead of text.")
    ] = False,
) -> None:
    """Measure quality and robustness of a watermarked decoder.

    Decodes held-out photographs with the original and the watermarked decoder, attacks both, and looks for
    the key in all of them; the original decoder's pictures are the control. Writes REPORT/report.html
    (tables, plots and pictures in one file), REPORT/report.json and REPORT/results.csv; prints a table.
    Images that cannot be read or are smaller than PX are skipped with a warning. The same inputs, options and
    seed give the same numbers, whatever the number of --jobs. Ctrl-C leaves REPORT.partial, from which the
    same command with --resume goes on. Needs the train extra.

    The report holds no secret key, and of a path on this machine only the last name. The public direction can
    be computed from its statistics: keep it as private as the public key file.
    """
    from stablesig_detector.key import load_key

    loaded = load_key(key)
    from stablesig.evaluation import evaluate as run_evaluate
    from stablesig.evaluation_journal import partial_of
    from stablesig.evaluation_progress import EvaluationProgress
    from stablesig.evaluation_report import json_summary
    from stablesig.evaluation_settings import DEFAULT_SUITE, EvaluationSettings

    settings = EvaluationSettings(size=size, limit=limit, fpr=fpr, search=search, seed=seed)
    with interruption_explained(partial_of(out), "anything was measured"), EvaluationProgress() as progress:
        result = run_evaluate(
            folder,
            loaded,
            images,
            out,
            settings,
            suites=suites or [DEFAULT_SUITE],
            original=original,
            others=others or [],
            jobs=jobs,
            device=device,
            resume=resume,
            progress=progress,
            on_warning=warn,
        )
    if as_json:
        typer.echo(json_summary(result))
        return
    for line in str(result).split("\n"):
        typer.echo(printable(line))
