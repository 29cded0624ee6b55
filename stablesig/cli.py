"""The command line. Results go to stdout, progress and warnings to stderr; no command asks anything.

Imports that cost time stay inside the commands: `stablesig detect` must start fast and never touch torch.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stablesig import __version__
from stablesig.c2pa_command import c2pa_assertion
from stablesig.calibrate_command import calibrate
from stablesig.detect_command import detect
from stablesig.evaluate_command import evaluate
from stablesig.failures import (
    InterruptedRunError,
    broken_pipe_noticed,
    interruption_explained,
    report,
    warn,
)
from stablesig.one_line import printable, shown
from stablesig.provenance_command import prove_image, signing_key, verify_proof
from stablesig.publish_command import publish
from stablesig.registry_command import registry
from stablesig.scan_command import scan
from stablesig.scan_report_command import scan_report
from stablesig.verify_release_command import verify_release

if TYPE_CHECKING:
    from stablesig_detector.key import PublicKey, SecretKey

EXIT_CODES = """\b
Exit codes:
  0    done; for detect: every image carries the watermark
  1    detect: at least one image does not carry it; prove-image, verify-proof: not proven
  2    wrong usage, or an extra that is not installed
  3    an image that cannot be read, or is too small
  4    a key file that is missing, damaged, or for other features
  5    damaged statistics
  6    an autoencoder that cannot be loaded or saved
  7    training that cannot go on
  8    a result that cannot be written, or whose place is taken
  9    any other error, a fault of stablesig included
  10   publish, verify-release: refused, or not proven
  130  interrupted
  141  whoever read the output has gone (a broken pipe)
"""


class _Group(typer.core.TyperGroup):
    """Hands interruptions and broken pipes to `main`; typer itself would end the process without a word."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:  # prints --help and --version
        with broken_pipe_noticed():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        try:
            with broken_pipe_noticed():
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise InterruptedRunError("interrupted; nothing is left half-written") from error


class _EmbedCommand(typer.core.TyperCommand):
    """Puts the defaults of EmbedConfig into the help, read when it is printed: no second copy can drift."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        from dataclasses import fields

        from stablesig_train.embed_config import EmbedConfig

        defaults = {field.name: field.default for field in fields(EmbedConfig)}
        for parameter in self.params:
            if isinstance(parameter, typer.core.TyperOption) and "{default}" in (parameter.help or ""):
                default = defaults[str(parameter.name)]
                parameter.help = str(parameter.help).format(default=f"{default:g}")
        super().format_options(ctx, formatter)


app = typer.Typer(
    name="stablesig",
    cls=_Group,
    help="Watermark the decoder of a diffusion model, and verify the images that it decodes.",
    epilog=EXIT_CODES,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: the same in a terminal, a log and docs/cli.md
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stablesig {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _show(result: object) -> None:
    """Print a result of several lines; the paths in it may hold anything."""
    for line in str(result).split("\n"):
        typer.echo(printable(line))


def _load_keys(paths: Sequence[Path]) -> list[SecretKey | PublicKey]:
    from stablesig_detector.key import load_key

    return [load_key(path) for path in paths]


DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cpu|cuda|mps", help="Where to compute; auto takes a GPU if there is one."
    ),
]
VaeArgument = Annotated[
    str,
    typer.Argument(
        metavar="VAE",
        show_default=False,
        help="Autoencoder: a diffusers folder, a pipeline folder with vae/ in it, a Hub id, "
        "a single .safetensors file, or taef2:DIR.",
    ),
]


@app.command()
def keygen(
    secret: Annotated[
        Path,
        typer.Argument(metavar="SECRET.json", show_default=False, help="Where the secret key file goes."),
    ],
    bits: Annotated[
        int | None,
        typer.Option(
            "--bits", metavar="N", help="Length of the message in bits (default: 48, or 4 a digit of HEX)."
        ),
    ] = None,
    message: Annotated[
        str | None,
        typer.Option(
            "--message", metavar="HEX", help="The message in hexadecimal; drawn at random if not given."
        ),
    ] = None,
) -> None:
    """Draw a key: a secret file to embed with, a public file to verify with.

    Writes SECRET.json (mode 0600) and SECRET.pub.json beside it, and never overwrites either. Keep the secret
    file private: it alone reads the message, and no one can draw it again. The public file verifies, but it
    also suffices to imitate the watermark (embed takes it) and to remove it, so hand it only to those who
    should verify. Let them have it, or its id, before the images that it is to speak for: a public key file
    can be fitted to an image afterwards.

    Prints the id that both files share, and their paths.
    """
    from stablesig.keypair import keygen as draw

    pair = draw(secret, bits, message)
    typer.echo(f"key     {pair.secret.id}  ({pair.secret.n_bits} bits)")
    typer.echo(f"secret  {shown(pair.secret_path)}")
    typer.echo(f"public  {shown(pair.public_path)}")
    typer.echo(f"Keep {shown(pair.secret_path)} private and backed up; it cannot be drawn again.", err=True)


app.command()(detect)
app.command()(scan)
app.command("scan-report")(scan_report)


@app.command()
def reconstruct(
    vae: VaeArgument,
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES", show_default=False, help="An image, or a folder of images (not its subfolders)."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", show_default=False, help="Folder to write; must not exist."
        ),
    ],
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            metavar="PX",
            min=8,
            help="Cut PX x PX from the centre first; the whole image if not given.",
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Encode and decode images, to look at what an autoencoder does.

    Writes DIR/NAME.png for each image. Prints each path with the PSNR between the image and its
    reconstruction. Unreadable images are skipped with a warning, and the exit code is then 3. Needs the train
    extra.
    """
    from stablesig.reconstruction import reconstruct as run_reconstruct

    unreadable: list[Path] = []

    def skip(path: Path, reason: str) -> None:
        unreadable.append(path)
        warn(f"skipped {path}: {reason}")

    results = run_reconstruct(vae, images, out, size=size, device=device, on_unreadable=skip)
    for result in results:
        typer.echo(f"{result.psnr_db:6.2f} dB  {result.width}x{result.height}  {shown(result.output)}")
    mean = sum(result.psnr_db for result in results) / len(results)
    typer.echo(f"{mean:6.2f} dB  mean of {len(results)}")
    if unreadable:
        raise typer.Exit(3)


@app.command(cls=_EmbedCommand)
def embed(
    vae: VaeArgument,
    key: Annotated[
        Path,
        typer.Option(
            "--key", "-k", metavar="KEY.json", show_default=False, help="Secret or public key file."
        ),
    ],
    images: Annotated[
        Path,
        typer.Option(
            "--images", "-i", metavar="DIR", show_default=False, help="Folder of photographs to train on."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            show_default=False,
            help="Folder to write; must not exist, even with --resume.",
        ),
    ],
    psnr: Annotated[
        float | None,
        typer.Option(
            "--psnr",
            metavar="DB",
            help="Fidelity to the original decoder that training holds (default: {default}).",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", min=1, help="Optimiser steps (default: {default})."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", metavar="N", min=1, help="Images in a step (default: {default})."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", metavar="PX", min=64, help="Side of the training crops (default: {default})."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", help="Order of images, crops and attacks (default: {default})."),
    ] = None,
    device: DeviceOption = "auto",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on from the checkpoint that an unfinished run left in DIR.partial."
        ),
    ] = False,
) -> None:
    """Fine-tune a decoder so that all images that it decodes carry the watermark.

    Reads the autoencoder, the key and a folder of photographs. Only the decoder's weights change. Writes
    DIR/vae in the layout in which the autoencoder came, DIR/watermark.json with settings and measured
    quality, and DIR/report. Prints where they are and what was measured. Ctrl-C leaves a checkpoint in
    DIR.partial, from which the same command with --resume goes on. Needs the train extra.
    """
    from stablesig.extras import needs_train
    from stablesig.progress import TrainingProgress

    [loaded] = _load_keys([key])
    with needs_train("embed"):
        from stablesig_train.embedding import EmbedConfig, checkpoint_of
        from stablesig_train.embedding import embed as run_embed
    given: dict[str, Any] = {
        "psnr": psnr,
        "steps": steps,
        "batch": batch,
        "size": size,
        "seed": seed,
        "device": device,
    }
    config = EmbedConfig(**{name: value for name, value in given.items() if value is not None})
    with interruption_explained(checkpoint_of(out), "there was a checkpoint"), TrainingProgress() as progress:
        result = run_embed(
            vae, loaded, images, out, config, resume=resume, progress=progress, on_warning=warn
        )
    _show(result)
    if result.shortfall is not None:
        warn(result.shortfall)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write; must not exist.")
    ] = Path("stablesig-demo"),
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the training.")] = 0,
) -> None:
    """Show the whole way on the small autoencoder that ships with stablesig.

    Draws a key, watermarks the autoencoder, decodes photographs that it was not trained on, attacks them and
    looks for the watermark. Writes the key, the watermarked autoencoder and pictures to DIR; prints a table
    of PSNR, statistic and p-value for each attack. Takes a few minutes on a CPU and no network. Needs the
    train extra.
    """
    from stablesig.extras import needs_train
    from stablesig.progress import TrainingProgress

    with needs_train("demo"):
        from stablesig.demo import run_demo

        with TrainingProgress() as progress:
            result = run_demo(out, seed=seed, progress=progress)
    _show(result)


app.command()(calibrate)
app.command()(evaluate)
app.command()(c2pa_assertion)
app.command()(publish)
app.command("verify-release")(verify_release)
app.command("signing-key")(signing_key)
app.command("prove-image")(prove_image)
app.command("verify-proof")(verify_proof)
app.add_typer(registry, name="registry")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; `argv` defaults to the process's arguments."""
    command: Any = typer.main.get_command(app)
    with contextlib.suppress(AttributeError, ValueError, OSError):  # no stream, or none with an encoding
        # Names that the encoding of the output lacks come out as escapes, and do not end the run.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        result = command.main(
            args=None if argv is None else list(argv), prog_name="stablesig", standalone_mode=False
        )
    except Exception as error:
        try:
            return report(error)
        except BrokenPipeError as broken:  # standard error is gone as well
            return report(broken)
    return result if isinstance(result, int) else 0
