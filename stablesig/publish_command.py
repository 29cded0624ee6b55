"""The command `stablesig publish`: options, what is printed, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stablesig.failures import warn
from stablesig.one_line import printable, shown

if TYPE_CHECKING:
    from stablesig.hub_push import PushStep
    from stablesig.publishing import Publication

UNPROVEN = 10  # also of a release that the gate refuses


def publish(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", show_default=False, help="What stablesig embed wrote.")
    ],
    repo_id: Annotated[
        str,
        typer.Option(
            "--repo-id", metavar="ORG/NAME", show_default=False, help="Repository on the Hugging Face Hub."
        ),
    ],
    key: Annotated[
        Path,
        typer.Option(
            "--key",
            "-k",
            metavar="KEY.json",
            show_default=False,
            help="The key that was embedded; with the secret one, every file is searched for that very "
            "secret. It is never sent.",
        ),
    ],
    reports: Annotated[
        list[Path],
        typer.Option(
            "--report",
            "-r",
            metavar="REPORT",
            show_default=False,
            help="What stablesig evaluate wrote of this decoder, the main report first; may be repeated.",
        ),
    ],
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            show_default=False,
            help="Licence of the release, as the Hub spells it.",
        ),
    ] = None,
    base_licence: Annotated[
        str | None,
        typer.Option(
            "--base-license",
            metavar="ID",
            show_default=False,
            help="Licence of the base model (default: as its page on the Hub says).",
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model",
            metavar="ORG/NAME",
            show_default=False,
            help="What was watermarked: its id on the Hub, or what it is (default: as in watermark.json).",
        ),
    ] = None,
    licence_name: Annotated[
        str | None,
        typer.Option(
            "--license-name", metavar="NAME", show_default=False, help="Name of a licence that is other."
        ),
    ] = None,
    licence_link: Annotated[
        str | None,
        typer.Option("--license-link", metavar="URL", show_default=False, help="Where its text is."),
    ] = None,
    licence_reason: Annotated[
        str | None,
        typer.Option(
            "--license-reason",
            metavar="TEXT",
            show_default=False,
            help="Why a base licence that no program can judge allows the release; goes on the card.",
        ),
    ] = None,
    verification: Annotated[
        str,
        typer.Option(
            "--verification",
            metavar="WHAT",
            help="public: publish the public key, with which anybody verifies; commitment: only its SHA-256.",
        ),
    ] = "public",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            show_default=False,
            help="Where the release folder goes (default: DIR-release). One that holds the same release is "
            "taken as it is.",
        ),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            "--layout", metavar="vae|root", help="The autoencoder in vae/, or in the root of the repository."
        ),
    ] = "vae",
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Add a half-precision variant of the weights.")
    ] = False,
    single_file: Annotated[
        bool,
        typer.Option(
            "--single-file", help="Add NAME.safetensors in the original format's names (AutoencoderKL only)."
        ),
    ] = False,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Publish the pictures that embed drew.")
    ] = True,
    registries: Annotated[
        list[Path] | None,
        typer.Option(
            "--registry",
            metavar="FILE",
            show_default=False,
            help="Key registry in which the key must not be revoked; may be repeated.",
        ),
    ] = None,
    detection: Annotated[
        float | None,
        typer.Option(
            "--min-detection",
            metavar="SHARE",
            show_default=False,
            help="Least share detected without an attack, at p <= 1e-6 (default: 0.99; can only be raised).",
        ),
    ] = None,
    psnr: Annotated[
        float | None,
        typer.Option(
            "--min-psnr",
            metavar="DB",
            show_default=False,
            help="Least mean PSNR to the original decoder (default: 38; can only be raised).",
        ),
    ] = None,
    required: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            metavar="ATTACK=SHARE",
            show_default=False,
            help='Least share detected after an attack, such as "JPEG 50=0.7"; may be repeated.',
        ),
    ] = None,
    override_reason: Annotated[
        str | None,
        typer.Option(
            "--override-reason",
            metavar="TEXT",
            show_default=False,
            help="Publish although a threshold is missed; the text goes on the card.",
        ),
    ] = None,
    contact: Annotated[
        str | None,
        typer.Option(
            "--contact", metavar="TEXT", show_default=False, help="Who answers questions; goes on the card."
        ),
    ] = None,
    training_images: Annotated[
        Path | None,
        typer.Option(
            "--training-images",
            metavar="DIR",
            show_default=False,
            help="The folder that embed was given, where watermark.json does not list what it trained on.",
        ),
    ] = None,
    signing_key: Annotated[
        Path | None,
        typer.Option(
            "--signing-key",
            metavar="KEY.pem",
            show_default=False,
            help="Sign the release record with this key (stablesig signing-key draws one).",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="BRANCH", show_default=False, help="Push to this branch."),
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    public: Annotated[
        bool,
        typer.Option(
            "--public",
            help="Open the repository to all once the release has been proven; private until then.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Write the release folder, print what would happen, send nothing."),
    ] = False,
) -> None:
    """Publish a watermarked decoder on the Hugging Face Hub, and prove that it works from there.

    Reads what embed and evaluate wrote. Refuses if too little was measured to be detected, if the weights are
    not those that were evaluated, if licence or base model are missing or forbid it, if the key is revoked,
    or if a file holds the secret key. Writes the release folder: model card, weights, watermark.json, the
    evaluation in counts, the public key or its SHA-256. Figures on the card come from REPORT alone;
    statistics of single pictures, from which the key's direction could be computed, stay behind. Pushes the
    folder in one commit to a private repository, downloads it again, decodes, looks for the watermark. The
    token comes from HF_TOKEN or "hf auth login".

    Exit code: 0 published and proven (or a dry run that would be allowed), 10 refused or not proven, else as
    of stablesig. Needs the train and hub extras.
    """
    from stablesig_detector.key import load_key

    loaded = load_key(key)
    from stablesig.extras import needs_train
    from stablesig.gate import Thresholds

    with needs_train("publish"):
        from stablesig.publish_settings import PublishSettings
        from stablesig.publishing import publish as run_publish
    given: dict[str, Any] = {"detection": detection, "psnr_db": psnr}
    settings = PublishSettings(
        folder=folder,
        repo_id=repo_id,
        reports=tuple(reports),
        key=loaded,
        out=out or folder.resolve().with_name(f"{folder.resolve().name}-release"),
        verification=verification,
        license=licence,
        license_name=licence_name,
        license_link=licence_link,
        license_reason=licence_reason,
        base_model=base_model,
        base_license=_base_licence(folder, base_model, base_licence, licence_reason, ask=not dry_run),
        layout=layout,
        fp16=fp16,
        single_file=single_file,
        pictures=pictures,
        registries=tuple(registries or ()),
        thresholds=Thresholds(
            attacks=parse_required(required or ()),
            **{name: value for name, value in given.items() if value is not None},
        ),
        override_reason=override_reason,
        contact=contact,
        training_images=training_images,
    )
    result = run_publish(
        settings,
        dry_run=dry_run,
        signing_key=signing_key,
        revision=revision,
        create_pr=create_pr,
        public=public,
        on_step=_tell,
    )
    _print(result, wanted_public=public)
    raise typer.Exit(0 if result.passed else UNPROVEN)


def parse_required(options: Sequence[str]) -> dict[str, float]:
    """ATTACK=SHARE options as thresholds. Raises UsageError for anything else."""
    from stablesig_detector.errors import UsageError

    found: dict[str, float] = {}
    for option in options:
        name, _, share = option.rpartition("=")
        try:
            found[name.strip()] = float(share)
        except ValueError:
            name = ""
        if not name.strip():
            raise UsageError(f'--require takes ATTACK=SHARE, such as "JPEG 50=0.7"; got {option!r}')
    return found


def _base_licence(
    folder: Path, base_model: str | None, given: str | None, reason: str | None, *, ask: bool
) -> str | None:
    """The licence that was given, held to the base model's page, or the page's. ask: also if one was given.

    Raises ReleaseRefusedError if they differ and no reason says why.
    """
    if given is not None and not ask:
        return given
    page = _looked_up(folder, base_model)
    if given is None or page is None or page == given:
        return given or page
    if not reason:
        from stablesig.gate import ReleaseRefusedError

        raise ReleaseRefusedError(
            f"the release is refused: the base model's page on the Hub says {page}, --base-license says "
            f"{given}; leave the option out, or say with --license-reason why; that goes on the card"
        )
    return given


def _looked_up(folder: Path, base_model: str | None) -> str | None:
    """The base model's licence as its page on the Hub gives it; None, with a warning, if it cannot be had."""
    from stablesig.card_facts import read_watermark
    from stablesig.model_card import is_hub_id

    if base_model is None:
        watermark = read_watermark(folder)
        on_hub = watermark.at("autoencoder.revision") is not None
        base_model = watermark.text("autoencoder.source") if on_hub else ""
    if not is_hub_id(base_model):
        return None
    try:
        from huggingface_hub import HfApi

        data = HfApi().model_info(base_model).card_data
        found = None if data is None else data.get("license")
    except Exception as error:  # the client's HTTP library decides what is raised
        warn(f"the licence of {base_model} could not be looked up ({type(error).__name__})")
        return None
    return found if isinstance(found, str) else None


def _tell(step: PushStep) -> None:
    typer.echo(f"stablesig: {step.stage}, {step.files} files, {step.bytes / 1e6:.1f} MB", err=True)


def _print(result: Publication, *, wanted_public: bool) -> None:
    for part in (result.release, result.pushed, result.check):
        for line in [] if part is None else [*str(part).split("\n"), ""]:
            typer.echo(printable(line))
    if result.pushed is None:
        typer.echo(f"dry run: {shown(result.release.folder)} is what would be pushed; nothing was sent")
    elif not result.passed:
        typer.echo("not proven: what came back from the Hub is not what was published; see above")
    elif result.public:
        typer.echo(f"published: {result.pushed.url}")
    elif result.pushed.public:
        typer.echo(f"pushed and proven, but not on main, which is public: {result.pushed.url}")
    elif wanted_public:
        typer.echo(
            f"pushed and proven, but not on main, so still private: {result.pushed.url}; merge it, then run "
            "this again for main"
        )
    else:
        typer.echo(f"pushed and proven, still private: {result.pushed.url}; --public opens it to all")
