"""The rows of the results: one for an image and each key that it carries, or else for the strongest key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .item import ErrorKind


@dataclass(frozen=True, slots=True)
class Row:
    """One row. Every input has at least one: several if several keys are detected in it.

    path, path_bytes: of the `Item`
    verdict: "detected": the image carries the watermark of `key_id`. "not detected": of none of the keys;
        the evidence is then that of the strongest. "unreadable": see `error`; all evidence is None
    sha256: of the file's bytes, hexadecimal; bytes: their number.  None if they could not be read
    key_id, provider, model_id, key_state: as in the key set
    statistic: cosine, -1..1.  p_value, log10_p_value: corrected for all keys and geometries tried
    n_keys, hypothesis_factor: what the p-value was multiplied by
    transform, scale, rotation: the geometry that fitted best, as in `Detection`
    matches, n_bits, bits_log10_p: of the message; None for a public key
    screened: the evidence is that of a part of the windows, which ruled the image out (`--screen`)
    width, height: px, upright.  format: of the file.  background: "white" or "black", what transparent parts
        were laid over, else None
    error, error_kind: of an unreadable one: what to tell the user, and its class (`ErrorKind`)
    seconds: of wall-clock time in the worker, reading included, for the whole image
    time: UTC, when it was done
    """

    path: str
    path_bytes: bytes | None
    verdict: str
    sha256: str | None = None
    bytes: int | None = None
    key_id: str | None = None
    provider: str | None = None
    model_id: str | None = None
    key_state: str | None = None
    statistic: float | None = None
    p_value: float | None = None
    log10_p_value: float | None = None
    n_keys: int | None = None
    hypothesis_factor: int | None = None
    transform: str | None = None
    scale: float | None = None
    rotation: float | None = None
    matches: int | None = None
    n_bits: int | None = None
    bits_log10_p: float | None = None
    screened: bool | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    background: str | None = None
    error: str | None = None
    error_kind: ErrorKind | None = None
    seconds: float | None = None
    time: datetime | None = None
