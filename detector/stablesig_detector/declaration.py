"""The key that a watermark.json declares: named by its id, and published in full or not.

`stablesig embed` writes the file beside the decoder. Its object "key" holds the id, the features and the
statistics of the key, and "direction" (D integers, as in the public key file) only if the publisher chose to
hand the public key out with the model. Without it the file is a commitment: whoever is given the public key
later can tell that it is the one declared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .carriers import DIRECTION_SCALE
from .errors import KeyFileError
from .key import PublicKey

DECLARATION_FORMAT = "stablesig-watermark"
DECLARATION_NAME = "watermark.json"
MAX_DECLARATION_BYTES = 1 << 20

_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class DeclaredKey:
    """What a declaration says of its key: the id, and the key where it is published."""

    key_id: str
    key: PublicKey | None


def declared_key(fields: Any) -> DeclaredKey:
    """The key of a decoded watermark.json; only its object "key" is looked at.

    Raises KeyFileError, without the file's name, if this is no such file, or if its key is damaged.
    """
    if not isinstance(fields, dict) or fields.get("format") != DECLARATION_FORMAT:
        raise KeyFileError(f'is not a watermark declaration ("format" is not "{DECLARATION_FORMAT}")')
    declared = fields.get("key")
    key_id = declared.get("id") if isinstance(declared, dict) else None
    if not isinstance(declared, dict) or not isinstance(key_id, str) or not _ID.fullmatch(key_id):
        raise KeyFileError('names no key ("key"."id" is not 16 hex digits); ask its publisher')
    if declared.get("direction") is None:
        return DeclaredKey(key_id, None)
    direction = declared["direction"]
    if not isinstance(direction, list) or any(
        type(step) is not int or abs(step) > DIRECTION_SCALE for step in direction
    ):
        raise KeyFileError(
            '"key"."direction" is not a list of integers as in a public key; ask its publisher'
        )
    if len(direction) != declared.get("dimension"):
        raise KeyFileError('"key"."direction" has not "dimension" entries; ask its publisher')
    key = PublicKey(
        np.array(direction, dtype=np.int32),
        declared.get("bits"),  # type: ignore[arg-type]  # checked there
        declared.get("feature_version"),  # type: ignore[arg-type]
        declared.get("statistics_sha256"),  # type: ignore[arg-type]
    )
    if key.id != key_id:
        raise KeyFileError(
            f"declares key {key_id}, but the direction in it is key {key.id}: it was changed or damaged; "
            "ask its publisher"
        )
    return DeclaredKey(key_id, key)
