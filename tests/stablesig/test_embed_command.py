"""What `stablesig embed` makes of its options, and what it prints; no training here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stablesig.cli import main
from stablesig.progress import TrainingProgress

from .conftest import Gallery


@dataclass(frozen=True)
class Step:
    step: int
    steps: int
    statistic: float
    psnr_db: float


class Result:
    shortfall = "detected in 3 of 12"

    def __str__(self) -> str:
        return "out/vae: 40.5 dB"


def arguments(gallery: Gallery, *options: str) -> list[str]:
    return ["embed", "vae", "--key", str(gallery.secret), "--images", "photos", "--out", "out", *options]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every call of the training loop, which reports two steps and returns."""
    recorded: list[dict[str, Any]] = []

    def record(vae: str, key: Any, images: Path, out: Path, config: Any, **options: Any) -> Result:
        recorded.append({"vae": vae, "key": key, "images": images, "out": out, "config": config, **options})
        options["on_warning"]("skipped a\x1b.png: no image")
        options["progress"](Step(1, 2, 0.125, 45.0))
        options["progress"](Step(2, 2, 0.25, 40.5))
        return Result()

    monkeypatch.setattr("stablesig_train.embedding.embed", record)
    return recorded


def test_options_not_given_keep_the_defaults_of_the_configuration(
    gallery: Gallery, calls: list[dict[str, Any]]
) -> None:
    from stablesig_train.embedding import EmbedConfig

    assert main(arguments(gallery)) == 0
    [call] = calls
    assert call["config"] == EmbedConfig(device="auto")
    assert (call["vae"], call["images"], call["out"]) == ("vae", Path("photos"), Path("out"))
    assert call["resume"] is False


def test_options_reach_the_configuration(gallery: Gallery, calls: list[dict[str, Any]]) -> None:
    options = [
        "--psnr",
        "42",
        "--steps",
        "7",
        "--batch",
        "3",
        "--size",
        "128",
        "--seed",
        "9",
        "--device",
        "cpu",
    ]
    assert main(arguments(gallery, *options, "--resume")) == 0
    [call] = calls
    config = call["config"]
    assert (config.psnr, config.steps, config.batch, config.size) == (42.0, 7, 3, 128)
    assert (config.seed, config.device) == (9, "cpu")
    assert call["resume"] is True


def test_the_defaults_in_the_help_are_those_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    from stablesig_train.embedding import EmbedConfig

    assert main(["embed", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    shown = dict(re.findall(r"--(psnr|steps|batch|size|seed) [^-]*?\(default: ([0-9.]+)\)", text))
    defaults = EmbedConfig()
    assert {name: float(value) for name, value in shown.items()} == {
        name: float(getattr(defaults, name)) for name in ("psnr", "steps", "batch", "size", "seed")
    }


def test_results_go_to_stdout_and_progress_to_stderr(
    gallery: Gallery, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(gallery)) == 0
    out, err = capsys.readouterr()
    assert out == "out/vae: 40.5 dB\n"
    warning, step, shortfall = err.splitlines()
    assert warning == "stablesig: warning: skipped a\ufffd.png: no image"
    assert step == "step 2/2  statistic +0.250  PSNR 40.5 dB  0 s left"
    assert shortfall == "stablesig: warning: detected in 3 of 12"


@pytest.mark.parametrize("saved", [True, False])
def test_an_interruption_says_how_to_go_on(
    saved: bool,
    gallery: Gallery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stablesig_train.embedding.embed", interrupted)
    if saved:
        Path("out.partial").mkdir()
        Path("out.partial/checkpoint.pt").touch()
    assert main(arguments(gallery)) == 130
    err = capsys.readouterr().err
    assert err.startswith("stablesig: error: interrupted")
    assert ("out.partial/checkpoint.pt is kept" in err) is saved
    assert ("--resume" in err) is saved
    assert err.count("\n") == 1


def test_without_a_terminal_lines_are_rare(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("stablesig.progress.time.monotonic", lambda: clock[0])
    with TrainingProgress() as progress:
        for step in range(1, 101):
            clock[0] += 1.0
            progress(Step(step, 100, 0.1, 41.0))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["30/100", "60/100", "90/100", "100/100"]
    assert lines[0].endswith("68 s left") or lines[0].endswith("70 s left")
