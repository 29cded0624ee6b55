"""The folder of a release: exactly what is pushed, and nothing else.

    README.md            the model card
    watermark.json       what embed wrote, less what must stay private, with the hashes of all other files
    evaluation.json      the evaluations, in counts and rounded aggregates
    key.pub.json         the public key, if the publisher wants anybody to verify
    detect.py            looks for the watermark in images; no PyTorch
    vae/                 the autoencoder, or its files in the root of the folder
    NAME.safetensors     on request, the same in one file with the names of the original format
    pictures/            from the original and the watermarked decoder, side by side

The same inputs give the same bytes, so that publishing again changes nothing. The folder appears whole, by
one rename, after the gate and the scan for secrets have passed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig import __version__
from stablesig.card_facts import Facts, Report, public_evaluation, read_report, read_watermark
from stablesig.gate import (
    Check,
    GateReport,
    ReleaseRefusedError,
    file_digest,
    image_checks,
    key_checks,
    licence_checks,
    measured_checks,
    weights_checks,
)
from stablesig.model_card import (
    Base,
    CardFacts,
    Licence,
    Verification,
    Weights,
    labels,
    render_card,
)
from stablesig.publish_settings import KEY_FILE, PublishSettings, Release
from stablesig.release_declaration import declaration, training_digests
from stablesig.secret_scan import scan_folder
from stablesig_detector.errors import OutputError, OutputExistsError, UsageError
from stablesig_detector.key import PublicKey, SecretKey

if TYPE_CHECKING:
    from stablesig_detector.key_set import KeyEntry

__all__ = ["PublishSettings", "Release", "prepare_release"]

PROVENANCE = "provenance"  # folder of the signed record, which is made after the rest
PICTURE = "pictures/side_by_side.png"
_LICENCE_STEMS = ("LICENSE", "LICENCE", "COPYING", "NOTICE")


@dataclass(frozen=True)
class _Inputs:
    """What was read before anything is written."""

    settings: PublishSettings
    watermark: Facts
    reports: tuple[Report, ...]
    evaluation: dict[str, Any]
    gate: GateReport
    base: Base
    licence: Licence
    training_merkle_root: str

    @property
    def key(self) -> PublicKey:
        key = self.settings.key
        return key.public() if isinstance(key, SecretKey) else key

    @property
    def decoder_sha256(self) -> str:
        return str(self.evaluation["autoencoder"]["decoder_sha256"])


def prepare_release(settings: PublishSettings) -> Release:
    """Read, pass the gate, write the release folder, look it through for secrets, put it in place.

    A folder that is there already and holds the same files is taken as it is; what is under provenance/ in it
    is left alone. Raises ReleaseRefusedError (the gate, or a secret that was found), UsageError
    (MissingFactError for a value that a report lacks), KeyFileError, DecoderError, OutputExistsError,
    OutputError. Needs the `train` and `hub` extras.
    """
    inputs = _read(settings)
    inputs.gate.enforce()
    out = settings.out
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        release = _write(inputs, partial)
        refuse_secrets(partial, settings, settings.folder)
        _place(partial, out)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}; free some space") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already if it is in place
    return replace(release, folder=out)


def refuse_secrets(folder: Path, settings: PublishSettings, origin: Path) -> None:
    """Raise ReleaseRefusedError if a file below `folder` holds what must not be published.

    origin: where the publisher would have to look.
    """
    findings = scan_folder(folder, settings.key, direction_too=settings.verification == "commitment")
    if findings:
        named = "; ".join(map(str, findings))
        raise ReleaseRefusedError(
            f"the release is refused: {named}; take it out of {origin} and publish again"
        )


def _read(settings: PublishSettings) -> _Inputs:
    watermark = read_watermark(settings.folder)
    reports = tuple(read_report(path) for path in settings.reports)
    evaluation = public_evaluation(reports)
    source, on_hub = watermark.text("autoencoder.source"), watermark.at("autoencoder.revision") is not None
    base_model = settings.base_model or (source if on_hub else None)
    trained_on = training_digests(watermark, settings.training_images)
    checks = [
        *measured_checks(evaluation, settings.thresholds),
        *weights_checks(settings.folder, watermark, reports),
        *image_checks(trained_on, reports),
        *key_checks(settings.key, watermark, reports, _entry(settings), settings.on or _today()),
        *licence_checks(
            settings.license,
            settings.license_name,
            settings.base_license,
            base_model,
            settings.license_reason,
        ),
        *([_source_check(base_model, source)] if on_hub and base_model else []),
    ]
    return _Inputs(
        settings,
        watermark,
        reports,
        evaluation,
        GateReport(tuple(checks), (settings.override_reason or "").strip() or None),
        Base(base_model or "", settings.base_license or "", settings.license_reason),
        Licence(settings.license or "", settings.license_name, settings.license_link),
        _merkle_root(trained_on),
    )


def _source_check(base_model: str, source: str) -> Check:
    same = base_model == source
    return Check(
        "base model as watermarked",
        same,
        f"{base_model}, as watermark.json has it"
        if same
        else f"watermark.json names {source}, --base-model {base_model}; leave the option out",
    )


def _entry(settings: PublishSettings) -> KeyEntry | None:
    """What the registries say of the key."""
    if not settings.registries:
        return None
    from stablesig_detector.key_set import load_key_set

    try:
        return load_key_set(settings.registries).entry(settings.key.id)
    except KeyError:
        return None


def _today() -> date:
    return datetime.now(UTC).date()


def _merkle_root(digests: Sequence[str]) -> str:
    from stablesig.merkle import image_leaves, merkle_root

    return merkle_root(image_leaves(digests)).hex()


def _write(inputs: _Inputs, folder: Path) -> Release:
    """Everything, in the order in which one file names the next: watermark.json, with all hashes, last."""
    settings = inputs.settings
    vae = folder / "vae" if settings.layout == "vae" else folder
    vae.mkdir(exist_ok=True)
    weights = _write_vae(inputs, folder, vae)
    vae_files = {
        path.name: file_digest(path) for path in sorted(vae.iterdir()) if path.name != weights.single_file
    }
    key_file = KEY_FILE if settings.verification == "public" else None
    commitment = _write_key(inputs.key, folder, publish=key_file is not None)
    picture = _write_picture(settings, folder)
    (folder / "evaluation.json").write_bytes(_json(inputs.evaluation))
    (folder / "detect.py").write_bytes((resources.files("stablesig") / "data" / "detect.py").read_bytes())
    declared = declaration(inputs.watermark, vae_files, inputs.key if key_file is not None else None)
    released = _released(inputs, key_file, commitment)
    card = CardFacts(
        repo_id=settings.repo_id,
        evaluation=inputs.evaluation,
        watermark=declared | {"release": released},
        base=inputs.base,
        license=inputs.licence,
        weights=weights,
        verification=Verification(key_file, commitment, settings.contact),
        reason=released["override_reason"],
        missed=tuple(released["thresholds_missed"]),
        picture=picture,
    )
    (folder / "README.md").write_text(render_card(card), encoding="utf-8", newline="")
    others = {name: digest for name, digest, _ in _listed(folder)}
    (folder / "watermark.json").write_bytes(_json(declared | {"release": released | {"files": others}}))
    listed = list(_listed(folder))
    return Release(
        folder=folder,
        repo_id=settings.repo_id,
        files={name: digest for name, digest, _ in listed},
        sizes={name: size for name, _, size in listed},
        key=inputs.key,
        verification=settings.verification,
        key_file=key_file,
        key_commitment=commitment,
        decoder_sha256=inputs.decoder_sha256,
        vae=released["vae"],
        training_merkle_root=inputs.training_merkle_root,
        gate=inputs.gate,
        notes=_notes(inputs, vae_files, weights.notes),
    )


def _write_vae(inputs: _Inputs, folder: Path, vae: Path) -> Weights:
    """The autoencoder in `vae`, and a single file in `folder` if one is wanted."""
    from stablesig.evaluation_inputs import read_watermarked
    from stablesig.release_weights import write_weights

    settings = inputs.settings
    single = f"{settings.repo_id.partition('/')[2]}.safetensors" if settings.single_file else None
    written = write_weights(
        read_watermarked(settings.folder, settings.key).source,
        vae,
        inputs.decoder_sha256,
        fp16=settings.fp16,
        single_file=None if single is None else folder / single,
    )
    return Weights("" if vae == folder else vae.name, settings.fp16, single, written.notes)


def _released(inputs: _Inputs, key_file: str | None, key_commitment: str) -> dict[str, Any]:
    """What the release declares in watermark.json, but for "files", the hashes of all others."""
    settings = inputs.settings
    missed = labels(inputs.gate.overridden)
    return {
        "repo_id": settings.repo_id,
        "stablesig_version": __version__,
        "verification": settings.verification,
        "key_file": key_file,
        "key_commitment_sha256": key_commitment,
        "decoder_sha256": inputs.decoder_sha256,
        "vae": "vae" if settings.layout == "vae" else ".",
        "training_merkle_root": inputs.training_merkle_root,
        "license": inputs.licence.id,
        "base_model": inputs.base.model,
        "override_reason": inputs.gate.reason if missed else None,  # one that nothing needs stays private
        "thresholds_missed": list(missed),
    }


def _write_key(key: PublicKey, folder: Path, *, publish: bool) -> str:
    """The SHA-256 of the public key file, which stays in the folder only if it is to be published."""
    path = folder / KEY_FILE
    key.save(path)
    digest = file_digest(path)
    if not publish:
        path.unlink()
    return digest


def _write_picture(settings: PublishSettings, folder: Path) -> str | None:
    """Side by side, as embed drew it: no statistic is in it."""
    if not settings.pictures:
        return None
    drawn = settings.folder / "report" / Path(PICTURE).name
    if not drawn.is_file():
        raise UsageError(f"{drawn} is missing; copy the folder that embed wrote again, or use --no-pictures")
    (folder / PICTURE).parent.mkdir()
    shutil.copyfile(drawn, folder / PICTURE)
    return PICTURE


def _notes(inputs: _Inputs, vae_files: Mapping[str, str], notes: tuple[str, ...]) -> tuple[str, ...]:
    found = list(notes)
    if not any(Path(name).stem.upper() in _LICENCE_STEMS for name in vae_files):
        found.append("vae/ holds no licence text; most licences ask that it goes with every copy")
    if not isinstance(inputs.settings.key, SecretKey):
        found.append("the key given is public, so secrets were looked for by their format only")
    if not inputs.settings.registries:
        found.append("no registry was given, so it was not looked up whether the key was revoked")
    return tuple(found)


def _listed(folder: Path) -> Iterator[tuple[str, str, int]]:
    """Path, SHA-256 and size of every file of a release but those of the provenance record."""
    for path in sorted(folder.rglob("*"), key=lambda one: one.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name.partition("/")[0] != PROVENANCE:
            yield name, file_digest(path), path.stat().st_size


def _place(partial: Path, out: Path) -> None:
    """Make `partial` the folder `out`, or find just that there already. Raises OutputExistsError."""
    if not os.path.lexists(out):
        partial.rename(out)
        return
    ours = {name: digest for name, digest, _ in _listed(partial)}
    theirs = {name: digest for name, digest, _ in _listed(out)} if out.is_dir() else {}
    if ours != theirs:
        differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        raise OutputExistsError(
            f"{out} exists and holds another release ({', '.join(differing[:5])}"
            f"{', ...' if len(differing) > 5 else ''}); nothing is overwritten: move it away, or name "
            "another --out"
        )


def _json(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()
