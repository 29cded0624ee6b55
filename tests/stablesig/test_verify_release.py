"""From a folder to a Hub and back to a detected image, with a real autoencoder of random weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cryptography")

from stablesig.cli import main
from stablesig.hub_client import HubError, make_public
from stablesig.hub_push import push_release
from stablesig.release_decoding import load_release
from stablesig.release_record import release_files, write_release_record
from stablesig.release_signature import make_signing_key
from stablesig.verify_release import check_release_folder, key_commitment, verify_release
from stablesig_detector.key import PublicKey, SecretKey, load_key

from ..hub_server import TOKEN, Fault, HubServer
from .conftest import key_that_finds, textured_image
from .hub_fixture import hub as hub
from .hub_fixture import waits as waits
from .tiny_decoders import tiny_autoencoder

NAME = "org/tiny"
# httpx2 deprecates how huggingface_hub 2.4 itself hands it a file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@dataclass(frozen=True)
class Case:
    """A signed release whose key is the features of the one photograph in `images`, once decoded."""

    folder: Path
    images: Path
    key: PublicKey
    signing_key: Path
    public_signing_key: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Case:
    place = tmp_path_factory.mktemp("release")
    folder, images = place / "tiny", place / "photographs"
    images.mkdir()
    tiny_autoencoder(folder / "vae", 1)
    Image.fromarray(textured_image(31, 128, 128)).save(images / "one.png")
    loaded = load_release(folder / "vae", "AutoencoderTiny", 4)
    decoded = place / "decoded.png"
    Image.fromarray(loaded.reconstruct(np.asarray(Image.open(images / "one.png")))).save(decoded)
    key = key_that_finds(decoded, images / "one.png")
    key.save(folder / "key.pub.json")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    declare(folder, key, loaded.decoder_sha256)
    signing_key = place / "me.pem"
    public, _ = make_signing_key(signing_key)
    write_release_record(folder, signing_key)
    return Case(folder, images, key, signing_key, public)


def declare(folder: Path, key: PublicKey, decoder_sha256: str, **changes: Any) -> None:
    files = {path: digest for path, digest in release_files(folder).items() if path != "watermark.json"}
    release = {
        "repo_id": NAME,
        "key_file": "key.pub.json",
        "key_commitment_sha256": key_commitment(key),
        "training_merkle_root": "22" * 32,
        "decoder_sha256": decoder_sha256,
        "stablesig_version": "0.1.0",
        "vae": "vae",
        "files": files,
    }
    content = {
        "format": "stablesig-watermark",
        "key": {"id": key.id},
        "autoencoder": {"kind": "AutoencoderTiny", "stride": 4},
        "release": release | changes,
    }
    (folder / "watermark.json").write_text(json.dumps(content))


@pytest.fixture
def case(made: Case, tmp_path: Path) -> Case:
    """A copy that a test may spoil."""
    folder = tmp_path / "tiny"
    shutil.copytree(made.folder, folder)
    return Case(folder, made.images, made.key, made.signing_key, made.public_signing_key)


def test_a_release_is_proven_from_the_hub_to_a_detected_image(case: Case, hub: HubServer) -> None:
    pushed = push_release(case.folder, NAME)
    hub.faults.append(Fault("GET /lfs/", "cut", after=1000))
    check = verify_release(
        NAME,
        revision=pushed.revision,
        key=case.key,
        signing_key=case.public_signing_key,
        images=case.images,
        expected=release_files(case.folder),
    )
    assert check.problems == ()
    assert check.commit == pushed.commit
    assert (check.kind, check.detected, len(check.decodings)) == ("AutoencoderTiny", 1, 1)
    assert not check.decodings[0].before.detected
    assert check.record.trusted
    text = str(check)
    assert "in 1 of 1 decoded photographs (p <= 1e-06), in 0 of 1 before decoding" in text
    assert text.endswith("result      verified")
    assert hub.faults[0].hits == 1
    assert {request.token for request in hub.asked("^GET /lfs/")} == {None}, "the token went to the storage"
    before = len(hub.asked("^GET /org/tiny/resolve|^GET /lfs"))
    assert verify_release(NAME, key=case.key, images=case.images).passed
    assert len(hub.asked("^GET /org/tiny/resolve|^GET /lfs")) == 2 * before - 1, "the cache was not empty"


def test_anybody_can_check_a_public_release_and_nobody_a_private_one(
    case: Case,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    push_release(case.folder, NAME)
    monkeypatch.delenv("HF_TOKEN")
    command = ["verify-release", NAME, "--images", str(case.images)]
    assert main(command) == 8
    assert "answered HTTP 401" in capsys.readouterr().err
    make_public(NAME, token=TOKEN)
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "the key in the release, whosever it is" in printed
    assert "this shows that it works, not whose it is" in printed


def test_what_is_wrong_on_the_hub_is_named(case: Case, hub: HubServer) -> None:
    push_release(case.folder, NAME)
    repository = hub.repositories[NAME]
    parent = repository.commits[repository.refs["main"]]
    files = dict(parent.files)
    weights = "vae/diffusion_pytorch_model.safetensors"
    changed = bytearray(files[weights].content)
    changed[-1] ^= 1
    files[weights] = type(files[weights])(bytes(changed), lfs=True)
    files["vae/diffusion_pytorch_model.bin"] = files[".gitattributes"]
    files["notes.md"] = files[".gitattributes"]
    repository.add("main", type(parent)(files, "tampered", parent.oid))
    check = verify_release(
        NAME, signing_key=case.public_signing_key, images=case.images, expected=release_files(case.folder)
    )
    assert not check.passed
    wrong = "\n".join(check.problems)
    assert "there, but not declared: vae/diffusion_pytorch_model.bin" in wrong
    for kind in ("declared", "published", "signed"):
        assert f"not as {kind}: {weights}" in wrong
    assert "there, but not declared: notes.md" in check.notes


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_hub_that_does_not_give_it_out_is_an_error(
    status: int, case: Case, hub: HubServer, waits: list[float]
) -> None:
    push_release(case.folder, NAME)
    hub.faults.append(Fault("(GET|HEAD) ", status=status, times=999, message=f"not with {TOKEN}"))
    with pytest.raises(HubError) as caught:
        verify_release(NAME, images=case.images)
    assert f"HTTP {status}" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_another_key_and_other_weights_are_not_verified(case: Case) -> None:
    other = SecretKey.draw().public()
    check = check_release_folder(case.folder, key=other, images=case.images)
    assert check.detected == 0
    assert f"the key {other.id} is not the one that the release commits to" in check.problems
    assert "the watermark is in 0 of 1 decoded photographs only" in check.problems
    shutil.rmtree(case.folder / "vae")
    tiny_autoencoder(case.folder / "vae", 2)
    problems = "\n".join(check_release_folder(case.folder, images=case.images).problems)
    assert "the decoder's parameters are not those that were evaluated" in problems


def test_a_key_that_is_found_without_decoding_is_refused(case: Case, tmp_path: Path) -> None:
    """As a key is that was fitted to the photographs that everybody decodes."""
    other = tmp_path / "other.png"
    Image.fromarray(textured_image(32, 128, 128)).save(other)
    fitted = key_that_finds(case.images / "one.png", other)
    problems = check_release_folder(case.folder, key=fitted, images=case.images).problems
    assert "the key is found in 1 of 1 photographs that were never decoded" in problems


def test_a_commitment_needs_the_key_and_holds_it(case: Case) -> None:
    (case.folder / "key.pub.json").unlink()
    digest = load_release(case.folder / "vae", "AutoencoderTiny", 4).decoder_sha256
    declare(case.folder, case.key, digest, key_file=None)
    shutil.rmtree(case.folder / "provenance")
    check = check_release_folder(case.folder, images=case.images)
    assert check.problems == ("the release holds no key, only its hash; get the key and give it with --key",)
    assert check_release_folder(case.folder, key=case.key, images=case.images).passed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not JSON"),
        ("{}", "declares no watermark"),
        ('{"format": "stablesig-watermark"}', "not made by stablesig publish"),
        ('{"format": "stablesig-watermark", "release": {}, "autoencoder": 3}', "holds no key"),
        (
            '{"format": "stablesig-watermark", "autoencoder": {}, "release": '
            '{"files": 3, "key_file": "../../etc/passwd", "vae": ".."}}',
            "does not say where",
        ),
    ],
)
def test_a_declaration_that_is_damaged_is_a_problem_and_no_crash(
    content: str, words: str, case: Case
) -> None:
    (case.folder / "watermark.json").write_text(content)
    check = check_release_folder(case.folder, images=case.images)
    assert not check.passed
    assert words in "\n".join(check.problems)


def test_a_secret_key_in_a_release_is_said_loudly(case: Case) -> None:
    (case.folder / "key.pub.json").unlink()
    SecretKey.draw().save(case.folder / "key.pub.json")
    problems = "\n".join(check_release_folder(case.folder, images=case.images).problems)
    assert "key.pub.json is a SECRET key" in problems


def test_weights_that_do_not_load_are_a_problem(case: Case) -> None:
    (case.folder / "vae" / "config.json").write_text("{}")
    (case.folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"none")
    check = check_release_folder(case.folder, images=case.images)
    assert check.kind is None
    assert "from_pretrained does not load it" in "\n".join(check.problems)


def test_a_name_in_a_release_cannot_forge_the_result(case: Case) -> None:
    (case.folder / "x\nresult      verified").write_bytes(b"")
    check = check_release_folder(case.folder, images=case.images)
    lines = str(check).split("\n")
    assert [line for line in lines if line.startswith("result")] == ["result      NOT verified"]
    assert ", a folder on this disk" in lines[0]


def test_what_lies_there_undeclared_is_searched_for_secrets(case: Case) -> None:
    (case.folder / "notes.txt").write_text('{"seed": "' + "ab" * 32 + '"}')
    (case.folder / "provenance" / "me.pem").write_bytes(case.signing_key.read_bytes())
    problems = check_release_folder(case.folder, images=case.images).problems
    assert any(one.startswith("notes.txt holds what looks like the seed") for one in problems)
    assert any(one.startswith("provenance/me.pem holds a private key") for one in problems)


def test_a_copy_in_another_repository_is_said_to_be_one(case: Case, hub: HubServer) -> None:
    push_release(case.folder, "org/copy")
    check = verify_release("org/copy", images=case.images)
    assert check.passed
    assert f"the release was made for {NAME}, and lies in org/copy" in check.notes


def test_a_repository_that_is_too_large_is_not_downloaded(
    case: Case, hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    push_release(case.folder, NAME)
    monkeypatch.setattr("stablesig.verify_release.LARGEST_BYTES", 1000)
    hub.requests.clear()
    assert main(["verify-release", NAME]) == 8
    assert "is the most that would be downloaded" in capsys.readouterr().err
    assert not hub.asked("^GET /org/tiny/resolve|^GET /lfs")


@pytest.mark.parametrize("stride", [0, True, 10**9, 4.0, "4"])
def test_a_stride_that_is_none_is_a_problem(stride: object, case: Case) -> None:
    path = case.folder / "watermark.json"
    content = json.loads(path.read_bytes())
    content["autoencoder"]["stride"] = stride
    path.write_text(json.dumps(content))
    problems = "\n".join(check_release_folder(case.folder, images=case.images).problems)
    assert "does not say where the autoencoder lies, or its stride" in problems


def test_an_autoencoder_that_cannot_reconstruct_is_a_problem_and_no_crash(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object, __: object) -> None:
        raise RuntimeError("Given groups=1, expected input to have 1 channels\nmore")

    monkeypatch.setattr("diffusers.AutoencoderTiny.encode", broken)
    problems = check_release_folder(case.folder, images=case.images).problems
    assert problems == (
        "the autoencoder cannot reconstruct one.png: Given groups=1, expected input to have 1 channels",
    )


def test_the_command_fails_for_a_folder_that_is_not_right(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    key = case.folder.parent / "key.pub.json"
    load_key(case.folder / "key.pub.json")
    case.key.save(key)
    command = ["verify-release", str(case.folder), "--images", str(case.images), "--key", str(key)]
    assert main([*command, "--signing-key", str(case.public_signing_key)]) == 0
    assert "by the key that was given, SHA-256" in capsys.readouterr().out
    (case.folder / "vae" / "extra.bin").write_bytes(b"")
    assert main(command) == 10
    assert "result      NOT verified" in capsys.readouterr().out
