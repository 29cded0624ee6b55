"""A folder as `embed` writes it and a report as `evaluate` writes it, small and made by hand: no training."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from stablesig.evaluation_inputs import decoder_sha256
from stablesig.publish_settings import PublishSettings
from stablesig_detector.key import SecretKey
from stablesig_detector.spectrum import DIMENSION, FEATURE_VERSION
from stablesig_detector.whitening import load_default
from stablesig_train.decoders import Autoencoder

from .tiny_decoders import tiny_autoencoder

SEED = bytes(range(7, 39))
MESSAGE = tuple(int(bit) for bit in "110100011010111000101101010011110000101110010110")


@dataclass(frozen=True)
class Publishable:
    """What `publish` is given."""

    folder: Path
    report: Path
    key: SecretKey
    original: Path
    out: Path

    def settings(self, **changes: Any) -> PublishSettings:
        given: dict[str, Any] = {
            "folder": self.folder,
            "repo_id": "org/marked-vae",
            "reports": (self.report,),
            "key": self.key,
            "out": self.out,
            "license": "apache-2.0",
            "base_model": "org/vae",
            "base_license": "mit",
        }
        return PublishSettings(**given | changes)

    def change(self, name: str, **fields: Any) -> None:
        """Set fields, "a__b" for a.b, of watermark.json or report.json; ... takes one out."""
        path = self.folder / name if name == "watermark.json" else self.report / name
        content = json.loads(path.read_bytes())
        for field, value in fields.items():
            *parts, last = field.split("__")
            place = content
            for part in parts:
                place = place[int(part) if part.isdigit() else part]
            if value is ...:
                del place[last]
            else:
                place[last] = value
        path.write_text(json.dumps(content))


def fixed_key() -> SecretKey:
    """The same secret key in every test."""
    return SecretKey(SEED, MESSAGE, FEATURE_VERSION, DIMENSION, load_default().sha256)


def make_publishable(place: Path) -> Publishable:
    """An AutoencoderTiny of random weights whose report has fine, invented figures."""
    original = tiny_autoencoder(place / "original", 1)
    before = decoder_sha256(original)
    with torch.no_grad():
        for parameter in original.decoder_parameters():
            parameter.mul_(1.01)
    return finish(place, original, before)


def finish(place: Path, marked: Autoencoder, before: str) -> Publishable:
    """Save `marked`, and write what goes with it. before: SHA-256 of the original decoder."""
    case = Publishable(place / "marked", place / "report", fixed_key(), place / "original", place / "release")
    marked.save(case.folder / "vae")
    (case.folder / "report").mkdir()
    Image.new("RGB", (24, 16), (90, 120, 30)).save(case.folder / "report" / "side_by_side.png")
    (case.folder / "report" / "history.json").write_text('{"steps": [{"statistic": 0.123456789}]}')
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (case.folder / "vae").iterdir()
    }
    facts = watermark_json(case.key, marked, files, before)
    (case.folder / "watermark.json").write_text(json.dumps(facts))
    case.report.mkdir()
    report = report_json(case.key, marked, files, before)
    (case.report / "report.json").write_text(json.dumps(report))
    (case.report / "results.csv").write_text("statistic\n0.123456789012345\n")
    (case.report / "report.html").write_text("<p>0.123456789012345</p>")
    return case


def watermark_json(key: SecretKey, marked: Autoencoder, files: dict[str, str], before: str) -> dict[str, Any]:
    trained = sorted(hashlib.sha256(bytes([number])).hexdigest() for number in range(200, 205))
    row = {"mean_statistic": 0.5123456789, "median_log10_p": -17.123456, "worst_log10_p": -9.87654321}
    return {
        "format": "stablesig-watermark",
        "version": 1,
        "algorithm": "keyed-spectrum-in-decoder",
        "key": _key(key) | {"direction": key.direction_q.tolist()},
        "autoencoder": {
            "kind": marked.kind,
            "source": "original",
            "revision": None,
            "stride": marked.stride,
            "latent_channels": marked.latent_channels,
            "files": files,
            "original_decoder_sha256": before,
        },
        "config": {"psnr": 40.0, "steps": 6, "batch": 2, "seed": 0, "device": "cpu"},
        "images": {
            "manifest_sha256": "a" * 64,
            "found": 6,
            "training": 5,
            "held_out": 1,
            "held_out_sha256": ["b" * 64],
            "training_sha256": trained,
            "skipped": 0,
            "crops": 8,
        },
        "run": {
            "seconds": 1.5,
            "peak_memory_bytes": {"resident": 10**8, "cuda": None},
            "machine": "cpu, some processor",
            "precision": "float32",
            "scale": 1.0123456789,
        },
        "versions": {"stablesig": "0.1.0", "torch": "2"},
        "measured": {
            "images": 1,
            "largest_side": 64,
            "fpr": 1e-6,
            "psnr_mean_db": 40.123456789,
            "psnr_worst_db": 39.87654321,
            "attacks": [{"name": "none", "detected": 1, "total": 1, **row}],
            "control": {"name": "none", "detected": 0, "total": 1, **row},
        },
    }


def report_json(
    key: SecretKey, marked: Autoencoder, files: dict[str, str], before: str, images: int = 24
) -> dict[str, Any]:
    """As data/evaluation.schema.json has it (a test holds it to that)."""
    used = [
        {
            "name": f"{number}.png",
            "sha256": hashlib.sha256(bytes([number])).hexdigest(),
            "width": 512,
            "height": 512,
            "quality": {"psnr_db": 40.1234567, "ssim": 0.9812345, "ms_ssim": 0.99, "haarpsi": 0.98},
        }
        for number in range(images)
    ]
    return {
        "schema": "stablesig-evaluation",
        "schema_version": 1,
        "stablesig_version": "0.1.0",
        "key": _key(key) | {"kind": "secret"},
        "autoencoder": {
            "kind": marked.kind,
            "stride": marked.stride,
            "latent_channels": marked.latent_channels,
            "files_sha256": files,
            "decoder_sha256": decoder_sha256(marked),
            "original": {"source": "original", "revision": None, "decoder_sha256": before},
            "others": [],
        },
        "images": {
            "manifest_sha256": "c" * 64,
            "held_out_of_training_folder": False,
            "used": used,
            "skipped": 0,
        },
        "settings": {
            "suites": ["targets"],
            "search": "auto",
            "seed": 0,
            "size_px": 512,
            "limit": None,
            "fpr": 1e-6,
        },
        "quality": {
            "psnr_db": _spread(40.4234567, 37.1634567),
            "ssim": _spread(0.98123456, 0.97123456),
            "ms_ssim": None,
            "haarpsi": _spread(0.97623456, 0.96623456),
        },
        "attacks": [attack("none", 24, 24), attack("JPEG 50", 18, 24), attack("JPEG 30", 7, 24)],
        "control": {
            "false_positives": [{"fpr": 1e-6, "count": 0, "total": 72}],
            "histogram": {"edges": [-0.3123456789, 0.3123456789], "counts": [72], "expected": [71.9]},
        },
        "left_out": [{"suite": "targets", "attack": "AVIF 50"}],
        "notes": ["a note"],
        "versions": {"python": "3.11", "stablesig": "0.1.0"},
        "run": {
            "finished": "2026-11-24T12:00:00+00:00",
            "seconds": 10.0,
            "jobs": 1,
            "machine": "cpu, some processor",
            "command": "stablesig evaluate marked",
        },
    }


def attack(name: str, found: int, total: int) -> dict[str, Any]:
    rates = [
        {"fpr": fpr, "count": count, "total": total, "low": 0.512345678, "high": 0.987654321}
        for fpr, count in ((1e-3, found), (1e-6, found), (1e-9, 0))
    ]
    return {
        "suite": "targets",
        "name": name,
        "convention": "as it is",
        "search": "fast",
        "total": total,
        "too_small": 0,
        "detected": rates,
        "matches": 1000,
        "bits": 1152,
        "bit_accuracy": 1000 / 1152,
        "mean_statistic": 0.4712345678,
        "median_log10_p": -12.3456789,
        "worst_log10_p": -7.123456789,
        "worst_image": "3.png",
        "attack_psnr_db": None,
        "attack_psnr_images": 0,
        "original_psnr_db": 31.23456789,
        "control": {
            "total": total,
            "too_small": 0,
            "false_positives": [{"fpr": 1e-6, "count": 0, "total": total, "low": 0.0, "high": 0.1423456789}],
            "matches": 600,
            "bits": 1152,
            "mean_statistic": 0.0123456789,
            "lowest_log10_p": -2.123456789,
        },
    }


def _key(key: SecretKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "bits": key.n_bits,
        "feature_version": key.feature_version,
        "dimension": key.dimension,
        "statistics_sha256": key.statistics_sha256,
    }


def _spread(mean: float, worst: float) -> dict[str, Any]:
    return {"mean": mean, "worst": worst, "worst_image": "3.png"}
