"""What an unfinished evaluation has measured, kept so that an interruption costs one attack at most.

OUT.partial/run.json       what decides the numbers; a run of another identity is not taken up
OUT.partial/pictures/      the decoded pictures
OUT.partial/scores.jsonl   a line for each attack, synchronised to disk before the next one starts
OUT.partial/example-*.png  a picture of each set attack, for the report
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stablesig.evaluation_measure import Score
from stablesig_detector.errors import OutputError, OutputExistsError, UsageError

_IDENTITY = "run.json"
_SCORES = "scores.jsonl"


@dataclass(frozen=True)
class AttackScores:
    """What one attack left of the watermark, image by image in the order of the pictures.

    marked: in the watermarked decoder's pictures.  control: in the original decoder's; None for an attack
    that is not made on them.  seconds: wall time that it took.
    """

    suite: str
    attack: str
    marked: tuple[Score, ...]
    control: tuple[Score, ...] | None
    seconds: float


def partial_of(out: Path) -> Path:
    """The folder of an unfinished run for `out`."""
    return out.with_name(f"{out.name}.partial")


def check_free(out: Path) -> None:
    """Raise OutputExistsError if there is anything at `out`."""
    if os.path.lexists(out):
        raise OutputExistsError(
            f"{out} exists, and nothing is overwritten; name another folder, or move it away first"
        )


def check_places(out: Path, resume: bool) -> Path:
    """The folder of the unfinished run. Raises unless `out` is free, and it is there just when resuming."""
    check_free(out)
    partial = partial_of(out)
    there = (partial / _IDENTITY).is_file()
    if resume and not there:
        raise UsageError(
            f"there is no unfinished run to resume: {partial / _IDENTITY} does not exist; leave out --resume"
        )
    if not resume and there:
        raise OutputExistsError(
            f"{partial} holds an unfinished run; go on with --resume, or remove it to start anew"
        )
    if not resume and os.path.lexists(partial):
        raise OutputExistsError(f"{partial} exists and holds no unfinished run; move it away first")
    return partial


class Journal:
    """The unfinished run in `folder`."""

    def __init__(self, folder: Path, found: dict[tuple[str, str], AttackScores]) -> None:
        self.folder = folder
        self.scores = found  # (suite, attack) -> what was measured

    @classmethod
    def start(cls, folder: Path, identity: Mapping[str, Any]) -> Journal:
        """Make the folder of a new run. Raises OutputError, and then leaves nothing."""
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be made: {error.strerror or error}; choose another place"
            ) from error
        try:
            (folder / _IDENTITY).write_text(json.dumps(identity, indent=2), encoding="utf-8")
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise OutputError(
                f"{folder} cannot be written: {error.strerror or error}; free some space"
            ) from error
        return cls(folder, {})

    @classmethod
    def resume(cls, folder: Path, identity: Mapping[str, Any]) -> Journal:
        """Go on with a run. Raises UsageError if it was one of other inputs, OutputError if it is damaged."""
        try:
            before = json.loads((folder / _IDENTITY).read_bytes())
            lines = (folder / _SCORES).read_bytes() if (folder / _SCORES).exists() else b""
        except (OSError, ValueError) as error:
            raise OutputError(f"{folder} cannot be read ({error}); remove it and start anew") from None
        now = json.loads(json.dumps(identity))  # tuples become lists, as they did in the file
        differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if differing:
            raise UsageError(
                f"{folder} is of a run with other {', '.join(differing)}; give it the same again, or remove "
                "it and start anew"
            )
        whole, _, torn = lines.rpartition(b"\n")
        journal = cls(folder, {})
        if torn:  # the write that was interrupted; its attack is measured again
            with (folder / _SCORES).open("r+b") as file:
                file.truncate(len(lines) - len(torn))
        try:
            for line in whole.splitlines():
                scores = _from_line(line)
                journal.scores[scores.suite, scores.attack] = scores
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{folder / _SCORES} is damaged ({error}); remove {folder} and start anew"
            ) from None
        return journal

    def append(self, scores: AttackScores) -> None:
        """Keep what an attack left, durably. Raises OutputError."""
        line = json.dumps(asdict(scores), allow_nan=False, separators=(",", ":"))
        try:
            with (self.folder / _SCORES).open("ab") as file:
                file.write(f"{line}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self.folder} cannot be written: {error.strerror or error}; free some space, then use "
                "--resume"
            ) from error
        self.scores[scores.suite, scores.attack] = scores


def _from_line(line: bytes) -> AttackScores:
    fields = json.loads(line)
    for side in ("marked", "control"):
        if fields[side] is not None:
            fields[side] = tuple(Score(**score) for score in fields[side])
    return AttackScores(**fields)
