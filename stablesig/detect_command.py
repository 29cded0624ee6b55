"""The command `stablesig detect`: which images and keys, how to look, and what is printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stablesig.failures import warn
from stablesig.one_line import shown

if TYPE_CHECKING:
    from stablesig.evidence import ImageEvidence, Request
    from stablesig_detector.key_set import KeySet
    from stablesig_detector.sources import Source, Unreadable

SEARCHES = ("none", "fast", "full")
# Seconds that one image may take; a hostile file must not hold up the others.
_SECONDS = {"none": 10.0, "fast": 10.0, "full": 60.0}
_SECONDS_TO_EXPLAIN = 60.0


KeyFilesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        "-k",
        metavar="KEY.json",
        show_default=False,
        help="Secret or public key file; may be repeated.",
    ),
]
KeyFoldersOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--keys",
        metavar="DIR",
        show_default=False,
        help="Folder of key files, or a key registry (docs/registry.md); may be repeated.",
    ),
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="ORG/NAME",
        show_default=False,
        help="Take the key of this repository on the Hugging Face Hub, ORG/NAME@REVISION for one "
        "revision of it; may be repeated. Needs the hub extra.",
    ),
]


def _searches(incomplete: str) -> list[str]:
    return [search for search in SEARCHES if search.startswith(incomplete)]


def detect(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            show_default=False,
            help="Image files, folders, patterns, http(s) addresses, or - for standard input. PNG, JPEG, "
            "WebP, AVIF, TIFF, BMP, GIF, PPM, and HEIC with the heif extra.",
        ),
    ],
    keys: KeyFilesOption = None,
    key_folders: KeyFoldersOption = None,
    models: ModelsOption = None,
    fpr: Annotated[
        float,
        typer.Option(
            "--fpr",
            metavar="P",
            help="False positive rate over random keys: detected means a p-value of at most P.",
        ),
    ] = 1e-6,
    search: Annotated[
        str,
        typer.Option(
            "--search",
            metavar="none|fast|full",
            autocompletion=_searches,
            help="Geometry to undo: none; flips and quarter turns (fast); any rotation, and scales 0.3 to 3 "
            "as well (full; takes seconds an image).",
        ),
    ] = "fast",
    explain: Annotated[
        Path | None,
        typer.Option(
            "--explain",
            metavar="OUT.png",
            show_default=False,
            help="Draw where the watermark shows, and the spectrum against the key; for one image. The "
            "picture discloses the key as its public file does.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors; the exit code is the answer.")
    ] = False,
    recursive: Annotated[
        bool, typer.Option("--recursive/--flat", help="Whether to look into the folders in a folder.")
    ] = True,
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private",
            help="Also fetch from addresses that are not on the public internet, such as this machine.",
        ),
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", min=1, help="Processes that measure.")
    ] = 1,
) -> None:
    """Test images for the watermark of a key.

    Reads the images and the keys; needs neither the model nor PyTorch. Prints a report on one image, a line
    for each image and key of several: the verdict (detected, not detected or unreadable), the p-value, the
    statistic, the geometry that fitted best and, with a secret key, how many bits of the message agree. The
    p-value is the probability that a key drawn at random would score as high or higher on this image or one
    of the geometries tried; it already pays for every key and every geometry. An image counts as detected
    when one of the keys is.

    A p-value means something only if the key was drawn at random, independently of the image: a public key
    file can be fitted to an image afterwards, so ask that the key or its id was known before. The public key
    also suffices to imitate the watermark. A revoked or expired key is looked for all the same, and the
    report says so.

    "not detected" proves nothing: the image may come from another model, or the watermark may have been
    removed.

    \b
    Examples:
      stablesig detect photo.png --key publisher.pub.json
      stablesig detect photo.jpg -k publisher.pub.json --search full --explain why.png
      stablesig detect downloads/ 'more/*.webp' --keys registry/ --json > evidence.json
      stablesig detect https://example.org/photo.jpg --model org/name
      curl -s https://example.org/photo.jpg | stablesig detect - -k publisher.pub.json --quiet && echo marked

    Exit code: 0 all images detected, 1 some not, 2 wrong usage, 3 some unreadable, 4 a bad key file.
    """
    from stablesig.detect_keys import keys_to_look_for
    from stablesig.detect_output import exit_code
    from stablesig.evidence import Request
    from stablesig_detector.errors import UsageError
    from stablesig_detector.sources import find_sources
    from stablesig_detector.urls import FetchPolicy

    if quiet and as_json:
        raise UsageError("--quiet prints nothing and --json an object; give one of the two")
    if explain is not None:
        from stablesig_detector.new_files import check_place

        check_place(explain)
    loaded = keys_to_look_for(keys or [], key_folders or [], models or [])
    if not quiet:
        for note in loaded.notes:
            warn(note)
    request = Request(loaded, fpr, search, FetchPolicy(allow_private=allow_private), explain is not None)
    sources = find_sources(images, recursive=recursive)
    first = list(islice(sources, 2))
    if explain is not None and len(first) > 1:
        raise UsageError("--explain draws one image, there are more; name one of them")
    seconds = _SECONDS.get(search, 0.0) + (_SECONDS_TO_EXPLAIN if explain is not None else 0.0)
    if any(image.lower().startswith(("http://", "https://")) for image in images):
        seconds += request.policy.seconds  # to fetch it
    evidence = _evidence(chain(first, sources), request, seconds, jobs)
    if quiet or as_json or len(first) == 1:
        results = list(evidence)
        picture = _write_picture(explain, results[0])
        if quiet:
            _say_what_is_unreadable(results)
        else:
            _print_whole(results, request, picture, as_json=as_json)
    else:
        results = _print_lines(evidence, loaded)
    if not quiet:
        _warn_of_keys(results, loaded)
    raise typer.Exit(exit_code(image.verdict for image in results))


def _evidence(
    sources: Iterable[Source | Unreadable], request: Request, seconds: float, jobs: int
) -> Iterator[ImageEvidence]:
    """One for each source, in order; the images are read and measured in guarded processes.

    seconds: that one image may take; 0 for no limit.
    """
    from stablesig.evidence import measure, unreadable
    from stablesig_detector.errors import ImageError
    from stablesig_detector.guard import Failure, guarded
    from stablesig_detector.sources import Unreadable

    def work(source: Source | Unreadable) -> ImageEvidence:
        if isinstance(source, Unreadable):
            raise source.error
        return measure(source, request)

    for result in guarded(work, sources, seconds=seconds or None, jobs=jobs):
        if not isinstance(result, Failure):
            yield result
        elif isinstance(result.error, ImageError):
            yield unreadable(result.item.name, result.error)
        else:  # the request is wrong, not the image
            raise result.error


def _write_picture(path: Path | None, image: ImageEvidence) -> Path | None:
    """Where the explanation was written; None if there is none."""
    from stablesig_detector.new_files import NewFile, write_new_files

    if path is None or image.picture is None:
        return None
    write_new_files([NewFile(path, image.picture)])
    return path


def _print_whole(
    results: list[ImageEvidence], request: Request, picture: Path | None, *, as_json: bool
) -> None:
    if as_json:
        from stablesig.detect_json import as_text, document

        typer.echo(as_text(document(results, request, picture)))
    else:
        from stablesig.detect_report import full_report, write

        write(full_report(results[0], request.keys, picture))


def _print_lines(evidence: Iterator[ImageEvidence], keys: KeySet) -> list[ImageEvidence]:
    """Print each image as soon as it is measured, then what the lines mean."""
    from stablesig.detect_report import lines_of, summary, write

    results = []
    for image in evidence:
        write(lines_of(image, keys))
        results.append(image)
    write(summary(results))
    return results


def _say_what_is_unreadable(results: list[ImageEvidence]) -> None:
    for image in results:
        if image.error is not None:
            typer.echo(f"stablesig: error: {shown(image.error)}", err=True)


def _warn_of_keys(results: list[ImageEvidence], keys: KeySet) -> None:
    """Say of every detected key that is not in force today what is the matter with it."""
    from stablesig.detect_report import key_warning

    detected = {found.key_id for image in results for found in image.detections if found.detected}
    for key_id in sorted(detected):
        for trouble in key_warning(key_id, keys):
            warn(f"key {key_id}, which was detected: {trouble}")
