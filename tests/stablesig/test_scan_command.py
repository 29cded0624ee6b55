"""What a person or a script gets from `stablesig scan`."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from stablesig.cli import main
from stablesig.scanning import command_line
from stablesig.scanning.command_line import bytes_of, cheaply_found
from stablesig.scanning.item import Item
from stablesig.scanning.run_folder import partial_of
from stablesig_detector.errors import UsageError

from .conftest import Gallery, textured_image

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def uploads(gallery: Gallery, tmp_path: Path) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    for path in (gallery.first, gallery.second, gallery.broken):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "copy.png").write_bytes(gallery.first.read_bytes())
    return folder


def refused(arguments: list[str], capsys: Capture, code: int) -> str:
    """The one line of an error."""
    assert main(["scan", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stablesig: error: ")
    assert err.count("\n") == 1
    return err


def test_a_scan_ends_with_a_summary_and_exit_code_0(
    gallery: Gallery, uploads: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out.parquet"
    assert main(["scan", str(uploads), "-k", str(gallery.finds_first), "-o", str(out), "-j", "1"]) == 0
    printed, err = capsys.readouterr()
    lines = [line.split("  ", 1) for line in printed.splitlines()]
    words = {name: rest.strip() for name, rest in lines}
    assert words["images"] == "4"
    assert words["detected"] == "2  (by accident, if none were marked: about 3e-06)"
    assert words["not detected"] == "1"
    assert words["unreadable"] == "1  (damaged 1)"
    assert words["speed"].endswith("images/s with 1 process")
    assert words["results"] == str(out)
    assert words["next"] == f"stablesig scan-report {out}"
    assert err == ""
    assert pq.read_table(out).num_rows == 4


def test_json_is_one_object_with_the_same_numbers(
    gallery: Gallery, uploads: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = [str(uploads), "-k", str(gallery.finds_first), "-o", str(tmp_path / "out"), "--json"]
    assert main(["scan", *arguments, "--dedup", "--screen"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    counts = {
        name: found[name] for name in ("images", "done_before", "detected", "not_detected", "unreadable")
    }
    assert counts == {"images": 4, "done_before": 0, "detected": 2, "not_detected": 1, "unreadable": 1}
    assert found["unreadable_by_kind"] == {"damaged": 1}
    assert found["expected_false_positives"] == pytest.approx(3e-6)


def test_csv_by_the_ending_of_the_results(gallery: Gallery, uploads: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert main(["scan", str(uploads), "-k", str(gallery.secret), "-o", str(out)]) == 0
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["verdict"] for row in rows) == ["not detected"] * 3 + ["unreadable"]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["nowhere/"], 2, "no source can be found"),
        ([], 2, "no source"),
        (["{uploads}", "--engine", "spark"], 2, "local or ray"),
        (["{uploads}", "--ray-address", "auto"], 2, "--engine ray"),
        (["{uploads}", "--memory-limit", "much"], 2, "512m"),
        (["{uploads}", "--memory-limit", "1k"], 2, "needs 67,108,864 bytes"),
        (["{uploads}", "--time-limit", "-1"], 2, "time limit"),
        (["{uploads}", "--search", "full", "--screen"], 2, "screening"),
        (["{uploads}", "--format", "csv"], 2, ".csv"),
        (["{uploads}", "--resume"], 2, "no unfinished scan"),
        (["{uploads}", "--follow", "--json"], 2, "leave them out"),
        (["{uploads}", "--metrics", "nowhere"], 2, "ADDR:PORT"),
        (["{uploads}", "-k", "gone.json"], 4, "gone.json"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_leaves_nothing(
    gallery: Gallery,
    uploads: Path,
    tmp_path: Path,
    capsys: Capture,
    arguments: list[str],
    code: int,
    word: str,
) -> None:
    given = [argument.replace("{uploads}", str(uploads)) for argument in arguments]
    common = ["-k", str(gallery.secret), "-o", str(tmp_path / "out.parquet")]
    assert word in refused([*given, *common], capsys, code)
    assert [path.name for path in tmp_path.iterdir()] == ["uploads"]


def test_results_are_not_overwritten(
    gallery: Gallery, uploads: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("mine")
    assert "overwritten" in refused([str(uploads), "-k", str(gallery.secret), "-o", str(out)], capsys, 8)
    assert out.read_text() == "mine"


def test_metrics_are_served_while_it_works(
    gallery: Gallery, uploads: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    scan = command_line.scan

    def then_read(*arguments: Any, **options: Any) -> Any:
        result = scan(*arguments, **options)
        url = capsys.readouterr().err.split()[-1]
        with urllib.request.urlopen(url) as answer:
            read.append(answer.read().decode())
        return result

    monkeypatch.setattr(command_line, "scan", then_read)
    arguments = [str(uploads), "-k", str(gallery.finds_first), "-o", str(tmp_path / "out.parquet")]
    assert main(["scan", *arguments, "--metrics", "127.0.0.1:0"]) == 0
    assert 'stablesig_scan_images_total{verdict="detected"} 2.0' in read[0]
    assert 'stablesig_scan_errors_total{kind="damaged"} 1.0' in read[0]


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("512m", 1 << 29), ("1.5G", 3 << 29), ("64kb", 1 << 16), ("100", 100)]
)
def test_sizes(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1m", "1x", "nan", "inf"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="such as 512m"):
        bytes_of(text)


def test_what_was_fetched_or_unpacked_is_not_counted() -> None:
    """It would be fetched and unpacked a second time."""
    found = cheaply_found([Item("a.png", "file", "a.png"), Item("b.tar::b.png", "data", data=b"")])
    assert next(found).path == "a.png"
    with pytest.raises(ValueError, match="count"):
        next(found)


# Commits after every few rows, so that there is something to lose.
COMMAND = """
import sys
from stablesig.scanning import api
from stablesig.cli import main
api.PART_ROWS = 5
raise SystemExit(main(sys.argv[1:]))
"""

# And takes its time, so that it is interrupted and not at its end, however busy the machine is.
SLOWLY = """
import time
from functools import partial
from stablesig.scanning import command_line
from stablesig.scanning.local_engine import scan_items
from stablesig.scanning.measuring import measure_item
def slowly(*arguments, **options):
    time.sleep(0.1)
    return measure_item(*arguments, **options)
command_line.scan_items = partial(scan_items, measure=slowly)
"""


def many(folder: Path, count: int) -> Path:
    folder.mkdir()
    for seed in range(4):
        Image.fromarray(textured_image(seed, 96, 128)).save(folder / f"{seed}.png", compress_level=1)
    for place in range(4, count):
        (folder / f"{place}.png").hardlink_to(folder / f"{place % 4}.png")
    return folder


def names(place: Path) -> list[str]:
    return sorted(pq.read_table(place, columns=["path"])[0].to_pylist())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_scan_says_how_to_go_on_and_resume_does(
    gallery: Gallery, tmp_path: Path, number: int, capsys: Capture
) -> None:
    """As a terminal does it: the signal goes to all processes of the scan."""
    source, out = many(tmp_path / "in", 150), tmp_path / "out.parquet"
    arguments = ["scan", str(source), "-k", str(gallery.secret), "-o", str(out), "-j", "2"]
    scan = subprocess.Popen(
        [sys.executable, "-c", SLOWLY + COMMAND, *arguments],
        start_new_session=True,
        text=True,
        stderr=subprocess.PIPE,
    )
    assert scan.stderr is not None
    with scan.stderr:
        for _ in range(6000):
            if scan.poll() is not None or any(partial_of(out).glob("part-*")):
                break
            time.sleep(0.01)
        os.killpg(scan.pid, number)
        err = scan.stderr.read()
        assert scan.wait() == 130
    kept_words = f"{partial_of(out)} is kept; run the same command with --resume to go on"
    assert err.splitlines()[-1] == f"stablesig: error: interrupted; {kept_words}"
    with pytest.raises(ProcessLookupError):
        os.killpg(scan.pid, 0)
    kept = len(names(partial_of(out)))
    assert 5 <= kept < 150
    assert main([*arguments, "--resume"]) == 0
    assert f"({kept:,} of them by earlier runs)" in capsys.readouterr().out
    assert names(out) == sorted(map(str, source.iterdir()))


def test_no_space_for_results_is_exit_code_8_and_keeps_what_was_committed(
    gallery: Gallery, tmp_path: Path
) -> None:
    """The system refuses to let files grow beyond a size, which is what a quota does."""
    source, out = many(tmp_path / "in", 40), tmp_path / "out.parquet"
    arguments = ["scan", str(source), "-k", str(gallery.secret), "-o", str(out), "-j", "1"]
    ended = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 8
    assert ended.stderr.endswith("--resume\n")
    assert partial_of(out).is_dir()
    assert main([*arguments, "--resume"]) == 0
    assert names(out) == sorted(map(str, source.iterdir()))


def test_missing_pyarrow_names_the_extra(gallery: Gallery, uploads: Path, tmp_path: Path) -> None:
    """Before a single key is read."""
    arguments = [str(uploads), "-k", str(gallery.secret), "-o", str(tmp_path / "out.parquet")]
    hidden = "import sys; sys.modules['pyarrow'] = None; from stablesig.cli import main; "
    ended = subprocess.run(
        [sys.executable, "-c", f"{hidden} raise SystemExit(main(sys.argv[1:]))", "scan", *arguments],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "pip install 'stablesig[scan]'" in ended.stderr
