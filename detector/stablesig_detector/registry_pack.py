"""A registry in one binary file, which opens in milliseconds however many keys are in it.

It is a safetensors file that is mapped into memory and not parsed. For each space of features, number i:

    i.directions  (n, D) float32  the directions, exactly; see key_block.py
    i.ids         (n,) uint64     the 16 hex digits of each id as a number, ascending
    i.bits        (n,) uint16     the length of each message
    i.texts       (T,) uint8      each entry without its key, as compact JSON, one after the other
    i.ends        (n,) uint64     where each text ends
    i.sums        (n,) uint64     64 bits of SHA-256(id || statistics' SHA-256 || bits || text)

and in the header's metadata, as JSON under "stablesig": the format, the version, the registry's name, the
spaces, and `stamp`, the SHA-256 of names, sizes and modification times of the entries' files, by which a
stale pack shows. The same registry gives the same bytes. Whatever is reported of a key was
held against its id and its sum, so a damaged pack cannot make a key speak for another.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .carriers import DIRECTION_SCALE
from .errors import KeyFileError, OutputError, OutputExistsError, UsageError
from .key import MAX_DIMENSION, PublicKey
from .key_block import FeatureSpace, KeyBlock, blocks_of
from .key_entry import Key, KeyEntry, LazyEntries
from .registry import (
    PACK_NAME,
    REGISTRY_NAME,
    entry_description,
    entry_files,
    read_header,
    read_registry,
)

PACK_FORMAT = "stablesig-registry-pack"
_VERSION = 1
_METADATA = "stablesig"
_MAX_HEADER = 1 << 20
_DTYPES = {"F32": np.float32, "U64": np.uint64, "U16": np.uint16, "U8": np.uint8}
_TENSORS = {
    "directions": np.float32,
    "ids": np.uint64,
    "bits": np.uint16,
    "texts": np.uint8,
    "ends": np.uint64,
    "sums": np.uint64,
}
_DAYS = ("not_before", "not_after", "revoked")


@dataclass(frozen=True)
class Pack:
    """An open pack: its keys, the registry's name, and the stamp of the files that it was made from."""

    blocks: tuple[KeyBlock, ...]
    name: str
    stamp: str


@dataclass(frozen=True)
class PackResult:
    """What was packed: where, how many keys, how large in bytes."""

    path: Path
    keys: int
    bytes: int


def pack_registry(
    folder: Path, out: Path | None = None, *, on_entry: Callable[[KeyEntry], None] | None = None
) -> PackResult:
    """Pack a registry into its registry.safetensors, in place of an older pack.

    out: another place, NAME.safetensors, which must be free.  on_entry: called for each entry, for progress.
    Raises KeyFileError at the first entry that is not sound, UsageError for another suffix,
    OutputExistsError, OutputError.
    """
    path = folder / PACK_NAME if out is None else out
    if path.suffix != ".safetensors":
        raise UsageError(f"{path}: a pack is known by its suffix; name it NAME.safetensors")
    if out is not None and os.path.lexists(path):
        raise OutputExistsError(f"{path}: exists already, and nothing is overwritten; name another place")
    stamp = stamp_of(folder)  # before reading: what changes meanwhile makes the pack stale
    name = read_header(folder)
    return write_pack(path, blocks_of(read_registry(folder, on_entry=on_entry)), name=name, stamp=stamp)


def write_pack(path: Path, blocks: Sequence[KeyBlock], *, name: str, stamp: str) -> PackResult:
    """Write blocks of keys as a pack, in place of what is there. Raises OutputError."""
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray[Any]] = {}
    for number, block in enumerate(blocks):
        texts = [_text(entry) for entry in block.entries]
        tensors |= {
            f"{number}.directions": block.directions,
            f"{number}.ids": block.ids,
            f"{number}.bits": np.array([entry.key.n_bits for entry in block.entries], dtype=np.uint16),
            f"{number}.texts": np.frombuffer(b"".join(texts), dtype=np.uint8),
            f"{number}.ends": np.cumsum([len(text) for text in texts], dtype=np.uint64),
            f"{number}.sums": np.array(
                [_sum(entry.key, text) for entry, text in zip(block.entries, texts, strict=True)],
                dtype=np.uint64,
            ),
        }
    about = {
        "format": PACK_FORMAT,
        "version": _VERSION,
        "name": name,
        "spaces": [vars(block.space) for block in blocks],
        "stamp": stamp,
    }
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            # One value: the header's order of several would change from run to run.
            save_file(tensors, beside, {_METADATA: json.dumps(about, sort_keys=True)})
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        return PackResult(path, sum(map(len, blocks)), path.stat().st_size)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}; free some space") from None


def stamp_of(folder: Path) -> str:
    """SHA-256 of the names, sizes and modification times of a registry's files, as 64 hex digits."""
    digest = hashlib.sha256()
    for path in [folder / REGISTRY_NAME, *entry_files(folder)]:
        try:
            status = path.stat()
        except OSError as error:
            raise KeyFileError(f"{path}: cannot be read ({error.strerror}); check the path") from None
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def _text(entry: KeyEntry) -> bytes:
    told = {name: value for name, value in entry_description(entry).items() if value is not None}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _sum(key: Key, text: bytes) -> int:
    """Against damage only: whoever can write the pack can write this too."""
    digest = hashlib.sha256(bytes.fromhex(key.id + key.statistics_sha256) + key.n_bits.to_bytes(2, "big"))
    digest.update(text)
    return int.from_bytes(digest.digest()[:8], "big")


def open_pack(path: Path) -> Pack:
    """Map a pack into memory. Raises KeyFileError, naming the file, if it is not one, or is cut off."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if 0 < length <= min(_MAX_HEADER, size) else b""
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    try:
        fields = json.loads(header)
        about = json.loads(fields["__metadata__"][_METADATA])
        if about["format"] != PACK_FORMAT or about["version"] != _VERSION:
            raise KeyFileError("another version")
        mapped = np.memmap(path, mode="r", dtype=np.uint8)[8 + length :]
        blocks = tuple(
            _opened(path, number, FeatureSpace(**space), fields, mapped)
            for number, space in enumerate(about["spaces"])
        )
        return Pack(tuple(block for block in blocks if len(block)), str(about["name"]), str(about["stamp"]))
    except (KeyFileError, ValueError, KeyError, TypeError, OSError, RecursionError):
        raise KeyFileError(
            f"{path}: is not a packed registry of this version, or is damaged; make it again with "
            "stablesig registry pack"
        ) from None


def _opened(
    path: Path, number: int, space: FeatureSpace, fields: dict[str, Any], mapped: NDArray[np.uint8]
) -> KeyBlock:
    if type(space.dimension) is not int or not 2 <= space.dimension <= MAX_DIMENSION:
        raise KeyFileError("no such dimension")
    tensors = {name: _tensor(fields[f"{number}.{name}"], mapped) for name in _TENSORS}
    n = len(tensors["ids"])
    shapes = {name: tensor.shape for name, tensor in tensors.items() if name != "texts"}
    if shapes != dict.fromkeys(shapes, (n,)) | {"directions": (n, space.dimension)}:
        raise KeyFileError("tensors that do not fit together")
    if any(tensors[name].dtype != dtype for name, dtype in _TENSORS.items()) or tensors["texts"].ndim != 1:
        raise KeyFileError("tensors of other types")
    entries = PackedEntries(path, space, tensors)
    return KeyBlock(space, tensors["directions"], tensors["ids"], entries)


def _tensor(described: dict[str, Any], mapped: NDArray[np.uint8]) -> NDArray[Any]:
    """A tensor of a safetensors file as a view of its mapped data; KeyFileError unless it is all there."""
    dtype = np.dtype(_DTYPES[described["dtype"]])
    shape = tuple(described["shape"])
    start, end = described["data_offsets"]
    if not all(type(value) is int and value >= 0 for value in (*shape, start, end)):
        raise KeyFileError("no such tensor")
    if end - start != math.prod(shape) * dtype.itemsize or end > mapped.size:
        raise KeyFileError("tensors that are cut off")
    return np.frombuffer(mapped, dtype, math.prod(shape), start).reshape(shape)


class PackedEntries(LazyEntries):
    """The entries of a pack, each made, and its key held against its id, when it is asked for."""

    def __init__(self, path: Path, space: FeatureSpace, tensors: dict[str, NDArray[Any]]) -> None:
        self._path, self._space, self._tensors = path, space, tensors

    def __len__(self) -> int:
        return len(self._tensors["ids"])

    def _at(self, place: int) -> KeyEntry:
        key_id = f"{int(self._tensors['ids'][place]):016x}"
        try:
            key = self._key(place)
            text = self._text_at(place)
            if int(self._tensors["sums"][place]) != _sum(key, text):
                raise KeyFileError("another sum")
            told: dict[str, Any] = json.loads(text)
            told |= {name: date.fromisoformat(told[name]) for name in _DAYS if name in told}
            entry = KeyEntry(key, **told, file=f"{self._path}#{key_id}")
        except (KeyFileError, ValueError, TypeError, AttributeError):
            entry = None
        if entry is None or entry.key.id != key_id:
            raise KeyFileError(
                f"{self._path}: key {key_id} is damaged; make the file again with stablesig registry pack"
            )
        return entry

    def _key(self, place: int) -> PublicKey:
        stored = self._tensors["directions"][place].astype(np.float64) * DIRECTION_SCALE
        if not np.all(np.abs(stored) <= DIRECTION_SCALE):  # not a number fails as well
            raise KeyFileError("no direction")
        direction_q = np.rint(stored).astype(np.int32)
        bits = int(self._tensors["bits"][place])
        return PublicKey(direction_q, bits, self._space.feature_version, self._space.statistics_sha256)

    def _text_at(self, place: int) -> bytes:
        start = self._ends[place - 1] if place else 0
        return self._tensors["texts"][start : self._ends[place]].tobytes()

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return self._tensors["ends"].astype(np.int64)
