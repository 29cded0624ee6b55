"""Where the results of a scan lie, whether they are results, and what they say of the scan."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stablesig.extras import needs_scan
from stablesig_detector.errors import OutputError, UsageError

from .compaction import replaced_parts
from .output import FORMATS, Format
from .parts import DamagedPartError, check_schema, parts_in
from .run_folder import FINISHED, holds_scan, is_locked, metadata, partial_of, read_about
from .schema import FIELDS, about_of

_TEST = ("keys", "features", "statistics", "search", "screen", "fpr")  # of the identity of a scan


@dataclass(frozen=True)
class Found:
    """Results of one scan, as they lie on the disk.

    name: as it was named.  state: "finished", "at work", "unfinished", or "" for a file that does not say.
    about: what is known of the scan, see `run_folder.metadata`; {} for JSON lines and CSV.
    """

    name: str
    files: tuple[Path, ...]
    format: Format
    state: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decided the rows, if the results say."""
        identity = self.about.get("identity")
        return identity if isinstance(identity, dict) else {}

    @property
    def is_followed(self) -> bool:
        """Whether a path may have been scanned several times (--follow)."""
        return self.identity.get("follow") is True

    @property
    def fpr(self) -> float | None:
        """The threshold that the scan applied, if it says."""
        value = self.identity.get("fpr")
        return float(value) if isinstance(value, (int, float)) and 0.0 < value < 1.0 else None

    @property
    def test(self) -> str:
        """Equal for scans that held images against the same keys, in the same way."""
        identity = self.identity
        return json.dumps([identity.get(name) for name in _TEST]) if "keys" in identity else self.name


def find_results(name: str) -> Found:
    """The results at `name`: a file, a data set, or the folder of a scan that is not finished.

    Raises UsageError if there are none, or something else is there.
    """
    path = Path(name)
    if not path.exists() and holds_scan(partial_of(path)):
        path = partial_of(path)
    if path.is_dir():
        return _folder(name, path)
    if not path.is_file():
        raise UsageError(f"{name} does not exist; name a result of stablesig scan")
    ending = path.suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise UsageError(
            f"{name} is no result of stablesig scan, which ends in .{', .'.join(FORMATS)} or is a folder"
        )
    format = ending
    try:
        if format == "parquet":
            return Found(name, (path,), format, "finished", _parquet_about(path) or {})
        _check_text(path, format)
    except (OutputError, OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{name} is no result of stablesig scan: {what}") from None
    return Found(name, (path,), format)


def _folder(name: str, folder: Path) -> Found:
    files, notes, about = [], [], None
    parts = parts_in(folder)
    replaced = replaced_parts(folder)  # asked after the parts: it is there for as long as both are
    for part in parts:
        if part in replaced:
            continue
        try:
            about = _parquet_about(part) or about
        except DamagedPartError as error:
            notes.append(f"{error} and is left out; scan with --resume to do its images again")
        except FileNotFoundError:
            raise UsageError(f"{name} was changed by its scan while it was read; run it again") from None
        else:
            files.append(part)
    if holds_scan(folder):
        about = metadata(read_about(folder))
    elif not files:
        raise UsageError(f"{name} is a folder without results of stablesig scan; name one that it wrote")
    state = "finished" if (folder / FINISHED).exists() else "at work" if is_locked(folder) else "unfinished"
    return Found(
        name, tuple(files), "parquet", state if holds_scan(folder) else "", about or {}, tuple(notes)
    )


def _parquet_about(path: Path) -> dict[str, Any] | None:
    """Raises DamagedPartError, OutputError for another schema."""
    with needs_scan("a report of a scan"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    try:
        schema = pq.read_schema(path)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DamagedPartError(path, str(error)) from None
    check_schema(schema, path)
    return about_of(schema)


def _check_text(path: Path, format: Format) -> None:
    """Raise ValueError unless the first line is that of our results. An empty scan has none as JSON lines."""
    if format == "csv":
        with path.open(encoding="utf-8", newline="") as file:
            head = next(csv.reader([file.readline(65_536)]), [])
        missing = [name for name in FIELDS if name not in head] or (head != list(FIELDS) and ["this order"])
    else:
        with path.open("rb") as binary:
            line = binary.readline(16 << 20)
        first = json.loads(line) if line else dict.fromkeys(FIELDS)
        missing = [name for name in FIELDS if not isinstance(first, dict) or name not in first]
    if missing:
        raise ValueError(f"its columns are not those of a scan (no {missing[0]})")
