"""What `evaluate` may be told: settings with their ranges, and suites by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stablesig.suites import IMAGE_SUITE_NAMES, SUITE_NAMES, SetAttack, Suite, available
from stablesig_detector.errors import UsageError

SEARCHES = ("auto", "none", "fast", "full")
EVERY_SUITE = "all"
DEFAULT_SUITE = "targets"


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings that decide the numbers. Raises UsageError for a value outside its range.

    size: side of the centre crops, px.  limit: of the number of images.  fpr: the false positive rate that
    counts as detected.  search: the detector's, or "auto" for the least that can undo each attack.  seed: of
    the attacks.
    """

    size: int = 512
    limit: int | None = None
    fpr: float = 1e-6
    search: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        from stablesig_detector.spectrum import MIN_SIDE

        if self.size < MIN_SIDE:
            raise UsageError(f"the detector measures {MIN_SIDE} px at least; got --size {self.size}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"at least one image is evaluated; got --limit {self.limit}")
        if not 0.0 < self.fpr < 1.0:
            raise UsageError(f"a false positive rate lies between 0 and 1, both excluded; got {self.fpr}")
        if self.search not in SEARCHES:
            raise UsageError(f"a search is one of {', '.join(SEARCHES)}; got {self.search!r}")
        if self.seed < 0:
            raise UsageError(f"a seed is a whole number from 0; got {self.seed}")

    def search_for(self, least: str) -> str:
        """The search for an attack that needs `least`."""
        return least if self.search == "auto" else self.search


@dataclass(frozen=True)
class Chosen:
    """A suite as it will run: its attacks that can, and the names of those that cannot."""

    suite: Suite[Any]
    attacks: tuple[Any, ...]
    missing: tuple[str, ...]


def find_suites(wanted: Sequence[str | Suite[Any]]) -> list[Suite[Any]]:
    """Suites by name, or as they are, each once; "all" stands for every suite of `stablesig.suites`.

    Raises UsageError for an unknown name, for none, and for two suites of one name.
    """
    if isinstance(wanted, str):
        raise UsageError(f'suites is a sequence; got a single name; pass ["{wanted}"]')
    found: dict[str, Suite[Any]] = {}
    for suite in wanted:
        for one in _named(suite) if isinstance(suite, str) else [suite]:
            if found.setdefault(one.name, one) is not one:
                raise UsageError(f"two suites are called {one.name}; rename one")
    if not found:
        raise UsageError(f"no suite is named; choose from {', '.join((*SUITE_NAMES, EVERY_SUITE))}")
    return list(found.values())


def _named(name: str) -> list[Suite[Any]]:
    if name == EVERY_SUITE:
        return [built_in(every) for every in SUITE_NAMES]
    if name not in SUITE_NAMES:
        raise UsageError(f"there is no suite {name!r}; choose from {', '.join((*SUITE_NAMES, EVERY_SUITE))}")
    return [built_in(name)]


def built_in(name: str) -> Suite[Any]:
    """One of SUITE_NAMES."""
    if name in IMAGE_SUITE_NAMES:
        from stablesig.suites import IMAGE_SUITES

        return IMAGE_SUITES[name]
    from stablesig.suites import SET_SUITES

    return SET_SUITES[name]


def is_built_in(suite: Suite[Any]) -> bool:
    """Whether it is a suite of `stablesig.suites`, which another process finds by its name."""
    return suite.name in SUITE_NAMES and built_in(suite.name) is suite


def needs_decoders(suites: Sequence[Suite[Any]]) -> bool:
    """Whether one of the attacks works on the decoders."""
    return any(isinstance(attack, SetAttack) for suite in suites for attack in suite.attacks)


def choose(suites: Sequence[Suite[Any]], others: int) -> list[Chosen]:
    """What of each suite can run with this Pillow and `others` further autoencoders.

    Raises UsageError if nothing can.
    """
    chosen = [Chosen(suite, *available(suite, others)) for suite in suites]
    if not any(one.attacks for one in chosen):
        named = ", ".join(suite.name for suite in suites)
        raise UsageError(
            f"no attack of {named} can run here; name another autoencoder with --other, or another suite"
        )
    return chosen
