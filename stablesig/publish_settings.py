"""What `publish` is asked for, and the release folder that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from stablesig.gate import GateReport, Thresholds
from stablesig.model_card import is_hub_id
from stablesig_detector.errors import UsageError

if TYPE_CHECKING:
    from stablesig_detector.key import PublicKey, SecretKey

VERIFICATIONS = ("public", "commitment")
LAYOUTS = ("vae", "root")
KEY_FILE = "key.pub.json"


@dataclass(frozen=True)
class PublishSettings:
    """What to publish, and as what.

    folder: what `embed` wrote.  repo_id: ORG/NAME on the Hub.  reports: folders that `evaluate` wrote, the
    main one first.  key: secret or public; with the secret one the scan looks for this very secret.  out: the
    release folder.  verification: "public" puts the public key into the release, "commitment" its SHA-256.
    license, base_license: identifiers of the Hub; base_model: its id there, or what it is; None takes the Hub
    id that watermark.json names.  license_reason: why a base licence that no program can judge allows it.
    layout: "vae", or "root" for the autoencoder's files in the root.  fp16, single_file: further files of the
    weights.  pictures: whether those that embed drew go along.  registries: key registries to look for the
    key in.  override_reason: lets missed thresholds pass, and goes on the card.  training_images: the folder
    that `embed` was given, where watermark.json does not list what it trained on.  on: the day of release.
    """

    folder: Path
    repo_id: str
    reports: tuple[Path, ...]
    key: SecretKey | PublicKey
    out: Path
    verification: str = "public"
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    license_reason: str | None = None
    base_model: str | None = None
    base_license: str | None = None
    layout: str = "vae"
    fp16: bool = False
    single_file: bool = False
    pictures: bool = True
    registries: tuple[Path, ...] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)
    override_reason: str | None = None
    contact: str | None = None
    training_images: Path | None = None
    on: date | None = None

    def __post_init__(self) -> None:
        if self.verification not in VERIFICATIONS:
            raise UsageError(f"verification is {' or '.join(VERIFICATIONS)}; got {self.verification!r}")
        if self.layout not in LAYOUTS:
            raise UsageError(f"the layout is {' or '.join(LAYOUTS)}; got {self.layout!r}")
        if not self.reports:
            raise UsageError(
                "a release needs a report; run stablesig evaluate, and give its folder with --report"
            )
        if self.contact is not None and not self.contact.strip():
            raise UsageError("the contact is empty; leave --contact out, or say who answers questions")
        if not is_hub_id(self.repo_id):
            raise UsageError(f"a repository on the Hub is named ORG/NAME; got {self.repo_id!r}")


@dataclass(frozen=True)
class Release:
    """A release folder that is ready to be pushed.

    files: path in the folder -> SHA-256, of all but the provenance record.  key: the public one, whether or
    not it is published.  key_file: its path in the folder, None under "commitment".  key_commitment: SHA-256
    of the public key file.  decoder_sha256: of the decoder's parameters as float32, in order, as in
    report.json.  vae: "vae" or ".", the folder of the autoencoder.
    """

    folder: Path
    repo_id: str
    files: Mapping[str, str]
    sizes: Mapping[str, int]
    key: PublicKey
    verification: str
    key_file: str | None
    key_commitment: str
    decoder_sha256: str
    vae: str
    training_merkle_root: str
    gate: GateReport
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(self.sizes.values())

    def __str__(self) -> str:
        lines = [f"release  {self.folder}", f"for      {self.repo_id}", f"key      {self.key.id}", "", "gate"]
        lines += [f"  {line}" for line in str(self.gate).split("\n")]
        lines += ["", f"files    {len(self.files)}, {self.bytes / 1e6:.1f} MB"]
        lines += [f"  {self.sizes[name]:>12,}  {digest[:16]}  {name}" for name, digest in self.files.items()]
        lines += [f"note     {note}" for note in self.notes]
        return "\n".join(lines)
