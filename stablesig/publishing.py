"""`publish`: gate and folder, signed record, push, proof from the Hub, and only then open to all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stablesig.publish_settings import PublishSettings, Release
from stablesig.release_folder import PROVENANCE, prepare_release, refuse_secrets

if TYPE_CHECKING:
    from stablesig.hub_push import PushResult, PushStep
    from stablesig.release_record import ReleaseRecord
    from stablesig.verify_release import ReleaseCheck


@dataclass(frozen=True)
class Publication:
    """release: the folder.  record: its signed record.  pushed, check: None for a dry run.

    public: whether this release is now what all see in the repository: on main, and main open. Nothing is
    opened unless the check passed.
    """

    release: Release
    record: ReleaseRecord
    pushed: PushResult | None = None
    check: ReleaseCheck | None = None
    public: bool = False

    @property
    def passed(self) -> bool:
        """Whether the release was proven from the Hub to a detected image, or was a dry run."""
        return self.check is None or self.check.passed


def publish(
    settings: PublishSettings,
    *,
    dry_run: bool = False,
    signing_key: Path | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    public: bool = False,
    token: str | None = None,
    on_step: Callable[[PushStep], None] | None = None,
) -> Publication:
    """Prepare a release, push it, download it again and look for the watermark in what it decodes.

    dry_run: stop when the folder is there; nothing is sent.  signing_key: PEM file of the key that signs the
    record.  revision, create_pr: where it goes, as the Hub has it.  public: open the repository to all once
    the check has passed; until then it is private.  token: of the Hub; None takes the stored one.

    Raises ReleaseRefusedError, UsageError, KeyFileError, DecoderError, OutputExistsError, OutputError
    (HubError among them). Needs the `train` and `hub` extras, and `sign` with a signing key.
    """
    from stablesig.release_record import write_release_record

    release = prepare_release(settings)
    record = write_release_record(release.folder, signing_key)
    provenance = release.folder / PROVENANCE  # not compared, so it may hold whatever was put there since
    refuse_secrets(provenance, settings, provenance)
    if dry_run:
        return Publication(release, record)
    from stablesig.hub_client import make_public
    from stablesig.hub_push import MAIN, push_release
    from stablesig.release_record import SIGNER_KEY
    from stablesig.verify_release import verify_release

    pushed = push_release(
        release.folder,
        settings.repo_id,
        revision=revision,
        create_pr=create_pr,
        token=token,
        progress=on_step,
    )
    check = verify_release(
        settings.repo_id,
        revision=pushed.revision,
        key=release.key,
        signing_key=release.folder / SIGNER_KEY if record.signed else None,
        token=token,
        expected=record.files,
        secret=settings.key,
    )
    on_main = not create_pr and revision in (None, MAIN)
    opened = public and check.passed and on_main
    if opened:
        make_public(settings.repo_id, commit=pushed.commit, token=token)
    return Publication(release, record, pushed, check, opened or (pushed.public and on_main))
