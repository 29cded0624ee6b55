"""Detections as one JSON object: data/detection.schema.json says what each field means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from stablesig import __version__
from stablesig.detect_output import ABSENCE, needed_statistic

if TYPE_CHECKING:
    from pathlib import Path

    from stablesig.c2pa import Manifest
    from stablesig.evidence import ImageEvidence, Request
    from stablesig_detector.detection import Detection
    from stablesig_detector.key_set import KeySet

SCHEMA = "stablesig-detections"
SCHEMA_VERSION = 2
TECHNIQUE = "keyed-spectral-watermark"


def document(found: Sequence[ImageEvidence], request: Request, picture: Path | None = None) -> dict[str, Any]:
    """What `stablesig detect --json` prints. picture: where the explanation of the only image was written."""
    from stablesig_detector.key_set import detector_space

    space = detector_space()
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "stablesig_version": __version__,
        "technique": TECHNIQUE,
        "feature_version": space.feature_version,
        "dimension": space.dimension,
        "statistics_sha256": space.statistics_sha256,
        "fpr": request.fpr,
        "search": request.search,
        "n_keys": len(request.keys),
        "keys": _keys(found, request.keys),
        "key_notes": list(request.keys.notes),
        "results": [_result(image, request.keys, picture) for image in found],
        "note": ABSENCE,
    }


def as_text(content: dict[str, Any]) -> str:
    return json.dumps(_well_formed(content), indent=2, allow_nan=False)


def _well_formed(value: Any) -> Any:
    """The same with U+FFFD for what Python puts in place of bytes of a name that are not valid UTF-8.

    Many readers of JSON refuse those lone surrogates (RFC 8259, 8.2), and with them the whole object.
    """
    if isinstance(value, str):
        return "".join(
            "\N{REPLACEMENT CHARACTER}" if "\ud800" <= sign <= "\udfff" else sign for sign in value
        )
    if isinstance(value, dict):
        return {name: _well_formed(field) for name, field in value.items()}
    return [_well_formed(entry) for entry in value] if isinstance(value, list) else value


def _keys(found: Sequence[ImageEvidence], keys: KeySet) -> list[dict[str, Any]]:
    """All keys if they are few, else those that a detection names."""
    from stablesig.evidence import ALL_KEYS

    if len(keys) <= ALL_KEYS:
        ids = [entry.key.id for entry in keys.entries]
    else:
        ids = list(dict.fromkeys(one.key_id for image in found for one in image.detections))
    return [_key(key_id, keys) for key_id in ids]


def _key(key_id: str, keys: KeySet) -> dict[str, Any]:
    entry = keys.entry(key_id)
    return {
        "id": key_id,
        "file": entry.file,
        "kind": "secret" if hasattr(entry.key, "seed") else "public",
        "provider": entry.provider,
        "model_id": entry.model_id,
        "not_before": entry.not_before and entry.not_before.isoformat(),
        "not_after": entry.not_after and entry.not_after.isoformat(),
        "revoked": entry.revoked and entry.revoked.isoformat(),
        "reason": entry.reason,
        "state": keys.state(key_id).value,
    }


def _result(image: ImageEvidence, keys: KeySet, picture: Path | None) -> dict[str, Any]:
    return {
        "image": image.name,
        "time": _time(image.time),
        "verdict": image.verdict,
        "error": image.error,
        "sha256": image.sha256 or None,
        "bytes": image.size,
        "format": image.format or None,
        "width": image.width,
        "height": image.height,
        "notes": list(image.notes),
        "background": image.background,
        "detections": [_detection(one, keys, image.manifest) for one in image.detections],
        "c2pa": None if image.manifest is None else image.manifest.as_json(),
        "c2pa_note": image.manifest_note,
        "local": _local(image, picture),
    }


def _time(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _detection(found: Detection, keys: KeySet, manifest: Manifest | None) -> dict[str, Any]:
    entry = keys.entry(found.key_id)
    needed = needed_statistic(found)
    return {
        "key_id": found.key_id,
        "provider": entry.provider,
        "model_id": entry.model_id,
        "key_state": keys.state(found.key_id).value,
        "named_by_c2pa": None if manifest is None else manifest.names(found.key_id),
        "detected": found.detected,
        "p_value": found.p_value,
        "log10_p_value": found.log10_p_value,
        "statistic": found.statistic,
        "needed_statistic": needed if needed <= 1.0 else None,
        "hypotheses": found.hypotheses,
        "hypothesis_factor": found.hypothesis_factor,
        "n_keys": found.n_keys,
        "transform": found.transform,
        "scale": found.scale,
        "rotation": found.rotation,
        "matches": found.matches,
        "n_bits": found.n_bits,
        "bits_log10_p": found.bits_log10_p,
    }


def _local(image: ImageEvidence, picture: Path | None) -> dict[str, Any] | None:
    local, best = image.local, image.best
    if local is None or best is None:
        return None
    return {
        "picture": None if picture is None else str(picture),
        "key_id": best.key_id,
        "tile_px": local.side,
        "tiles": local.tiles,
        "tiles_detected": local.detected,
        "best_tile": {
            "left": local.best_left,
            "top": local.best_top,
            "log10_p_value": local.best_log10_p,
        },
    }
