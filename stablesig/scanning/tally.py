"""What became of the images of a scan, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stablesig.detect_output import DETECTED, NOT_DETECTED
from stablesig.scanning.parts import batches_of, parts_in
from stablesig.scanning.row import Row


@dataclass
class Tally:
    """Every image is in one of these.

    detected: of at least one key.  not_detected: of none.  unreadable: by the class of the error.
    """

    detected: int = 0
    not_detected: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)

    @property
    def images(self) -> int:
        return self.detected + self.not_detected + self.unreadable.total()

    def add(self, rows: Sequence[Row]) -> None:
        """Count one image, by all rows that it has."""
        verdict = rows[0].verdict
        if verdict == DETECTED:
            self.detected += 1
        elif verdict == NOT_DETECTED:
            self.not_detected += 1
        else:
            self.unreadable[rows[0].error_kind or "defect"] += 1


def tally_of(folder: Path, images: int) -> Tally:
    """What the committed parts in `folder` say of `images` images. Raises OutputError."""
    tally = Tally()
    for part in parts_in(folder):
        for batch in batches_of(part, ["verdict", "error_kind"]):
            verdicts, kinds = (_counts(column) for column in batch)
            tally.not_detected += verdicts[NOT_DETECTED]
            del kinds[None]
            tally.unreadable.update({str(kind): count for kind, count in kinds.items()})
    # An image has a row for each key that is detected, and so the rows of the others are counted instead.
    tally.detected = images - tally.images
    return tally


def _counts(column: Any) -> Counter[str | None]:
    """How often each value occurs in a column of texts."""
    counts = column.dictionary_decode().value_counts().to_pylist()
    return Counter({entry["values"]: entry["counts"] for entry in counts})
