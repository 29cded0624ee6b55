"""Starting, taking up and ending scans: nothing overwritten, nothing lost, nothing twice."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stablesig.scanning import output, run_folder
from stablesig.scanning.item import Item
from stablesig.scanning.parts import parts_in
from stablesig.scanning.row import Row
from stablesig.scanning.run_folder import is_locked, open_run, partial_of
from stablesig.scanning.schema import FIELDS, about_of, rows_of
from stablesig_detector.errors import OutputError, OutputExistsError, UsageError

from .result_rows import absent, broken, hit

IDENTITY = {"fpr": 1e-6, "search": "fast", "keys": "abc", "sources": ["images/"]}


def interrupted(out: Path | str, *groups: list[Row]) -> None:
    """A scan that committed a part for each group of rows, and then ended."""
    with open_run(out, IDENTITY) as run:
        for rows in groups:
            with run.writer() as writer:
                writer.add(rows)


def rows_at(path: Path) -> list[Row]:
    return list(rows_of(pq.read_table(path)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_scan_ends_as_one_file_with_nothing_beside_it(tmp_path: Path) -> None:
    rows = [absent(1), hit(2), broken(3)]
    with open_run(tmp_path / "new" / "x.parquet", IDENTITY) as run:
        for row in rows:
            with run.writer() as writer:
                writer.add([row])
        assert run.finish() == tmp_path / "new" / "x.parquet"
    assert names(tmp_path / "new") == ["x.parquet"]
    assert rows_at(run.out) == rows
    about = about_of(pq.read_schema(run.out))
    assert about is not None
    assert about["identity"] == {"fpr": 1e-6, "search": "fast", "keys": "abc"}


def test_an_empty_scan_has_the_columns(tmp_path: Path) -> None:
    for ending in ("parquet", "jsonl", "csv"):
        with open_run(tmp_path / f"x.{ending}", IDENTITY) as run:
            run.finish()
    assert rows_at(tmp_path / "x.parquet") == []
    assert (tmp_path / "x.jsonl").read_bytes() == b""
    assert (tmp_path / "x.csv").read_text(encoding="utf-8") == ",".join(FIELDS) + "\n"


ODD = [
    absent(1, path='line\nbreak, "quoted"\r\n.jpg'),
    absent(2, path="=cmd|' /C calc'!A0.png"),
    absent(3, path="bytes\\xff.png", path_bytes=b"bytes\xff.png"),
    absent(4, path="\u2028 \N{PILE OF POO} \x85.png"),
    hit(5),
    broken(6, error='said "no"\nand more'),
]


def test_json_lines_hold_an_object_for_each_row(tmp_path: Path) -> None:
    interrupted(tmp_path / "x.jsonl", ODD[:3], ODD[3:])
    with open_run(tmp_path / "x.jsonl", IDENTITY, format="jsonl", resume=True) as run:
        run.finish()
    lines = [json.loads(line) for line in run.out.read_bytes().decode("utf-8").split("\n")[:-1]]
    assert [line["path"] for line in lines] == [row.path for row in ODD]
    assert all(list(line) == list(FIELDS) for line in lines)
    assert lines[2]["path_bytes"] == "Ynl0ZXP/LnBuZw=="
    assert lines[0]["error"] is None


def test_csv_is_as_rfc_4180_says(tmp_path: Path) -> None:
    interrupted(tmp_path / "x.csv", ODD)
    with open_run(tmp_path / "x.csv", IDENTITY, resume=True) as run:
        run.finish()
    with run.out.open(encoding="utf-8", newline="") as file:
        content = file.read()
        file.seek(0)
        lines = list(csv.DictReader(file))
    assert [line["path"].removeprefix("'") for line in lines] == [row.path for row in ODD]
    assert lines[1]["path"].startswith("'=")
    assert lines[5]["error"] == ODD[5].error
    assert content.startswith("path,path_bytes,")
    assert content.endswith("Z\r\n")


def test_an_unfinished_scan_is_taken_up_and_says_what_is_done(tmp_path: Path) -> None:
    odd = absent(3, path="a\\xff", path_bytes=b"a\xff")
    interrupted(tmp_path / "x.parquet", [absent(1), hit(2, 0), hit(2, 1)], [odd])
    with open_run(tmp_path / "x.parquet", IDENTITY, resume=True) as run:
        items = [Item(row.path, "file", path_bytes=row.path_bytes) for row in (absent(1), absent(2), odd)]
        assert list(run.done()) == [item.identity for item in items]
        with run.writer() as writer:
            writer.add([absent(4)])
        run.finish()
    assert [row.path for row in rows_at(run.out)] == [
        absent(1).path,
        *[absent(2).path] * 2,
        odd.path,
        absent(4).path,
    ]


def test_a_folder_keeps_its_parts_and_takes_more_later(tmp_path: Path) -> None:
    out = f"{tmp_path}/scans/"
    interrupted(out, [absent(1)])
    with open_run(out, IDENTITY, resume=True) as run:
        assert run.finish() == tmp_path / "scans"
    assert (tmp_path / "scans" / run_folder.FINISHED).exists()
    with open_run(tmp_path / "scans", IDENTITY, resume=True) as run, run.writer() as writer:
        assert not (tmp_path / "scans" / run_folder.FINISHED).exists()
        writer.add([absent(2)])
    assert {row.path for row in rows_at(tmp_path / "scans")} == {absent(1).path, absent(2).path}


@pytest.mark.parametrize(
    ("out", "format", "says"),
    [
        ("x.parquet", "csv", r"ends in \.csv"),
        ("x.txt", None, r"ends in \.parquet, \.jsonl or \.csv, or in /"),
        ("x/", "jsonl", r"folder of Parquet parts"),
        ("x.parquet", "xlsx", "a format is parquet, jsonl, csv"),
    ],
)
def test_an_ending_and_a_format_must_fit(tmp_path: Path, out: str, format: str | None, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        open_run(f"{tmp_path}/{out}", IDENTITY, format=format)
    assert not names(tmp_path)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    out.write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="nothing is overwritten"):
        open_run(out, IDENTITY)
    with pytest.raises(OutputExistsError, match="no unfinished scan into it"):  # it may be finished
        open_run(out, IDENTITY, resume=True)
    out.unlink()
    out.symlink_to("nowhere")
    with pytest.raises(OutputExistsError, match="nothing is overwritten"):
        open_run(out, IDENTITY)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").touch()
    with pytest.raises(OutputExistsError, match="exists and holds no scan"):
        open_run(tmp_path / "mine", IDENTITY)
    assert names(tmp_path) == ["mine", "x.parquet"]


def test_an_empty_folder_may_become_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    interrupted(tmp_path / "new", [absent(1)])
    assert len(parts_in(tmp_path / "new")) == 1


def test_a_file_that_came_meanwhile_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    interrupted(out, [absent(1)])
    with open_run(out, IDENTITY, resume=True) as run:
        out.write_bytes(b"mine")
        with pytest.raises(OutputExistsError, match="nothing is overwritten"):
            run.finish()
    assert out.read_bytes() == b"mine"
    assert len(parts_in(partial_of(out))) == 1


def test_an_unfinished_scan_is_not_started_over_nor_is_none_taken_up(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    with pytest.raises(UsageError, match="no unfinished scan to resume"):
        open_run(out, IDENTITY, resume=True)
    interrupted(out, [absent(1)])
    with pytest.raises(OutputExistsError, match="go on with --resume"):
        open_run(out, IDENTITY)


def test_a_scan_of_other_inputs_is_not_taken_up(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    interrupted(out, [absent(1)])
    with pytest.raises(UsageError, match="a scan with other fpr, keys;"):
        open_run(out, {**IDENTITY, "fpr": 1e-3, "keys": "def"}, resume=True)
    with open_run(out, IDENTITY, resume=True):  # and its lock is free
        pass


def test_a_damaged_identity_and_another_version_are_named(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    interrupted(out)
    identity = partial_of(out) / run_folder.IDENTITY
    content = json.loads(identity.read_bytes())
    identity.write_text(json.dumps({**content, "schema_version": 99}), encoding="utf-8")
    with pytest.raises(OutputError, match=r"version 99.*use the release that began it"):
        open_run(out, IDENTITY, resume=True)
    identity.write_bytes(b'{"schema":')
    with pytest.raises(OutputError, match=r"_scan\.json cannot be read"):
        open_run(out, IDENTITY, resume=True)


def test_a_torn_part_is_set_aside_and_its_images_done_again(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    interrupted(out, [absent(1)], [absent(2)])
    torn = parts_in(partial_of(out))[0]
    os.truncate(torn, torn.stat().st_size // 2)
    warnings: list[str] = []
    with open_run(out, IDENTITY, resume=True, on_warning=warnings.append) as run:
        assert list(run.done()) == [Item(absent(2).path, "file").identity]
        assert run.damaged == (torn.with_name(f"{torn.name}.damaged"),)
        with run.writer() as writer:
            writer.add([absent(1)])
        run.finish()
    assert len(warnings) == 1
    assert torn.name in warnings[0]
    assert "done again" in warnings[0]
    assert [row.path for row in rows_at(out)] == [absent(2).path, absent(1).path]


def test_a_part_that_is_damaged_before_the_end_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    interrupted(out, [absent(1)], [absent(2)])
    torn = parts_in(partial_of(out))[1]
    with open_run(out, IDENTITY, resume=True) as run:
        os.truncate(torn, 10)
        with pytest.raises(OutputError, match=f"{torn.name} is damaged.*use --resume"):
            run.finish()
    assert not out.exists()
    with open_run(out, IDENTITY, resume=True) as run:
        assert list(run.done()) == [Item(absent(1).path, "file").identity]


HOLDS = """
import os, sys, time
from stablesig.scanning.run_folder import open_run
run = open_run(sys.argv[1], {"fpr": 1e-6, "search": "fast", "keys": "abc", "sources": ["images/"]})
if os.fork() == 0:  # a worker, which outlives its parent for a while
    time.sleep(30)
    os._exit(0)
print("held", flush=True)
time.sleep(30)
"""


@pytest.fixture
def other_scanner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "x.parquet")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_two_scanners_on_one_place_are_refused_until_one_is_dead(
    tmp_path: Path, other_scanner: subprocess.Popen[str]
) -> None:
    out = tmp_path / "x.parquet"
    assert is_locked(partial_of(out))
    with pytest.raises(OutputError, match="another scanner is at work"):
        open_run(out, IDENTITY, resume=True)
    other_scanner.kill()
    other_scanner.wait()  # its worker lives on, and must not hold the lock
    with open_run(out, IDENTITY, resume=True) as run:
        assert is_locked(run.folder)
    assert not is_locked(run.folder)


MERGES = """
import sys
from stablesig.scanning import output
from stablesig.scanning.run_folder import open_run
moment = sys.argv[2]
def stop(*_):
    print("there", flush=True)
    sys.stdin.read()
if moment == "half-way":
    batches_of = output.batches_of
    def slow(*arguments, **options):
        for number, batch in enumerate(batches_of(*arguments, **options)):
            yield batch
        stop()
    output.batches_of = slow
elif moment == "before the link":
    output._place = stop
else:
    import shutil
    output.sync_folder = stop
with open_run(sys.argv[1], {"fpr": 1e-6, "search": "fast", "keys": "abc", "sources": ["images/"]},
              resume=True) as run:
    run.finish()
"""


@pytest.mark.parametrize("moment", ["half-way", "before the link", "after the link"])
def test_a_merge_that_is_killed_is_made_again(tmp_path: Path, moment: str) -> None:
    out = tmp_path / "x.csv"
    interrupted(out, [absent(1)], [absent(2)])
    command = [sys.executable, "-c", MERGES, str(out), moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        process.kill()
    assert out.exists() == (moment == "after the link")
    with open_run(out, IDENTITY, resume=True) as run:
        assert len(list(run.done())) == 2
        with run.writer() as writer:
            writer.add([absent(3)])
        run.finish()
    with out.open(encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [absent(number).path for number in (1, 2, 3)]
    assert names(tmp_path) == ["x.csv"]


def test_what_killed_writers_left_is_cleared(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    interrupted(out, [absent(1)])
    (partial_of(out) / ".part-1.tmp").write_bytes(b"half")
    (partial_of(out) / ".merge-1.tmp").write_bytes(b"half")
    with open_run(out, IDENTITY, resume=True) as run:
        assert not list(run.folder.glob(".*.tmp"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        for _ in range(20):
            if subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.05)


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_a_full_disk_costs_nothing_that_was_committed(small_disk: Path, ending: str) -> None:
    out = small_disk / f"x.{ending}"
    filler = small_disk / "filler"
    run = open_run(out, IDENTITY)
    writer = run.writer()
    writer.add([absent(number) for number in range(300)])
    writer.close()
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    writer.add([absent(number) for number in range(300, 600)])
    with pytest.raises(OutputError, match=r"No space left.*free some space, then use --resume"):
        writer.close()
    with pytest.raises(OutputError, match=r"No space left.*free some space, then use --resume"):
        run.finish()
    assert not out.exists()
    filler.unlink()
    with open_run(out, IDENTITY, resume=True) as run:
        assert len(list(run.done())) == 300
        with run.writer() as writer:
            writer.add([absent(number) for number in range(300, 600)])
        run.finish()
    if ending == "parquet":
        assert len(rows_at(out)) == 600
    else:
        assert len(out.read_bytes().splitlines()) == 600 + (ending == "csv")


def test_file_systems_without_hard_links_do_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    out = tmp_path / "x.parquet"
    with open_run(out, IDENTITY) as run:
        with run.writer() as writer:
            writer.add([absent(1)])
        out.write_bytes(b"mine")
        with pytest.raises(OutputExistsError, match="nothing is overwritten"):
            run.finish()
    out.unlink()
    with open_run(out, IDENTITY, resume=True) as run:
        run.finish()
    assert [row.path for row in rows_at(out)] == [absent(1).path]
    assert names(tmp_path) == ["x.parquet"]


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot be made.*choose another place"):
        open_run(tmp_path / "file" / "x.parquet", IDENTITY)
    assert names(tmp_path) == ["file"]


def test_small_parts_become_row_groups_of_a_good_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "GROUP_ROWS", 100)
    out = tmp_path / "x.parquet"
    with open_run(out, IDENTITY) as run:
        for start in range(0, 450, 30):
            with run.writer() as writer:
                writer.add([hit(number, key=number) for number in range(start, start + 30)])
        run.finish()
    footer = pq.read_metadata(out)
    assert [footer.row_group(number).num_rows for number in range(footer.num_row_groups)] == [90] * 5
    assert [row.key_id for row in rows_at(out)] == [f"{number:016x}" for number in range(450)]


@pytest.mark.parametrize("out", ["", ".", "/"])
def test_what_has_no_name_is_no_place(out: str) -> None:
    with pytest.raises(UsageError, match="no place for results"):
        open_run(out, IDENTITY)


def test_a_folder_whose_end_cannot_be_noted_says_how_to_go_on(tmp_path: Path) -> None:
    with open_run(tmp_path / "out", IDENTITY) as run:
        (run.folder / "_finished.json").mkdir()
        with pytest.raises(OutputError, match="--resume"):
            run.finish()
