"""The release folder: exactly what is promised, the same every time, and nothing that must stay private."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from PIL import Image

from stablesig.card_facts import MissingFactError
from stablesig.evaluation_inputs import decoder_sha256, read_watermarked
from stablesig.gate import ReleaseRefusedError
from stablesig.release_folder import Release, prepare_release
from stablesig.secret_scan import scan_folder
from stablesig_detector.declaration import declared_key
from stablesig_detector.errors import DecoderError, OutputExistsError, UsageError
from stablesig_detector.key import load_key
from stablesig_detector.key_entry import KeyEntry
from stablesig_detector.registry import add_entry, revoke_entry
from stablesig_train.decoders import load_autoencoder

from .conftest import key_that_finds, textured_image
from .release_fixture import Publishable, finish, make_publishable

FILES = [
    "README.md",
    "detect.py",
    "evaluation.json",
    "key.pub.json",
    "pictures/side_by_side.png",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "watermark.json",
]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pristine")
    make_publishable(place)
    return place


@pytest.fixture
def case(pristine: Path, tmp_path: Path) -> Publishable:
    from .release_fixture import fixed_key

    place = tmp_path / "case"
    shutil.copytree(pristine, place)
    return Publishable(place / "marked", place / "report", fixed_key(), place / "original", place / "release")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def declared(release: Release) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((release.folder / "watermark.json").read_bytes())
    return found


def test_the_folder_holds_what_is_promised_and_nothing_else(case: Publishable) -> None:
    release = prepare_release(case.settings())
    found = contents(release.folder)
    assert list(found) == FILES == list(release.files)
    assert release.files == {name: hashlib.sha256(text).hexdigest() for name, text in found.items()}
    assert release.bytes == sum(map(len, found.values()))
    part = declared(release)["release"]
    assert part["files"] == {name: one for name, one in release.files.items() if name != "watermark.json"}
    assert part["key_commitment_sha256"] == release.key_commitment == release.files["key.pub.json"]
    assert load_key(release.folder / "key.pub.json") == case.key.public()
    assert declared_key(declared(release)).key == case.key.public()
    assert not list(case.out.parent.glob(".release*"))
    assert "pass  detection: 24 of 24" in str(release)


def test_the_weights_are_the_bytes_that_were_evaluated_and_load_in_diffusers(case: Publishable) -> None:
    from diffusers import AutoencoderTiny

    release = prepare_release(case.settings())
    name = "vae/diffusion_pytorch_model.safetensors"
    assert (release.folder / name).read_bytes() == (case.folder / name).read_bytes()
    AutoencoderTiny.from_pretrained(release.folder, subfolder="vae")
    assert decoder_sha256(load_autoencoder(release.folder)) == release.decoder_sha256
    assert read_watermarked(release.folder, case.key).source == release.folder / "vae"


def test_nothing_private_is_published(case: Publishable) -> None:
    release = prepare_release(case.settings())
    text = b"\n".join(content for name, content in contents(release.folder).items() if name != "detect.py")
    for private in (
        *(b"123456789", b"987654321", b"7.1234", b"0.4712", b"mean_statistic", b"worst_log10_p"),
        *(b"training_sha256", b"history", b"results.csv", b'seed": "', str(case.folder.parent).encode()),
    ):
        assert private not in text, private
    assert scan_folder(release.folder, case.key) == ()


def test_under_a_commitment_the_direction_is_nowhere(case: Publishable) -> None:
    release = prepare_release(case.settings(verification="commitment"))
    assert "key.pub.json" not in release.files
    assert release.key_file is None
    assert declared_key(declared(release)).key is None
    assert scan_folder(release.folder, case.key, direction_too=True) == ()
    case.key.public().save(case.out.parent / "later.pub.json")
    later = (case.out.parent / "later.pub.json").read_bytes()
    assert hashlib.sha256(later).hexdigest() == declared(release)["release"]["key_commitment_sha256"]
    assert release.key_commitment in (release.folder / "README.md").read_text()


@pytest.mark.parametrize("which", ["embedded", "released"])
def test_watermark_json_is_as_its_schema_says(which: str, case: Publishable) -> None:
    schema = json.loads((resources.files("stablesig") / "data" / "watermark.schema.json").read_bytes())
    content = json.loads((case.folder / "watermark.json").read_bytes())
    if which == "released":
        content = declared(prepare_release(case.settings()))
        assert "release" in content
        assert "training_sha256" not in content["images"]
    jsonschema.Draft202012Validator(schema).validate(content)


def test_the_same_again_changes_nothing(case: Publishable, tmp_path: Path) -> None:
    release = prepare_release(case.settings())
    before = contents(release.folder)
    (release.folder / "provenance").mkdir()
    (release.folder / "provenance" / "model.sig").write_bytes(b"signed")
    again = prepare_release(case.settings())
    assert again == release
    assert contents(again.folder) == before | {"provenance/model.sig": b"signed"}
    elsewhere = prepare_release(case.settings(out=tmp_path / "elsewhere" / "deeper"))
    assert contents(elsewhere.folder) == before


def test_another_release_is_not_overwritten(case: Publishable) -> None:
    before = contents(prepare_release(case.settings()).folder)
    with pytest.raises(OutputExistsError, match=r"README\.md"):
        prepare_release(case.settings(license="mit"))
    assert contents(case.out) == before
    assert not list(case.out.parent.glob(".release*"))


def test_in_the_root_the_autoencoder_lies_beside_the_card(case: Publishable) -> None:
    from diffusers import AutoencoderTiny

    release = prepare_release(case.settings(layout="root"))
    assert {"config.json", "diffusion_pytorch_model.safetensors", "README.md"} <= release.files.keys()
    assert release.vae == "."
    assert declared(release)["autoencoder"]["files"].keys() == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    AutoencoderTiny.from_pretrained(release.folder)
    assert 'from_pretrained("org/marked-vae")' in (release.folder / "README.md").read_text()


def test_half_precision_is_a_variant_that_diffusers_finds(case: Publishable) -> None:
    from diffusers import AutoencoderTiny

    release = prepare_release(case.settings(fp16=True))
    half = AutoencoderTiny.from_pretrained(
        release.folder, subfolder="vae", variant="fp16", torch_dtype=torch.float16
    )
    full = AutoencoderTiny.from_pretrained(release.folder, subfolder="vae")
    for name, value in half.state_dict().items():
        torch.testing.assert_close(value.float(), full.state_dict()[name], rtol=1e-3, atol=1e-3)
    assert "was not evaluated by itself" in (release.folder / "README.md").read_text()


def spoil_licence(case: Publishable) -> None:
    (case.folder / "vae" / "LICENSE").write_text(f"MIT, {case.key.seed.hex()}")
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (case.folder / "vae").iterdir()
    }
    case.change("watermark.json", autoencoder__files=digests)
    case.change("report.json", autoencoder__files_sha256=digests)


def spoil_picture(case: Publishable) -> None:
    with (case.folder / "report" / "side_by_side.png").open("ab") as file:
        file.write(case.key.seed)


def spoil_source(case: Publishable) -> None:
    case.change("watermark.json", config__note=case.key.seed.hex().upper())


@pytest.mark.parametrize("spoil", [spoil_licence, spoil_picture, spoil_source])
def test_a_release_with_the_secret_in_it_is_refused(
    spoil: Callable[[Publishable], None], case: Publishable
) -> None:
    spoil(case)
    with pytest.raises(ReleaseRefusedError, match="the secret key's seed") as refused:
        prepare_release(case.settings())
    assert case.key.seed.hex() not in str(refused.value).lower()
    assert not case.out.exists()
    assert not list(case.out.parent.glob(".release*"))


def test_the_gate_comes_before_the_folder_and_its_reason_goes_on_the_card(case: Publishable) -> None:
    case.change("report.json", quality__psnr_db__mean=31.0)
    with pytest.raises(ReleaseRefusedError, match=r"31\.00 dB mean, 38 wanted"):
        prepare_release(case.settings())
    assert not case.out.exists()
    release = prepare_release(case.settings(override_reason="for a demonstration only"))
    assert "for a demonstration only" in (release.folder / "README.md").read_text()
    part = declared(release)["release"]
    assert part["override_reason"] == "for a demonstration only"
    assert part["thresholds_missed"] == ["PSNR: 31.00 dB mean, 38 wanted"]


def test_a_reason_that_nothing_needs_is_not_published(case: Publishable) -> None:
    release = prepare_release(case.settings(override_reason="just in case"))
    assert b"just in case" not in b"".join(contents(release.folder).values())


def test_weights_with_another_decoder_than_the_report_s_are_refused(case: Publishable) -> None:
    case.change("report.json", autoencoder__decoder_sha256="0" * 64)
    with pytest.raises(DecoderError, match="another decoder"):
        prepare_release(case.settings())
    assert not case.out.exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"license": None}, "--license"),
        ({"base_license": None}, "--base-license"),
        ({"base_model": None}, "--base-model"),
        ({"base_license": "cc-by-nd-4.0"}, "forbids"),
        ({"license": "other"}, "--license-name"),
    ],
)
def test_licence_and_base_model_must_be_named(
    changes: dict[str, Any], problem: str, case: Publishable
) -> None:
    with pytest.raises(ReleaseRefusedError, match=problem):
        prepare_release(case.settings(**changes, override_reason="does not help"))


def test_the_base_model_is_the_one_that_was_watermarked(case: Publishable) -> None:
    case.change("watermark.json", autoencoder__source="org/base", autoencoder__revision="1" * 40)
    release = prepare_release(case.settings(base_model=None))
    assert "base_model: org/base" in (release.folder / "README.md").read_text()
    with pytest.raises(ReleaseRefusedError, match=r"watermark\.json names org/base"):
        prepare_release(case.settings(base_model="org/other"))


def test_a_key_that_a_registry_revokes_is_refused(case: Publishable, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    add_entry(registry, KeyEntry(case.key.public(), provider="org"))
    release = prepare_release(case.settings(registries=(registry,)))
    assert "the key is valid" in str(release)
    revoke_entry(registry, case.key.id, reason="the laptop was stolen")
    with pytest.raises(ReleaseRefusedError, match="the laptop was stolen"):
        prepare_release(case.settings(registries=(registry,), override_reason="never mind"))


def test_what_was_trained_on_must_be_known(case: Publishable, tmp_path: Path) -> None:
    from stablesig_train.training_images import find_images, manifest_sha256

    known = prepare_release(case.settings(out=tmp_path / "known")).training_merkle_root
    case.change("watermark.json", images__training_sha256=...)
    with pytest.raises(MissingFactError, match="--training-images"):
        prepare_release(case.settings())
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(6):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(photos / f"{number}.png")
    files = find_images(photos, lambda _: None)
    with pytest.raises(MissingFactError, match="does not hold the images"):
        prepare_release(case.settings(training_images=photos))
    case.change(
        "watermark.json",
        images__manifest_sha256=manifest_sha256(files),
        images__held_out_sha256=[files[0].sha256],
    )
    root = prepare_release(case.settings(training_images=photos)).training_merkle_root
    assert root != known
    assert len(root) == 64


def test_without_pictures_none_is_published_and_a_missing_one_is_noticed(case: Publishable) -> None:
    (case.folder / "report" / "side_by_side.png").unlink()
    with pytest.raises(UsageError, match="--no-pictures"):
        prepare_release(case.settings())
    release = prepare_release(case.settings(pictures=False))
    assert "![" not in (release.folder / "README.md").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"repo_id": "no-org"},
        {"verification": "none"},
        {"layout": "flat"},
        {"reports": ()},
        {"contact": " "},
    ],
)
def test_settings_are_checked(changes: dict[str, Any], case: Publishable) -> None:
    with pytest.raises(UsageError):
        case.settings(**changes)


def test_a_single_file_is_for_autoencoder_kl(case: Publishable) -> None:
    with pytest.raises(UsageError, match="leave --single-file out"):
        prepare_release(case.settings(single_file=True))


def test_detect_py_finds_the_watermark_and_knows_its_key(case: Publishable, tmp_path: Path) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    Image.fromarray(textured_image(1)).save(first)
    Image.fromarray(textured_image(2, slope=0.5)).save(second)
    key = key_that_finds(first, second)
    case.change("watermark.json", key__id=key.id)
    case.change("report.json", key__id=key.id)
    release = prepare_release(case.settings(key=key))

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(release.folder / "detect.py"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    found = run(first, second)
    assert (found.returncode, found.stderr) == (1, "")
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["detected", "not"]
    case.key.public().save(tmp_path / "other.pub.json")
    wrong = run("--key", tmp_path / "other.pub.json", first)
    assert wrong.returncode == 2
    assert "is not the key that this model was published with" in wrong.stderr
    torn = tmp_path / "torn.png"
    torn.write_bytes(first.read_bytes()[:200])
    for arguments in ((tmp_path / "none.png", first), (torn,), ("--key", first, first)):
        wrong = run(*arguments)
        assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False), wrong.stderr
    (release.folder / "watermark.json").unlink()
    wrong = run(first)
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False)
    assert "watermark.json is missing" in wrong.stderr


def test_the_public_key_is_enough_and_the_plan_says_what_was_not_looked_for(case: Publishable) -> None:
    release = prepare_release(case.settings(key=case.key.public()))
    assert any("by their format only" in note for note in release.notes)


def test_finish_makes_any_kind(tmp_path: Path, case: Publishable) -> None:
    marked = load_autoencoder(case.folder / "vae")
    again = finish(tmp_path / "again", marked, "0" * 64)
    assert prepare_release(again.settings()).folder == again.out
