"""Proof that a release works from the Hub: downloaded into an empty cache, compared, loaded, decoded.

Anybody can do this with the public key. What is wrong is listed, and nothing is raised for it; errors are for
what keeps the check from being made (no network, no such repository, a key file that cannot be read).
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from stablesig.extras import needs_train
from stablesig.one_line import shown
from stablesig.release_record import (
    DECLARATION,
    FOLDER,
    RecordCheck,
    check_release_record,
    compare_files,
    read_declaration,
    release_files,
)
from stablesig_detector.detection import DEFAULT_FPR
from stablesig_detector.errors import DecoderError, KeyFileError, OutputError
from stablesig_detector.key import PublicKey, SecretKey, load_key

if TYPE_CHECKING:
    from stablesig.hub_client import Hub
    from stablesig.release_decoding import Decoding, Loaded

LARGEST_BYTES = 20 << 30  # of a repository; far more than any autoencoder in all its forms
LARGEST_STRIDE_PX = 64
# Files that may lie beside a release undeclared: no program loads them.
_INERT = {".md", ".txt", ".png", ".jpg", ".jpeg", ".webp", ".gif"}


@dataclass(frozen=True)
class ReleaseCheck:
    """What became of a release that was loaded and tried. `str()` prints it.

    source: the repository or folder.  commit: 40 hexadecimal digits; None for a folder.  files: how many were
    compared with their declared hashes.  kind: class of the autoencoder, None if it did not load.  key_id,
    key_given: the key that was looked for, and whether it came from the caller; a key that lies in the
    release shows that the release is consistent, not whose it is.  decodings: the evidence, image by image.
    record: what its signature is worth.  problems: whatever is wrong.  notes: what a reader should know
    besides.
    """

    source: str
    commit: str | None
    files: int
    kind: str | None
    key_id: str | None
    key_given: bool
    decodings: tuple[Decoding, ...]
    fpr: float
    record: RecordCheck
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def detected(self) -> int:
        """In how many decoded photographs the key was found."""
        return sum(decoding.decoded.detected for decoding in self.decodings)

    def __str__(self) -> str:
        from stablesig.detect_output import format_p

        at = ", a folder on this disk" if self.commit is None else f" at {self.commit}"
        lines = [f"release     {self.source}{at}", f"files       {self.files} compared with their hashes"]
        lines.append(f"signature   {self._signature()}")
        lines.append(f"weights     {self.kind or 'not loaded'}")
        if self.key_id is not None:
            lines.append(
                f"key         {self.key_id}, {'given' if self.key_given else 'from the release itself'}"
            )
        lines += [
            f"decoded     {decoding.image}: s = {decoding.decoded.statistic:+.2f}, "
            f"p = {format_p(decoding.decoded.log10_p_value)}"
            f"{' *' if decoding.decoded.detected else ''}"
            for decoding in self.decodings
        ]
        if self.decodings:
            before = sum(decoding.before.detected for decoding in self.decodings)
            total = len(self.decodings)
            lines.append(
                f"watermark   in {self.detected} of {total} decoded photographs (p <= {self.fpr:g}), in "
                f"{before} of {total} before decoding"
            )
        lines += [f"note        {shown(note)}" for note in self.notes]  # they quote names from the release
        lines += [f"problem     {shown(problem)}" for problem in self.problems]
        return "\n".join([*lines, f"result      {'verified' if self.passed else 'NOT verified'}"])

    def _signature(self) -> str:
        if not self.record.signed:
            return "none"
        if self.record.signer is None:
            return "not good"
        whose = "the key that was given" if self.record.trusted else "the key in the release, whosever it is"
        return f"by {whose}, SHA-256 {self.record.signer}"


def verify_release(
    repo_id: str,
    *,
    revision: str | None = None,
    key: PublicKey | SecretKey | None = None,
    signing_key: Path | None = None,
    images: Path | None = None,
    token: str | None = None,
    expected: Mapping[str, str] | None = None,
    secret: SecretKey | PublicKey | None = None,
    fpr: float = DEFAULT_FPR,
) -> ReleaseCheck:
    """Download a release into an empty cache and check it; the cache is removed afterwards.

    revision: branch, tag, commit or refs/pr/N; main if not given.  key: the publisher's; the one in the
    release if not given.  signing_key: the publisher's public signing key, PEM.  images: a folder of
    photographs to decode; the four that ship if not given.  token: of the Hub; None for the stored one, if
    any.  expected: path -> SHA-256 of files that must be there as they are.  secret: the publisher's key,
    which must not be in what lies there undeclared.  fpr: false positive rate.

    Raises HubError, OutputError (a repository larger than LARGEST_BYTES or the disk), UsageError,
    KeyFileError, ImageError, MissingExtraError.
    """
    from stablesig.hub_client import connect, quiet_client

    hub = connect("verify-release", token)
    with tempfile.TemporaryDirectory(prefix="stablesig-") as cache, quiet_client():
        place, commit = _download(hub, repo_id, revision, cache)
        return check_release_folder(
            place,
            source=repo_id,
            commit=commit,
            key=key,
            signing_key=signing_key,
            images=images,
            expected=expected,
            secret=secret,
            fpr=fpr,
        )


def _download(hub: Hub, repo_id: str, revision: str | None, cache: str) -> tuple[Path, str]:
    """Everything in the repository at a revision, and its commit; nothing if it is too much."""
    from huggingface_hub import snapshot_download

    what = f"downloading {repo_id}{'' if revision is None else f' at {revision}'}"
    commit = str(hub.ask(what, lambda: hub.api.model_info(repo_id, revision=revision)).sha)
    size = hub.ask(
        what,
        lambda: sum(
            getattr(entry, "size", 0)
            for entry in hub.api.list_repo_tree(repo_id, recursive=True, revision=commit)
        ),
    )
    room = min(LARGEST_BYTES, shutil.disk_usage(cache).free)
    if size > room:
        raise OutputError(
            f"{repo_id} holds {size / 1e9:.1f} GB, and {room / 1e9:.1f} GB is the most that would be "
            f"downloaded to {tempfile.gettempdir()}; is it a release? else free some space, or set TMPDIR"
        )
    token = hub.token if hub.token is not None else False
    place = hub.ask(what, lambda: snapshot_download(repo_id, revision=commit, cache_dir=cache, token=token))
    return Path(place), commit


def check_release_folder(
    folder: Path,
    *,
    source: str | None = None,
    commit: str | None = None,
    key: PublicKey | SecretKey | None = None,
    signing_key: Path | None = None,
    images: Path | None = None,
    expected: Mapping[str, str] | None = None,
    secret: SecretKey | PublicKey | None = None,
    fpr: float = DEFAULT_FPR,
) -> ReleaseCheck:
    """The same for a release folder on disk. source, commit: what the result names it."""
    with needs_train("verify-release"):
        import torch  # noqa: F401 - missing it is said now, not after the hashes
    found = release_files(folder)
    checking = _Checking(folder, found, _readable_declaration(folder))
    checking.compare(expected)
    checking.look_for_secrets(secret)
    record = check_release_record(folder, signing_key)
    checking.problems += record.problems
    if record.signed and record.signer and not record.trusted:
        checking.notes.append("the signature shows that the files belong together; name the publisher's key")
    named = checking.release.get("repo_id")
    if commit is not None and named != source:
        checking.notes.append(f"the release was made for {named}, and lies in {source}")
    public = checking.find_key(key)
    loaded = checking.load()
    decodings = () if loaded is None or public is None else checking.decode(loaded, public, images, fpr)
    return ReleaseCheck(
        source=source or str(folder),
        commit=commit,
        files=len(found),
        kind=None if loaded is None else loaded.kind,
        key_id=None if public is None else public.id,
        key_given=key is not None,
        decodings=decodings,
        fpr=fpr,
        record=record,
        problems=tuple(checking.problems),
        notes=tuple(checking.notes),
    )


def _readable_declaration(folder: Path) -> dict[str, Any] | str:
    """watermark.json, or what is wrong with it."""
    try:
        content = read_declaration(folder)
    except OutputError as error:
        return str(error).replace(f"{folder}/", "")
    if not isinstance(content.get("release"), dict):
        return f'{DECLARATION} has no "release", so this was not made by stablesig publish'
    return content


class _Checking:
    """One check under way: it collects problems and notes."""

    def __init__(self, folder: Path, found: Mapping[str, str], declared: dict[str, Any] | str) -> None:
        self.folder = folder
        self.found = found
        self.problems: list[str] = [declared] if isinstance(declared, str) else []
        self.notes: list[str] = []
        self.declared: dict[str, Any] = declared if isinstance(declared, dict) else {}
        self.release: dict[str, Any] = self.declared.get("release", {})
        self.key_given = False
        self.inert: list[str] = []  # there, undeclared, and tolerated

    def compare(self, expected: Mapping[str, str] | None) -> None:
        """Hashes: with what the release declares, and with what the caller has."""
        if self.release:
            listed = self.release.get("files")
            listed = listed if isinstance(listed, dict) else {}
            others = {path: digest for path, digest in self.found.items() if path != DECLARATION}
            self.inert = sorted(path for path in others.keys() - listed.keys() if _is_inert(path))
            if self.inert:
                self.notes.append(f"there, but not declared: {', '.join(self.inert)}")
            considered = {path: digest for path, digest in others.items() if path not in self.inert}
            self.problems += compare_files(listed, considered, "declared")
        if expected is not None:
            held = {path: digest for path, digest in self.found.items() if path in expected}
            self.problems += compare_files(expected, held, "published")

    def look_for_secrets(self, key: SecretKey | PublicKey | None) -> None:
        """In what no publisher's scan has seen: what lies there undeclared, and beside the record."""
        from stablesig.secret_scan import scan_bytes

        record = (path for path in (self.folder / FOLDER).rglob("*") if path.is_file())
        paths = [*self.inert, *sorted(path.relative_to(self.folder).as_posix() for path in record)]
        committed = self.release.get("key_file") is None
        for path in paths:
            content = (self.folder / path).read_bytes()
            self.problems += [
                f"{path} holds {what}" for what in scan_bytes(content, key, direction_too=committed)
            ]

    def find_key(self, given: PublicKey | SecretKey | None) -> PublicKey | None:
        """The key to look for, held to the commitment. Adds a problem if there is none, or another one."""
        self.key_given = given is not None
        key = given.public() if isinstance(given, SecretKey) else given
        if key is None:
            key = self._own_key()
            if key is None:
                return None
            self.notes.append("the key is the release's own: this shows that it works, not whose it is")
        digest = key_commitment(key)
        if self.release and digest != self.release.get("key_commitment_sha256"):
            self.problems.append(f"the key {key.id} is not the one that the release commits to")
        declared = self.declared.get("key")
        if isinstance(declared, dict) and declared.get("id") != key.id:
            self.problems.append(f"the release declares key {declared.get('id')}, this one is {key.id}")
        return key

    def _own_key(self) -> PublicKey | None:
        name = self.release.get("key_file")
        if not isinstance(name, str):
            self.problems.append(
                "the release holds no key, only its hash; get the key and give it with --key"
            )
            return None
        if name not in self.found:  # also keeps a name with ".." inside the release
            self.problems.append(f"the key file {name} is missing")
            return None
        try:
            key = load_key(self.folder / name)
        except KeyFileError as error:
            self.problems.append(str(error).replace(f"{self.folder}/", ""))
            return None
        if isinstance(key, SecretKey):
            self.problems.append(f"{name} is a SECRET key; the publisher must withdraw it and the release")
            return key.public()
        return key

    def load(self) -> Loaded | None:
        """The autoencoder, with the decoder that was declared; None, and a problem, if it does not load."""
        from stablesig.release_decoding import load_release

        autoencoder = self.declared.get("autoencoder")
        if not self.release or not isinstance(autoencoder, dict):
            return None
        place, stride = self.release.get("vae"), autoencoder.get("stride")
        if place not in ("vae", ".") or type(stride) is not int or not 1 <= stride <= LARGEST_STRIDE_PX:
            self.problems.append(f"{DECLARATION} does not say where the autoencoder lies, or its stride")
            return None
        try:
            loaded = load_release(self.folder / place, str(autoencoder.get("kind")), stride)
        except DecoderError as error:
            self.problems.append(str(error).replace(str(self.folder), "release"))
            return None
        if loaded.decoder_sha256 != self.release.get("decoder_sha256"):
            self.problems.append("the decoder's parameters are not those that were evaluated")
        return loaded

    def decode(self, loaded: Loaded, key: PublicKey, images: Path | None, fpr: float) -> tuple[Decoding, ...]:
        """Decode and detect. Most photographs must carry the key after decoding, and none before."""
        from stablesig.release_decoding import decode_and_detect

        try:
            decodings = decode_and_detect(loaded, key, images, fpr)
        except KeyFileError as error:  # of other features than this detector's
            if self.key_given:
                raise
            self.problems.append(str(error))
            return ()
        except DecoderError as error:
            self.problems.append(str(error))
            return ()
        detected = sum(decoding.decoded.detected for decoding in decodings)
        before = sum(decoding.before.detected for decoding in decodings)
        if 2 * detected <= len(decodings):
            self.problems.append(
                f"the watermark is in {detected} of {len(decodings)} decoded photographs only"
            )
        if before:
            self.problems.append(
                f"the key is found in {before} of {len(decodings)} photographs that were never decoded"
            )
        return decodings


def key_commitment(key: PublicKey) -> str:
    """SHA-256 of the public key file, in hexadecimal: what a release commits to."""
    with tempfile.TemporaryDirectory(prefix="stablesig-") as folder:
        path = Path(folder, "key.pub.json")
        key.save(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_inert(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in _INERT
