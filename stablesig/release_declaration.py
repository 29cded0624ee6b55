"""The release's watermark.json: what `embed` wrote, less what must stay private, and the release's own part.

Fields are copied by name, so that one which a later `embed` adds stays behind until it is named here. Of what
embed measured on its own held-out images the counts go along, not the statistics. The schema of both files is
stablesig/data/watermark.schema.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig.card_facts import Facts, MissingFactError

if TYPE_CHECKING:
    from stablesig_detector.key import PublicKey

_CONFIG_TYPES = (bool, int, float, str, type(None))


def declaration(
    watermark: Facts, vae_files: Mapping[str, str], public_key: PublicKey | None = None
) -> dict[str, Any]:
    """watermark.json without its "release".

    vae_files: name -> SHA-256 in the released autoencoder's folder.  public_key: whose direction goes in, so
    that the file alone is enough to verify with; None for a release that only commits to its key.
    """
    before = watermark.sha256("autoencoder.original_decoder_sha256")
    autoencoder = {
        "kind": watermark.text("autoencoder.kind"),
        "source": watermark.text("autoencoder.source"),
        "revision": watermark.at("autoencoder.revision"),
        "stride": watermark.count("autoencoder.stride"),
        "latent_channels": watermark.count("autoencoder.latent_channels"),
        "files": dict(sorted(vae_files.items())),
        "original_decoder_sha256": before,
    }
    return {
        "format": watermark.text("format"),
        "version": watermark.count("version"),
        "algorithm": watermark.text("algorithm"),
        "key": {
            "id": watermark.text("key.id"),
            "bits": watermark.count("key.bits"),
            "feature_version": watermark.text("key.feature_version"),
            "dimension": watermark.count("key.dimension"),
            "statistics_sha256": watermark.sha256("key.statistics_sha256"),
            **({} if public_key is None else {"direction": public_key.direction_q.tolist()}),
        },
        "autoencoder": autoencoder,
        "config": {
            name: value for name, value in watermark.at("config").items() if isinstance(value, _CONFIG_TYPES)
        },
        "images": {
            "manifest_sha256": watermark.sha256("images.manifest_sha256"),
            "held_out_sha256": [str(one) for one in watermark.at("images.held_out_sha256")],
            **{
                name: watermark.count(f"images.{name}")
                for name in ("found", "training", "held_out", "skipped", "crops")
            },
        },
        "measured": _measured(watermark),
        "run": {name: watermark.at(f"run.{name}") for name in ("seconds", "machine", "precision")},
        "versions": dict(sorted(watermark.at("versions").items())),
    }


def _measured(watermark: Facts) -> dict[str, Any]:
    """What embed measured on the images that it held out, without any statistic."""
    counted = [
        {"name": row.text("name"), "detected": row.count("detected"), "total": row.count("total")}
        for row in watermark.items("measured.attacks")
    ]
    return {
        "fpr": watermark.number("measured.fpr"),
        "images": watermark.count("measured.images"),
        "psnr_mean_db": round(watermark.number("measured.psnr_mean_db"), 2),
        "psnr_worst_db": round(watermark.number("measured.psnr_worst_db"), 2),
        "attacks": counted,
        "control": {name: watermark.count(f"measured.control.{name}") for name in ("detected", "total")},
    }


def training_digests(watermark: Facts, folder: Path | None) -> list[str]:
    """SHA-256 of the images that `embed` trained on, sorted.

    From watermark.json, or, where it does not list them, from the folder that embed was given. Raises
    MissingFactError if neither says which they were.
    """
    count = watermark.count("images.training")
    listed = watermark.content["images"].get("training_sha256")
    if listed is None and folder is not None:
        listed = _from_folder(watermark, folder)
    if (
        not isinstance(listed, list)
        or len(listed) != count
        or not all(isinstance(one, str) for one in listed)
    ):
        raise MissingFactError(
            f"{watermark.name}: images.training_sha256 does not list the {count} images trained on; "
            "name their folder with --training-images, or watermark the decoder again"
        )
    return sorted(listed)


def _from_folder(watermark: Facts, folder: Path) -> list[str]:
    from stablesig_train.training_images import find_images, manifest_sha256

    files = find_images(folder, lambda _: None)
    if manifest_sha256(files) != watermark.sha256("images.manifest_sha256"):
        raise MissingFactError(
            f"{folder} does not hold the images that embed was given; name that very folder with "
            "--training-images"
        )
    if watermark.count("images.skipped"):
        raise MissingFactError(
            f"{watermark.name}: embed skipped images of {folder}, and it is not recorded which; watermark "
            "the decoder again"
        )
    held_out = set(watermark.at("images.held_out_sha256"))
    return [file.sha256 for file in files if file.sha256 not in held_out]
