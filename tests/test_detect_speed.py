"""The speed benchmark runs, and its yardsticks are what they are said to be. No time is asserted."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "detect_speed.py"


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    specification = importlib.util.spec_from_file_location("detect_speed", BENCHMARK)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_size_gets_its_rows(speed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SIDES", (64, 96))
    monkeypatch.setattr(speed, "LARGE", (300, 200))
    rows = list(speed.rows(speed.drawn(128), speed.drawn_key(), repeats=2, extractor=False))
    assert [row[:2] for row in rows[:6]] == [
        (what, size)
        for size in ("64", "96")
        for what in ("Pillow decodes JPEG", "features", "whole detection")
    ]
    assert rows[6][:2] == ("whole detection", "300 x 200")
    assert {len(row) for row in rows} == {6}
    assert all(float(row[4]) > 0 for row in rows[:7])
    assert rows[-1][2].endswith("MiB")


def test_the_files_have_the_size_and_the_subsampling_that_is_said(speed: ModuleType) -> None:
    image = Image.open(io.BytesIO(speed.jpeg(speed.drawn(100), 250, 130)))
    assert image.size == (250, 130)
    assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # 4:2:0


def test_the_yardstick_has_75_giga_multiplications_at_512_px(speed: ModuleType) -> None:
    torch = pytest.importorskip("torch")
    import numpy as np

    counted = 0

    def count(module, inputs, output) -> None:
        nonlocal counted
        if isinstance(module, torch.nn.Conv2d):
            counted += module.weight.numel() * output.shape[2] * output.shape[3]

    handle = torch.nn.modules.module.register_module_forward_hook(count)
    threads = torch.get_num_threads()
    try:
        assert speed.extractor_task(np.zeros((32, 32, 3), np.uint8))().shape == (1, 48)
    finally:
        handle.remove()
        torch.set_num_threads(threads)
    assert counted * (512 / 32) ** 2 == pytest.approx(75.3e9, rel=0.01)


def test_the_tasks_take_turns(speed: ModuleType) -> None:
    order: list[str] = []
    least = speed.fastest([lambda: order.append("a"), lambda: order.append("b")], 2)
    assert order == ["a", "b"] * 3
    assert len(least) == 2
    assert "torch" in sys.modules or min(least) >= 0
