"""The loop of `evaluate`: every attack in turn, on every picture of both decoders, into the journal."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stablesig.evaluation_journal import AttackScores, Journal
from stablesig.evaluation_measure import AttackTask, Instrument, MadeTask, Mapper, Score
from stablesig.evaluation_pictures import write_picture
from stablesig.evaluation_settings import Chosen, EvaluationSettings
from stablesig.suites import DecoderContext, ImageAttack, SetAttack
from stablesig_detector.errors import StableSigError

if TYPE_CHECKING:
    from stablesig.evaluation_inputs import Decoders

# Set attacks that are also made on the original decoder's pictures. Not "model": an original decoder that was
# fine-tuned is as unmarked as before, at the price of a second training. Not "informed": it uses the key, and
# the law of the control holds only for pictures that owe it nothing.
CONTROLLED_SET_SUITES = frozenset({"regeneration"})
EXAMPLE = 0  # the image that the report shows attacks on


@dataclass(frozen=True)
class EvaluationStep:
    """What is reported after each attacked picture: pictures measured, of how many, and the attack."""

    done: int
    total: int
    attack: str


Progress = Callable[[EvaluationStep], None]


def example_path(run_folder: Path, suite: str, attack: str) -> Path:
    """Where a set attack's picture of image EXAMPLE lies."""
    digest = hashlib.sha256(f"{suite}\0{attack}".encode()).hexdigest()
    return run_folder / f"example-{digest[:16]}.png"


class _Ticks:
    """Counts pictures and reports each."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, count: int, attack: str) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(EvaluationStep(self._done, self._total, attack))


@dataclass(frozen=True, eq=False)
class Loop:
    """What all attacks share. run: measures, in this process or in several."""

    instrument: Instrument
    decoders: Decoders
    settings: EvaluationSettings
    journal: Journal
    run: Mapper
    progress: Progress | None

    def measure_all(self, chosen: Sequence[Chosen]) -> None:
        """Measure every attack that the journal does not hold yet."""
        count = len(self.instrument.pictures)
        todo = [(one.suite.name, attack) for one in chosen for attack in one.attacks]
        ticks = _Ticks(sum(count * len(_sides(*one)) for one in todo), self.progress)
        for suite, attack in todo:
            if (suite, attack.name) in self.journal.scores:
                ticks.add(count * len(_sides(suite, attack)), attack.name)
                continue
            started = time.monotonic()
            found: dict[bool, tuple[Score, ...]] = {}
            for marked in _sides(suite, attack):
                scores = []
                for score in self._scores(suite, attack, marked):
                    scores.append(score)
                    ticks.add(1, attack.name)
                found[marked] = tuple(scores)
            seconds = time.monotonic() - started
            self.journal.append(AttackScores(suite, attack.name, found[True], found.get(False), seconds))

    def _scores(self, suite: str, attack: ImageAttack | SetAttack, marked: bool) -> Iterator[Score]:
        search = self.settings.search_for(attack.search)
        if isinstance(attack, ImageAttack):
            indices = range(len(self.instrument.pictures))
            tasks = [AttackTask(suite, attack.name, index, marked, search) for index in indices]
            return self.run("attack", tasks)
        context = self._context if marked else _of_original(self._context)
        return self.run("made", self._made(suite, attack, context, marked, search))

    def _made(
        self, suite: str, attack: SetAttack, context: DecoderContext, marked: bool, search: str
    ) -> Iterator[MadeTask]:
        """A task for each picture that a set attack makes; one of them is kept for the report."""
        count = 0
        for index, picture in enumerate(attack.apply(context)):
            if marked and index == EXAMPLE:
                write_picture(example_path(self.journal.folder, suite, attack.name), picture)
            count += 1
            yield MadeTask(picture, index, marked, search)
        if count != len(self.instrument.pictures):
            raise StableSigError(
                f"the attack {attack.name} of {suite} made {count} pictures of "
                f"{len(self.instrument.pictures)}; it yields one for each, in order"
            )

    @cached_property
    def _context(self) -> DecoderContext:
        import torch

        pictures, original = self.instrument.pictures, self.decoders.original
        device = next(original.module.parameters()).device
        images = [pictures.photograph(index) for index in range(len(pictures))]
        batches = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(device) for image in images)
        with torch.no_grad():
            latents = [original.encode(batch.float() / 255) for batch in batches]
        return DecoderContext(
            original=original,
            watermarked=self.decoders.marked,
            others=self.decoders.others,
            key=self.instrument.key,
            latents=latents,
            images=images,
            marked=[pictures.marked(index) for index in range(len(pictures))],
            originals=[pictures.original(index) for index in range(len(pictures))],
            seed=self.settings.seed,
            whitening=self.instrument.whitening,
        )


def _of_original(context: DecoderContext) -> DecoderContext:
    """The same with the original decoder in the watermarked one's place."""
    return replace(context, watermarked=context.original, marked=context.originals)


def _sides(suite: str, attack: ImageAttack | SetAttack) -> tuple[bool, ...]:
    """On which pictures an attack is made: the watermarked decoder's (True), the original's (False)."""
    controlled = isinstance(attack, ImageAttack) or suite in CONTROLLED_SET_SUITES
    return (True, False) if controlled else (True,)
