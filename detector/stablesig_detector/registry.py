"""A key registry: a folder that a platform keeps in git, one small text file for each key.

    registry.json                      marks the folder, and says who keeps it
    keys/a7/a72756bcc5c3cdd3.json      one entry: a public key, whose it is, its dates, its revocation
    registry.safetensors               all entries packed (`registry_pack`); a cache, which git should ignore

The format is data/registry.schema.json. An entry changes by whole lines, so that a revocation is two changed
lines in a diff; it is never deleted, since images decoded with the key stay in the world.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from .errors import KeyFileError, OutputError, UsageError
from .key import PublicKey, SecretKey, key_from_fields
from .key_entry import Key, KeyEntry, KeyState, today
from .new_files import NewFile, write_new_files
from .schema_check import schema_problems
from .strict_json import read_json

REGISTRY_NAME = "registry.json"
PACK_NAME = "registry.safetensors"
ENTRIES_FOLDER = "keys"
REGISTRY_FORMAT = "stablesig-registry"
ENTRY_FORMAT = "stablesig-registry-entry"
MAX_ENTRY_BYTES = 64 * 1024
_VERSION = 1
_SCHEMA = "registry.schema.json#"
_IGNORED = f"/{PACK_NAME}\n"
_DAYS = ("not_before", "not_after", "revoked")
_LINES = ("provider", "model_id", "reason")


def is_registry(folder: Path) -> bool:
    """Whether a folder is a registry: it has a file registry.json."""
    return (folder / REGISTRY_NAME).is_file()


def entry_path(folder: Path, key_id: str) -> Path:
    """Where the entry of a key belongs."""
    return folder / ENTRIES_FOLDER / key_id[:2] / f"{key_id}.json"


def entry_files(folder: Path) -> list[Path]:
    """The files of all entries, sorted. Raises KeyFileError if the folder cannot be listed."""
    names: list[str] = []
    try:
        with os.scandir(folder / ENTRIES_FOLDER) as shards:
            for shard in shards:
                if shard.is_dir(follow_symlinks=False) and not shard.name.startswith("."):
                    names += [
                        os.path.join(shard.path, name)  # noqa: PTH118 - a hundred thousand of them
                        for name in os.listdir(shard.path)  # noqa: PTH208
                        if name.endswith(".json") and not name.startswith(".")
                    ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KeyFileError(f"{folder}: cannot be listed ({error.strerror}); check the path") from None
    return [Path(name) for name in sorted(names)]


def read_registry(
    folder: Path, *, on_entry: Callable[[KeyEntry], None] | None = None
) -> tuple[KeyEntry, ...]:
    """All entries, sorted by id. on_entry: called for each, for progress.

    Raises KeyFileError at the first file that is not as it should be, or for an entry in the wrong place.
    """
    read_header(folder)
    entries = []
    for path in entry_files(folder):
        entry = read_entry(path)
        if path != entry_path(folder, entry.key.id):
            raise KeyFileError(f"{path}: {_misplaced(folder, entry)}")
        entries.append(entry)
        if on_entry is not None:
            on_entry(entry)
    return tuple(entries)


def read_header(folder: Path) -> str:
    """The name in registry.json: who keeps the registry. Raises KeyFileError."""
    path = folder / REGISTRY_NAME
    fields, problem = read_json(path, MAX_ENTRY_BYTES)
    problems = [problem] if problem else schema_problems(fields, f"{_SCHEMA}/$defs/registry")
    if not problems and not _is_one_line(fields["name"]):
        problems = ["name: is not one line of printable text"]
    if problems:
        raise KeyFileError(f"{path}: {problems[0]}; mend it, or make a registry with stablesig registry add")
    return str(fields["name"])


def read_entry(path: Path) -> KeyEntry:
    """One entry. Raises KeyFileError, naming the file and the first thing that is wrong with it."""
    entry, problems = examine_entry(path)
    if entry is None:
        raise KeyFileError(f"{path}: {problems[0]}; run stablesig registry check for all problems")
    return entry


def examine_entry(path: Path) -> tuple[KeyEntry | None, list[str]]:
    """The entry in a file and no problems, or None and all that is wrong with it (without the path)."""
    fields, problem = read_json(path, MAX_ENTRY_BYTES)
    if problem:
        return None, [problem]
    return entry_from_fields(fields, str(path))


def entry_from_fields(fields: Any, file: str) -> tuple[KeyEntry | None, list[str]]:
    """The entry in decoded JSON and no problems, or None and all that is wrong with it."""
    if isinstance(fields, dict) and fields.get("format") == "stablesig-secret-key":
        return None, ["is a SECRET key file: take it out of the registry and its history, and revoke the key"]
    if problems := schema_problems(fields, _SCHEMA):
        return None, problems
    lines: dict[str, str | None] = {name: fields[name] for name in _LINES}
    days: dict[str, date | None] = {
        name: None if fields[name] is None else date.fromisoformat(fields[name]) for name in _DAYS
    }
    problems = _beyond_the_schema(days, lines)
    try:
        key = key_from_fields(fields["key"])
    except KeyFileError as error:
        return None, [*problems, f"key: {error}"]
    return (None, problems) if problems else (_entry(key, lines, days, file), [])


def _entry(key: Key, lines: Mapping[str, str | None], days: Mapping[str, date | None], file: str) -> KeyEntry:
    return KeyEntry(
        key,
        provider=lines["provider"],
        model_id=lines["model_id"],
        not_before=days["not_before"],
        not_after=days["not_after"],
        revoked=days["revoked"],
        reason=lines["reason"],
        file=file,
    )


def _beyond_the_schema(days: dict[str, date | None], lines: dict[str, str | None]) -> list[str]:
    problems = [
        f"{name}: is not one line of printable text"
        for name, text in lines.items()
        if text is not None and not _is_one_line(text)
    ]
    first, last = days["not_before"], days["not_after"]
    if first is not None and last is not None and last < first:
        problems.append(f"not_after ({last}) is before not_before ({first})")
    if (days["revoked"] is None) != (lines["reason"] is None):
        problems.append("revoked and reason go together: give both or neither")
    return problems


def _is_one_line(text: str) -> bool:
    """Shown on terminals and in reports, a text may hold nothing that steers them."""
    return text.isprintable() and text == text.strip()


def entry_bytes(entry: KeyEntry) -> bytes:
    """The file of an entry, every field on its own line in a fixed order."""
    key = entry.key if isinstance(entry.key, PublicKey) else entry.key.public()
    fields: dict[str, Any] = {"format": ENTRY_FORMAT, "version": _VERSION}
    fields |= entry_description(entry) | {"key": key.fields()}
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def entry_description(entry: KeyEntry) -> dict[str, str | None]:
    """All of an entry but its key, as JSON values in the order of the file."""
    names = ("provider", "model_id", "not_before", "not_after", "revoked", "reason")
    values = {name: getattr(entry, name) for name in names}
    return {name: value.isoformat() if isinstance(value, date) else value for name, value in values.items()}


def add_entry(folder: Path, entry: KeyEntry, *, name: str | None = None) -> Path:
    """Add a key to a registry, and return its file. A folder that is missing or empty becomes a registry.

    name: who keeps the registry, for a new one; the folder's name if not given. Raises UsageError (a secret
    key, an entry that the format cannot hold, a folder that is something else), OutputExistsError (the key is
    there already), OutputError.
    """
    if isinstance(entry.key, SecretKey):
        raise UsageError(
            f"key {entry.key.id} is a secret key, which no registry may hold; name its .pub.json file"
        )
    content = entry_bytes(entry)
    _, problems = entry_from_fields(json.loads(content), "")
    if problems:
        raise UsageError(f"this cannot be an entry of a registry: {problems[0]}")
    if is_registry(folder):
        read_header(folder)
        new = []
    else:
        new = _new_registry(folder, name)
    path = entry_path(folder, entry.key.id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot be made: {error.strerror}; name another folder") from None
    write_new_files([*new, NewFile(path, content)])
    return path


def _new_registry(folder: Path, name: str | None) -> list[NewFile]:
    try:
        if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise UsageError(
                f"{folder}: is neither a registry ({REGISTRY_NAME} is missing) nor empty; name a new folder"
            )
    except OSError as error:
        raise UsageError(f"{folder}: cannot be a registry ({error.strerror}); name a folder") from None
    header = {
        "format": REGISTRY_FORMAT,
        "version": _VERSION,
        "name": name or folder.resolve().name or "registry",
    }
    if problems := schema_problems(header, f"{_SCHEMA}/$defs/registry"):
        raise UsageError(f"this cannot be the name of a registry: {problems[0]}")
    new = [NewFile(folder / REGISTRY_NAME, (json.dumps(header, indent=2) + "\n").encode("utf-8"))]
    if not (folder / ".gitignore").exists():
        new.append(NewFile(folder / ".gitignore", _IGNORED.encode("ascii")))
    return new


def revoke_entry(folder: Path, key_id: str, *, reason: str, on: date | None = None) -> KeyEntry:
    """Mark a key as revoked from a day on (today in UTC if not given), and return its entry.

    The file is replaced at once or not at all; this is the one place where a file of the user's is rewritten.
    Raises KeyFileError (no such key, a damaged entry), UsageError (revoked already, an unfit reason),
    OutputError.
    """
    read_header(folder)
    path = entry_path(folder, key_id)
    if not path.is_file():
        raise KeyFileError(f"{folder}: has no key {key_id}; look up its id with stablesig registry check")
    entry = read_entry(path)
    if entry.revoked is not None:
        raise UsageError(
            f"key {key_id} is revoked already, from {entry.revoked} on; edit {path} to change that"
        )
    revoked = replace(entry, revoked=on or today(), reason=reason)
    _, problems = entry_from_fields(json.loads(entry_bytes(revoked)), "")
    if problems:
        raise UsageError(f"this cannot be a revocation: {problems[0]}")
    replace_file(path, entry_bytes(revoked))
    return revoked


def replace_file(path: Path, content: bytes) -> None:
    """Put a new content in the place of a file, whole or not at all. Raises OutputError."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with beside.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}; it is as it was") from None


@dataclass(frozen=True)
class RegistryCheck:
    """What is in a registry, and what is wrong with it.

    name: who keeps it.  states: how many sound entries are in which state on the day of the check.  problems:
    (file, what is wrong), every problem of every file.
    """

    name: str
    states: dict[KeyState, int]
    problems: tuple[tuple[Path, str], ...]


def check_registry(folder: Path, *, on: date | None = None) -> RegistryCheck:
    """Examine every file of a registry: against the schema, and the id and place of every key.

    on: the day for the states; today in UTC if not given. Raises KeyFileError if the folder is no registry.
    """
    if not is_registry(folder):
        raise KeyFileError(f"{folder}: is not a registry ({REGISTRY_NAME} is missing); check the path")
    problems: list[tuple[Path, str]] = []
    name = ""
    try:
        name = read_header(folder)
    except KeyFileError as error:
        problems.append((folder / REGISTRY_NAME, str(error).partition(": ")[2]))
    states: Counter[KeyState] = Counter()
    day = on or today()
    for path in entry_files(folder):
        entry, found = examine_entry(path)
        if entry is not None:
            states[entry.state_on(day)] += 1
            if path != entry_path(folder, entry.key.id):
                found = [_misplaced(folder, entry)]
        problems += [(path, problem) for problem in found]
    problems += [(path, "does not belong in a registry") for path in _strangers(folder)]
    return RegistryCheck(name, {state: states[state] for state in KeyState}, tuple(problems))


def _misplaced(folder: Path, entry: KeyEntry) -> str:
    return f"holds key {entry.key.id}, whose place is {entry_path(folder, entry.key.id)}; move it there"


def _strangers(folder: Path) -> Iterator[Path]:
    """Files among the entries that are none: a reader would pass them over, and a key with them."""
    for path in sorted((folder / ENTRIES_FOLDER).rglob("*")):
        depth = len(path.relative_to(folder).parts)
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and not path.is_dir() and not (depth == 3 and path.suffix == ".json"):
            yield path
