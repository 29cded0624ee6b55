"""Proofs that an image was among the training images of a release, which publishes their Merkle root only."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablesig.merkle import audit_path, image_leaves, merkle_root, root_of_path
from stablesig_detector.errors import UsageError
from stablesig_detector.new_files import NewFile, write_new_files

FORMAT = "stablesig-membership-proof"
VERSION = 1
_MAX_BYTES = 64 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class MembershipProof:
    """A proof that the file with `image_sha256` is leaf `index` of `size` under `root`.

    path: the hashes beside the way up, lowest first, hexadecimal like the others. It does not show which
    other images there are, only such hashes.
    """

    image_sha256: str
    index: int
    size: int
    path: tuple[str, ...]
    root: str

    def holds(self, root: str) -> bool:
        """Whether it proves membership under `root`, which must come from elsewhere than the proof."""
        beside = [bytes.fromhex(digest) for digest in self.path]
        reached = root_of_path(bytes.fromhex(self.image_sha256), self.index, self.size, beside)
        return reached is not None and reached.hex() == root

    def save(self, path: Path) -> None:
        """Write it as JSON. Raises OutputExistsError, OutputError."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "hash": "RFC 6962, SHA-256; a leaf is the SHA-256 of an image file",
            "image_sha256": self.image_sha256,
            "index": self.index,
            "size": self.size,
            "path": list(self.path),
            "root": self.root,
        }
        write_new_files([NewFile(path, f"{json.dumps(content, indent=2)}\n".encode())])


def prove(image_sha256: str, digests: Sequence[str]) -> MembershipProof | None:
    """The proof for one of `digests` (hexadecimal SHA-256, in any order); None if it is not among them."""
    leaves = image_leaves(digests)
    leaf = bytes.fromhex(image_sha256)
    if leaf not in leaves:
        return None
    index = leaves.index(leaf)
    path = tuple(digest.hex() for digest in audit_path(leaves, index))
    return MembershipProof(image_sha256, index, len(leaves), path, merkle_root(leaves).hex())


def load_proof(path: Path) -> MembershipProof:
    """Read a proof. Raises UsageError for what is none."""
    content = _json(path)
    try:
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise ValueError
        proof = MembershipProof(
            _digest(content["image_sha256"]),
            _count(content["index"]),
            _count(content["size"]),
            tuple(_digest(one) for one in content["path"]),
            _digest(content["root"]),
        )
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{path} is no membership proof; make one with stablesig prove-image") from None
    return proof


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file. Raises UsageError if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}; check the path") from error


def training_digests(source: Path) -> list[str]:
    """Which images were trained on: hexadecimal SHA-256 digests.

    source: the watermark.json that `embed` wrote, or lines that start with a digest, as sha256sum
    prints them. Raises UsageError for anything else.
    """
    content = _read(source)
    if content.lstrip().startswith("{"):
        images = _json(source).get("images")
        listed = images.get("training_sha256") if isinstance(images, dict) else None
        if not isinstance(listed, list):
            raise UsageError(
                f"{source} does not list the training images (images.training_sha256); a release keeps the "
                "root only: give the watermark.json that embed wrote"
            )
    else:
        listed = [line.split()[0] for line in content.splitlines() if line.strip()]
    try:
        return [leaf.hex() for leaf in image_leaves(listed)]
    except ValueError as error:
        raise UsageError(f"{source}: {error}; give watermark.json, or what sha256sum prints") from error


def published_root(source: Path) -> tuple[str, int | None]:
    """The Merkle root of a release, and of how many images, from its watermark.json or folder.

    The root by itself does not fix how many leaves are below it. Raises UsageError.
    """
    path = source / "watermark.json" if source.is_dir() else source
    content = _json(path)
    release, images = content.get("release"), content.get("images")
    root = release.get("training_merkle_root") if isinstance(release, dict) else None
    if not isinstance(root, str) or _DIGEST.fullmatch(root) is None:
        raise UsageError(f"{path} publishes no Merkle root; give the watermark.json of a release")
    count = images.get("training") if isinstance(images, dict) else None
    return root, count if isinstance(count, int) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UsageError(f"{path} is no JSON object; check the path")
    return content


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise UsageError(f"{path} is larger than {_MAX_BYTES >> 20} MB; check the path")
        return content.decode()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}; check the path") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text; check the path") from None


def _digest(value: object) -> str:
    if not isinstance(value, str) or _DIGEST.fullmatch(value) is None:
        raise ValueError
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value
