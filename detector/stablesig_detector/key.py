"""Keys and their files: 32 secret bytes and a message, or only the direction that they make.

The *secret* key marks decoders and reads the message back. The *public* key tells whoever holds it where the
watermark lies, and so suffices to verify, to remove the watermark and to imitate it (`embed` takes it); it
does not tell the seed, the carriers or the message. A public key file can be fitted to an image afterwards: a
p-value speaks only for a key that was drawn at random, independently of the image, as one is that was known
before it. How one becomes the other is in carriers.py. Both are JSON (data/key.schema.json), both carry the
same id, and both are read strictly. Neither `repr` nor any error shows a seed or a message.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .carriers import (
    DIRECTION_SCALE,
    FloatArray,
    expand,
    fingerprint,
    quantised_direction,
    read_only,
    unit_direction,
)
from .errors import KeyFileError, UsageError
from .new_files import NewFile, write_new_files
from .strict_json import read_json

DEFAULT_BITS = 48  # as in Stable Signature
SEED_BYTES = 32
MAX_BITS = 256  # with MAX_DIMENSION, it bounds what a hostile key file can make the expansion cost (0.3 s)
MAX_DIMENSION = 4096
MAX_FILE_BYTES = 64 * 1024  # the largest public key takes 22 kB

SECRET_FORMAT = "stablesig-secret-key"
PUBLIC_FORMAT = "stablesig-public-key"
FILE_VERSION = 1

_COMMON_FIELDS = ("format", "version", "id", "feature_version", "dimension", "statistics_sha256")
_FIELDS = {
    SECRET_FORMAT: (*_COMMON_FIELDS, "seed", "message"),
    PUBLIC_FORMAT: (*_COMMON_FIELDS, "bits", "direction"),
}
_FEATURE_VERSION = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_HEX_32_BYTES = re.compile(r"[0-9a-f]{64}")
_MESSAGE = re.compile(f"[01]{{1,{MAX_BITS}}}")


@dataclass(frozen=True, repr=False)
class SecretKey:
    """The publisher's key.

    seed: 32 bytes.  message: K bits, 0 or 1, 1 <= K <= min(MAX_BITS, dimension).  feature_version, dimension,
    statistics_sha256: the features and whitening statistics that it was drawn for. Raises KeyFileError unless
    these hold.
    """

    seed: bytes
    message: tuple[int, ...]
    feature_version: str
    dimension: int
    statistics_sha256: str

    def __post_init__(self) -> None:
        if not isinstance(self.seed, bytes) or len(self.seed) != SEED_BYTES:
            raise KeyFileError(
                f"the seed of a secret key is {SEED_BYTES} bytes; this one is not; draw a new key"
            )
        _check_features(self.feature_version, self.dimension, self.statistics_sha256)
        _check_bits(len(self.message), self.dimension)
        if not isinstance(self.message, tuple) or any(
            type(bit) is not int or bit not in (0, 1) for bit in self.message
        ):
            raise KeyFileError(
                "a message is a tuple of the integers 0 and 1; this key's is not; draw a new key"
            )

    @classmethod
    def draw(
        cls,
        bits: int | None = None,
        message: Sequence[int] | None = None,
        *,
        feature_version: str | None = None,
        dimension: int | None = None,
        statistics_sha256: str | None = None,
    ) -> SecretKey:
        """Draw a key from the operating system's secure source of randomness.

        bits: length of the message that is drawn, 48 by default.  message: bits, 0 or 1, to use instead.  The
        features are those that this installation measures unless named. Raises UsageError for a message that
        is not 1..MAX_BITS bits of 0 and 1, or not `bits` long if both are given.
        """
        if message is not None and bits is not None and len(message) != bits:
            raise UsageError(
                f"the message has {len(message)} bits, {bits} were asked for; give one of the two"
            )
        length = len(message) if message is not None else DEFAULT_BITS if bits is None else bits
        if feature_version is None or dimension is None:
            from .spectrum import DIMENSION, FEATURE_VERSION

            feature_version = FEATURE_VERSION if feature_version is None else feature_version
            dimension = DIMENSION if dimension is None else dimension
        if statistics_sha256 is None:
            from .whitening import load_default

            statistics_sha256 = load_default().sha256
        if not 1 <= length <= min(MAX_BITS, dimension):
            raise UsageError(f"a message has 1 to {min(MAX_BITS, dimension)} bits; got {length}")
        if message is not None and any(bit not in (0, 1) for bit in message):
            raise UsageError("a message is made of the bits 0 and 1; this one holds something else")
        chosen = (
            [secrets.randbits(1) for _ in range(length)] if message is None else [int(bit) for bit in message]
        )
        return cls(
            secrets.token_bytes(SEED_BYTES), tuple(chosen), feature_version, dimension, statistics_sha256
        )

    @property
    def n_bits(self) -> int:
        """K, the length of the message."""
        return len(self.message)

    @cached_property
    def carriers(self) -> FloatArray:
        """(K, D) float64 with orthonormal rows, read-only. Bit i reads as <phi, carriers[i]> > 0."""
        return expand(self.seed, self.dimension, self.n_bits)

    @cached_property
    def direction_q(self) -> NDArray[np.int32]:
        """(D,) int32, read-only: u in steps of 1 / DIRECTION_SCALE, as the public key holds it."""
        return quantised_direction(self.carriers, self.message)

    @cached_property
    def direction(self) -> FloatArray:
        """(D,) float64 unit vector u, read-only: the very numbers of `self.public().direction`."""
        return unit_direction(self.direction_q)

    @cached_property
    def id(self) -> str:
        """16 hex digits that name the key: the same as `self.public().id`."""
        return fingerprint(self.feature_version, self.n_bits, self.direction_q)

    def public(self) -> PublicKey:
        """What verifiers need: the direction, without seed, carriers or message."""
        return PublicKey(self.direction_q, self.n_bits, self.feature_version, self.statistics_sha256)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the key file, mode 0600. Raises OutputExistsError (never overwrites), OutputError."""
        write_new_files([NewFile(Path(path), self._file(), private=True)])

    def save_pair(self, path: str | os.PathLike[str]) -> Path:
        """Write the secret file at `path` and the public one beside it, whose path is returned; both or none.

        Raises OutputExistsError if either is there already, OutputError, or UsageError if `path` names a
        public file.
        """
        public_path = public_key_path(path)
        write_new_files(
            [NewFile(Path(path), self._file(), private=True), NewFile(public_path, self.public()._file())]
        )
        return public_path

    def _file(self) -> bytes:
        bits = "".join(str(bit) for bit in self.message)
        return _json_file(_all_fields(SECRET_FORMAT, self, {"seed": self.seed.hex(), "message": bits}))

    def __repr__(self) -> str:
        return f"SecretKey({self.n_bits} bits, id={self.id})"


@dataclass(frozen=True, repr=False, eq=False)
class PublicKey:
    """The verifier's key: the direction alone.

    direction_q: (D,) int32 in steps of 1 / DIRECTION_SCALE and of norm 1 up to rounding; copied and made
    read-only. n_bits: the length of the message, which itself is not here. Raises KeyFileError unless these
    hold.
    """

    direction_q: NDArray[np.int32]
    n_bits: int
    feature_version: str
    statistics_sha256: str

    def __post_init__(self) -> None:
        stored = np.asarray(self.direction_q)
        if stored.ndim != 1 or stored.dtype != np.int32:
            raise KeyFileError(f"a direction is a row of int32; got {stored.dtype} of shape {stored.shape}")
        _check_features(self.feature_version, stored.size, self.statistics_sha256)
        _check_bits(self.n_bits, stored.size)
        norm = float(np.linalg.norm(stored.astype(np.float64))) / DIRECTION_SCALE
        if abs(norm - 1.0) > math.sqrt(stored.size) / DIRECTION_SCALE:  # rounding makes at most half of that
            raise KeyFileError(
                f"a direction has norm 1; this one has {norm:.6g}; get the key from its publisher again"
            )
        object.__setattr__(self, "direction_q", read_only(stored.copy()))

    @property
    def dimension(self) -> int:
        """D, the number of features."""
        return int(self.direction_q.size)

    @cached_property
    def direction(self) -> FloatArray:
        """(D,) float64 unit vector u, read-only."""
        return unit_direction(self.direction_q)

    @cached_property
    def id(self) -> str:
        """16 hex digits that name the key: the same as its secret key's."""
        return fingerprint(self.feature_version, self.n_bits, self.direction_q)

    def file_sha256(self) -> str:
        """SHA-256 of the key file, 64 hex digits: what a publisher commits to who keeps the key back."""
        return hashlib.sha256(self._file()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the key file. Raises OutputExistsError (never overwrites), OutputError."""
        write_new_files([NewFile(Path(path), self._file())])

    def fields(self) -> dict[str, Any]:
        """What the key file holds, as JSON values; `key_from_fields` reads it back."""
        direction = base64.b64encode(self.direction_q.astype("<i4").tobytes()).decode("ascii")
        return _all_fields(PUBLIC_FORMAT, self, {"bits": self.n_bits, "direction": direction})

    def _file(self) -> bytes:
        return _json_file(self.fields())

    def _identity(self) -> tuple[bytes, int, str, str]:
        return self.direction_q.tobytes(), self.n_bits, self.feature_version, self.statistics_sha256

    def __eq__(self, other: object) -> bool:
        return self._identity() == other._identity() if isinstance(other, PublicKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return f"PublicKey({self.n_bits} bits, id={self.id})"


def public_key_path(secret_path: str | os.PathLike[str]) -> Path:
    """Where the public half belongs: SECRET.json -> SECRET.pub.json, and any other NAME -> NAME.pub.json."""
    path = Path(secret_path)
    if path.name.endswith(".pub.json"):
        raise UsageError(
            f"{path}: this name is for a public key; name the secret file, and the public one follows"
        )
    stem = path.name.removesuffix(".json")
    if not stem or not path.name:
        raise UsageError(f"{str(secret_path)!r} does not name a file; name one such as publisher.json")
    return path.with_name(f"{stem}.pub.json")


def load_key(path: str | os.PathLike[str]) -> SecretKey | PublicKey:
    """Read a key file of either kind.

    Raises KeyFileError, naming the file: not there, unreadable, not JSON, foreign, of an unknown version,
    with missing, extra or malformed fields, or with an id that is not that of its content.
    """
    # Raised here and not where it was found, so that neither the error's context nor this frame holds the
    # file's text.
    found = _read(path)
    if isinstance(found, str):
        raise KeyFileError(f"{os.fspath(path)}: {found}")
    return found


def load_secret_key(path: str | os.PathLike[str]) -> SecretKey:
    """Read a secret key file. Raises KeyFileError as `load_key` does, and for a public key."""
    key = load_key(path)
    if isinstance(key, PublicKey):
        raise KeyFileError(
            f"{os.fspath(path)}: holds a public key (id {key.id}); this needs the secret key it came from"
        )
    return key


def _json_file(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2) + "\n").encode("ascii")


def _all_fields(form: str, key: SecretKey | PublicKey, own: dict[str, Any]) -> dict[str, Any]:
    common = {
        "format": form,
        "version": FILE_VERSION,
        "id": key.id,
        "feature_version": key.feature_version,
        "dimension": key.dimension,
        "statistics_sha256": key.statistics_sha256,
    }
    return common | own


def _read(path: str | os.PathLike[str]) -> SecretKey | PublicKey | str:
    """The key in a file, or what is wrong with it."""
    fields, problem = read_json(path, MAX_FILE_BYTES)
    if problem:
        return problem
    try:
        return key_from_fields(fields)
    except KeyFileError as error:
        return str(error)


def key_from_fields(fields: Any) -> SecretKey | PublicKey:
    """A key from the decoded JSON of its file; KeyFileError, without the file's name, for anything else."""
    form = fields.get("format") if isinstance(fields, dict) else None
    if not isinstance(form, str) or form not in _FIELDS:
        raise KeyFileError(
            f'is not a stablesig key file ("format" is neither "{SECRET_FORMAT}" nor "{PUBLIC_FORMAT}")'
        )
    version = fields.get("version")
    if type(version) is not int or version != FILE_VERSION:
        got = version if type(version) is int and abs(version) < 10**6 else "something else"
        raise KeyFileError(
            f"is of format version {got}, this stablesig reads {FILE_VERSION}; update stablesig"
        )
    missing = [name for name in _FIELDS[form] if name not in fields]
    if missing:
        raise KeyFileError(f"lacks {', '.join(missing)}; get the key again from where it was kept")
    extra = len(fields) - len(_FIELDS[form])
    if extra:  # not named: a field name may hold anything, the seed too
        raise KeyFileError(
            f"holds {extra} more fields than a key file has; get the key again from where it was kept"
        )
    key = _parse_secret(fields) if form == SECRET_FORMAT else _parse_public(fields)
    if fields["id"] != key.id:
        raise KeyFileError(
            f"its id is not that of its content ({key.id}): it was changed or damaged; get the key again"
        )
    return key


def _parse_secret(fields: dict[str, Any]) -> SecretKey:
    seed = _text(fields, "seed", _HEX_32_BYTES, "64 lower-case hex digits")
    message = _text(fields, "message", _MESSAGE, f"1 to {MAX_BITS} digits, 0 or 1")
    return SecretKey(
        bytes.fromhex(seed),
        tuple(int(bit) for bit in message),
        fields["feature_version"],
        fields["dimension"],
        fields["statistics_sha256"],
    )


def _parse_public(fields: dict[str, Any]) -> PublicKey:
    text = fields["direction"]
    dimension = fields["dimension"]
    _check_features(fields["feature_version"], dimension, fields["statistics_sha256"])
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        raw = b""
    if len(raw) != 4 * dimension:
        raise KeyFileError(
            f'its "direction" is not the base64 of {dimension} 32-bit integers; get the key again'
        )
    direction_q = np.frombuffer(raw, dtype="<i4").astype(np.int32)
    return PublicKey(direction_q, fields["bits"], fields["feature_version"], fields["statistics_sha256"])


def _text(fields: dict[str, Any], name: str, pattern: re.Pattern[str], what: str) -> str:
    value = fields[name]
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise KeyFileError(f'its "{name}" is not {what}; get the key again from where it was kept')
    return value


def _check_features(feature_version: object, dimension: object, statistics_sha256: object) -> None:
    if not isinstance(feature_version, str) or not _FEATURE_VERSION.fullmatch(feature_version):
        raise KeyFileError('its feature version is not of the form "spectrum-1"; get the key again')
    if type(dimension) is not int or not 2 <= dimension <= MAX_DIMENSION:
        raise KeyFileError(f"its dimension is not an integer in 2..{MAX_DIMENSION}; get the key again")
    if not isinstance(statistics_sha256, str) or not _HEX_32_BYTES.fullmatch(statistics_sha256):
        raise KeyFileError(
            "its SHA-256 of the whitening statistics is not 64 lower-case hex digits; get the key again"
        )


def _check_bits(n_bits: object, dimension: int) -> None:
    limit = min(MAX_BITS, dimension)
    if type(n_bits) is not int or not 1 <= n_bits <= limit:
        raise KeyFileError(f"its number of bits is not an integer in 1..{limit}; get the key again")
