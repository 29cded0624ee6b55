"""Rows as a scan leaves them, for the tests of results."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from stablesig.scanning.row import Row

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def absent(number: int, **changed: Any) -> Row:
    """An image in which no key is detected."""
    fields: dict[str, Any] = {
        "path": f"images/{number:06d}.jpg",
        "path_bytes": None,
        "verdict": "not detected",
        "sha256": f"{number:064x}",
        "bytes": 1000 + number,
        "key_id": f"{number % 3:016x}",
        "provider": "Example Lab",
        "model_id": "example/model",
        "key_state": "valid",
        "statistic": 0.01,
        "p_value": 0.5,
        "log10_p_value": -0.3010299956639812,
        "n_keys": 3,
        "hypothesis_factor": 4,
        "transform": "identity",
        "scale": 1.0,
        "rotation": 0.0,
        "screened": False,
        "width": 512,
        "height": 384,
        "format": "JPEG",
        "seconds": 0.02,
        "time": START + timedelta(seconds=number),
    }
    return Row(**{**fields, **changed})


def hit(number: int, key: int = 0, log10_p: float = -12.5, **changed: Any) -> Row:
    """An image in which key number `key` is detected."""
    found: dict[str, Any] = {
        "verdict": "detected",
        "key_id": f"{key:016x}",
        "statistic": 0.6,
        "p_value": 10.0**log10_p,
        "log10_p_value": log10_p,
        "matches": 45,
        "n_bits": 48,
        "bits_log10_p": -9.9,
    }
    return absent(number, **{**found, **changed})


def broken(number: int, kind: str = "damaged", **changed: Any) -> Row:
    """An input that could not be read."""
    fields: dict[str, Any] = {
        "path": f"images/{number:06d}.jpg",
        "path_bytes": None,
        "verdict": "unreadable",
        "error": f"images/{number:06d}.jpg: is damaged; use another copy",
        "error_kind": kind,
        "seconds": 0.001,
        "time": START + timedelta(seconds=number),
    }
    return Row(**{**fields, **changed})
