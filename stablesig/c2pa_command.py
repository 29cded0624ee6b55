"""`stablesig c2pa-assertion`: what ties a C2PA manifest to a watermark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def c2pa_assertion(
    key: Annotated[
        Path,
        typer.Argument(
            metavar="KEY", show_default=False, help="Key file, public or secret; only the key's id is used."
        ),
    ],
    algorithm: Annotated[
        str | None,
        typer.Option(
            "--algorithm",
            metavar="NAME",
            help="Name of the soft binding algorithm (default: the one that `stablesig detect` knows, "
            "which is not on C2PA's list).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the C2PA soft binding assertion for a key, as JSON.

    Reads KEY. Put what it prints among the assertions of the manifest of every image that the watermarked
    decoder makes; `stablesig detect` then says whether manifest and watermark name the same key. See
    docs/c2pa.md.

    \b
    Example:
      stablesig c2pa-assertion publisher.pub.json
    """
    import json

    from stablesig.c2pa import SOFT_BINDING_ALGORITHM, soft_binding_assertion
    from stablesig_detector.key import load_key

    assertion = soft_binding_assertion(load_key(key), algorithm or SOFT_BINDING_ALGORITHM)
    typer.echo(json.dumps(assertion, indent=2))
