"""The comparison with peers counts what was read, and hands invisible-watermark what that package expects."""

from __future__ import annotations

import importlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stablesig.suites import IMAGE_SUITES, ImageAttack
from stablesig_detector.errors import UsageError
from stablesig_detector.statistics import binomial_log10_p

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def _modules() -> list[Any]:
    """The scripts see each other as they do when they are run: their folder is on the path."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return [importlib.import_module(name) for name in ("peer_methods", "peer_table", "peers")]
    finally:
        sys.path.remove(str(BENCHMARKS))


peer_methods, peer_table, peers = _modules()

ATTACKS = ("none", "crop 10 %")


def reading(method: int, attack: str | None, matches: int | None, log10_p: float | None, **more: Any) -> Any:
    fields = {"key": 0, "image": 0, "ones": matches} | more
    return peer_table.Reading(method=method, attack=attack, matches=matches, log10_p=log10_p, **fields)


def comparison(**changed: Any) -> Any:
    marked = [reading(method, attack, 40, -9.0) for method in (0, 1) for attack in ATTACKS]
    unmarked = [reading(method, None, 20, -0.3, ones=48) for method in (0, 1)]
    method = peer_table.Method("stablesig", 48, [40.0], [1.5, 2.5, 3.5], {"fast": [0.1], "full": [0.9]})
    fields: dict[str, Any] = {
        "arguments": {"original": "taef2:m", "test": "kodak", "seed": 0},
        "versions": {"python": "3.11", "invisible-watermark": "0.2.0"},
        "machine": "cpu, a processor",
        "suite": "targets",
        "images": ["photo"],
        "size": "512 x 512",
        "keys": ["0123456789abcdef"],
        "methods": [method, replace(method, name="peer, 32 bits", n_bits=32, find_seconds={"": [0.25]})],
        "readings": marked + unmarked,
        "decode_seconds": [1.0, 2.0, 9.0],
        "left_out": [],
    }
    return peer_table.Comparison(**fields | changed)


@pytest.mark.parametrize(("n_bits", "fpr"), [(32, 1e-6), (48, 1e-6), (48, 1e-9), (20, 1e-6)])
def test_least_matches_is_where_the_p_value_passes_the_rate(n_bits: int, fpr: float) -> None:
    least = peer_table.least_matches(n_bits, fpr)
    assert binomial_log10_p(least, n_bits) <= math.log10(fpr) < binomial_log10_p(least - 1, n_bits)


def test_too_few_bits_never_reach_the_rate() -> None:
    assert peer_table.least_matches(19, 1e-6) is None  # 2^-19 is 1.9e-6


def test_evidence_counts_bits_of_either_value() -> None:
    assert peer_methods.evidence((1, 0, 1, 1), (1, 0, 0, 1)) == (3, 3, pytest.approx(math.log10(5 / 16)))
    assert peer_methods.evidence((0, 0), (0, 0)) == (2, 0, pytest.approx(math.log10(1 / 4)))


def test_a_refused_picture_is_not_detected_and_has_no_bits() -> None:
    assert peer_methods.evidence(None, (1, 0)) == (None, None, None)
    read, refused = reading(1, "none", 30, -6.9), reading(1, "none", None, None)
    assert (read.detected, refused.detected) == (True, False)
    assert peer_table.cell([read, refused], 32) == "1/2, 0.938, 1 refused"
    assert peer_table.cell([refused, refused], 32) == "0/2, refused"


def test_a_public_key_shows_detections_without_bits() -> None:
    assert peer_table.cell([reading(0, "none", None, -8.0)], 48) == "1/1"


def test_detection_is_at_the_rate_or_below() -> None:
    assert reading(0, "none", None, -6.0).detected
    assert not reading(0, "none", None, -5.99).detected


def test_published_figures_stand_at_attacks_that_exist_and_say_what_differs() -> None:
    known = {attack.name for name in ("targets", "legacy") for attack in IMAGE_SUITES[name].attacks}
    named = [name for figure in peer_table.PUBLISHED for name in figure.names]
    assert set(named) <= known
    assert len(named) == len(set(named))
    assert peer_table.published_cell("crop area 0.1") == "0.95"
    assert peer_table.published_cell("crop 10 %") == "0.95 (centre crop)"
    assert peer_table.published_cell("flip") == ""


def test_the_report_keeps_measured_and_published_apart() -> None:
    text = peer_table.markdown(comparison())
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count(" | ") for line in tables} == {3, 5}  # every row has as many cells as its head
    [crop] = [line for line in tables if line.startswith("| crop 10 %")]
    assert crop == "| crop 10 % | 1/1, 0.833 | 1/1, 1.250 | 0.95 (centre crop) |"
    assert "30 of 32 bits at least" in text
    assert "decodes in 2.500 s, unmarked 2.000 s | 0.100 s (fast), 0.900 s (full)" in text
    assert "| peer, 32 bits | 32 | 40.00 dB | 40.00 dB | 2.500 s | 0.250 s |" in text
    assert "PUBLISHED, not measured here" in text
    other = comparison(readings=[reading(0, "thumbnail 320", 40, -9.0)], left_out=["AVIF 50"])
    assert "bit accuracy |" not in peer_table.markdown(other)  # no column without a figure in it
    assert "cannot run here: AVIF 50" in peer_table.markdown(other)


def test_a_comparison_comes_back_from_its_file_and_prints_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(comparison().encoded())
    assert peer_table.Comparison.read(path) == comparison()
    assert peers.main(["--from", str(path)]) == 0
    assert capsys.readouterr().out == peer_table.markdown(comparison())
    assert peers.main(["--from", str(path), "--json", str(path)]) == 8  # never overwritten
    for change, message in (({"version": 2}, "of version 1"), ({"methods": [{"name": "x"}]}, "missing 4")):
        path.write_text(json.dumps(json.loads(comparison().encoded()) | change))
        with pytest.raises(UsageError, match=message):
            peer_table.Comparison.read(path)


def test_messages_differ_by_key_and_length_and_are_repeatable() -> None:
    drawn = {(key, bits): peer_methods.random_message(0, key, bits) for key in (0, 1) for bits in (32, 48)}
    assert {length: len(bits) for (_, length), bits in drawn.items()} == {32: 32, 48: 48}
    assert drawn[0, 32] != drawn[1, 32] != drawn[0, 48][:32]
    assert drawn[0, 48] == peer_methods.random_message(0, 0, 48) != peer_methods.random_message(1, 0, 48)


class FakePackage:
    """Stands for imwatermark: keeps the message in the blue channel, which OpenCV has first."""

    def __init__(self, kind: str = "bits", length: int = 0) -> None:
        self.length = length

    def set_by_bits(self, bits: Any) -> None:
        self.bits = bits

    def encode(self, picture: np.ndarray, method: str) -> np.ndarray:
        assert method == "dwtDct"
        assert picture.flags["C_CONTIGUOUS"]
        marked = picture.copy()
        marked[0, : len(self.bits), 0] = self.bits
        return marked

    def decode(self, picture: np.ndarray, method: str) -> np.ndarray:
        if picture.shape[0] < 4:
            raise RuntimeError("image too small, should be larger than 256x256")
        if picture.shape[1] < self.length:
            raise RuntimeError("another fault")
        return picture[0, : self.length, 0] > 0


def test_a_peer_sees_blue_first_and_may_refuse_small_pictures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    package = SimpleNamespace(WatermarkEncoder=FakePackage, WatermarkDecoder=FakePackage)
    monkeypatch.setitem(sys.modules, "imwatermark", package)
    peer = peer_methods.Peer("dwtDct", 8)
    sent = (1, 0, 1, 1, 0, 0, 1, 0)
    picture = np.full((8, 8, 3), 7, np.uint8)
    marked = peer.mark(picture, sent)
    assert tuple(marked[0, :, 2]) == sent  # blue is last in RGB
    assert (marked[..., :2] == 7).all()
    assert peer.read(marked) == sent
    assert peer.read(marked[:3]) is None
    with pytest.raises(RuntimeError, match="another fault"):
        peer.read(marked[:, :6])


def test_every_method_meets_the_same_crop_of_a_picture() -> None:
    places = []

    def note(picture: np.ndarray, place: int) -> np.ndarray:
        places.append(place)
        return picture

    attack = ImageAttack("note", "", note)
    context: Any = SimpleNamespace(marked=[np.zeros((4, 4, 3), np.uint8)] * 3, originals=[])
    contender: Any = SimpleNamespace(found=lambda picture, key, search: (None, None, None))
    for number in (0, 1):
        assert len(list(peers.read_all(contender, number, 0, [attack], context, 30))) == 3
    assert places == [30, 31, 32] * 2


def test_wrong_use_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--original", "v", "--watermarked", "w", "--key", "k", "--test", "t"]
    for arguments, message in (
        (["--original", "v"], "--watermarked, --key, --test"),
        ([*given, "--key", "k2"], "equally often"),
        ([*given, "--runs", "0"], "--runs is a whole number from 1"),
    ):
        with pytest.raises(SystemExit):
            peers.main(arguments)
        assert message in capsys.readouterr().err
