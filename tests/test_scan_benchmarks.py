"""The benchmarks of scans: they measure what they say, on little here."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stablesig.scanning import api  # noqa: F401  pyarrow before any worker is forked
from stablesig_detector.screening import LUMA_STAGES, STAGES

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    scan_speed: Any = importlib.import_module("scan_speed")
    screening: Any = importlib.import_module("screening")
finally:
    sys.path.remove(str(BENCHMARKS))

DEMO = BENCHMARKS.parent / "stablesig" / "data" / "demo-images"


def test_it_scans_a_corpus_of_its_own_and_compares_with_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    arguments = [
        "--out",
        str(tmp_path / "out"),
        "--count",
        "12",
        "--side",
        "96",
        "--jobs",
        "1",
        "--keys",
        "5",
    ]
    monkeypatch.setattr(sys, "argv", ["scan_speed", *arguments, "--rounds", "1", "--json", str(figures)])
    assert scan_speed.main() == 0
    written = json.loads(figures.read_text())
    assert [(row["keys"], row["screen"]) for row in written["rows"]] == [(0, False), (5, False), (5, True)]
    assert all(row["images_per_second"] > 0 and row["cpu_ms"] > 0 for row in written["rows"])
    assert "| 1 | decoding alone |" in capsys.readouterr().out
    files = sorted((tmp_path / "out" / "12-of-96px-q90").iterdir())
    assert len({file.read_bytes() for file in files}) == 12
    with Image.open(files[0]) as image:
        assert image.size == (96, 96)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["12-of-96px-q90", "keys-5.safetensors"]


def test_a_cascade_is_read_as_it_is_written() -> None:
    stages = screening.cascade("Y324+324@0.05, 576+324@0.05")
    assert stages == (*LUMA_STAGES, *STAGES)


def test_it_counts_what_a_cascade_loses(tmp_path: Path) -> None:
    """A gate of 1 loses nothing, a gate that nothing passes loses everything that `detect` finds."""
    from stablesig_detector.key import PublicKey
    from stablesig_detector.spectrum import spectrum
    from stablesig_detector.whitening import load_default

    picture = next(iter(sorted(DEMO.iterdir())))
    marked, unmarked = tmp_path / "marked", tmp_path / "unmarked"
    for folder in (marked, unmarked):
        folder.mkdir()
    pixels = np.asarray(Image.open(picture).convert("RGB").resize((200, 200)))
    Image.fromarray(pixels).save(marked / "a.png")
    Image.fromarray(pixels[::-1, :120].copy()).save(unmarked / "b.png")
    phi = load_default().apply(spectrum(pixels).values)
    direction = np.rint(phi / np.linalg.norm(phi) * 2**20).astype(np.int32)
    key = tmp_path / "key.pub.json"
    PublicKey(direction, 48, "spectrum-1", load_default().sha256).save(key)
    study = screening.Study([(key, marked)], [unmarked])
    everything = study.row("Y50+25@1,50+25@1", 1)
    nothing = study.row("Y50+25@1e-300,50+25@1", 1)
    found = {name: of for name, (_, of) in everything["lost"].items()}
    assert found["PNG"] == 1
    assert sum(found.values()) >= 3
    assert all(lost == 0 for lost, _ in everything["lost"].values())
    assert {name: lost for name, (lost, _) in nothing["lost"].items()} == found | {"PNG": 0}
    assert nothing["shares"] == [0.0, 0.0]
    assert everything["shares"] == [1.0, 1.0]
    taken = screening.times(study.unmarked, ["Y50+25@0.1,50+25@0.1"], 3)
    assert 0 < taken["decode"] < taken["detect"]
    everything["ms"] = taken["Y50+25@0.1,50+25@0.1"]
    assert "0 of 1" in screening.table([everything], taken)
