"""What is in folders of this machine, one at a time and in bounded memory, however many files they hold."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import islice
from operator import attrgetter

from .item import Item, readable
from .item_error import ItemError, from_os_error
from .patterns import Entry, ListFolder

SORTED_AT_ONCE = 100_000  # entries: a folder with more comes in sorted pieces of so many; about 30 MB


def list_folder(folder: str) -> Iterator[Entry]:
    """The entries of a folder, sorted by name in pieces of SORTED_AT_ONCE. Raises OSError."""
    with os.scandir(folder or os.curdir) as coming:
        while True:
            block = [_entry(folder, found) for found in islice(coming, SORTED_AT_ONCE)]
            if len(block) < SORTED_AT_ONCE:  # nothing stays open while the caller goes on to other folders
                break
            block.sort(key=attrgetter("name"))
            yield from block
    block.sort(key=attrgetter("name"))
    yield from block


def _entry(folder: str, found: os.DirEntry[str]) -> Entry:
    # A Path would take three times as long.
    path = found.name if folder in ("", os.curdir) else os.path.join(folder, found.name)  # noqa: PTH118
    try:
        if found.is_file(follow_symlinks=False):
            return Entry(path, found.name, "file")
        if found.is_dir(follow_symlinks=False):
            return Entry(path, found.name, "folder")
        if not found.is_symlink():
            return Entry(path, found.name, "other")
        mode = found.stat().st_mode
    except OSError as error:
        return Entry(path, found.name, "other", errno=error.errno or 0)
    return Entry(
        path, found.name, "link" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"
    )


def walk(root: str, listing: ListFolder, *, recursive: bool, follow_links: bool) -> Iterator[Entry | Item]:
    """All entries below `root` that are no folders, and a refused Item for each folder that gives no list.

    The entries of a folder come in its order, those of a folder in it in their place. Links to folders come
    out as they are, or with `follow_links` are entered, each real folder once.
    """
    entered: set[tuple[int, int]] = set()
    if follow_links:
        _enter(root, entered)
    levels = [_listed(root, listing)]
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
        elif isinstance(entry, Entry) and (entry.kind == "folder" or (entry.kind == "link" and follow_links)):
            if recursive and (not follow_links or _enter(entry.path, entered)):
                levels.append(_listed(entry.path, listing))
        else:
            yield entry


def _listed(folder: str, listing: ListFolder) -> Iterator[Entry | Item]:
    try:
        yield from listing(folder)
    except (OSError, ItemError) as error:
        yield refused_folder(folder, error)


def refused_folder(folder: str, error: OSError | ItemError) -> Item:
    """The item for a folder that cannot be listed."""
    name, exact = readable(folder)
    found = from_os_error(name, error) if isinstance(error, OSError) else error
    return Item(name, "refused", folder, path_bytes=exact, error=str(found), error_kind=found.kind)


def _enter(folder: str, entered: set[tuple[int, int]]) -> bool:
    """Whether this folder was not entered before, under whatever name."""
    try:
        state = os.stat(folder)  # noqa: PTH116
    except OSError:
        return True  # listing it will tell
    place = (state.st_dev, state.st_ino)
    if place in entered:
        return False
    entered.add(place)
    return True
