"""`embed` from end to end on a small decoder with random weights: what it writes, resumes and refuses."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stablesig_detector.detection import detect
from stablesig_detector.errors import (
    ImageError,
    KeyFileError,
    OutputError,
    OutputExistsError,
    TrainingError,
    UsageError,
)
from stablesig_detector.key import SecretKey
from stablesig_detector.spectrum import DIMENSION, FEATURE_VERSION
from stablesig_detector.whitening import Whitening, load_default
from stablesig_train import embedding, finetuning
from stablesig_train.decoders import load_autoencoder
from stablesig_train.embedding import EmbedConfig, EmbedResult, TrainingStep, embed
from stablesig_train.held_out import (
    PSNR_TOLERANCE_DB,
    SCALE_RANGE,
    Control,
    Measurement,
    Robustness,
    control,
    decode_pixels,
    find_scale,
    psnr_db,
    robustness,
)
from stablesig_train.optimisation import rate_share
from stablesig_train.weight_files import read_tensors

from .textures import textured, textures_whitening

CONFIG = EmbedConfig(
    psnr=40, steps=6, batch=2, size=64, crops=8, checkpoint_every=2, learning_rate=1e-3, device="cpu"
)
DATA = Path(__file__).parents[2] / "stablesig" / "data"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def fixed_key(statistics_sha256: str, seed: int = 1) -> SecretKey:
    """The same key in every run of the tests, whatever it is worth."""
    return SecretKey(bytes([seed]) * 32, (0, 1, 1) * 16, FEATURE_VERSION, DIMENSION, statistics_sha256)


@dataclass(frozen=True)
class Bench:
    """Everything `embed` reads, and a place for what it writes."""

    vae: Path
    key: SecretKey
    whitening: Whitening
    images: Path
    out: Path

    @property
    def partial(self) -> Path:
        return self.out.with_name("out.partial")

    @property
    def checkpoint(self) -> Path:
        return self.partial / "checkpoint.pt"

    def embed(self, config: EmbedConfig = CONFIG, **options: Any) -> EmbedResult:
        given = {"key": self.key, "images": self.images, "out": self.out, "whitening": self.whitening}
        return embed(self.vae, config=config, **(given | options))


@pytest.fixture(scope="module")
def whitening() -> Whitening:
    return textures_whitening()


@pytest.fixture
def bench(tmp_path: Path, make_folder: Callable[..., Path], whitening: Whitening) -> Bench:
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(6):
        Image.fromarray(textured(seed, 96, 112)).save(images / f"{seed}.png")
    key = fixed_key(whitening.sha256)
    return Bench(make_folder("AutoencoderTiny"), key, whitening, images, tmp_path / "out")


def stop_after(step: int, how: Callable[[], None]) -> Callable[[TrainingStep], None]:
    def progress(report: TrainingStep) -> None:
        if report.step == step:
            how()

    return progress


def crash() -> None:
    raise RuntimeError("the machine went down")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_real_decoder_learns_the_key_and_holds_its_psnr(bench: Bench) -> None:
    seen: list[TrainingStep] = []
    config = replace(CONFIG, steps=30, psnr=40, size=128, crops=40, learning_rate=1e-3)
    result = embed(
        DATA / "tiny-vae",
        fixed_key(load_default().sha256, seed=3),
        DATA / "demo-train",
        bench.out,
        config,
        progress=seen.append,
    )
    assert [report.step for report in seen] == list(range(1, 31))
    assert {report.steps for report in seen} == {30}
    assert all(math.isfinite(value) for value in vars(seen[-1]).values())
    assert seen[-1].seconds_left == 0
    assert seen[-1].statistic > seen[0].statistic + 0.15  # 0.15 to 0.29 over three keys, this one's 0.29
    measured = result.measurement
    clean = measured.attacks[0]
    assert clean.name == "none"
    assert clean.mean_statistic > measured.control.mean_statistic + 0.07  # 0.04 to 0.18, this one's 0.18
    assert clean.median_log10_p < measured.control.median_log10_p
    low, high = SCALE_RANGE
    assert low < result.scale < high
    assert 40 <= measured.psnr_mean_db <= 40 + PSNR_TOLERANCE_DB
    text = str(result)
    assert f"{measured.psnr_mean_db:.2f} dB" in text
    assert result.key_id in text
    assert all(row.name in text for row in measured.attacks)


@pytest.mark.parametrize(("device", "calls"), [("cpu", 1), ("cuda", 0)])
def test_freed_memory_is_kept_on_a_cpu_only(
    device: str, calls: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(embedding, "choose_device", lambda name: torch.device(device))
    monkeypatch.setattr(embedding, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(embedding, "load_autoencoder", lambda *_, **__: crash())
    with pytest.raises(RuntimeError, match="the machine went down"):
        bench.embed()
    assert len(kept) == calls


def test_what_is_published_is_what_was_measured(bench: Bench) -> None:
    result = bench.embed()
    assert not bench.partial.exists()
    assert sorted(everything(bench.out)) == [
        "report/history.json",
        "report/loss_curve.png",
        "report/side_by_side.png",
        "vae/LICENSE",
        "vae/config.json",
        f"vae/{WEIGHTS}",
        "watermark.json",
    ]
    saved, original = load_autoencoder(bench.out / "vae"), load_autoencoder(bench.vae)
    facts = json.loads((bench.out / "watermark.json").read_text())
    by_hash = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in bench.images.iterdir()}
    quality, statistics = [], []
    for digest in facts["images"]["held_out_sha256"]:
        pixels = np.asarray(Image.open(by_hash[digest]))
        batch = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255  # sides fit the stride
        with torch.no_grad():
            latents = original.encode(batch)
        marked = decode_pixels(saved, latents)
        quality.append(psnr_db(marked, decode_pixels(original, latents)))
        statistics.append(detect(marked, [bench.key], whitening=bench.whitening)[0].statistic)
    measured = facts["measured"]
    assert measured["psnr_mean_db"] == pytest.approx(np.mean(quality), abs=0.02)
    assert measured["attacks"][0]["mean_statistic"] == pytest.approx(np.mean(statistics), abs=0.01)
    assert measured["images"] == facts["images"]["held_out"] == len(quality)
    assert measured["psnr_mean_db"] == result.measurement.psnr_mean_db


def test_only_the_decoder_changes(bench: Bench) -> None:
    bench.embed()
    before, after = read_tensors(bench.vae / WEIGHTS), read_tensors(bench.out / "vae" / WEIGHTS)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("decoder.") for name in changed)


def test_watermark_json_says_where_the_result_comes_from(bench: Bench) -> None:
    bench.embed()
    facts = json.loads((bench.out / "watermark.json").read_text())
    assert (facts["format"], facts["version"]) == ("stablesig-watermark", 1)
    assert facts["key"] == {
        "id": bench.key.id,
        "bits": 48,
        "feature_version": bench.key.feature_version,
        "dimension": bench.key.dimension,
        "statistics_sha256": bench.whitening.sha256,
    }
    assert EmbedConfig(**facts["config"]) == CONFIG
    assert facts["versions"]["torch"] == torch.__version__
    images = facts["images"]
    assert (images["found"], images["training"], images["held_out"], images["crops"]) == (6, 5, 1, 8)
    assert facts["autoencoder"]["files"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (bench.out / "vae").iterdir()
    }
    assert facts["autoencoder"]["source"] == "vae"  # the folder's name, not where it lies
    before = hashlib.sha256()
    for parameter in load_autoencoder(bench.vae).decoder_parameters():
        before.update(parameter.detach().numpy().tobytes())
    assert facts["autoencoder"]["original_decoder_sha256"] == before.hexdigest()
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in bench.images.iterdir()}
    assert images["training_sha256"] == sorted(digests - set(images["held_out_sha256"]))
    assert facts["run"]["seconds"] > 0
    assert facts["run"]["peak_memory_bytes"]["resident"] > 1e7
    assert [row["name"] for row in facts["measured"]["attacks"]] == [
        "none",
        "JPEG 80",
        "JPEG 50",
        "crop 25 %",
    ]
    history = json.loads((bench.out / "report" / "history.json").read_text())["steps"]
    assert [entry["step"] for entry in history] == [1, 2, 3, 4, 5, 6]


def test_no_file_holds_the_secret_and_the_public_key_only_if_asked(bench: Bench, tmp_path: Path) -> None:
    bench.embed(progress=stop_after(2, lambda: shutil.copytree(bench.partial, tmp_path / "while-it-runs")))
    seed, message = bench.key.seed, "".join(map(str, bench.key.message))
    direction = bench.key.direction_q.tolist()
    for folder in (bench.out, tmp_path / "while-it-runs"):
        for content in everything(folder).values():
            assert seed not in content
            assert seed.hex().encode() not in content
            assert message.encode() not in content
    assert "direction" not in json.loads((bench.out / "watermark.json").read_text())["key"]
    bench.embed(out=tmp_path / "public", publish_key=True)
    assert json.loads((tmp_path / "public" / "watermark.json").read_text())["key"]["direction"] == direction


@pytest.mark.parametrize("stop", ["SIGINT", "SIGTERM", "crash"])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(
    stop: str, bench: Bench, tmp_path: Path
) -> None:
    whole = bench.embed(out=tmp_path / "whole")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    if stop == "crash":  # after step 3, of which the checkpoint knows nothing
        with pytest.raises(RuntimeError):
            bench.embed(progress=stop_after(3, crash))
        saved = 2
    else:  # after step 3; the next one is finished and saved
        with pytest.raises(KeyboardInterrupt):
            bench.embed(progress=stop_after(3, lambda: os.kill(os.getpid(), getattr(signal, stop))))
        saved = 4
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not bench.out.exists()
    torch.manual_seed(99)  # the caller's generator has no say
    seen: list[TrainingStep] = []
    resumed = bench.embed(resume=True, progress=seen.append)
    assert [report.step for report in seen] == list(range(saved + 1, 7))
    for name in (f"vae/{WEIGHTS}", "report/history.json", "report/side_by_side.png"):
        assert (bench.out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert resumed.measurement == whole.measurement
    assert not bench.partial.exists()


def test_a_run_stopped_after_its_last_step_resumes_to_write(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embedding, "hold_psnr", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.embed()
    result = bench.embed(resume=True, progress=stop_after(0, crash))
    assert result.vae.is_dir()


@pytest.mark.parametrize("where", ["progress", "save"])
def test_a_signal_at_the_very_end_of_training_is_not_lost(
    where: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    real = finetuning.FineTuning.save

    def save(run: finetuning.FineTuning) -> None:
        real(run)
        if run.step == CONFIG.steps:
            stop()

    with monkeypatch.context() as patch:
        if where == "save":
            patch.setattr(finetuning.FineTuning, "save", save)
        with pytest.raises(KeyboardInterrupt):
            bench.embed(progress=stop_after(CONFIG.steps, stop) if where == "progress" else None)
    assert not bench.out.exists()
    assert torch.load(bench.checkpoint, weights_only=True)["step"] == CONFIG.steps


@pytest.mark.parametrize(("step", "advice"), [(1, "start anew"), (3, "use --resume")])
def test_a_full_disk_advises_to_resume_only_what_was_saved(
    step: int, advice: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.save

    def full(state: dict[str, Any], stream: Any) -> None:
        if state["step"] >= step:
            raise OSError(28, "No space left on device")
        real(state, stream)

    monkeypatch.setattr(finetuning.torch, "save", full)
    with pytest.raises(OutputError, match=f"free some space, then {advice}$"):
        bench.embed()
    assert bench.partial.exists() is (advice == "use --resume")


def test_the_control_shows_its_smallest_p_value() -> None:
    found = [
        SimpleNamespace(detected=False, statistic=0.1, log10_p_value=value) for value in (-0.1, -5.5, -2.0)
    ]
    row = control(found)  # type: ignore[arg-type]
    assert (row.lowest_log10_p, row.median_log10_p) == (-5.5, -2.0)
    marked = robustness("none", found)  # type: ignore[arg-type]
    assert marked.worst_log10_p == -0.1
    measured = Measurement(40.0, 39.0, (marked,), row, 1e-6, 3, 512)
    *_, none, original, _ = str(EmbedResult(Path("out"), "id", 1, 1.0, 1.0, measured)).splitlines()
    assert none.split() == ["none", "0/3", "+0.100", "1e-2.0", "1e-0.1"]
    assert original.split() == ["original", "decoder", "0/3", "+0.100", "1e-2.0", "1e-5.5", "(lowest)"]
    assert asdict(measured)["control"]["lowest_log10_p"] == -5.5


@pytest.mark.parametrize(("detected", "warned"), [(3, False), (2, True)])
def test_a_miss_among_untouched_images_is_a_shortfall(detected: int, warned: bool) -> None:
    row = Control(0, 3, 0.0, -0.3, -0.5)
    untouched, jpeg = (
        Robustness("none", detected, 3, 0.5, -9.0, -7.0),
        Robustness("JPEG", 0, 3, 0.1, -1.0, 0.0),
    )
    measured = Measurement(40.0, 39.0, (untouched, jpeg), row, 1e-6, 3, 512)
    shortfall = EmbedResult(Path("out"), "id", 1, 1.0, 1.0, measured).shortfall
    assert (shortfall is not None) is warned
    if shortfall is not None:
        assert "in 2 of 3" in shortfall


def test_the_seed_decides_and_the_callers_generator_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bench.embed()
    assert torch.equal(torch.rand(3), expected)
    bench.embed(out=tmp_path / "same")
    bench.embed(replace(CONFIG, seed=1), out=tmp_path / "other")
    first, same, other = (
        (folder / "vae" / WEIGHTS).read_bytes()
        for folder in (bench.out, tmp_path / "same", tmp_path / "other")
    )
    assert first == same != other


@pytest.mark.parametrize("changed", ["key", "psnr", "images", "decoder"])
def test_a_checkpoint_of_another_run_is_refused_and_kept(
    changed: str, bench: Bench, make_folder: Callable[..., Path]
) -> None:
    with pytest.raises(RuntimeError):
        bench.embed(progress=stop_after(3, crash))
    before = bench.checkpoint.read_bytes()
    options: dict[str, Any] = {}
    if changed == "key":
        options["key"] = fixed_key(bench.whitening.sha256, seed=2)
    elif changed == "psnr":
        options["config"] = replace(CONFIG, psnr=41)
    elif changed == "images":
        Image.fromarray(textured(77, 96, 96)).save(bench.images / "new.png")
    else:
        shutil.rmtree(bench.vae)
        make_folder("AutoencoderTiny", dtype=torch.float16)
    with pytest.raises(UsageError, match=rf"belongs to another run: {changed} \(was"):
        bench.embed(resume=True, **options)
    assert bench.checkpoint.read_bytes() == before


def test_device_and_checkpoint_interval_may_change_on_resuming(bench: Bench) -> None:
    with pytest.raises(RuntimeError):
        bench.embed(progress=stop_after(3, crash))
    bench.embed(replace(CONFIG, checkpoint_every=100, device="auto"), resume=True)


def test_a_damaged_checkpoint_is_named(bench: Bench) -> None:
    with pytest.raises(RuntimeError):
        bench.embed(progress=stop_after(3, crash))
    bench.checkpoint.write_bytes(bench.checkpoint.read_bytes()[:500])
    with pytest.raises(
        TrainingError, match=r"checkpoint\.pt is no usable checkpoint .* remove .*out\.partial"
    ):
        bench.embed(resume=True)


def test_a_checkpoint_of_an_earlier_release_is_refused(bench: Bench) -> None:
    with pytest.raises(RuntimeError):
        bench.embed(progress=stop_after(3, crash))
    state = torch.load(bench.checkpoint, weights_only=True)
    torch.save(state | {"version": 1}, bench.checkpoint)
    with pytest.raises(TrainingError, match=r"format 1, this release reads 2\); remove .*out\.partial"):
        bench.embed(resume=True)


def test_an_attacked_image_counts_four_times() -> None:
    short, full = torch.tensor([0.4, 0.4]), torch.tensor([0.9, 0.95])
    assert float(finetuning.watermark_loss(short, full, torch.tensor(0.0))) == pytest.approx(0.1)
    assert float(finetuning.watermark_loss(full, short, torch.tensor(0.0))) == pytest.approx(0.4)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    where: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = finetuning.watermark_loss
    calls = 0

    def failing(*terms: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = real(*terms)
        if calls < 4:
            return loss
        # the square root of 0 is finite, its derivative is not
        return loss * math.nan if where == "loss" else loss + (loss - loss.detach()).abs().sqrt()

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "watermark_loss", failing)
        with pytest.raises(TrainingError, match=rf"the {where} is (nan|inf) at step 4; .* keeps step 2"):
            bench.embed()
    assert not bench.out.exists()
    kept = torch.load(bench.checkpoint, weights_only=True)
    assert kept["step"] == 2
    assert all(bool(values.isfinite().all()) for values in kept["parameters"])
    assert bench.embed(resume=True).steps == 6  # the cause is gone: it goes on


def test_diverging_before_the_first_checkpoint_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "watermark_loss", lambda clean, *_: clean.mean() * math.inf)
    with pytest.raises(TrainingError, match="no step was saved yet; start anew") as raised:
        bench.embed()
    assert "--resume" not in str(raised.value)
    assert sorted(path.name for path in bench.out.parent.iterdir()) == ["images", "vae"]


def test_nothing_is_overwritten(bench: Bench) -> None:
    bench.out.mkdir()
    for resume in (False, True):
        with pytest.raises(OutputExistsError, match="out exists"):
            bench.embed(resume=resume)
    bench.out.rmdir()
    bench.partial.mkdir()
    with pytest.raises(OutputExistsError, match=r"holds no checkpoint; remove it to start anew"):
        bench.embed()
    with pytest.raises(UsageError, match=r"no unfinished run to resume: .*; remove .*out\.partial and leave"):
        bench.embed(resume=True)
    bench.checkpoint.touch()
    with pytest.raises(OutputExistsError, match=r"out\.partial holds an unfinished run; go on with --resume"):
        bench.embed()
    shutil.rmtree(bench.partial)
    with pytest.raises(UsageError, match=r"no unfinished run .* does not exist; leave out --resume"):
        bench.embed(resume=True)


def test_too_little_space_is_seen_before_training(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        embedding.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6)
    )
    with pytest.raises(OutputError, match="has 1 MB free, this run needs"):
        bench.embed()
    assert not bench.partial.exists()


def test_a_place_that_cannot_be_written_is_an_output_error(bench: Bench) -> None:
    (bench.out.parent / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/out\.partial cannot be made: (Not a directory|File exists)"):
        bench.embed(out=bench.out.parent / "file" / "out")


@pytest.mark.parametrize("when", ["training", "writing"])
def test_a_disk_that_fills_leaves_a_run_to_resume(
    when: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:  # no file may grow beyond 20 kB now: stands in for a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    real = embedding.measure

    def measure_then_fill(*given: Any) -> Any:
        measured = real(*given)
        fill()
        return measured

    try:
        with monkeypatch.context() as patch:
            if when == "writing":
                patch.setattr(embedding, "measure", measure_then_fill)
            with pytest.raises(OutputError, match="File too large"):
                bench.embed(progress=stop_after(3, fill) if when == "training" else None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not bench.out.exists()
    assert [path.name for path in bench.partial.iterdir()] == ["checkpoint.pt"]
    assert bench.embed(resume=True).vae.is_dir()


def test_bad_input_leaves_nothing(bench: Bench, tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="holds no images"):
        bench.embed(images=tmp_path / "empty")
    with pytest.raises(ImageError, match="0 of 6 images can be used"):
        bench.embed(replace(CONFIG, size=128))
    foreign = fixed_key("f" * 64)
    with pytest.raises(KeyFileError, match="is for whitening statistics ffff"):
        bench.embed(key=foreign)
    with pytest.raises(UsageError, match="multiple of the autoencoder's stride, 4; got 66"):
        bench.embed(replace(CONFIG, size=66))
    assert not bench.out.exists()
    assert not bench.partial.exists()


def test_unreadable_images_are_named_and_counted(
    bench: Bench, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (bench.images / "broken.png").write_bytes(b"no image")
    said: list[str] = []
    bench.embed(on_warning=said.append)
    assert [line.count("broken.png") for line in said] == [1]
    assert json.loads((bench.out / "watermark.json").read_text())["images"]["skipped"] == 1
    assert "broken.png" not in caplog.text
    bench.embed(out=tmp_path / "again")  # without a callback: logging, which prints to stderr by default
    [record] = [record for record in caplog.records if record.name == "stablesig_train.embedding"]
    assert record.levelname == "WARNING"
    assert "broken.png" in record.message


@pytest.mark.parametrize(
    "wrong",
    [
        {"psnr": 19.9},
        {"psnr": math.nan},
        {"steps": 0},
        {"steps": 2.5},
        {"batch": 0},
        {"size": 63},
        {"seed": -1},
        {"seed": True},
        {"device": "tpu"},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"warm_up": 1.0},
        {"averaging": 1.0},
        {"gradient_norm": math.inf},
        {"crops": 0},
        {"precision": "float16"},
        {"checkpoint_every": 0},
    ],
)
def test_settings_outside_their_range_are_refused(wrong: dict[str, Any]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(UsageError, match=rf"^{name} is .*; got {value!r}$"):
        EmbedConfig(**wrong)


def test_the_scale_meets_the_target_in_few_trials() -> None:
    trials: list[float] = []

    def psnr_at(scale: float) -> float:  # not quite 20 log10: some of the difference saturates
        trials.append(scale)
        return 38.7 - 18 * math.log10(scale)

    scale = find_scale(psnr_at, 40.0)
    assert 40.0 <= psnr_at(scale) <= 40.1
    assert len(trials) <= 5


@pytest.mark.parametrize(
    ("psnr_at", "expected"),
    [
        (lambda scale: 50 - 20 * math.log10(scale), SCALE_RANGE[1]),  # trained too gently: the upper end
        (lambda scale: 40.05, 1.0),  # fits as it is
        (lambda scale: 45.0 if scale < 0.7 else 30.0, pytest.approx(0.7, abs=0.1)),  # a cliff
    ],
)
def test_the_scale_where_the_target_cannot_be_met_exactly(
    psnr_at: Callable[[float], float], expected: Any
) -> None:
    scale = find_scale(psnr_at, 40.0)
    assert scale == expected
    assert psnr_at(scale) >= 40.0


def test_a_psnr_that_no_scale_reaches_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"25\.0 dB with 0\.05 of the change, the target is 40 dB"):
        find_scale(lambda _: 25.0, 40.0)


def test_the_rate_rises_then_falls() -> None:
    shares = [rate_share(step, 100, 0.1) for step in range(100)]
    assert shares[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert all(later <= earlier for earlier, later in pairwise(shares[9:]))
    assert 0.01 <= shares[-1] < 0.02
    assert rate_share(0, 1, 0.0) == 1.0
