"""`stablesig signing-key`, `prove-image` and `verify-proof`: the chain of custody around a release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stablesig.one_line import shown


def signing_key(
    path: Annotated[
        Path, typer.Argument(metavar="KEY.pem", show_default=False, help="Where the private key goes.")
    ],
) -> None:
    """Draw a key that signs releases; it has nothing to do with the watermark's key.

    Writes the private key (ECDSA on P-256, PEM, mode 0600, not encrypted) and KEY.pub.pem beside it, which is
    for everybody: put it where your users already trust you. Prints the SHA-256 by which signatures name it.
    Nothing is overwritten. Needs the sign extra.
    """
    from stablesig.release_signature import make_signing_key

    public, digest = make_signing_key(path)
    typer.echo(f"private key  {shown(path)}")
    typer.echo(f"public key   {shown(public)}")
    typer.echo(f"SHA-256      {digest}")


def prove_image(
    image: Annotated[
        Path,
        typer.Argument(metavar="IMAGE", show_default=False, help="The image file, as it was trained on."),
    ],
    training: Annotated[
        Path,
        typer.Option(
            "--training",
            "-t",
            metavar="FILE",
            show_default=False,
            help="The watermark.json that embed wrote, or lines that start with a SHA-256.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="PROOF.json", show_default=False, help="File to write; must not exist."
        ),
    ],
) -> None:
    """Prove that an image was among the training images, without showing the others.

    The publisher of a release, who has the list, writes the proof; whoever gets it checks it with
    verify-proof against the Merkle root in the release. Prints the image's place and the root.

    Exit code: 0 proven, 1 the image is not on the list.
    """
    from stablesig.membership import file_sha256, prove, training_digests

    digests = training_digests(training)
    proof = prove(file_sha256(image), digests)
    if proof is None:
        typer.echo(f"{shown(image)}: not among the {len(digests)} training images")
        raise typer.Exit(1)
    proof.save(out)
    typer.echo(f"{shown(image)}: leaf {proof.index} of {proof.size}, root {proof.root}")


def verify_proof(
    proof: Annotated[
        Path, typer.Argument(metavar="PROOF.json", show_default=False, help="What prove-image wrote.")
    ],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", show_default=False, help="The image file.")],
    release: Annotated[
        Path | None,
        typer.Option(
            "--release",
            "-r",
            metavar="PATH",
            show_default=False,
            help="The release's watermark.json, or its folder.",
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option("--root", metavar="HEX", show_default=False, help="The Merkle root by itself."),
    ] = None,
) -> None:
    """Check a proof that an image was among the training images of a release.

    The root must come from the release, with --release or --root: one in the proof would prove nothing.

    Exit code: 0 it was, 1 the proof does not hold for this image and this root.
    """
    from stablesig.membership import file_sha256, load_proof, published_root
    from stablesig_detector.errors import UsageError

    if (release is None) == (root is None):
        raise UsageError("give the root with --release or with --root, one of them")
    wanted, count = (str(root).lower(), None) if release is None else published_root(release)
    loaded = load_proof(proof)
    if loaded.image_sha256 != file_sha256(image):
        typer.echo(f"{shown(image)}: not proven; the proof is for another file")
        raise typer.Exit(1)
    if count is not None and count != loaded.size:
        typer.echo(
            f"{shown(image)}: not proven; the proof is for {loaded.size} images, the release has {count}"
        )
        raise typer.Exit(1)
    if not loaded.holds(wanted):
        typer.echo(f"{shown(image)}: not proven; the proof does not lead to the root {wanted}")
        raise typer.Exit(1)
    typer.echo(f"{shown(image)}: proven, leaf {loaded.index} of {loaded.size} under the root {wanted}")
