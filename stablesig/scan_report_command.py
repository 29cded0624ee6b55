"""The command `stablesig scan-report`: what one or several scans found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stablesig.one_line import printable

if TYPE_CHECKING:
    from stablesig.scanning.report import Report


def scan_report(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="RESULTS...",
            show_default=False,
            help="What stablesig scan wrote: .parquet, .jsonl or .csv files, folders of parts, also of a "
            "scan that is still at work.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="REPORT.html",
            show_default=False,
            help="Write a page with tables, a plot and thumbnails of the strongest hits; must not exist.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    thumbnails: Annotated[
        int,
        typer.Option(
            "--thumbnails",
            metavar="N",
            min=0,
            max=1000,
            help="Hits to show on the page, those with the lowest p-values.",
        ),
    ] = 24,
    fpr: Annotated[
        float | None,
        typer.Option(
            "--fpr",
            metavar="P",
            show_default=False,
            help="False positive rate of the scan, for .jsonl and .csv, which do not say it (default: 1e-6).",
        ),
    ] = None,
) -> None:
    """Report what scans found.

    Prints totals, hits by key, classes of errors, throughput, how many false hits to expect and how likely
    the hits are by accident. With --out also writes one HTML page. Several results are added up; a file that
    several hold is one of the different files. Thumbnails are made from the originals on this machine, whose
    paths are taken as they were scanned, so run it in the same folder; nothing is fetched from the network.

    False hits to expect are images x false positive rate, whatever the number of keys, as every p-value pays
    for all keys. That presumes keys drawn at random. An image in which nothing is detected may come from
    another model, or have lost its watermark: "not detected" proves nothing.

    \b
    Examples:
      stablesig scan-report results.parquet
      stablesig scan-report results.parquet --out report.html
      stablesig scan-report monday.parquet tuesday/ --json > report.json

    Exit code: 0 done, 2 wrong usage or no results of a scan, 8 the page cannot be written.
    """
    from stablesig.scanning.report import HITS, json_text, make_report
    from stablesig.scanning.report_text import lines
    from stablesig_detector.new_files import check_place

    if out is not None:
        check_place(out)
    report = make_report(results, fpr=fpr, hits=HITS if out is None else thumbnails)
    if out is not None:
        _write_page(out, report)
    if as_json:
        typer.echo(json_text(report))
        return
    for line in lines(report):
        typer.echo(printable(line))
    if out is not None:
        typer.echo(f"\npage  {printable(str(out))}")


def _write_page(out: Path, report: Report) -> None:
    from stablesig.scanning.report_html import html_report
    from stablesig.scanning.thumbnails import thumbnails
    from stablesig_detector.new_files import NewFile, write_new_files

    page = html_report(report, thumbnails(report.hits))
    write_new_files([NewFile(out, page.encode())])
