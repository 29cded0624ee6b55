"""The record of a release: who signed which files, and what the release commits to.

`write_release_record` adds the folder provenance/ to a release; `check_release_record` reads it back. The
signature covers every file outside provenance/, the commitment to the watermark's key (SHA-256 of the public
key file), and the Merkle root over the training images, so whoever can show when the signature existed can
show that the key did. docs/chain-of-custody.md says what that proves and what it does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablesig.release_signature import (
    GIT_PATHS,
    SignatureFormatError,
    SignedStatement,
    load_public_key,
    load_signing_key,
    needs_cryptography,
    public_pem,
    read_bundle,
    sign,
    statement,
    verified,
)
from stablesig_detector.errors import OutputError, UsageError
from stablesig_detector.new_files import NewFile, write_new_files

FOLDER = "provenance"
SIGNATURE = f"{FOLDER}/model.sig"
SIGNER_KEY = f"{FOLDER}/signing-key.pub.pem"
DECLARATION = "watermark.json"
# What of watermark.json's "release" is signed a second time, as claims that a reader finds without the files.
CLAIMS = ("repo_id", "key_commitment_sha256", "training_merkle_root", "decoder_sha256", "stablesig_version")


@dataclass(frozen=True)
class ReleaseRecord:
    """What was recorded. files: path -> SHA-256 of what the signature covers, or would.

    signed: whether there is a signature.  signer: SHA-256 of the public key's PEM.  added: paths of the
    record files in the folder.
    """

    files: Mapping[str, str]
    signed: bool
    signer: str | None
    added: tuple[str, ...]


@dataclass(frozen=True)
class RecordCheck:
    """What a release's record is worth.

    signed: whether there is a signature.  signer: of a good one, SHA-256 of the public key.  trusted: whether
    that key was named by whoever checks, and not merely found in the release.  claims: what was signed along
    with the files.  problems: what is wrong; empty also where nothing is signed and no signer was asked for.
    """

    signed: bool
    signer: str | None
    trusted: bool
    claims: Mapping[str, Any]
    problems: tuple[str, ...]


def release_files(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of every file of a release, without provenance/ and what belongs to git."""
    left_out = (FOLDER, *GIT_PATHS)
    files = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if relative.parts[0] in left_out or (path.is_dir() and not path.is_symlink()):
            continue
        if not path.is_file():  # a link to a folder is none either: what it leads to would not be listed
            raise OutputError(f"{path} is no ordinary file; a release has no others: remove it")
        with path.open("rb") as stream:
            files[relative.as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return files


def read_declaration(folder: Path) -> dict[str, Any]:
    """watermark.json of a release. Raises OutputError if there is none or it is not readable."""
    path = folder / DECLARATION
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror or error}; is this a release?") from error
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{path} is not JSON; get the release again") from error
    if not isinstance(content, dict) or content.get("format") != "stablesig-watermark":
        raise OutputError(f"{path} declares no watermark of stablesig; get the release again")
    return content


def write_release_record(folder: Path, signing_key: Path | None = None) -> ReleaseRecord:
    """Sign a release folder; without a key only say what would be signed.

    The same files and key give the same record, and a record that is right already is left alone. Raises
    OutputError (no release, or the record of other files or another key in the way), UsageError (a key that
    cannot sign), MissingExtraError.
    """
    files = release_files(folder)
    release = read_declaration(folder).get("release")
    claims = {name: release[name] for name in CLAIMS if name in release} if isinstance(release, dict) else {}
    if signing_key is None:
        if (folder / FOLDER).exists():
            raise OutputError(
                f"{folder / FOLDER} holds the record of a signed release; give --signing-key, or remove it"
            )
        return ReleaseRecord(files, False, None, ())
    with needs_cryptography("signing a release"):
        key = load_signing_key(signing_key)
        pem = public_pem(key.public_key())
        name = str(claims.get("repo_id", folder.name))
        bundle = sign(statement(name, files, (FOLDER, *GIT_PATHS), claims), key)
    record = {SIGNATURE: bundle, SIGNER_KEY: pem}
    signer = hashlib.sha256(pem).hexdigest()
    if (folder / FOLDER).exists():
        there = check_release_record(folder)
        if there.problems or there.signer != signer:
            raise OutputError(
                f"{folder / FOLDER} holds the record of other files or another key; remove it first"
            )
    else:
        (folder / FOLDER).mkdir()
        write_new_files([NewFile(folder / path, content) for path, content in record.items()])
    return ReleaseRecord(files, True, signer, tuple(record))


def check_release_record(folder: Path, signing_key: Path | None = None) -> RecordCheck:
    """Check the signature of a release folder against its files.

    signing_key: the publisher's public key in PEM, from somewhere else than the release. Without it, the key
    that lies in the release is used, which shows that the files belong together and not whose they are.
    Raises UsageError (a bad key file), MissingExtraError if there is something to check and no cryptography.
    """
    path, lying = folder / SIGNATURE, folder / SIGNER_KEY
    if not path.is_file():
        problem = ("the release is not signed, though a signer was named",) if signing_key else ()
        return RecordCheck(False, None, False, {}, problem)
    if signing_key is None and not lying.is_file():
        return RecordCheck(True, None, False, {}, ("there is a signature, but no key to check it with",))
    key_path = signing_key or lying
    try:
        key = load_public_key(key_path.read_bytes(), SIGNER_KEY if signing_key is None else str(key_path))
    except OSError as error:
        raise UsageError(f"{key_path} cannot be read: {error.strerror or error}; check the path") from error
    except UsageError as error:
        if signing_key is not None:
            raise
        return RecordCheck(True, None, False, {}, (str(error),))
    try:
        found = verified(read_bundle(path), key)
    except SignatureFormatError as error:
        return RecordCheck(True, None, False, {}, (str(error),))
    if found is None:
        whose = str(signing_key) if signing_key else "the key that lies beside it"
        return RecordCheck(True, None, False, {}, (f"the signature is not by {whose}",))
    return RecordCheck(
        True, found.signer, signing_key is not None, found.claims, tuple(_differences(folder, found))
    )


def _differences(folder: Path, signed: SignedStatement) -> list[str]:
    problems = []
    unsound = [path for path in signed.ignored if path not in (FOLDER, *GIT_PATHS)]
    if unsound:  # a signature that leaves out the weights would pass for one over everything
        problems.append(f"the signature leaves out {', '.join(unsound)}")
    problems += compare_files(signed.files, release_files(folder), "signed")
    try:
        release = read_declaration(folder).get("release")
    except OutputError as error:
        return [*problems, str(error).replace(f"{folder}/", "")]
    declared = release if isinstance(release, dict) else {}
    problems += [
        f"what is signed as {name} differs from watermark.json"
        for name in CLAIMS
        if signed.claims and signed.claims.get(name) != declared.get(name)  # none where others signed
    ]
    return problems


def compare_files(wanted: Mapping[str, str], found: Mapping[str, str], what: str) -> list[str]:
    """What differs between two maps of path -> SHA-256, a line for each kind, with the files named."""
    kinds = {
        f"{what}, but missing": sorted(wanted.keys() - found.keys()),
        f"there, but not {what}": sorted(found.keys() - wanted.keys()),
        f"not as {what}": sorted(
            path for path in wanted.keys() & found.keys() if wanted[path] != found[path]
        ),
    }
    return [f"{kind}: {', '.join(paths)}" for kind, paths in kinds.items() if paths]
