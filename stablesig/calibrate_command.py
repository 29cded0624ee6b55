"""`stablesig calibrate`: false positives over folders of images that carry no watermark."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from stablesig.failures import interruption_explained, warn
from stablesig.one_line import shown
from stablesig.progress import LINE_EVERY_S, StandardErrorBar


def calibrate(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            show_default=False,
            help="Folders of images without a watermark; each, with its subfolders, is a class of its own.",
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
    n_keys: Annotated[
        int, typer.Option("--keys", metavar="N", min=2, help="How many directions to draw as keys.")
    ] = 2000,
    keys: Annotated[
        list[Path] | None,
        typer.Option(
            "--key",
            "-k",
            metavar="KEY.json",
            show_default=False,
            help="A real key, secret or public, to evaluate besides; may be repeated.",
        ),
    ] = None,
    search: Annotated[
        str,
        typer.Option(
            "--search",
            metavar="none|fast",
            help="none: images as they are, where p is exact; fast: also flips and quarter turns, where p is "
            "a bound.",
        ),
    ] = "none",
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the drawn keys.")] = 0,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", min=1, help="Processes that measure.")
    ] = 1,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with what an unfinished run left in REPORT.partial."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print calibration.json instead of tables.")
    ] = False,
) -> None:
    """Measure false positives on images without a watermark.

    Measures every image once, then counts how often keys fall under each nominal rate, down to one over the
    number of pairs, or of images. For keys drawn at random the p-value is exact, and observed over nominal
    must be 1 up to chance. One fixed key on many images is promised nothing: each drawn key, and each
    --key, is counted on its own, and a spread over keys beyond chance is named, with the factor on p that
    covers it.

    Writes REPORT/calibration.json, .csv and .html, and .png and .svg where matplotlib is installed; prints
    the tables. Unreadable and too small images are skipped with a warning, and the exit code is then 3; of
    files that are equal, one counts. Ctrl-C leaves what was measured in REPORT.partial, from where the same
    command with --resume goes on. Needs neither a model nor PyTorch.
    """
    from stablesig.calibration import calibrate as run_calibrate
    from stablesig.calibration import partial_folder
    from stablesig.calibration_report import as_json_text
    from stablesig_detector.key import load_key

    loaded = [load_key(path) for path in keys or ()]
    with interruption_explained(partial_folder(out), "an image was measured"), Progress() as progress:
        result = run_calibrate(
            folders,
            out,
            n_keys=n_keys,
            keys=loaded,
            search=search,
            seed=seed,
            jobs=jobs,
            resume=resume,
            progress=progress,
            on_warning=warn,
        )
    typer.echo(as_json_text(result) if as_json else str(result))
    typer.echo(f"written: {shown(out)}", err=True)
    if any(found.unreadable for found in result.classes):
        raise typer.Exit(3)


class Progress(StandardErrorBar):
    """A context manager to call with a class, the images of it that are done, and all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks = {"": self._bar.add_task("", visible=False)}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(shown(what), total=total)
        self._bar.update(self._tasks[what], completed=done, total=total)
        now = time.monotonic()
        if self._bar.disable and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            print(f"{shown(what)}: {done}/{total}", file=sys.stderr, flush=True)
