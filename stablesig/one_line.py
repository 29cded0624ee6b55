"""Text from outside (paths, and errors that quote them) made safe to print on a terminal."""

from __future__ import annotations

import os
from pathlib import Path


def shown(text: str | Path) -> str:
    """`text` on one line, `printable`; bytes of a path that are not valid UTF-8 become U+FFFD."""
    decoded = os.fsencode(text).decode("utf-8", "replace") if isinstance(text, Path) else text
    return printable(" ".join(line.strip() for line in decoded.splitlines()))


def printable(text: str) -> str:
    """`text` with white space of every kind as spaces, and what else cannot be printed as U+FFFD.

    That is control characters, which could steer the terminal, marks that reverse the reading direction, and
    what Python puts for bytes of a path that are not valid UTF-8.
    """
    return "".join(
        character if character.isprintable() else " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )
