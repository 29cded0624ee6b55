"""Signed records of a release: what they catch, and that another implementation reads and writes the same."""

from __future__ import annotations

import base64
import json
import shutil
import stat
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from stablesig.release_record import (
    SIGNATURE,
    SIGNER_KEY,
    check_release_record,
    release_files,
    write_release_record,
)
from stablesig.release_signature import SignatureFormatError, load_public_key, make_signing_key, verified
from stablesig_detector.errors import OutputError, OutputExistsError, UsageError

GOLDEN = Path(__file__).parent / "golden"
RELEASE = {
    "repo_id": "org/tiny",
    "key_commitment_sha256": "11" * 32,
    "training_merkle_root": "22" * 32,
    "decoder_sha256": "33" * 32,
    "stablesig_version": "0.1.0",
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    made = {name: folder / f"{name}.pem" for name in ("publisher", "stranger")}
    for path in made.values():
        make_signing_key(path)
    return made | {f"{name}-public": path.with_name(f"{name}.pub.pem") for name, path in made.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "vae").mkdir(parents=True)
    (folder / "watermark.json").write_text(json.dumps({"format": "stablesig-watermark", "release": RELEASE}))
    (folder / "vae" / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_signed_release_checks_and_says_what_it_commits_to(folder: Path, keys: dict[str, Path]) -> None:
    record = write_release_record(folder, keys["publisher"])
    assert record.added == (SIGNATURE, SIGNER_KEY)
    assert record.files.keys() == {"watermark.json", "vae/model.safetensors"}
    check = check_release_record(folder, keys["publisher-public"])
    assert (check.signed, check.trusted, check.problems) == (True, True, ())
    assert check.signer == record.signer
    assert check.claims == RELEASE
    by_itself = check_release_record(folder)
    assert (by_itself.trusted, by_itself.problems) == (False, ())


def test_signing_again_changes_nothing_and_other_content_is_not_signed_over(
    folder: Path, keys: dict[str, Path], tmp_path: Path
) -> None:
    write_release_record(folder, keys["publisher"])
    copy = tmp_path / "again" / "tiny"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("provenance"))
    write_release_record(copy, keys["publisher"])
    write_release_record(folder, keys["publisher"])
    for name in (SIGNATURE, SIGNER_KEY):
        assert (copy / name).read_bytes() == (folder / name).read_bytes(), (
            "the signature is not deterministic"
        )
    for key in (keys["stranger"], None):
        with pytest.raises(OutputError, match="remove it"):
            write_release_record(folder, key)
    (folder / "vae" / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(OutputError, match="record of other files"):
        write_release_record(folder, keys["publisher"])


def test_every_change_after_signing_is_named(folder: Path, keys: dict[str, Path]) -> None:
    write_release_record(folder, keys["publisher"])
    (folder / "vae" / "model.safetensors").write_bytes(b"Weights")
    (folder / "vae" / "extra.bin").write_bytes(b"")
    (folder / ".gitattributes").write_bytes(b"of the Hub")
    declared = {"format": "stablesig-watermark", "release": RELEASE | {"key_commitment_sha256": "44" * 32}}
    (folder / "watermark.json").write_text(json.dumps(declared))
    assert check_release_record(folder, keys["publisher-public"]).problems == (
        "there, but not signed: vae/extra.bin",
        "not as signed: vae/model.safetensors, watermark.json",
        "what is signed as key_commitment_sha256 differs from watermark.json",
    )
    (folder / "vae" / "model.safetensors").unlink()
    assert "signed, but missing: vae/model.safetensors" in check_release_record(folder).problems


def test_a_forged_signature_is_seen(folder: Path, keys: dict[str, Path]) -> None:
    write_release_record(folder, keys["stranger"])
    assert check_release_record(folder).problems == ()  # it only holds together
    check = check_release_record(folder, keys["publisher-public"])
    assert check.problems == (f"the signature is not by {keys['publisher-public']}",)
    assert check.signer is None
    bundle = json.loads((folder / SIGNATURE).read_text())
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload["predicate"]["resources"][0]["digest"] = "00" * 32
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    (folder / SIGNATURE).write_text(json.dumps(bundle))
    assert check_release_record(folder).problems == ("the signature is not by the key that lies beside it",)


def test_a_signature_that_leaves_out_the_weights_is_no_good(folder: Path, keys: dict[str, Path]) -> None:
    from stablesig.release_signature import load_signing_key, sign, statement

    files = {path: digest for path, digest in release_files(folder).items() if not path.startswith("vae")}
    write_release_record(folder, keys["publisher"])
    bundle = sign(statement("x", files, ("provenance", "vae"), RELEASE), load_signing_key(keys["publisher"]))
    (folder / SIGNATURE).write_bytes(bundle)
    problems = check_release_record(folder, keys["publisher-public"]).problems
    assert "the signature leaves out vae" in problems
    assert "there, but not signed: vae/model.safetensors" in problems


def test_a_folder_that_is_a_link_is_no_part_of_a_release(folder: Path, keys: dict[str, Path]) -> None:
    (folder / "vae").rename(folder.parent / "elsewhere")
    (folder / "vae").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(OutputError, match="is no ordinary file"):
        release_files(folder)


def test_a_damaged_key_in_the_release_is_the_release_s_problem(folder: Path, keys: dict[str, Path]) -> None:
    write_release_record(folder, keys["publisher"])
    (folder / "provenance" / "signing-key.pub.pem").write_text("none")
    [problem] = check_release_record(folder).problems
    assert "signing-key.pub.pem is no public key" in problem


def test_nothing_signed_is_said_and_is_a_problem_only_if_a_signer_was_named(
    folder: Path, keys: dict[str, Path]
) -> None:
    record = write_release_record(folder)
    assert (record.signed, record.added) == (False, ())
    assert check_release_record(folder).problems == ()
    assert check_release_record(folder, keys["publisher-public"]).problems


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"dsseEnvelope": {"payload": 1}}', b"[" * 9999]
)
def test_what_is_no_signature_is_a_problem_and_no_crash(
    content: bytes, folder: Path, keys: dict[str, Path]
) -> None:
    write_release_record(folder, keys["publisher"])
    (folder / SIGNATURE).write_bytes(content)
    (problem,) = check_release_record(folder).problems
    assert "no Sigstore bundle" in problem


def test_a_bundle_of_model_signing_is_read(tmp_path: Path) -> None:
    """Signed by model-signing 1.1.1 itself, with `use_elliptic_key_signer`."""
    pem = (GOLDEN / "model-signing-1.1.1.pub.pem").read_bytes()
    bundle = (GOLDEN / "model-signing-1.1.1.sig").read_bytes()
    signed = verified(bundle, load_public_key(pem, "golden"))
    assert signed is not None
    folder = tmp_path / "tiny"
    (folder / "vae").mkdir(parents=True)
    (folder / "watermark.json").write_text('{"format": "stablesig-watermark"}\n')
    (folder / "vae" / "model.safetensors").write_text("weights")
    assert signed.files == release_files(folder)
    (folder / "provenance").mkdir()
    (folder / SIGNATURE).write_bytes(bundle)
    assert check_release_record(folder, GOLDEN / "model-signing-1.1.1.pub.pem").problems == ()


def test_model_signing_itself_accepts_our_signature(folder: Path, keys: dict[str, Path]) -> None:
    verifying = pytest.importorskip("model_signing.verifying", exc_type=ImportError)
    write_release_record(folder, keys["publisher"])
    config = verifying.Config().use_elliptic_key_verifier(public_key=keys["publisher-public"])
    config.verify(folder, folder / SIGNATURE)
    (folder / "vae" / "model.safetensors").write_bytes(b"others")
    with pytest.raises(ValueError, match=r"Hash mismatch for 'vae/model\.safetensors'"):
        config.verify(folder, folder / SIGNATURE)


def test_a_signing_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    public, digest = make_signing_key(tmp_path / "me.pem")
    assert public == tmp_path / "me.pub.pem"
    assert len(digest) == 64
    assert stat.S_IMODE((tmp_path / "me.pem").stat().st_mode) == 0o600
    with pytest.raises(OutputExistsError):
        make_signing_key(tmp_path / "me.pem")
    with pytest.raises(UsageError, match=r"NAME\.pem"):
        make_signing_key(tmp_path / "me.json")


def test_keys_that_cannot_sign_are_explained_and_not_quoted(folder: Path, keys: dict[str, Path]) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain, locked = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"x")
    bad = {
        "is encrypted": ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, pkcs8, locked),
        "Ed25519": ed25519.Ed25519PrivateKey.generate().private_bytes(pem, pkcs8, plain),
        "secp256k1": ec.generate_private_key(ec.SECP256K1()).private_bytes(pem, pkcs8, plain),
        "is no private key": keys["publisher-public"].read_bytes(),
    }
    path = folder.parent / "bad.pem"
    for words, content in bad.items():
        path.write_bytes(content)
        with pytest.raises(UsageError, match=words) as caught:
            write_release_record(folder, path)
        assert caught.value.__context__ is None
    with pytest.raises(UsageError, match="cannot be read"):
        write_release_record(folder, folder / "none.pem")
    with pytest.raises(SignatureFormatError):
        verified(b"{}", load_public_key(keys["publisher-public"].read_bytes(), "publisher"))
