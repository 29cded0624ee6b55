"""What a report asks of the results, in DuckDB: any number of rows in bounded memory.

Parquet, JSON lines and CSV are read where they lie. What does not fit in memory goes to a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig.extras import needs_scan
from stablesig_detector.errors import UsageError

from .output import Format
from .schema import FIELDS

if TYPE_CHECKING:
    import duckdb

MEMORY = "1GB"
LISTED = 1_000  # keys of which a report tells, those with the most hits; the others are counted
EXAMPLES = 3  # of each class of errors
DECADES = 40  # of p-values that are told apart; all below are one
_SQL = {
    "string": "VARCHAR",
    "category": "VARCHAR",
    "binary": "BLOB",
    "bool": "BOOLEAN",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "double": "DOUBLE",
    "timestamp": "TIMESTAMPTZ",
}


@dataclass(frozen=True)
class Rows:
    """Files with rows of one scan. test: the same number for scans with the same keys and threshold."""

    files: tuple[Path, ...]
    format: Format
    test: int


class Queries:
    """Questions to the rows of several scans, numbered from 0. Made by `queries`."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database

    def _all(self, sql: str, *values: object) -> list[dict[str, Any]]:
        found = self._database.execute(sql, list(values))
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def per_scan(self) -> list[dict[str, Any]]:
        """Of each scan with rows: images by verdict, what they were tried against, and the time they took.

        first, last: when the first image was begun and the last done, s since 1970.
        highest_hit, lowest_miss: log10 p.
        """
        return self._all("""
            SELECT scan, count(*) AS images,
                count(*) FILTER (verdict = 'detected') AS detected,
                count(*) FILTER (verdict = 'not detected') AS not_detected,
                count(*) FILTER (verdict = 'unreadable') AS unreadable,
                count(*) FILTER (screened) AS screened,
                max(n_keys) AS n_keys, sum(bytes)::BIGINT AS bytes,
                min(epoch_us(time) / 1e6 - coalesce(seconds, 0.0)) AS first,
                epoch_us(max(time)) / 1e6 AS last,
                sum(seconds) AS worker_seconds,
                (SELECT max(weakest) FROM hits WHERE hits.scan = images.scan) AS highest_hit,
                min(log10_p_value) FILTER (verdict = 'not detected') AS lowest_miss
            FROM images GROUP BY scan ORDER BY scan""")

    def replaced(self, scan: int) -> int:
        """How many images of a scan are earlier versions of a path that has a newer one."""
        [found] = self._all(
            "SELECT count(*) - count(DISTINCT (path, path_bytes)) AS images FROM images WHERE scan = ?", scan
        )
        return int(found["images"])

    def impossible(self) -> list[dict[str, Any]]:
        """The first row that no scan writes, if there is one: other programs write Parquet as well."""
        return self._all("""
            SELECT scan, path FROM rows
            WHERE coalesce(verdict, '') NOT IN ('detected', 'not detected', 'unreadable')
                OR NOT coalesce(isfinite(log10_p_value) AND log10_p_value <= 0.0, true)
                OR (verdict = 'detected' AND (key_id IS NULL OR log10_p_value IS NULL
                    OR NOT coalesce(isfinite(statistic), false)))
                OR NOT coalesce(isfinite(seconds), true) OR n_keys < 1
                OR bytes NOT BETWEEN 0 AND 1000000000000000
            LIMIT 1""")

    def distinct_in_tests(self) -> list[dict[str, Any]]:
        """How many different images each test measured."""
        return self._all("""
            SELECT test, count(*) AS images FROM (
                SELECT DISTINCT test, unhex(sha256) FROM images WHERE verdict <> 'unreadable')
            GROUP BY test ORDER BY test""")

    def distinct(self) -> dict[str, Any]:
        """Different files among those whose bytes could be read; measured, and detected in any scan."""
        [found] = self._all("""
            SELECT count(*) AS files, count(*) FILTER (measured) AS measured,
                count(*) FILTER (detected) AS detected FROM (
                SELECT bool_or(verdict <> 'unreadable') AS measured, bool_or(verdict = 'detected') AS detected
                FROM (SELECT unhex(sha256) AS sha, verdict FROM images WHERE sha256 IS NOT NULL) GROUP BY sha)
            """)
        return found

    def keys(self) -> list[dict[str, Any]]:
        """The keys that were detected, those with the most images first."""
        return self._all(f"""
            SELECT key_id, any_value(provider) AS provider, any_value(model_id) AS model_id,
                max_by(state, time) AS state, sum(images)::BIGINT AS images, count(*) AS distinct_images,
                min(log10_p_value) AS lowest_log10_p
            FROM (SELECT key_id, any_value(provider) AS provider, any_value(model_id) AS model_id,
                      max_by(key_state, time) AS state, max(time) AS time, count(*) AS images,
                      min(log10_p_value) AS log10_p_value
                  FROM rows WHERE verdict = 'detected' GROUP BY key_id, sha256)
            GROUP BY key_id ORDER BY images DESC, lowest_log10_p, key_id LIMIT {LISTED}""")

    def states(self) -> list[dict[str, Any]]:
        """For each state of a key: how many keys in it were detected, and in how many images."""
        return self._all("""
            SELECT state, count(*) AS keys, sum(images)::BIGINT AS images FROM (
                SELECT max_by(key_state, time) AS state, count(*) AS images
                FROM rows WHERE verdict = 'detected' GROUP BY key_id)
            GROUP BY state ORDER BY images DESC, state""")

    def errors(self) -> list[dict[str, Any]]:
        """Classes of errors, the largest first, with the first examples by path."""
        return self._all(f"""
            SELECT coalesce(error_kind, 'unknown') AS kind, count(*) AS images,
                min_by(path || ': ' || coalesce(error, ''), path, {EXAMPLES}) AS examples
            FROM images WHERE verdict = 'unreadable' GROUP BY kind ORDER BY images DESC, kind LIMIT 100""")

    def formats(self) -> list[dict[str, Any]]:
        """Formats of the files that could be told, the most frequent first."""
        return self._all("""
            SELECT format, count(*) AS images, count(*) FILTER (verdict = 'detected') AS detected,
                count(*) FILTER (verdict = 'unreadable') AS unreadable, sum(bytes)::BIGINT AS bytes
            FROM images WHERE format IS NOT NULL GROUP BY format ORDER BY images DESC, format LIMIT 100""")

    def seconds(self) -> dict[str, Any]:
        """Quantiles of the time that one image took its worker, s (the quantiles are approximate)."""
        [found] = self._all("""
            SELECT approx_quantile(seconds, 0.5) AS median, approx_quantile(seconds, 0.99) AS slow,
                max(seconds) AS longest FROM images""")
        return found

    def histogram(self) -> list[dict[str, Any]]:
        """Images by decade of their lowest p: decade n holds 10^-(n+1) < p <= 10^-n, the last all below."""
        return self._all(f"""
            SELECT least(floor(-log10_p_value), {DECADES})::INTEGER AS decade, count(*) AS images,
                count(*) FILTER (verdict = 'detected') AS detected
            FROM images WHERE log10_p_value IS NOT NULL GROUP BY decade ORDER BY decade""")

    def hits(self, number: int) -> list[dict[str, Any]]:
        """The images with the lowest p-values among those detected, each file once."""
        return self._all(
            """
            SELECT * EXCLUDE (place) FROM (
                SELECT path, path_bytes, sha256, key_id, provider, model_id, key_state, n_detected, statistic,
                    log10_p_value, matches, n_bits, transform, scale, rotation, width, height, format,
                    copies, row_number() OVER (ORDER BY log10_p_value, path) AS place
                FROM (SELECT unnest(min_by(hits, (log10_p_value, path))), count(*) AS copies
                      FROM hits GROUP BY sha256))
            WHERE place <= ? ORDER BY place""",
            number,
        )


@contextmanager
def queries(scans: Sequence[Rows]) -> Iterator[Queries]:
    """Questions to `scans`. Raises UsageError where a file turns out to be none of a scan, or is gone."""
    with needs_scan("a report of a scan"):
        import duckdb
    with tempfile.TemporaryDirectory(prefix="stablesig-report-") as spill, duckdb.connect() as database:
        try:
            for name, value in (
                ("memory_limit", MEMORY),
                ("temp_directory", spill),
                ("preserve_insertion_order", "false"),
                ("autoinstall_known_extensions", "false"),  # nothing is fetched
                ("TimeZone", "UTC"),
            ):
                database.execute(f"SET {name} = '{_quoted(value)}'")
            database.execute(_views(scans))
            yield Queries(database)
        except duckdb.OutOfMemoryException as error:
            raise UsageError(
                f"the results are too many to sort in {spill}: {_first(error)}; free some space"
            ) from None
        except duckdb.Error as error:
            raise UsageError(
                f"the results cannot be read: {_first(error)}; if a scan is at work on them, run it again, "
                "else name files that stablesig scan wrote"
            ) from None


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _views(scans: Sequence[Rows]) -> str:
    """rows: of all scans.  hits: an image with a detected key, and the strongest.  images: a row for each.

    All rows of an image have the same time; those of a file that was replaced while it was watched have
    another, and are another image.
    """
    best = ", ".join(f"best.{name}" for name in FIELDS if name not in ("path", "path_bytes"))
    columns = ", ".join(FIELDS)
    return f"""
        CREATE VIEW rows AS {" UNION ALL ".join(_select(place, scan) for place, scan in enumerate(scans))};
        CREATE TEMP TABLE hits AS
            SELECT scan, test, path, path_bytes, n_detected, weakest, {best} FROM (
                SELECT scan, test, path, path_bytes, count(*) AS n_detected, max(log10_p_value) AS weakest,
                    min_by(rows, (log10_p_value, key_id)) AS best
                FROM rows WHERE verdict = 'detected' GROUP BY scan, test, path, path_bytes, time);
        CREATE VIEW images AS
            SELECT scan, test, {columns} FROM rows WHERE verdict <> 'detected'
            UNION ALL SELECT scan, test, {columns} FROM hits;"""


def _select(place: int, scan: Rows) -> str:
    columns = ", ".join(f"{_column(name, kind, scan.format)} AS {name}" for name, (kind, _) in FIELDS.items())
    return f"SELECT {place} AS scan, {scan.test} AS test, {columns} FROM {_source(scan)}"


def _column(name: str, kind: str, format: Format) -> str:
    if format == "parquet":
        return f"{name}::{_SQL[kind]}"
    if kind == "binary":
        return f"from_base64({name})"
    if format == "csv" and kind in ("string", "category"):  # see schema.FORMULA_SIGNS
        return f"CASE WHEN starts_with({name}, '''') THEN substr({name}, 2) ELSE {name} END"
    return name


def _source(scan: Rows) -> str:
    files = ", ".join(f"'{_quoted(_plain(file))}'" for file in scan.files)
    text = {name: "VARCHAR" if kind == "binary" else _SQL[kind] for name, (kind, _) in FIELDS.items()}
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in text.items())
    if not scan.files:
        nothing = ", ".join(f"NULL::{_SQL[kind]} AS {name}" for name, (kind, _) in FIELDS.items())
        return f"(SELECT {nothing} WHERE false)"
    if scan.format == "parquet":
        return f"read_parquet([{files}])"
    if scan.format == "jsonl":
        return f"read_json([{files}], format = 'newline_delimited', columns = {{{columns}}})"
    return (
        f"read_csv([{files}], header = true, auto_detect = false, delim = ',', quote = '\"', escape = '\"', "
        f"nullstr = '', parallel = false, columns = {{{columns}}})"
    )


def _plain(file: Path) -> str:
    """A path in which DuckDB finds no pattern."""
    text = str(file.absolute())
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{file!r} is not valid UTF-8, which DuckDB cannot open; rename it") from None
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)


def _quoted(text: str) -> str:
    return text.replace("'", "''")
