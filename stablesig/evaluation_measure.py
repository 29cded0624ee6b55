"""Attacking and measuring one picture, in this process or in several.

A task says what to do by name, so that it can be sent to another process; its result depends on the task
alone, never on how many processes there are or which of them does it.
"""

from __future__ import annotations

import hashlib
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, TypeAlias

from stablesig.evaluation_pictures import Pictures, Pixels
from stablesig.evaluation_settings import built_in
from stablesig.quality import EQUAL_DB, Quality, psnr_db, quality
from stablesig.suites import ImageAttack
from stablesig_detector.detection import Detection, Key, detect
from stablesig_detector.errors import ImageError, StableSigError, UsageError
from stablesig_detector.whitening import Whitening

if TYPE_CHECKING:
    from stablesig.suites import SetAttack, Suite

# (method of Instrument, tasks) -> results in the order of the tasks, as they come
Mapper: TypeAlias = Callable[[str, Iterable[Any]], Iterator[Any]]


@dataclass(frozen=True)
class Score:
    """The evidence in one attacked picture; where it is too small to measure, there is none.

    width, height: of the attacked picture, px.  statistic ... n_bits: of the `Detection`; log10_p pays for
    the search, matches and n_bits are None for a public key.  attack_psnr_db: to the picture before the
    attack.  original_psnr_db: to the original decoder's picture. Both None where the sizes differ, at most
    EQUAL_DB.  unsearched_statistic: of the picture as it is, one hypothesis; in the control only.
    """

    width: int
    height: int
    statistic: float | None = None
    log10_p: float | None = None
    transform: str | None = None
    scale: float | None = None
    rotation: float | None = None
    hypotheses: int | None = None
    hypothesis_factor: int | None = None
    matches: int | None = None
    n_bits: int | None = None
    attack_psnr_db: float | None = None
    original_psnr_db: float | None = None
    unsearched_statistic: float | None = None


@dataclass(frozen=True)
class AttackTask:
    """Attack picture `index` of the watermarked or the original decoder, and measure it."""

    suite: str
    attack: str
    index: int
    marked: bool
    search: str


@dataclass(frozen=True)
class MadeTask:
    """Measure a picture that a set attack made of picture `index`."""

    pixels: Pixels
    index: int
    marked: bool
    search: str


@dataclass(frozen=True)
class Instrument:
    """What every process holds. suites: those that are not in IMAGE_SUITES.  seed: of the attacks."""

    pictures: Pictures
    key: Key
    whitening: Whitening
    suites: tuple[Suite[Any], ...]
    seed: int

    def quality(self, index: int) -> Quality:
        """The watermarked against the original decoder's picture."""
        return quality(self.pictures.marked(index), self.pictures.original(index))

    def attack(self, task: AttackTask) -> Score:
        """The evidence after an image attack."""
        before = self.pictures.marked(task.index) if task.marked else self.pictures.original(task.index)
        return self._score(self.attacked(task.suite, task.attack, task.index, before), before, task)

    def made(self, task: MadeTask) -> Score:
        """The evidence in a picture that is there already."""
        before = self.pictures.marked(task.index) if task.marked else self.pictures.original(task.index)
        return self._score(task.pixels, before, task)

    def attacked(self, suite: str, attack: str, index: int, before: Pixels) -> Pixels:
        """`before` after an image attack, whose chance is drawn from the seed, the attack and the image."""
        sha256 = self.pictures.subjects[index].sha256
        digest = hashlib.sha256(f"{self.seed} {suite} {attack} {sha256}".encode()).digest()
        found = self.find(suite, attack)
        assert isinstance(found, ImageAttack)
        return found.apply(before, int.from_bytes(digest[:4], "little"))

    def find(self, suite: str, name: str) -> ImageAttack | SetAttack:
        """An attack by the names of its suite and of itself."""
        own = next((found for found in self.suites if found.name == suite), None) or built_in(suite)
        return next(attack for attack in own.attacks if attack.name == name)

    def _score(self, pixels: Pixels, before: Pixels, task: AttackTask | MadeTask) -> Score:
        height, width = pixels.shape[:2]
        original = self.pictures.original(task.index) if task.marked else None
        attack_psnr = _psnr(pixels, before)
        original_psnr = None if original is None else _psnr(pixels, original)
        try:
            found = self._detect(pixels, task.search)
            unsearched = None if task.marked else self._detect(pixels, "none").statistic
        except ImageError:  # too small; nothing else is wrong with an array
            return Score(width, height, attack_psnr_db=attack_psnr, original_psnr_db=original_psnr)
        return Score(
            width,
            height,
            statistic=found.statistic,
            log10_p=found.log10_p_value,
            transform=found.transform,
            scale=found.scale,
            rotation=found.rotation,
            hypotheses=found.hypotheses,
            hypothesis_factor=found.hypothesis_factor,
            matches=found.matches,
            n_bits=found.n_bits,
            attack_psnr_db=attack_psnr,
            original_psnr_db=original_psnr,
            unsearched_statistic=unsearched,
        )

    def _detect(self, pixels: Pixels, search: str) -> Detection:
        [found] = detect(pixels, [self.key], search=search, whitening=self.whitening)
        return found


def _psnr(first: Pixels, second: Pixels) -> float | None:
    return min(psnr_db(first, second), EQUAL_DB) if first.shape == second.shape else None


@contextmanager
def mapper(instrument: Instrument, jobs: int) -> Iterator[Mapper]:
    """A function that runs a method of `instrument` for many tasks, in `jobs` processes.

    One job is this process. Raises UsageError if a suite cannot be sent to another process, StableSigError if
    one of them dies.
    """
    if jobs == 1:
        yield lambda method, tasks: map(getattr(instrument, method), tasks)
        return
    _check_sendable(instrument.suites)
    # spawn, as a fork of a process in which torch has threads can hang
    executor = ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_start, initargs=(instrument,)
    )
    try:
        yield lambda method, tasks: executor.map(_work, repeat(method), tasks)
    except BrokenProcessPool as error:
        raise StableSigError(
            "a worker process ended, perhaps for want of memory; run it again with --resume and fewer --jobs"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _check_sendable(suites: Sequence[Suite[Any]]) -> None:
    for suite in suites:
        try:
            pickle.dumps(suite)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                f"the attacks of the suite {suite.name} cannot be sent to another process ({error}); define "
                "their functions at the top of a module, or use 1 job"
            ) from None


_instrument: Instrument | None = None  # of a worker process


def _start(instrument: Instrument) -> None:
    global _instrument
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the run
    _instrument = instrument


def _work(method: str, task: Any) -> Any:
    return getattr(_instrument, method)(task)
