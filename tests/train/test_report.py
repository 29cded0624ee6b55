"""Pictures, loss curve and watermark.json: what they show, and that a failure leaves the old file."""

import json
import math
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stablesig_detector.errors import OutputError
from stablesig_train.report import difference, loss_curve, side_by_side, write_watermark_json

HISTORY = [
    {
        "step": step,
        "psnr": 50 - step / 10,
        "statistic": step / 100,
        "attacked_statistic": step / 200,
        "loss": 9 / (1 + step),
    }
    for step in range(0, 60, 10)
]


def picture(seed: int, height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def occurs_at(sheet: NDArray[np.uint8], image: NDArray[np.uint8]) -> tuple[int, int] | None:
    """(top, left) of `image` within `sheet`, pixel by pixel."""
    height, width, _ = image.shape
    for top in range(sheet.shape[0] - height + 1):
        for left in range(sheet.shape[1] - width + 1):
            if (sheet[top, left] == image[0, 0]).all() and (
                sheet[top : top + height, left : left + width] == image
            ).all():
                return top, left
    return None


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def test_the_difference_is_magnified_around_grey_and_saturates() -> None:
    original = np.array([[[100, 100, 100], [0, 255, 10]]], dtype=np.uint8)
    marked = np.array([[[100, 101, 98], [255, 0, 10]]], dtype=np.uint8)
    assert difference(original, marked, 8).tolist() == [[[128, 136, 112], [255, 0, 128]]]
    assert difference(original, marked, 2).tolist() == [[[128, 130, 124], [255, 0, 128]]]


def test_the_picture_shows_each_pair_and_its_difference_in_one_row(tmp_path: Path) -> None:
    originals = [picture(1), picture(2, 30, 50)]
    marked = [picture(3), picture(4, 30, 50)]
    side_by_side(originals, marked, tmp_path / "sheet.png", names=["one", "two"])
    sheet = read(tmp_path / "sheet.png")
    places = [
        [occurs_at(sheet, image) for image in (before, after, difference(before, after, 8))]
        for before, after in zip(originals, marked, strict=True)
    ]
    tops = [[place[0] for place in row if place] for row in places]
    lefts = [[place[1] for place in row if place] for row in places]
    assert [len(row) for row in tops] == [3, 3]
    assert len(set(tops[0])) == len(set(tops[1])) == 1
    assert tops[1][0] >= tops[0][0] + 40
    assert lefts[0] == lefts[1] == sorted(set(lefts[0]))


def test_columns_and_rows_are_labelled(tmp_path: Path) -> None:
    grey = [np.full((30, 40, 3), 128, dtype=np.uint8)]  # three grey boxes on white; whatever is dark is text
    side_by_side(grey, grey, tmp_path / "plain.png")
    side_by_side(grey, grey, tmp_path / "named.png", names=["a name"])
    plain, named = (np.all(read(tmp_path / f"{name}.png") < 100, axis=2) for name in ("plain", "named"))
    column = plain.shape[1] // 3
    assert all(plain[:26, start : start + column].any() for start in (0, column, 2 * column))
    assert not plain[
        :, column - 12 : column
    ].any()  # titles wider than the pictures do not run into each other
    assert not plain[30:].any()
    assert named.shape[0] > plain.shape[0]
    assert named[30:, :column].any()


@pytest.mark.parametrize(
    ("originals", "marked", "message"),
    [
        ([], [], "0 original and 0 watermarked"),
        ([picture(1)], [], "1 original and 0 watermarked"),
        ([picture(1)], [picture(1, 30)], r"shapes \(40, 60, 3\) and \(30, 60, 3\)"),
        ([picture(1)[..., 0]], [picture(1)[..., 0]], r"the same \(H, W, 3\)"),
    ],
)
def test_pairs_that_do_not_match_are_refused(
    originals: list[NDArray[np.uint8]], marked: list[NDArray[np.uint8]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        side_by_side(originals, marked, tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == []


def test_the_loss_curve_draws_what_the_history_holds(tmp_path: Path) -> None:
    loss_curve(HISTORY, tmp_path / "curve.png", psnr_target=40)
    drawn = read_any(tmp_path / "curve.png")
    assert drawn.shape[0] > 500
    assert drawn.shape[1] > 500
    loss_curve(
        [{**entry, "attacked_statistic": 0.4} for entry in HISTORY], tmp_path / "other.png", psnr_target=40
    )
    changed = np.any(read_any(tmp_path / "other.png") != drawn, axis=(1, 2))
    third = len(changed) // 3
    assert changed[third : 2 * third].any()
    assert not changed[: third - 20].any()  # the PSNR above, as it was


def test_the_loss_curve_copes_with_one_step_and_with_an_infinite_psnr(tmp_path: Path) -> None:
    loss_curve([{**HISTORY[0], "psnr": math.inf}], tmp_path / "one.png")
    loss_curve([{**HISTORY[0], "psnr": math.inf}, *HISTORY[1:]], tmp_path / "more.png")
    assert read_any(tmp_path / "one.png").std() > 0
    with pytest.raises(ValueError, match="history is empty"):
        loss_curve([], tmp_path / "none.png")


def test_matplotlib_is_imported_only_to_draw() -> None:
    script = (
        "import sys, stablesig_train.report; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    )
    paths = f"import sys; sys.path[:] = {sys.path!r}; "
    assert subprocess.run([sys.executable, "-c", paths + script], check=False, timeout=60).returncode == 0


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    path = tmp_path / "watermark.json"
    write_watermark_json(
        path, {"b": (1, 2), "a": {"psnr": np.float32(41.5), "worst": math.inf, "bits": np.arange(2)}}
    )
    assert path.read_text() == (
        '{\n  "a": {\n    "bits": [\n      0,\n      1\n    ],\n    "psnr": 41.5,\n    "worst": null\n  },\n'
        '  "b": [\n    1,\n    2\n  ]\n}\n'
    )
    before = path.read_bytes()
    write_watermark_json(
        path, {"a": {"bits": [0, 1], "worst": math.nan, "psnr": 41.5}, "b": [np.int64(1), 2]}
    )  # in another order
    assert path.read_bytes() == before


def test_paths_and_foreign_letters_are_plain(tmp_path: Path) -> None:
    write_watermark_json(
        tmp_path / "watermark.json", {"source": Path("models") / "d\N{LATIN SMALL LETTER E WITH ACUTE}"}
    )
    content = (tmp_path / "watermark.json").read_bytes()
    assert "d\N{LATIN SMALL LETTER E WITH ACUTE}".encode() in content
    assert json.loads(content) == {"source": "models/d\N{LATIN SMALL LETTER E WITH ACUTE}"}


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "watermark.json"
    write_watermark_json(path, {"kept": True})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_watermark_json(path, {"kept": object()})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # stands in for a full disk
    try:
        with pytest.raises(OutputError, match=r"watermark\.json could not be written: File too large"):
            write_watermark_json(path, {"long": "x" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(OutputError, match="No such file or directory"):
        write_watermark_json(tmp_path / "nowhere" / "watermark.json", {})
    assert [file.name for file in tmp_path.iterdir()] == ["watermark.json"]
    assert path.read_bytes() == before


def read_any(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
