"""What an evaluation was made from: enough to repeat it, and to tell whether a run goes on with the same.

Nothing here is secret, and of local paths only the last name is kept.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig.evaluation_inputs import SHIPPED, Decoders, HeldOutImages, Watermarked, decoder_sha256
from stablesig.evaluation_settings import Chosen, EvaluationSettings
from stablesig.one_line import shown
from stablesig_detector.key import SecretKey

if TYPE_CHECKING:
    from stablesig_detector.detection import Key
    from stablesig_train.decoders import Autoencoder


@dataclass(frozen=True, eq=False)
class Inputs:
    """What was given. original: as `evaluate` was called; None where watermark.json said it."""

    watermarked: Watermarked
    key: Key
    images: HeldOutImages
    decoders: Decoders
    settings: EvaluationSettings
    chosen: tuple[Chosen, ...]
    original: str | None

    def identity(self) -> dict[str, Any]:
        """What decides the scores: an unfinished run of another identity is not taken up.

        The false positive rate decides only how they are counted, and jobs nothing at all. Another kind of
        device rounds otherwise, so that a pixel here and there differs.
        """
        from stablesig_train.provenance import versions

        settings = {name: value for name, value in asdict(self.settings).items() if name != "fpr"}
        return settings | {
            "key": self.key.id,
            "statistics": self.key.statistics_sha256,
            "weights": self.watermarked.files,
            "original": decoder_sha256(self.decoders.original),
            "other autoencoders": [decoder_sha256(other) for other in self.decoders.others],
            "images": [file.sha256 for file in self.images.files],
            "suites": [
                [one.suite.name, [[attack.name, attack.convention] for attack in one.attacks]]
                for one in self.chosen
            ],
            "device": next(self.decoders.original.module.parameters()).device.type,
            "versions": versions(),
        }

    def fields(self) -> dict[str, Any]:
        """The parts of report.json on key, autoencoders, settings and versions."""
        from stablesig_train.provenance import versions

        autoencoder = self.watermarked.autoencoder
        return {
            "key": {
                "id": self.key.id,
                "kind": "secret" if isinstance(self.key, SecretKey) else "public",
                "bits": self.key.n_bits,
                "feature_version": self.key.feature_version,
                "dimension": self.key.dimension,
                "statistics_sha256": self.key.statistics_sha256,
            },
            "autoencoder": {
                "kind": autoencoder["kind"],
                "stride": autoencoder["stride"],
                "latent_channels": autoencoder["latent_channels"],
                "files_sha256": self.watermarked.files,
                "decoder_sha256": decoder_sha256(self.decoders.marked),
                "original": {
                    "source": autoencoder["source"],
                    "revision": autoencoder["revision"],
                    "decoder_sha256": decoder_sha256(self.decoders.original),
                },
                "others": [_other(other) for other in self.decoders.others],
            },
            "settings": {
                "suites": [one.suite.name for one in self.chosen],
                "search": self.settings.search,
                "seed": self.settings.seed,
                "size_px": self.settings.size,
                "limit": self.settings.limit,
                "fpr": self.settings.fpr,
            },
            "versions": versions(),
        }

    def run_fields(self, seconds: float, jobs: int) -> dict[str, Any]:
        """When and where it ran: the one part of report.json that another run of the same inputs changes."""
        import torch

        from stablesig_train.provenance import machine

        device: torch.device = next(self.decoders.original.module.parameters()).device
        return {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "jobs": jobs,
            "machine": machine(device),
            "command": self.command(jobs),
        }

    def command(self, jobs: int) -> str:
        """The command line that does the same, the key left out and paths by their last names."""
        settings = self.settings
        words = ["stablesig", "evaluate", _name(self.watermarked.folder), "--key", "KEY.json"]
        words += ["--images", _name(self.images.folder), "--out", "REPORT"]
        words += [word for one in self.chosen for word in ("--suite", one.suite.name)]
        if self.original is not None:
            words += ["--original", _public(self.original)]
        others = [_public(other.source) for other in self.decoders.others]
        if others != [SHIPPED]:  # that which is taken where none is named, and has no path of its own
            words += [word for other in others for word in ("--other", other)]
        words += ["--search", settings.search, "--size", str(settings.size), "--seed", str(settings.seed)]
        words += ["--fpr", f"{settings.fpr:g}", "--jobs", str(jobs)]
        words += [] if settings.limit is None else ["--limit", str(settings.limit)]
        return shlex.join(words)


def _name(path: Path) -> str:
    return shown(Path(path.resolve().name))


def _public(source: str) -> str:
    from stablesig_train.provenance import public_source

    return shown(public_source(source))


def _other(other: Autoencoder) -> dict[str, Any]:
    return {
        "kind": other.kind,
        "source": _public(other.source),
        "revision": other.revision,
        "decoder_sha256": decoder_sha256(other),
    }
