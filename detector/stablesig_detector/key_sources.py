"""Where keys come from: a file of any kind that holds some, a folder of such files, a registry."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .declaration import DECLARATION_FORMAT, MAX_DECLARATION_BYTES, declared_key
from .errors import KeyFileError
from .key import PUBLIC_FORMAT, SECRET_FORMAT, key_from_fields
from .key_block import KeyBlock
from .key_entry import KeyEntry
from .registry import ENTRY_FORMAT, PACK_NAME, entry_from_fields, is_registry, read_registry
from .strict_json import read_json


@dataclass(frozen=True)
class Found:
    """The keys of one source: packed, or one by one; and what a reader of the evidence should know."""

    blocks: tuple[KeyBlock, ...] = ()
    entries: tuple[KeyEntry, ...] = ()
    notes: tuple[str, ...] = ()


def read_source(path: Path) -> Found:
    """The keys at `path`. Raises KeyFileError, naming the file at fault; also if there are none."""
    if path.is_dir():
        return _read_registry(path) if is_registry(path) else _read_folder(path)
    if path.suffix == ".safetensors":
        from .registry_pack import open_pack

        blocks = open_pack(path).blocks
        if not blocks:
            raise KeyFileError(f"{path}: holds no keys; add some with stablesig registry add, and pack again")
        return Found(blocks)
    # Raised here and not where it was found, so that the error's traceback does not hold the file's text.
    found = _read_file(path)
    if not isinstance(found, KeyEntry):
        raise KeyFileError(f"{path}: {found}")
    return Found(entries=(found,))


def _read_registry(folder: Path) -> Found:
    """A registry from its pack if that is up to date, else from its text files."""
    from .registry_pack import open_pack, stamp_of

    pack = folder / PACK_NAME
    notes = []
    if pack.is_file():
        opened = open_pack(pack)
        if opened.blocks and opened.stamp == stamp_of(folder):
            return Found(opened.blocks)
        notes.append(f"{pack} is older than the entries, which were read instead; pack the registry again")
    entries = read_registry(folder)
    if not entries:
        raise KeyFileError(f"{folder}: holds no keys; add some with stablesig registry add")
    return Found(entries=entries, notes=tuple(notes))


def _read_folder(folder: Path) -> Found:
    """The .json files with keys in a folder and its subfolders. JSON of another kind is passed over."""
    entries, passed_over = [], 0
    for path in _json_files(folder):
        found = _read_file(path, strict=False)
        if isinstance(found, str):
            raise KeyFileError(f"{path}: {found}")
        if found is None:
            passed_over += 1
        else:
            entries.append(found)
    if not entries:
        raise KeyFileError(
            f"{folder}: holds no keys ({passed_over} other .json files); name a folder of key files, or one "
            "with registry.json"
        )
    notes = [f"{folder}: {passed_over} .json files hold no key and were passed over"] if passed_over else []
    return Found(entries=tuple(entries), notes=tuple(notes))


def _json_files(folder: Path) -> list[Path]:
    """Sorted; nothing hidden, no pipes, which may never end, no linked folders, which may go in circles."""
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise KeyFileError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place) / name for name in names if name.endswith(".json") and name[0] != "."]
    return sorted(path for path in found if not _is_pipe(path))


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:  # whoever reads it says what is wrong
        return False


def _read_file(path: Path, *, strict: bool = True) -> KeyEntry | str | None:
    """The key in a file, or what is wrong with it; None for JSON without a key, unless `strict`."""
    fields, problem = read_json(path, MAX_DECLARATION_BYTES)
    if problem:
        return None if not strict and _is_too_large(path) else problem
    form = fields.get("format") if isinstance(fields, dict) else None
    reader = _READERS.get(form) if isinstance(form, str) else None
    try:
        if reader is not None:
            return reader(fields, path, strict)
        return KeyEntry(key_from_fields(fields), file=str(path)) if strict else None
    except KeyFileError as error:
        return str(error)


def _is_too_large(path: Path) -> bool:
    """Whether a file is larger than any with a key in it, as a report may be."""
    try:
        return path.stat().st_size > MAX_DECLARATION_BYTES
    except OSError:
        return False


def _key_file(fields: Any, path: Path, strict: bool) -> KeyEntry:
    return KeyEntry(key_from_fields(fields), file=str(path))


def _entry_file(fields: Any, path: Path, strict: bool) -> KeyEntry | str:
    entry, problems = entry_from_fields(fields, str(path))
    return problems[0] if entry is None else entry


def _declaration(fields: Any, path: Path, strict: bool) -> KeyEntry | str | None:
    """The key of a watermark.json; one that only names its key counts as JSON without a key."""
    declared = declared_key(fields)
    if declared.key is not None:
        return KeyEntry(declared.key, file=str(path))
    if not strict:
        return None
    return (
        f"only names its key ({declared.key_id}) and does not publish it; ask the publisher for the public "
        "key file of that id"
    )


_READERS: Mapping[str, Callable[[Any, Path, bool], KeyEntry | str | None]] = {
    SECRET_FORMAT: _key_file,
    PUBLIC_FORMAT: _key_file,
    ENTRY_FORMAT: _entry_file,
    DECLARATION_FORMAT: _declaration,
}
