"""Reading a small JSON file that may hold a secret: strictly, and with none of it in an error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class _DuplicateFieldError(Exception):
    """An object names a field twice, so what it holds depends on who reads it."""


def read_json(path: str | os.PathLike[str], max_bytes: int) -> tuple[Any, str]:
    """The decoded content of a file and "", or None and what is wrong with it (without the path).

    Nothing is raised: a JSONDecodeError carries the whole text, and would take a secret into any traceback.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(max_bytes + 1)
    except FileNotFoundError:
        return None, 'no such file; check the path, or make a key with "stablesig keygen"'
    except IsADirectoryError:
        return None, "is a folder; name the key file in it"
    except PermissionError:
        return None, "may not be read; check its permissions and owner"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        return None, f"cannot be read ({getattr(error, 'strerror', None) or error}); check the path"
    if len(content) > max_bytes:
        return None, f"is larger than any key file ({max_bytes:,} bytes); name a key file"
    if not content.strip():
        return None, "is empty; get the key again from where it was kept"
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_without_duplicates), ""
    except _DuplicateFieldError:
        return None, "names a field twice; get the key again from where it was kept"
    except (ValueError, RecursionError):
        return None, "is not JSON, or only part of it; get the key again from where it was kept"


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _DuplicateFieldError
    return fields
