"""Small pictures of hits, from the originals where they still are and still are the same.

Originals may be hostile: they are read in guarded processes. Nothing is fetched: only files on this machine,
and members of archives on it, are looked at.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stablesig_detector.guard import Failure, guarded

from .addresses import scheme_of
from .archives import archive_items, is_archive
from .item import Item
from .reading import ReadOptions, read_item

SIDE_PX = 240  # longer side
SECONDS = 10.0
ARCHIVE_SECONDS = 60.0
MEMBERS = 100_000  # of one archive, that are looked through for its hits
_SEPARATOR = "::"


@dataclass(frozen=True)
class Thumbnail:
    """picture: a data address of a JPEG; None if there is none, for the reason in `missing`."""

    picture: str | None
    missing: str = ""


def thumbnails(hits: Sequence[Mapping[str, Any]]) -> list[Thumbnail]:
    """One for each hit, in order. hits: with path, path_bytes and sha256."""
    items = _items(hits)
    wanted = [(item, hit["sha256"]) for item, hit in zip(items, hits, strict=True)]

    def work(pair: tuple[Item, str | None]) -> Thumbnail:
        return _thumbnail(*pair)

    return [
        Thumbnail(None, str(found.error)) if isinstance(found, Failure) else found
        for found in guarded(work, wanted, seconds=SECONDS)
    ]


def _thumbnail(item: Item, sha256: str | None) -> Thumbnail:
    from PIL import Image

    from stablesig_detector.image import load_image

    data = read_item(item, ReadOptions())
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        return Thumbnail(None, "has changed since the scan")
    pixels = load_image(data)
    image = Image.fromarray(pixels.clip(0, 255).astype("uint8"))
    image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return Thumbnail(f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}")


def _items(hits: Sequence[Mapping[str, Any]]) -> list[Item]:
    """How each is read again. Archives are looked through once, for all of their members that are wanted."""
    items = [_item(str(hit["path"]), hit["path_bytes"]) for hit in hits]
    members = {item.identity: None for item in items if item.kind == "refused" and item.location}
    found: dict[bytes, Item] = {}
    archives = list({item.location: None for item in items if item.kind == "refused" and item.location})

    def look_through(archive: str) -> dict[bytes, Item]:
        inside = {}
        for number, item in enumerate(archive_items(archive, ReadOptions(), all_files=True)):
            if item.identity in members:
                inside[item.identity] = item
            if number >= MEMBERS or len(inside) == len(members):
                break
        return inside

    for archive, inside in zip(
        archives, guarded(look_through, archives, seconds=ARCHIVE_SECONDS), strict=True
    ):
        if isinstance(inside, Failure):
            gone = [item for item in items if item.kind == "refused" and item.location == archive]
            found |= {item.identity: replace(item, error=f"{item.path}: {inside.error}") for item in gone}
        else:
            found |= inside
    return [found.get(item.identity, item) for item in items]


def _item(path: str, exact: bytes | None) -> Item:
    location = path if exact is None else os.fsdecode(exact)
    if scheme_of(path):
        return _refused(path, exact, "is an address, from which a report fetches nothing")
    if _SEPARATOR in location and not os.path.lexists(location):
        archive = location.partition(_SEPARATOR)[0]
        if is_archive(archive) and Path(archive).is_file():
            gone = f"is not among the first {MEMBERS:,} members of its archive"
            return replace(_refused(path, exact, gone), location=archive)
    return Item(path, "file", location, path_bytes=exact)


def _refused(path: str, exact: bytes | None, why: str) -> Item:
    return Item(path, "refused", path_bytes=exact, error=f"{path}: {why}", error_kind="missing")
