"""Progress of `stablesig evaluate` on standard error: a bar on a terminal, else a line at times."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from stablesig.one_line import shown
from stablesig.progress import LINE_EVERY_S, StandardErrorBar


class Step(Protocol):
    """What `evaluate` reports after each attacked picture."""

    @property
    def done(self) -> int: ...  # pictures
    @property
    def total(self) -> int: ...
    @property
    def attack(self) -> str: ...


class EvaluationProgress(StandardErrorBar):
    """A context manager to call with each `Step`."""

    def __init__(self) -> None:
        super().__init__("attack")
        self._started = self._last_line
        self._first: int | None = None
        self._task = self._bar.add_task("decoding", total=None, attack="")

    def __call__(self, step: Step) -> None:
        attack = shown(step.attack)
        self._bar.update(
            self._task,
            description="evaluating",
            completed=step.done,
            total=step.total,
            attack=attack,
        )
        if not self._bar.disable:
            return
        now = time.monotonic()
        if self._first is None:  # decoding, and what a resumed run has done already, say nothing of the rest
            self._first, self._started, self._last_line = step.done - 1, now, now
        if now - self._last_line < LINE_EVERY_S and step.done < step.total:
            return
        self._last_line = now
        left_s = (step.total - step.done) * (now - self._started) / max(1, step.done - self._first)
        print(f"picture {step.done}/{step.total}  {attack}  {left_s:.0f} s left", file=sys.stderr, flush=True)
