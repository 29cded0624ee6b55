"""From folders to a report: counts against `detect`, resuming, refusals, and the report's files."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

import stablesig
from stablesig import calibration, calibration_measure
from stablesig.calibration import Calibration, calibrate, partial_folder
from stablesig.calibration_report import NO_PLOT, as_csv, as_html, as_json_text
from stablesig.cli import main
from stablesig_detector.detection import detect
from stablesig_detector.errors import ImageError, KeyFileError, OutputExistsError, UsageError
from stablesig_detector.key import SecretKey, load_key

from .conftest import Gallery, textured_image

Capture = pytest.CaptureFixture[str]
SCHEMA = Path(stablesig.__file__).parent / "data" / "calibration.schema.json"
KEYS = 60


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest; what the module's fixtures make has the real plot."""
    monkeypatch.setattr("stablesig.calibration_plot.draw", lambda _: {"svg": b"<svg/>", "png": b""})


def fill(folder: Path, n: int, first: int = 0) -> Path:
    folder.mkdir(parents=True)
    for seed in range(first, first + n):
        Image.fromarray(textured_image(seed, 40, 44)).save(folder / f"{seed:03}.png")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("classes")
    one, two = fill(root / "one", 25), fill(root / "two", 12, first=100)
    (one / "copy.png").write_bytes((one / "003.png").read_bytes())
    (two / "broken.png").write_bytes((two / "100.png").read_bytes()[:500])
    return [one, two]


@pytest.fixture(scope="module")
def key() -> SecretKey:
    return SecretKey.draw()


@pytest.fixture(scope="module")
def result(
    folders: list[Path], key: SecretKey, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Calibration, Path]:
    """What `calibrate` returned, and the folder that it wrote."""
    out = tmp_path_factory.mktemp("out") / "report"
    return calibrate(folders, out, n_keys=KEYS, keys=[key, key.public()]), out


def test_what_counts_and_what_does_not_is_recorded(result: tuple[Calibration, Path]) -> None:
    one, two = result[0].classes
    assert (one.name, one.images, one.duplicates, one.unreadable) == ("one", 25, 1, ())
    assert (two.name, two.images, two.duplicates) == ("two", 12, 0)
    [broken] = two.unreadable
    assert broken.file.name == "broken.png"
    assert (one.fitted, two.fitted) == (0, 0)
    assert [level.expected for level in one.random] == pytest.approx([150, 15, 1.5])


def test_a_users_key_is_counted_as_detect_would(
    result: tuple[Calibration, Path], folders: list[Path], key: SecretKey
) -> None:
    found = result[0].classes[0]
    p = [detect(path, [key], search="none")[0].log10_p_value for path in sorted(folders[0].glob("0*.png"))]
    secret, public = found.keys
    assert (secret.nominal, secret.expected) == (0.1, 2.5)
    assert secret.observed == public.observed == sum(value <= -1 for value in p)
    assert secret.key_id == key.id


def test_the_search_fast_is_counted_as_detect_would(folders: list[Path], tmp_path: Path) -> None:
    drawn = [SecretKey.draw().public() for _ in range(20)]
    found = calibrate(folders[:1], tmp_path / "out", n_keys=KEYS, keys=drawn, search="fast")
    assert found.hypotheses == 4
    files = sorted(folders[0].glob("0*.png"))
    p = [[detect(path, [key])[0].log10_p_value for path in files] for key in drawn]
    assert [level.observed for level in found.classes[0].keys] == [
        sum(value <= -1 for value in row) for row in p
    ]


def test_the_report_fits_its_schema_and_holds_the_result(result: tuple[Calibration, Path]) -> None:
    found, out = result
    names = {path.name for path in out.iterdir()}
    assert names == {f"calibration.{form}" for form in ("json", "csv", "html", "png", "svg")}
    document = json.loads((out / "calibration.json").read_text())
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    assert [each["images"] for each in document["classes"]] == [25, 12]
    assert document["classes"][0]["random"][0]["observed"] == found.classes[0].random[0].observed
    assert document["statistics_sha256"] == found.statistics_sha256
    assert not partial_folder(out).exists()
    with Image.open(out / "calibration.png") as plot:
        assert plot.height > 600


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_keys(
    result: tuple[Calibration, Path], folders: list[Path], key: SecretKey, tmp_path: Path
) -> None:
    again = calibrate(folders, tmp_path / "report", n_keys=KEYS, keys=[key, key.public()])
    assert as_json_text(again) == as_json_text(result[0])
    assert as_csv(again) == as_csv(result[0])
    assert as_html(again, b"<svg/>") == as_html(result[0], b"<svg/>")
    other = calibrate(folders[1:], tmp_path / "other", n_keys=KEYS, seed=1)
    assert other.classes[0].curve.random != again.classes[1].curve.random


def test_the_csv_has_a_row_for_each_measure(result: tuple[Calibration, Path]) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(result[0]))))
    of_one = [row for row in rows if row["class"] == "one"]
    assert [row["measure"] for row in of_one if row["nominal"] == "0.1"] == [
        "random", "fixed median", "fixed 5 %", "fixed 95 %", "fixed worst", "key", "key",
    ]  # fmt: skip
    for row in rows:
        if row["observed"]:
            assert float(row["ratio"]) == pytest.approx(int(row["observed"]) / float(row["expected"]))


def test_the_page_needs_nothing_else_and_shows_no_markup_of_a_name(
    result: tuple[Calibration, Path], tmp_path: Path
) -> None:
    page = (result[1] / "calibration.html").read_text()
    assert "<svg" in page
    assert "broken.png" in page
    assert not [link for link in ("<script", "<link", "<img", "src=") if link in page]
    odd = fill(tmp_path / "<b>&\x1b[2J", 3)
    named = calibrate([odd], tmp_path / "report", n_keys=KEYS)
    assert "&lt;b&gt;&amp;\ufffd[2J" in as_html(named, None)
    assert str(named).isprintable() is False  # it has lines
    assert all(line.isprintable() for line in str(named).split("\n"))
    assert NO_PLOT.replace("'", "&#x27;") in as_html(named, None)


def test_an_interrupted_run_goes_on_where_it_was(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: tuple[Calibration, Path]
) -> None:
    measured: list[Path] = []

    def counting(path: Path) -> calibration_measure.Outcome:
        if len(measured) == stop_at:
            raise KeyboardInterrupt
        measured.append(path)
        return real(path)

    real, stop_at = calibration_measure.measure, 8
    monkeypatch.setattr(calibration_measure, "measure", counting)
    out = tmp_path / "report"
    arguments = ["calibrate", *map(str, folders), "--out", str(out), "--keys", str(KEYS)]
    assert main(arguments) == 130
    assert not out.exists()
    assert partial_folder(out).is_dir()
    assert main(arguments) == 8  # not taken up unasked
    stop_at = -1
    assert main([*arguments, "--resume"]) == 3  # one image is broken
    assert len(measured) == 26 + 13
    assert not partial_folder(out).exists()
    document = json.loads((out / "calibration.json").read_text())
    for ours, whole in zip(document["classes"], result[0].classes, strict=True):
        assert ours["random"][0]["observed"] == whole.random[0].observed


def test_nothing_is_left_of_a_run_that_measured_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="none of the 1 images in"):
        calibrate([folder], tmp_path / "out", n_keys=KEYS)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"folders": []}, UsageError, "at least one folder"),
        ({"n_keys": 1}, UsageError, "at least 2 keys"),
        ({"search": "full"}, UsageError, '"none" or "fast"'),
        ({"jobs": 0}, UsageError, "at least 1 job"),
        ({"resume": True}, UsageError, "nothing to resume"),
        ({"keys": [SecretKey.draw(feature_version="spectrum-0")]}, KeyFileError, "spectrum-0"),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_written(
    change: dict[str, object], error: type[Exception], message: str, folders: list[Path], tmp_path: Path
) -> None:
    arguments: dict[str, object] = {"folders": folders, "out": tmp_path / "out", "n_keys": KEYS} | change
    with pytest.raises(error, match=message):
        calibrate(**arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_taken_place_and_a_folder_given_twice_are_refused(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError, match="never overwritten"):
        calibrate(folders, tmp_path / "out", n_keys=KEYS)
    with pytest.raises(UsageError, match="given twice"):
        calibrate([folders[0], folders[0] / ".." / "one"], tmp_path / "new", n_keys=KEYS)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_classes_of_one_name_bear_their_paths(folders: list[Path], tmp_path: Path) -> None:
    other = fill(tmp_path / "one", 2)
    names = calibration._names([folders[0], other, folders[1]])
    assert names == [str(folders[0].resolve()), str(other.resolve()), "two"]


def test_a_single_image_and_equal_images_make_a_report(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for grey in range(30):  # a constant more changes no feature
        Image.fromarray(textured_image(0, 40, 40) // 2 + np.uint8(grey)).save(flat / f"{grey}.png")
    alone = fill(tmp_path / "alone", 1)
    single, equal = calibrate([alone, flat], tmp_path / "out", n_keys=300).classes
    assert (single.images, single.spread, single.mean_cosine, single.fixed) == (1, (), None, ())
    assert equal.mean_cosine == pytest.approx(1.0, abs=1e-3)
    assert equal.beyond_chance
    assert equal.random[0].design_effect == pytest.approx(30, rel=0.05)
    assert [level.judged for level in equal.random] == [True, False, False]
    jsonschema.validate(
        json.loads((tmp_path / "out" / "calibration.json").read_text()), json.loads(SCHEMA.read_text())
    )


class TestCommand:
    def test_prints_tables_and_names_what_it_skips(
        self, folders: list[Path], gallery: Gallery, tmp_path: Path, capsys: Capture
    ) -> None:
        out = tmp_path / "report"
        arguments = ["calibrate", *map(str, folders), "-o", str(out), "--keys", "200"]
        assert main([*arguments, "--key", str(gallery.secret)]) == 3
        printed, warned = capsys.readouterr()
        assert "broken.png" in warned
        assert str(out) in warned
        key_id = load_key(gallery.secret).id
        lines = printed.splitlines()
        [row] = [line for line in lines if key_id in line and line.startswith("one")]
        document = json.loads((out / "calibration.json").read_text())
        [entry] = document["classes"][0]["keys"]
        assert f"{entry['ratio']:.2f} [" in row
        [random] = [line for line in lines if line.startswith("two ") and "within" in line]
        assert f"{document['classes'][1]['random'][0]['ratio']:.2f}" in random
        for each in document["classes"]:
            [line] = [line for line in lines if line.startswith(f"{each['name']}: ")]
            assert ("BEYOND CHANCE" in line) == each["fixed_keys_beyond_chance"]

    def test_json_is_the_file(self, folders: list[Path], tmp_path: Path, capsys: Capture) -> None:
        out = tmp_path / "report"
        assert main(["calibrate", str(folders[0]), "--out", str(out), "--keys", "50", "--json"]) == 0
        assert capsys.readouterr().out == (out / "calibration.json").read_text()

    @pytest.mark.parametrize("name", ["missing", "empty"])
    def test_a_folder_without_images_is_one_line(
        self, name: str, folders: list[Path], tmp_path: Path, capsys: Capture
    ) -> None:
        (tmp_path / "empty").mkdir()
        arguments = ["calibrate", str(folders[0]), str(tmp_path / name), "--out", str(tmp_path / "out")]
        assert main(arguments) == 3
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert name in err
        assert [path.name for path in tmp_path.iterdir()] == ["empty"]

    def test_the_numbers_need_the_base_install_only(self, folders: list[Path], tmp_path: Path) -> None:
        arguments = ["calibrate", str(folders[0]), "--out", "report", "--keys", "50"]
        code = "import sys\n"
        code += "for name in ('matplotlib', 'torch', 'scipy'):\n    sys.modules[name] = None\n"
        code += f"from stablesig.cli import main\nsys.exit(main({arguments!r}))"
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert run.returncode == 0, run.stderr
        assert f"stablesig: warning: {NO_PLOT}\n" in run.stderr
        names = {path.name for path in (tmp_path / "report").iterdir()}
        assert names == {"calibration.json", "calibration.csv", "calibration.html"}
        assert "pip install" in (tmp_path / "report" / "calibration.html").read_text()
