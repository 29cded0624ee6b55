"""`stablesig calibrate`: false positives over folders of images that carry no watermark."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import typer

from stablesig.failures import InterruptedRunError
from stablesig.one_line import shown
from stablesig.progress import LINE_EVERY_S


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
    try:
        with Progress() as progress:
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
                on_warning=_warn,
            )
    except KeyboardInterrupt as error:
        partial = partial_folder(out)
        raise InterruptedRunError(
            f"interrupted; {partial} is kept; run the same command with --resume to go on"
            if partial.is_dir()
            else "interrupted before an image was measured; nothing is kept; run the same command again"
        ) from error
    typer.echo(as_json_text(result) if as_json else str(result))
    typer.echo(f"written: {shown(out)}", err=True)
    if any(found.unreadable for found in result.classes):
        raise typer.Exit(3)


def _warn(text: str) -> None:
    typer.echo(f"stablesig: warning: {shown(text)}", err=True)


class Progress:
    """On standard error: a bar on a terminal, else a line at times. A context manager to call."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self._last_line = time.monotonic()
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks = {"": self._bar.add_task("", visible=False)}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(shown(what), total=total)
        self._bar.update(self._tasks[what], completed=done, total=total)
        now = time.monotonic()
        if self._bar.disable and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            print(f"{shown(what)}: {done}/{total}", file=sys.stderr, flush=True)
