"""The command `stablesig scan`: which images and keys, how to look, where results go, what is printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from stablesig.detect_command import SEARCHES, KeyFilesOption, KeyFoldersOption, ModelsOption
from stablesig.failures import warn
from stablesig.one_line import shown

ENGINES = ("local", "ray")


def _starting(words: Sequence[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def scan(
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            show_default=False,
            help="Results: a file ending in .parquet, .jsonl or .csv, or a folder of Parquet parts (OUT/). "
            "Must not exist.",
        ),
    ],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            show_default=False,
            help="Folders, image files, patterns, archives (tar, zip, WebDataset shards such as "
            "'s-{000..009}.tar'), lists (txt, csv, tsv, parquet, jsonl; @FILE; @- for standard input), and "
            "addresses: http(s)://, s3://, gs://, hf:// and others that fsspec reads.",
        ),
    ] = None,
    keys: KeyFilesOption = None,
    key_folders: KeyFoldersOption = None,
    models: ModelsOption = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="parquet|jsonl|csv",
            show_default=False,
            help="Of the results; by default as the ending of OUT says.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the unfinished scan into OUT, or add what is new to a folder."
        ),
    ] = False,
    fpr: Annotated[
        float,
        typer.Option(
            "--fpr",
            metavar="P",
            help="False positive rate of an image, over all keys: detected means a p-value of at most P.",
        ),
    ] = 1e-6,
    search: Annotated[
        str,
        typer.Option(
            "--search",
            metavar="none|fast|full",
            autocompletion=lambda incomplete: _starting(SEARCHES, incomplete),
            help="Geometry to undo: none; flips and quarter turns (fast); any rotation, and scales 0.3 to 3 "
            "as well (full; takes seconds an image).",
        ),
    ] = "fast",
    screen: Annotated[
        bool,
        typer.Option(
            "--screen",
            help="Rule images out by a part of their windows where that suffices: faster, and misses few "
            "(docs/scale.md).",
        ),
    ] = False,
    dedup: Annotated[
        bool,
        typer.Option(
            "--dedup", help="Measure files with the same bytes once where that is noticed; same rows."
        ),
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="local|ray",
            autocompletion=lambda incomplete: _starting(ENGINES, incomplete),
            help="Where to work: processes on this machine, or a Ray cluster (needs the scan-ray extra).",
        ),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="ADDR",
            show_default=False,
            help="Of the cluster: auto for the one that this machine belongs to, or HOST:PORT; one on this "
            "machine is started if not given (--engine ray).",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", metavar="N", min=1, show_default=False, help="Processes; one a core if not given."
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit",
            metavar="SECONDS",
            show_default=False,
            help="That one image may take; 0 for no limit (default: 10, 60 in the search full).",
        ),
    ] = None,
    memory_limit: Annotated[
        str,
        typer.Option(
            "--memory-limit", metavar="SIZE", help="That one image may take, such as 512m; 0 for no limit."
        ),
    ] = "1g",
    recursive: Annotated[
        bool, typer.Option("--recursive/--flat", help="Whether to look into the folders in a folder.")
    ] = True,
    all_files: Annotated[
        bool,
        typer.Option(
            "--all-files", help="Also files in folders and archives without the suffix of an image."
        ),
    ] = False,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Also into links to folders, each folder once.")
    ] = False,
    archives: Annotated[
        bool, typer.Option("--archives", help="Also look into archives that lie in folders.")
    ] = False,
    column: Annotated[
        str | None,
        typer.Option(
            "--column",
            metavar="NAME",
            show_default=False,
            help="Of tables that list inputs; if not given: path, url, file or image.",
        ),
    ] = None,
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private",
            help="Also fetch from addresses that are not on the public internet, such as this machine.",
        ),
    ] = False,
    retries: Annotated[
        int,
        typer.Option(
            "--retries", metavar="N", min=0, help="Further tries where the network failed in passing."
        ),
    ] = 3,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Keep watching the folders for new uploads, until SIGTERM or Ctrl-C "
            "(docs/scan-follow.md); OUT is then a folder of parts.",
        ),
    ] = False,
    queue: Annotated[
        Path | None,
        typer.Option(
            "--queue",
            metavar="DIR",
            show_default=False,
            help="Take uploads from DIR/new, which several scanners may share, and move them to DIR/done or "
            "DIR/failed (implies --follow).",
        ),
    ] = None,
    interval: Annotated[
        float,
        typer.Option("--interval", metavar="S", help="Seconds between two looks for uploads (--follow)."),
    ] = 1.0,
    settle: Annotated[
        float,
        typer.Option(
            "--settle",
            metavar="S",
            help="Seconds for which the size and time of an upload must have been still (--follow).",
        ),
    ] = 2.0,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="ADDR:PORT",
            show_default=False,
            help="Answer Prometheus at this address meanwhile, such as 127.0.0.1:9464.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Look for the watermarks of many keys in very many images, and keep a row for each.

    Every input gets exactly one outcome: detected (a row for each key), not detected (a row for the strongest
    key), or unreadable (a row that says why). A file that is damaged, too large, too slow or hostile costs
    itself and nothing else. The columns are described in docs/scan-results.md.

    What is done is committed every 30 seconds (with --follow, every 5). After Ctrl-C, kill -9, a power cut or
    a full disk the same command with --resume goes on, and no row is lost or doubled.

    A p-value pays for all keys and geometries tried on its image, so of N images made without these keys
    about N x P are detected by accident, however many keys there are. "not detected" proves nothing: the
    image may come from another model, or the watermark may have been removed.

    \b
    Examples:
      stablesig scan uploads/ --keys registry/ --out uploads.parquet
      stablesig scan uploads/ --keys registry/ --out uploads.parquet --resume
      stablesig scan @urls.txt 's3://bucket/day=1/*.jpg' --keys registry/ --out day1/ --screen
      stablesig scan 'shards/{000..127}.tar' -k publisher.pub.json -o shards.csv --jobs 8 --dedup
      stablesig scan --follow incoming/ --keys registry/ --out incoming-results/ --metrics 127.0.0.1:9464

    Prints a summary. Needs the scan extra. Exit code: 0 done, also where some images are unreadable; 2 wrong
    usage, 4 a bad key file, 8 results that cannot be written, 130 interrupted.
    """
    from stablesig.extras import needs_scan
    from stablesig_detector.errors import UsageError

    if engine not in ENGINES:
        raise UsageError(f"an engine is {' or '.join(ENGINES)}; got {engine!r}")
    if ray_address is not None and engine != "ray":
        raise UsageError("--ray-address is for --engine ray; give both, or neither")
    with needs_scan("stablesig scan"):
        import pyarrow  # noqa: F401  what is missing is said before anything else

        from stablesig.scanning.command_line import observed, run_follow, run_scan, settings_of
        from stablesig.scanning.sources import SourceOptions
        from stablesig.scanning.summary import document, summary
    settings = settings_of(
        (keys or [], key_folders or [], models or []),
        fpr,
        search,
        screen=screen,
        dedup=dedup,
        time_limit=time_limit,
        memory_limit=memory_limit,
        allow_private=allow_private,
        retries=retries,
    )
    options = SourceOptions(recursive, all_files, follow_links, archives, column, settings.read)
    for note in settings.keys.notes:
        warn(note)
    if follow or queue is not None:
        if engine != "local" or as_json or output_format is not None:
            raise UsageError("--engine, --format and --json are not for --follow; leave them out")
        run_follow(
            sources or [],
            settings,
            out,
            options,
            jobs=jobs,
            interval=interval,
            settle=settle,
            queue=queue,
            metrics=metrics,
            on_warning=warn,
            on_end=lambda end: typer.echo(shown(str(end))),
        )
        return
    with observed(metrics, settings, lambda url: typer.echo(f"metrics at {url}", err=True)) as observer:
        result = run_scan(
            sources or [],
            settings,
            out,
            options,
            format=output_format,
            jobs=jobs,
            resume=resume,
            ray=engine == "ray",
            ray_address=ray_address,
            observer=observer,
            on_warning=warn,
        )
    if as_json:
        typer.echo(json.dumps(document(result, settings), ensure_ascii=False, indent=2))
    else:
        for line in summary(result, settings):
            typer.echo(line)
