"""What a calibration says: two tables of numbers, and a sentence for each class that needs no table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stablesig.calibration_levels import ENOUGH_EVENTS, HIGHEST_RATIO, LOWEST_RATIO, MARKOV_FACTOR
from stablesig.one_line import shown

if TYPE_CHECKING:
    from stablesig.calibration import Calibration, ClassResult
    from stablesig.calibration_levels import FixedLevel, KeyLevel, RandomLevel

FEW_PAIRS = 100.0  # that carry a spread: fewer, and it is not the class that it describes
RANGE = f"[{LOWEST_RATIO:g}, {HIGHEST_RATIO:g}]"
VERDICTS = {
    "within": f"within {RANGE}",
    "above": f"TOO MANY: above {HIGHEST_RATIO:g}",
    "below": f"too few: below {LOWEST_RATIO:g}, conservative",
    "too few pairs": "too few pairs to judge",
}


def nominal_text(nominal: float) -> str:
    """A power of ten as it is written everywhere else: 1e-3."""
    return f"1e{round_exponent(nominal)}"


def round_exponent(nominal: float) -> int:
    return int(f"{nominal:.0e}".partition("e")[2])


def table(result: Calibration) -> str:
    """The whole text that `stablesig calibrate` prints."""
    classes = result.classes
    geometries = "1 geometry" if result.hypotheses == 1 else f"{result.hypotheses} geometries, paid for in p"
    lines = [f"Random keys: observed / nominal rate of p <= nominal ({result.n_keys} keys, {geometries})"]
    lines += _random_table(classes)
    lines += ["", f"One fixed key: 95 % of {result.n_keys} keys at or under (by chance), worst key"]
    lines += _fixed_table(classes)
    if result.key_ids:
        lines += ["", "Your keys: observed / nominal [95 % bounds]"]
        lines += _key_table(classes)
    lines += ["", *(f"{shown(each.name)}: {sentence(each, result.n_keys)}" for each in classes)]
    lines.append(
        f"In parentheses: fewer than {ENOUGH_EVENTS:g} independent events are expected, not judged."
        if any(not level.judged for each in classes for level in each.random)
        else f"Every level has at least {ENOUGH_EVENTS:g} independent events expected."
    )
    return "\n".join(lines)


def sentence(found: ClassResult, n_keys: int) -> str:
    """What the figures of one class mean, in plain words."""
    return " ".join(part for part in (_on_random(found), _on_fixed(found, n_keys), _on_spread(found)) if part)


def _on_random(found: ClassResult) -> str:
    judged = [level for level in found.random if level.judged]
    if not judged:
        return "too few pairs to judge random keys."
    ratios = [level.ratio for level in judged]
    return (
        f"random keys find {min(ratios):.2f} to {max(ratios):.2f} of the nominal false positives down to "
        f"{nominal_text(judged[-1].nominal)}, {VERDICTS[found.verdict]}."
    )


def _on_fixed(found: ClassResult, n_keys: int) -> str:
    if not found.fixed:
        return "Too few images for fixed keys."
    beyond = [level for level in found.fixed if level.beyond_chance]
    if not beyond:
        return "Fixed keys differ no more than chance."
    level = max(beyond, key=lambda each: each.above - each.chance_above)
    return (
        f"FIXED KEYS DIFFER BEYOND CHANCE: at {nominal_text(level.nominal)}, {level.above} of {n_keys} "
        f"exceed {HIGHEST_RATIO:g} times the nominal rate ({level.chance_above:.1f} by chance), the worst "
        f"reaches {level.worst:.1f} times."
    )


def _on_spread(found: ClassResult) -> str:
    if not found.spread:
        return ""
    parts = [f"{level.relative_sd:.2g} at {nominal_text(level.nominal)}" for level in found.spread]
    middle = found.spread[len(found.spread) // 2]
    why = "on images like these" if middle.factor < MARKOV_FACTOR else "on any images at all"
    few = " (the spread is that of a few pairs of images)" if middle.carrying_pairs < FEW_PAIRS else ""
    return (
        f"Spread of one key's rate over keys, from angles: {', '.join(parts)}{few}; p x {middle.factor:.2g} "
        f"keeps 95 % of keys at or under {nominal_text(middle.nominal)} {why}."
    )


def _random_table(classes: Sequence[ClassResult]) -> list[str]:
    depth = max(len(each.random) for each in classes)
    rows = [["class", "images", *(f"1e-{exponent}" for exponent in range(1, depth + 1)), "verdict"]]
    for each in classes:
        cells = [_random_cell(level) for level in each.random]
        rows.append([*_head(each), *cells, *[""] * (depth - len(cells)), VERDICTS[each.verdict]])
    return aligned(rows)


def _random_cell(level: RandomLevel) -> str:
    return f"{level.ratio:.2f}" if level.judged else f"({level.ratio:.2f})"


def _fixed_table(classes: Sequence[ClassResult]) -> list[str]:
    depth = max(len(each.fixed) for each in classes)
    rows = [["class", "images", *(f"1e-{exponent}" for exponent in range(1, depth + 1)), "verdict"]]
    for each in classes:
        cells = [_fixed_cell(level) for level in each.fixed]
        verdict = "" if not cells else "BEYOND CHANCE" if each.beyond_chance else "chance"
        rows.append([*_head(each), *cells, *[""] * (depth - len(cells)), verdict])
    return aligned(rows)


def _fixed_cell(level: FixedLevel) -> str:
    return f"{level.high:.2f} ({level.chance_high:.2f}), {level.worst:.2f}"


def _key_table(classes: Sequence[ClassResult]) -> list[str]:
    depth = max(len({level.nominal for level in each.keys}) for each in classes)
    rows = [["class", "key", *(f"1e-{exponent}" for exponent in range(1, depth + 1))]]
    for each in classes:
        for key_id in dict.fromkeys(level.key_id for level in each.keys):
            cells = [_key_cell(level) for level in each.keys if level.key_id == key_id]
            rows.append([shown(each.name), key_id, *cells, *[""] * (depth - len(cells))])
    return aligned(rows)


def _key_cell(level: KeyLevel) -> str:
    return f"{level.ratio:.2f} [{level.ratio_low:.2f}, {level.ratio_high:.2f}]"


def _head(found: ClassResult) -> list[str]:
    return [shown(found.name), str(found.images)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equally many cells -> lines in which the columns stand below one another."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
