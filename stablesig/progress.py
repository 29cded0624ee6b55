"""Progress on standard error: a bar on a terminal, else a line at times. The bar of all, and embed's."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, Self

LINE_EVERY_S = 30.0  # between lines, where there is no terminal


class StandardErrorBar:
    """A bar on a terminal, nothing elsewhere. A context manager; what derives from it is to be called.

    field: name of the field of each task that is shown between the count and the time, if any.
    """

    def __init__(self, field: str | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._last_line = time.monotonic()
        between = [] if field is None else [TextColumn(f"{{task.fields[{field}]}}", markup=False)]
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            *between,
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class Step(Protocol):
    """What training reports after each step."""

    @property
    def step(self) -> int: ...  # steps done
    @property
    def steps(self) -> int: ...  # steps in all
    @property
    def statistic(self) -> float: ...  # mean cosine between features and key, -1..1
    @property
    def psnr_db(self) -> float: ...  # mean, against the original decoder


class TrainingProgress(StandardErrorBar):
    """A context manager to call with each `Step`."""

    def __init__(self) -> None:
        super().__init__("measured")
        self._started = self._last_line
        self._first_step: int | None = None
        self._task = self._bar.add_task("embedding", total=None, measured="")

    def __call__(self, report: Step) -> None:
        measured = f"statistic {report.statistic:+.3f}  PSNR {report.psnr_db:.1f} dB"
        self._bar.update(self._task, completed=report.step, total=report.steps, measured=measured)
        if not self._bar.disable:
            return
        now = time.monotonic()
        if self._first_step is None:  # a resumed run does not start at 0
            self._first_step, self._started = report.step - 1, now
        if now - self._last_line < LINE_EVERY_S and report.step < report.steps:
            return
        self._last_line = now
        done = report.step - self._first_step
        left_s = (report.steps - report.step) * (now - self._started) / max(1, done)
        print(
            f"step {report.step}/{report.steps}  {measured}  {left_s:.0f} s left", file=sys.stderr, flush=True
        )
