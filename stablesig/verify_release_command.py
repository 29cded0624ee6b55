"""`stablesig verify-release`: is a release on the Hub what it says, and does it watermark?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stablesig.one_line import printable

UNPROVEN = 10  # as of `stablesig publish`


def verify_release(
    source: Annotated[
        str,
        typer.Argument(
            metavar="ORG/NAME",
            show_default=False,
            help="Repository on the Hugging Face Hub, or a release folder.",
        ),
    ],
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            "-k",
            metavar="KEY.json",
            show_default=False,
            help="The publisher's key, from somewhere else than the release; its own, if it has one, if not "
            "given.",
        ),
    ] = None,
    signing_key: Annotated[
        Path | None,
        typer.Option(
            "--signing-key",
            metavar="KEY.pub.pem",
            show_default=False,
            help="The publisher's public signing key; the release must be signed with it.",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision", metavar="REV", show_default=False, help="Branch, tag, commit or refs/pr/N."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            "-i",
            metavar="DIR",
            show_default=False,
            help="Photographs to decode, 16 at most; the four that ship with stablesig if not given.",
        ),
    ] = None,
    fpr: Annotated[float, typer.Option("--fpr", metavar="P", help="False positive rate.")] = 1e-6,
) -> None:
    """Check a release: its hashes, its signature, that it loads, and that what it decodes is watermarked.

    Downloads the release into an empty cache, compares every file with the hashes that it declares, checks
    its signature, loads it with diffusers, decodes photographs and looks for the key in them, and in the
    photographs themselves as the control. Without --key and --signing-key the release vouches for itself.
    Nothing in it is run. Prints what was found; the cache is removed. Needs the train extra, and sign for a
    signature.

    Exit code: 0 verified, 10 something is wrong, else as of stablesig.
    """
    from stablesig.verify_release import check_release_folder
    from stablesig.verify_release import verify_release as run_verify
    from stablesig_detector.key import load_key

    loaded = None if key is None else load_key(key)
    folder = Path(source)
    if folder.is_dir() and revision is None:
        check = check_release_folder(folder, key=loaded, signing_key=signing_key, images=images, fpr=fpr)
    else:
        check = run_verify(
            source, revision=revision, key=loaded, signing_key=signing_key, images=images, fpr=fpr
        )
    for line in str(check).split("\n"):
        typer.echo(printable(line))
    raise typer.Exit(0 if check.passed else UNPROVEN)
