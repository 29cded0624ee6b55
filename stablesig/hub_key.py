"""The key of a model on the Hub: what its watermark.json declares, and the public key where it is published.

A publisher either hands the public key out with the model (a file beside watermark.json, or its direction in
it) or publishes only a commitment: the key's id and the SHA-256 of its public file. In the second case images
can be tested only by those who are given the key file, and this tells whether it is the one committed to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig_detector.declaration import DECLARATION_NAME, MAX_DECLARATION_BYTES, declared_key
from stablesig_detector.errors import KeyFileError
from stablesig_detector.key import MAX_FILE_BYTES, PublicKey, SecretKey, load_key
from stablesig_detector.key_entry import Key, KeyEntry
from stablesig_detector.strict_json import read_json

if TYPE_CHECKING:
    from stablesig.hub_client import Hub

_PUBLIC_SUFFIX = ".pub.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubKey:
    """What a repository says of its key.

    repo_id, revision: the repository, and its commit as 40 hex digits.  key_id: of the declared key.
    commitment: SHA-256 of the public key file, 64 hex digits; None if it is not declared, and then the id
    alone binds the publisher, 64 bits.  key: the public key, None if only a commitment is published.
    """

    repo_id: str
    revision: str
    key_id: str
    commitment: str | None
    key: PublicKey | None = field(repr=False)
    file: str = field(repr=False, default="")

    def entry(self) -> KeyEntry:
        """The published key with its provenance. Raises KeyFileError if only a commitment is published."""
        if self.key is None:
            raise KeyFileError(
                f"{self.repo_id} publishes only a commitment to its key ({self.key_id}), so its images can "
                "be tested only by those who hold the key: ask the publisher for the public key file, and "
                "name it with --key"
            )
        return self._described(self.key)

    def confirmed(self, key: Key) -> KeyEntry:
        """A key that was obtained elsewhere, as an entry, if it is the one that the repository commits to.

        Raises KeyFileError if it is another.
        """
        public = key.public() if isinstance(key, SecretKey) else key
        if public.id != self.key_id:
            raise KeyFileError(
                f"{self.repo_id} declares key {self.key_id}, this is key {public.id}; get the declared one"
            )
        if self.commitment is not None and public.file_sha256() != self.commitment:
            raise KeyFileError(
                f"key {public.id} is not the one that {self.repo_id} commits to, though the id agrees; get "
                "the key from its publisher again"
            )
        return self._described(key)

    def _described(self, key: Key) -> KeyEntry:
        owner = self.repo_id.partition("/")[0]
        return KeyEntry(key, provider=owner, model_id=self.repo_id, file=self.file)


def load_hub_key(repo_id: str, revision: str | None = None, *, token: str | None = None) -> HubKey:
    """Read watermark.json of a model repository and, where it is published, the public key.

    repo_id: ORG/NAME.  revision: branch, tag or commit; "main" if not given.  token: None for the stored one.
    Only these two files are fetched, each at most 1 MB; HF_ENDPOINT and the client's cache are respected.

    Raises KeyFileError if the repository cannot be read, declares no key, or publishes another key than it
    declares; MissingExtraError without huggingface_hub.
    """
    from stablesig.hub_client import HubError, connect, quiet_client

    hub = connect("--model", token)
    try:
        with quiet_client():
            snapshot = _Snapshot.of(hub, repo_id, revision)
            return _read(snapshot)
    except HubError as error:
        problem = str(error)
    raise KeyFileError(problem)


def _read(snapshot: _Snapshot) -> HubKey:
    if DECLARATION_NAME not in snapshot.sizes:
        raise KeyFileError(
            f"{snapshot.repo_id} has no {DECLARATION_NAME}, so it declares no watermark of stablesig; check "
            "the repository, or name a key file with --key"
        )
    fields, problem = read_json(
        snapshot.fetch(DECLARATION_NAME, MAX_DECLARATION_BYTES), MAX_DECLARATION_BYTES
    )
    where = f"{snapshot.repo_id}/{DECLARATION_NAME}"
    if problem:
        raise KeyFileError(f"{where}: {problem}")
    try:
        declared = declared_key(fields)
    except KeyFileError as error:
        raise KeyFileError(f"{where}: {error}") from None
    release = fields.get("release")
    release = release if isinstance(release, dict) else {}
    found = HubKey(
        snapshot.repo_id,
        snapshot.commit,
        declared.key_id,
        _commitment(release),
        declared.key,
        f"hf://{snapshot.repo_id}@{snapshot.commit[:12]}/{DECLARATION_NAME}",
    )
    if found.key is not None:
        found.confirmed(found.key)
        return found
    name = _key_file(release, snapshot.sizes)
    return found if name is None else _with_file(found, snapshot, name)


def _with_file(found: HubKey, snapshot: _Snapshot, name: str) -> HubKey:
    where = f"{snapshot.repo_id}/{name}"
    try:
        key = load_key(snapshot.fetch(name, MAX_FILE_BYTES))
    except KeyFileError as error:
        raise KeyFileError(f"{where}: {str(error).partition(': ')[2]}") from None
    if isinstance(key, SecretKey):
        raise KeyFileError(
            f"{where}: holds the SECRET key, so anybody can imitate this watermark and it proves nothing; "
            "tell the publisher"
        )
    found.confirmed(key)
    return replace(found, key=key, file=f"hf://{snapshot.repo_id}@{snapshot.commit[:12]}/{name}")


def _commitment(release: Mapping[str, Any]) -> str | None:
    """The SHA-256 of the public key file in watermark.json, "release"."key_commitment_sha256"."""
    value = release.get("key_commitment_sha256")
    return value if isinstance(value, str) and _SHA256.fullmatch(value) else None


def _key_file(release: Mapping[str, Any], names: Mapping[str, int | None]) -> str | None:
    """The public key's file: the one that the release names, else the only .pub.json at the top."""
    named = release.get("key_file")
    if isinstance(named, str):
        if named not in names:
            raise KeyFileError(f"{DECLARATION_NAME} names {named!r}, which is not there; tell the publisher")
        return named
    at_top = [name for name in names if name.endswith(_PUBLIC_SUFFIX) and "/" not in name]
    return at_top[0] if len(at_top) == 1 else None


@dataclass(frozen=True)
class _Snapshot:
    """One commit of a repository. sizes: path -> bytes, None where the Hub does not say."""

    hub: Hub = field(repr=False)
    repo_id: str
    commit: str
    sizes: Mapping[str, int | None] = field(repr=False)

    @classmethod
    def of(cls, hub: Hub, repo_id: str, revision: str | None) -> _Snapshot:
        info = hub.ask(
            f"the key of {repo_id}",
            lambda: hub.api.model_info(repo_id, revision=revision, files_metadata=True),
        )
        sizes = {file.rfilename: file.size for file in info.siblings or []}
        return cls(hub, repo_id, str(info.sha), sizes)

    def fetch(self, name: str, most: int) -> Path:
        """The local copy of a file, from the client's cache if it is there."""
        size = self.sizes[name]
        if size is not None and size > most:
            raise KeyFileError(
                f"{self.repo_id}/{name} has {size:,} bytes, more than any such file ({most:,}); check the "
                "repository"
            )
        return Path(
            self.hub.ask(
                f"{self.repo_id}/{name}",
                lambda: self.hub.api.hf_hub_download(self.repo_id, name, revision=self.commit),
            )
        )
