"""The command that trains the shipped autoencoder, and the autoencoder and photographs that ship."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import load_file

from stablesig_detector.errors import (
    ImageError,
    OutputError,
    OutputExistsError,
    TrainingError,
    UsageError,
)
from stablesig_train import autoencoder_trainer, default_model
from stablesig_train.autoencoder_trainer import Settings, Trainer, learning_rate_share, reconstruction_loss
from stablesig_train.default_model import evaluate, main, psnr, train
from stablesig_train.linear_start import start_linear
from stablesig_train.photographs import CropSampler, list_images, split_images

DATA = Path(str(files("stablesig") / "data"))
SHIPPED = DATA / "tiny-vae"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SMALL = Settings(steps=3, width=8, latent_channels=4, batch=2, crop=32, precision="float32")
CREATIVE_COMMONS = {"CC0-1.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-3.0-US", "CC-BY-SA-4.0"}


def rows(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS)


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four photographs of the package."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("brushes-1.jpg", "dogs-1.jpg", "mountains-1.jpg", "wine-1.jpg"):
        (folder / name).write_bytes((DATA / "demo-train" / name).read_bytes())
    return folder


@pytest.fixture
def checkpoint_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_model, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[torch.Tensor], None]], None]:
    """`before_step(n, act)` calls act with the crops of step n before the step is taken."""

    def arrange(number: int, act: Callable[[torch.Tensor], None]) -> None:
        original = Trainer.advance

        def advance(self: Trainer, images: torch.Tensor) -> float:
            if self.step == number:
                act(images)
            return original(self, images)

        monkeypatch.setattr(Trainer, "advance", advance)

    return arrange


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """A disk that is full after `size` bytes of a file, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# What ships


def test_shipped_model_loads_with_plain_diffusers_and_is_small() -> None:
    model = AutoencoderTiny.from_pretrained(SHIPPED)
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 6e6
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    with torch.no_grad():
        latents = model.encode(torch.zeros(1, 3, 64, 96)).latents
        assert latents.shape == (1, 16, 8, 12)
        assert model.decode(latents).sample.shape == (1, 3, 64, 96)


def test_shipped_model_reconstructs_photographs_it_never_saw() -> None:
    found = evaluate(AutoencoderTiny.from_pretrained(SHIPPED), list_images(DATA / "demo-images"))
    assert len(found) == 4
    assert sum(found.values()) / 4 >= 27
    assert min(found.values()) >= 22


def test_latents_of_the_shipped_model_survive_storage_as_bytes() -> None:
    """AutoencoderTiny.forward rounds them to 8 bits over [-3, 3], which cuts off what lies outside."""
    model = AutoencoderTiny.from_pretrained(SHIPPED)
    sampler = CropSampler(list_images(DATA / "demo-images"), 256)
    images = sampler.draw(4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        direct = model.decode(model.encode(images * 2 - 1).latents).sample
        stored = model(images * 2 - 1).sample
    lost = torch.tensor(psnr(direct / 2 + 0.5, images)) - torch.tensor(psnr(stored / 2 + 0.5, images))
    assert lost.max() < 0.3


def test_model_manifest_lists_each_training_image_once_with_an_open_licence() -> None:
    found = rows(SHIPPED / "manifest.tsv")
    assert len(found) == 115
    assert len({row["sha256"] for row in found}) == len({row["file"] for row in found}) == 115
    for row in found:
        assert len(bytes.fromhex(row["sha256"])) == 32
        assert row["licence"] in CREATIVE_COMMONS | {"GPL-2.0-or-later"}
        assert all(row[name] for name in ("debian_package", "version", "path", "copyright"))


@pytest.mark.parametrize(
    ("folder", "count", "side", "limit", "role"),
    [("demo-images", 4, 512, 500_000, "held-out"), ("demo-train", 20, 384, 1_000_000, "train")],
)
def test_shipped_photographs_match_their_manifest(
    folder: str, count: int, side: int, limit: int, role: str
) -> None:
    roles = {row["file"]: row["role"] for row in rows(SHIPPED / "manifest.tsv")}
    found = rows(DATA / folder / "manifest.tsv")
    paths = list_images(DATA / folder)
    assert sorted(row["file"] for row in found) == [path.name for path in paths]
    assert len(paths) == count
    assert sum(path.stat().st_size for path in paths) < limit
    for row in found:
        path = DATA / folder / row["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        assert row["licence"] in CREATIVE_COMMONS
        assert row["licence_url"].startswith("https://creativecommons.org/")
        assert row["copyright"]
        assert "cropped" in row["change"]  # the licences ask that changes be named
        assert roles[row["training_file"]] == role
        with Image.open(path) as image:
            assert (image.size, image.mode, image.format) == ((side, side), "RGB", "JPEG")


# Training


def test_training_is_repeatable_and_leaves_only_the_model(photos: Path, tmp_path: Path) -> None:
    result = train(photos, tmp_path / "a" / "model", SMALL)
    train(photos, tmp_path / "b", SMALL)
    train(photos, tmp_path / "c", replace(SMALL, seed=1))
    assert result.steps == 3
    assert result.parameters == sum(tensor.numel() for tensor in weights(tmp_path / "b").values())
    assert same(tmp_path / "a" / "model", tmp_path / "b")
    assert not same(tmp_path / "b", tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "photos"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["model"]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["config.json", WEIGHTS]
    assert (tmp_path / "b" / WEIGHTS).stat().st_mode & 0o777 == 0o644
    model = AutoencoderTiny.from_pretrained(tmp_path / "b")
    assert model.encode(torch.zeros(1, 3, 16, 16)).latents.shape == (1, 4, 2, 2)


def test_linear_start_reconstructs_before_the_first_step() -> None:
    model = Settings().build()
    held_out = list_images(DATA / "demo-images")
    untrained = evaluate(model, held_out)
    sampler = CropSampler(list_images(DATA / "demo-train"), 64)
    generator = torch.Generator().manual_seed(0)
    start_linear(model, sampler.draw(64, generator), generator)
    started = evaluate(model, held_out)
    assert sum(untrained.values()) / 4 < 14
    assert sum(started.values()) / 4 > 24


def test_linear_start_names_what_it_cannot_start() -> None:
    crops, generator = torch.zeros(1, 3, 32, 32), torch.Generator()
    with pytest.raises(ValueError, match="even width of 6 or more, got 7"):
        start_linear(Settings(width=7).build(), crops, generator)
    with pytest.raises(ValueError, match="without blocks at full resolution"):
        start_linear(Settings(width=8, encoder_blocks=(1, 1, 1, 1)).build(), crops, generator)


def test_training_improves_on_the_start(photos: Path, tmp_path: Path) -> None:
    start = train(photos, tmp_path / "start", replace(SMALL, steps=1, learning_rate=1e-9))
    end = train(photos, tmp_path / "end", replace(SMALL, steps=120, batch=4, learning_rate=3e-4))
    assert end.held_out_psnr > start.held_out_psnr + 0.4


@pytest.mark.usefixtures("checkpoint_every_step")
def test_run_stopped_with_ctrl_c_resumes_to_the_same_model(
    photos: Path,
    tmp_path: Path,
    before_step: Callable[[int, Callable[[torch.Tensor], None]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = replace(SMALL, steps=6)
    train(photos, tmp_path / "straight", settings)

    def interrupt(images: torch.Tensor) -> None:
        raise KeyboardInterrupt

    before_step(4, interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(photos, tmp_path / "resumed", settings)
    assert not (tmp_path / "resumed").exists()
    with pytest.raises(OutputExistsError, match="unfinished run; continue it with --resume"):
        train(photos, tmp_path / "resumed", settings)
    with pytest.raises(UsageError, match="width 8, now 10"):
        train(photos, tmp_path / "resumed", replace(settings, width=10), resume=True)
    monkeypatch.undo()
    train(photos, tmp_path / "resumed", settings, resume=True)
    assert same(tmp_path / "straight", tmp_path / "resumed")
    assert not (tmp_path / "resumed.checkpoint").exists()


@pytest.mark.usefixtures("checkpoint_every_step")
def test_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    photos: Path, tmp_path: Path, before_step: Callable[[int, Callable[[torch.Tensor], None]], None]
) -> None:
    def spoil(images: torch.Tensor) -> None:
        images[0, 0, 0, 0] = math.nan

    before_step(2, spoil)
    with pytest.raises(TrainingError, match=r"loss is nan .* at step 2; .*model\.checkpoint keeps step 2"):
        train(photos, tmp_path / "model", SMALL)
    assert not (tmp_path / "model").exists()
    kept = Trainer(SMALL, tmp_path / "model.checkpoint")
    kept.load()
    assert kept.step == 2
    assert all(tensor.isfinite().all() for tensor in kept.model.state_dict().values())


def test_full_disk_leaves_the_checkpoint_and_no_half_model(photos: Path, tmp_path: Path) -> None:
    trainer = Trainer(SMALL, tmp_path / "model.checkpoint")
    trainer.save()
    before = trainer.checkpoint.read_bytes()
    with no_file_larger_than(20_000):
        with pytest.raises(OutputError, match=r"model\.checkpoint cannot be written"):
            trainer.save()
        with pytest.raises(OutputError, match=r"model cannot be written"):
            default_model.save_model(trainer.model, tmp_path / "model")
    assert trainer.checkpoint.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.checkpoint", "photos"]


def test_nothing_is_overwritten(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir()
    with pytest.raises(OutputExistsError, match="give a new folder name"):
        train(photos, out, SMALL)
    assert list(out.iterdir()) == []


def test_checkpoint_that_is_none_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "model.checkpoint").write_bytes(b"PK\x03\x04 but no more")
    with pytest.raises(TrainingError, match="not a usable checkpoint"):
        train(photos, tmp_path / "model", SMALL, resume=True)
    with pytest.raises(UsageError, match="nothing to resume"):
        train(photos, tmp_path / "other", SMALL, resume=True)


def test_learning_rate_warms_up_and_decays() -> None:
    shares = [learning_rate_share(progress / 100, 0.02) for progress in range(101)]
    assert shares[0] == 0.01
    assert shares[1] == 0.5
    assert max(shares) == shares[2] == 1.0
    assert shares[2:] == sorted(shares[2:], reverse=True)
    assert shares[100] == pytest.approx(0.01)


def test_loss_is_psnr_and_keeps_latents_inside_the_byte_range() -> None:
    images = torch.full((2, 3, 8, 8), 0.5)
    inside, outside = torch.full((2, 4, 1, 1), 3.0), torch.full((2, 4, 1, 1), -5.0)
    loss = reconstruction_loss(images + 0.1, images, inside)
    assert loss.item() == pytest.approx(math.log(0.01 + autoencoder_trainer.LOSS_FLOOR), abs=1e-5)
    punished = reconstruction_loss(images + 0.1, images, outside)
    assert punished.item() == pytest.approx(loss.item() + 4, abs=1e-5)


def test_psnr_is_that_of_the_saved_image() -> None:
    image = torch.full((1, 3, 4, 4), 100 / 255)
    assert psnr(image + 16 / 255, image)[0] == pytest.approx(20 * math.log10(255 / 16), abs=1e-6)
    assert psnr(image + 16.3 / 255, image)[0] == pytest.approx(20 * math.log10(255 / 16), abs=1e-6)
    assert psnr(torch.full_like(image, 7.0), torch.ones_like(image))[0] == 100.0  # clamped, then equal


# Photographs


def test_manifest_chooses_and_checks_the_images(photos: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in photos.iterdir())
    digests = {name: hashlib.sha256((photos / name).read_bytes()).hexdigest() for name in names}
    manifest = tmp_path / "manifest.tsv"

    def write(*lines: tuple[str, str, str]) -> None:
        manifest.write_text("file\tsha256\trole\n" + "".join("\t".join(line) + "\n" for line in lines))

    write((names[0], digests[names[0]], "train"), (names[2], digests[names[2]], "held-out"))
    assert split_images(photos, manifest) == ([photos / names[0]], [photos / names[2]])
    write((names[0], digests[names[1]], "train"), (names[2], digests[names[2]], "held-out"))
    with pytest.raises(ImageError, match=f"{names[0]} has SHA-256 {digests[names[0]]}"):
        split_images(photos, manifest)
    write(("absent.jpg", digests[names[0]], "train"))
    with pytest.raises(ImageError, match=r"absent\.jpg is missing"):
        split_images(photos, manifest)
    write((names[0], digests[names[0]], "test"))
    with pytest.raises(UsageError, match="role 'test'; use train or held-out"):
        split_images(photos, manifest)
    write((names[0], digests[names[0]], "train"))
    with pytest.raises(UsageError, match="at least one train and one held-out"):
        split_images(photos, manifest)
    with pytest.raises(UsageError, match="cannot read the manifest"):
        split_images(photos, tmp_path / "none.tsv")


def test_without_a_manifest_the_last_twentieth_is_held_out(photos: Path, tmp_path: Path) -> None:
    training, held_out = split_images(photos, None)
    assert [path.name for path in held_out] == ["wine-1.jpg"]
    assert len(training) == 3
    single = tmp_path / "single"
    single.mkdir()
    with pytest.raises(ImageError, match="holds no images"):
        split_images(single, None)
    (single / "a.jpg").write_bytes((photos / "wine-1.jpg").read_bytes())
    with pytest.raises(ImageError, match="give at least 2"):
        split_images(single, None)
    with pytest.raises(ImageError, match="not a folder"):
        split_images(single / "a.jpg", None)


def test_crops_come_from_the_photographs_and_detail_comes_more_often(tmp_path: Path) -> None:
    flat, detailed = tmp_path / "flat.png", tmp_path / "detailed.png"
    Image.new("RGB", (64, 64), (255, 0, 0)).save(flat)
    stripes = Image.new("RGB", (64, 64), (0, 0, 0))
    for column in range(0, 64, 2):
        stripes.paste((0, 0, 255), (column, 0, column + 1, 64))
    stripes.save(detailed)
    sampler = CropSampler([flat, detailed], 64)  # 64 px: only the full size is large enough
    assert [len(levels) for levels in sampler.levels] == [1, 1]
    crops = sampler.draw(200, torch.Generator().manual_seed(0))
    assert crops.shape == (200, 3, 64, 64)
    assert (crops.min().item(), crops.max().item()) == (0.0, 1.0)
    red = int((crops[:, 0].mean(dim=(1, 2)) == 1).sum())
    assert red in range(4, 30)  # weights 1 and 16: 11.8 expected
    with pytest.raises(ImageError, match="64x64 px; training crops have 72 px"):
        CropSampler([flat], 72)


# The command


def test_command_trains_then_measures(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    options = ["--steps", "2", "--width", "8", "--latent-channels", "4", "--batch", "2", "--crop", "32"]
    assert main(["--images", str(photos), "--out", str(out), *options]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["steps"] == 2
    assert result["settings"]["width"] == 8
    assert printed.err.startswith("step 2  training crops ")
    assert printed.err.endswith(" dB  0:00 left\n")
    assert main(["--evaluate", str(photos), "--model", str(out)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    values = {name: float(value) for name, value in (line.split("\t") for line in lines)}
    assert values["wine-1.jpg"] == pytest.approx(result["held_out_psnr"], abs=0.006)
    mean = sum(values.values()) / 4
    assert last.endswith(f" dB, worst {min(values.values()):.2f} dB, 4 images")
    assert float(last.split()[1]) == pytest.approx(mean, abs=0.011)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give --images DIR and --out FOLDER"),
        (["--images", "none", "--out", "x"], 3, "none is not a folder"),
        (["--images", "i", "--out", "x", "--crop", "60"], 2, "--crop is 60 px; give a multiple of 8"),
        (
            ["--images", "i", "--out", "x", "--width", "7"],
            2,
            "--width is 7; give an even number of 6 or more",
        ),
        (["--images", "i", "--out", "x", "--learning-rate", "nan"], 2, "--learning-rate is nan"),
        (["--images", "i", "--out", "x", "--steps", "-1"], 2, "--steps is -1"),
        (["--evaluate", "i"], 2, "--evaluate needs --model FOLDER"),
    ],
)
def test_command_says_what_is_wrong_and_leaves_nothing(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []
