"""The folder of a scan: what it is a scan of, its parts, the lock of the scanner that works on it, its end.

X.parquet, .jsonl, .csv   one file at the end; until then the work lies in X.parquet.partial/
X/                        a data set: the folder keeps its parts, and more may be added later with --resume

In both folders:
_scan.json        what decides the rows; a run of another identity is not taken up
part-*.parquet    what is committed
_finished.json    in a data set whose last scan came to its end
.lock             held by the scanner at work

Readers of data sets (pyarrow, pandas, Spark) pass over names that begin with _ or a dot.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from stablesig_detector.errors import OutputError, OutputExistsError, UsageError

from .folder_lock import FolderLock as _Lock
from .item import identity_of
from .output import FORMATS, Format, is_merged, merge, taken
from .parts import (
    PART_ROWS,
    PART_SECONDS,
    DamagedPartError,
    PartWriter,
    batches_of,
    leftovers_in,
    parts_in,
    set_aside,
    sync_folder,
)
from .schema import SCHEMA, SCHEMA_VERSION, arrow_schema

IDENTITY = "_scan.json"
FINISHED = "_finished.json"
_LOCK = ".lock"


def open_run(
    out: str | os.PathLike[str],
    identity: Mapping[str, Any],
    *,
    format: str | None = None,
    resume: bool = False,
    on_warning: Callable[[str], None] | None = None,
) -> Run:
    """Start a scan into `out`, or go on with the one that is there.

    out: a file ending in .parquet, .jsonl or .csv; or, ending in /, without an ending, or a scan's folder
        already, a data set.  identity: what decides the rows, as JSON holds it, without secrets; the report
        reads its "fpr".  format: as the ending says if None; of a data set "parquet".
    on_warning: is told of damaged parts, which `done` sets aside: their inputs are done again.

    Raises UsageError (an ending that does not fit the format, no scan to resume, a scan of other inputs),
    OutputExistsError (the place is taken, or an unfinished scan is there), OutputError (it cannot be made, is
    damaged, or another scanner is at work on it).
    """
    arrow_schema()
    place, folder, kind = places(out, format)
    there = holds_scan(folder)
    if folder != place and os.path.lexists(place) and not (resume and there and is_merged(folder, place)):
        raise OutputExistsError(
            f"{place} exists, so there is no unfinished scan into it; name another file, or a folder (OUT/), "
            "to which --resume adds what is new"
            if resume and not there
            else taken(place)
        )
    if resume and not there:
        raise UsageError(
            f"there is no unfinished scan to resume: {folder / IDENTITY} does not exist; leave out --resume"
        )
    if not resume and there:
        raise OutputExistsError(
            f"{folder} holds a scan already; go on with --resume, or move it away to start anew"
        )
    fields = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "identity": json.loads(json.dumps(identity)),  # tuples become lists, as they do in the file
    }
    if resume:
        return _resumed(place, folder, kind, fields, on_warning)
    return _started(place, folder, kind, fields)


def places(out: str | os.PathLike[str], format: str | None = None) -> tuple[Path, Path, Format]:
    """Where the result goes, the folder of its parts (the same for a data set), and the format.

    Raises UsageError for an ending that says another format, or none that is known.
    """
    text, place = os.fspath(out), Path(out)
    if format is not None and format not in FORMATS:
        raise UsageError(f"a format is {', '.join(FORMATS)}; got {format!r}")
    if not place.name:
        raise UsageError(f"{text or repr(text)} is no place for results; name a file or a new folder")
    ending = place.suffix.lower().removeprefix(".")
    if text.endswith(("/", os.sep)) or not ending or holds_scan(place):
        if format not in (None, "parquet"):
            raise UsageError(
                f"{text} is a folder of Parquet parts; for {format} name a file ending in .{format}"
            )
        return place, place, "parquet"
    if ending not in FORMATS or format not in (None, ending):
        wanted = f".{format}" if format else ".parquet, .jsonl or .csv"
        raise UsageError(f"{text}: a result ends in {wanted}, or in / for a folder of parts; name another")
    return place, partial_of(place), ending


def partial_of(out: Path) -> Path:
    """The folder of an unfinished scan into the file `out`."""
    return out.with_name(f"{out.name}.partial")


def holds_scan(folder: Path) -> bool:
    """Whether there is a scan in `folder`, at work or not."""
    return (folder / IDENTITY).is_file()


def read_about(folder: Path) -> dict[str, Any]:
    """What _scan.json says: schema, schema_version, started, identity.

    Raises OutputError if it is damaged or of another version.
    """
    path = folder / IDENTITY
    try:
        about = json.loads(path.read_bytes())
        known = about["schema"] == SCHEMA and isinstance(about["identity"], dict)
        version = int(about["schema_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path} cannot be read ({error}); move {folder} away and start anew") from None
    if not known or version != SCHEMA_VERSION:
        raise OutputError(
            f"{path} is for {about['schema']} version {version}, this release has {SCHEMA} version "
            f"{SCHEMA_VERSION}; use the release that began it"
        )
    return cast(dict[str, Any], about)


def is_locked(folder: Path) -> bool:
    """Whether a scanner is at work on `folder`."""
    try:
        lock = _Lock.take(folder / _LOCK, os.O_RDONLY)
    except OSError:  # there is none
        return False
    if lock is not None:
        lock.release()
    return lock is None


class Run:
    """A scan at work; it holds the lock of its folder. A context manager, which lets go of it.

    out: where the result goes.  folder: of the parts; `out` itself for a data set.  about: what _scan.json
    says.  damaged: parts that `done` could not read, where they lie now.
    """

    def __init__(
        self,
        out: Path,
        folder: Path,
        format: Format,
        about: Mapping[str, Any],
        lock: _Lock,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        self.out, self.folder, self.format, self.about = out, folder, format, about
        self.damaged: tuple[Path, ...] = ()
        self._lock, self._on_warning = lock, on_warning

    @property
    def is_dataset(self) -> bool:
        """Whether the folder of parts is the result."""
        return self.folder == self.out

    def writer(self, *, rows: int = PART_ROWS, seconds: float = PART_SECONDS) -> PartWriter:
        """A writer of parts of this scan."""
        return PartWriter(self.folder, rows=rows, seconds=seconds, about=metadata(self.about))

    def done(self) -> Iterator[bytes]:
        """The identity of every input that is in a committed part, each at least once.

        A part that cannot be read is set aside, so that its inputs are done again and none is lost or there
        twice. Raises OutputError.
        """
        for part in parts_in(self.folder):
            try:
                identities = _identities(part)
            except DamagedPartError as error:
                self.damaged += (set_aside(part),)
                if self._on_warning is not None:
                    self._on_warning(
                        f"{error}; set aside as {self.damaged[-1].name}, its images are done again"
                    )
            else:
                yield from identities

    def finish(self) -> Path:
        """Make the result of the parts, and let go of the lock; where it is.

        Raises OutputExistsError if something has come to be at `out`, OutputError if it cannot be written, or
        if a part is damaged, which is then set aside. All other parts are kept, and --resume goes on.
        """
        try:
            if self.is_dataset:
                finished = {"finished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
                try:
                    _write_json(self.folder / FINISHED, finished)
                except OSError as error:
                    raise OutputError(
                        f"{self.folder} cannot be written: {error.strerror or error}; what was committed is "
                        "kept: free some space, then use --resume"
                    ) from error
                return self.out
            merge(parts_in(self.folder), self.folder, self.out, self.format, metadata(self.about))
            # Renamed before it is removed: half a folder of parts must not pass for a whole one.
            gone = self.folder.with_name(f".{self.folder.name}.{secrets.token_hex(4)}.tmp")
            with contextlib.suppress(OSError):
                self.folder.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
            return self.out
        except DamagedPartError as error:
            aside = set_aside(error.part)
            raise OutputError(
                f"{error}; it lies at {aside.name} now: use --resume, which does its images again"
            ) from None
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the lock. What is committed stays."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def metadata(about: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into the metadata of Parquet files: all but the sources, which may be very many."""
    identity = {name: value for name, value in about["identity"].items() if name != "sources"}
    return {"started": about["started"], "identity": identity}


def _identities(part: Path) -> list[bytes]:
    """Of all inputs in a part: some megabytes, and either all or none."""
    found, before = [], None
    for batch in batches_of(part, ["path", "path_bytes"]):
        for path, exact in zip(batch[0].to_pylist(), batch[1].to_pylist(), strict=True):
            if (path, exact) != before:  # the rows of an input follow one another
                before = (path, exact)
                found.append(identity_of(path, exact))
    return found


def _started(out: Path, folder: Path, format: Format, about: Mapping[str, Any]) -> Run:
    """The folder appears with all that belongs into it, or not at all."""
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    lock = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        _write_json(beside / IDENTITY, about)
        lock = _Lock.take(beside / _LOCK)
        assert lock is not None  # nobody knows the name
        beside.rename(folder)  # fails unless it is free, or an empty folder
    except OSError as error:
        if lock is not None:
            lock.release()
        shutil.rmtree(beside, ignore_errors=True)
        if os.path.lexists(folder):
            held = "holds a scan already" if holds_scan(folder) else "exists and holds no scan"
            raise OutputExistsError(f"{folder} {held}; name another place, or move it away first") from None
        raise OutputError(
            f"{folder} cannot be made: {error.strerror or error}; choose another place or free some space"
        ) from error
    sync_folder(folder.parent)
    return Run(out, folder, format, about, lock)


def _resumed(
    out: Path,
    folder: Path,
    format: Format,
    about: Mapping[str, Any],
    on_warning: Callable[[str], None] | None,
) -> Run:
    try:
        lock = _Lock.take(folder / _LOCK)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror or error}; change its permissions"
        ) from error
    if lock is None:
        raise OutputError(f"another scanner is at work on {folder}; wait until it is done, or stop it")
    try:
        before = read_about(folder)
        old, new = before["identity"], about["identity"]
        differing = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        if differing:
            raise UsageError(
                f"{folder} is of a scan with other {', '.join(differing)}; give it the same again, or name "
                "another place"
            )
        try:
            (folder / FINISHED).unlink(missing_ok=True)
            for path in leftovers_in(folder):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be written: {error.strerror or error}; change its permissions"
            ) from error
    except BaseException:
        lock.release()
        raise
    return Run(out, folder, format, before, lock, on_warning)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Raises OSError of the system, OutputError if it is full; the file is whole or as it was."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with beside.open("x", encoding="utf-8") as file:
            json.dump(content, file, indent=2, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
