"""Parts are whole or not there, whatever ends the writer."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stablesig.scanning.parts import (
    DamagedPartError,
    PartWriter,
    batches_of,
    leftovers_in,
    parts_in,
    set_aside,
    write_part,
)
from stablesig.scanning.schema import batch_of, rows_of
from stablesig_detector.errors import OutputError

from .result_rows import absent, hit


def paths_in(folder: Path) -> list[str]:
    return [row.path for part in parts_in(folder) for batch in batches_of(part) for row in rows_of(batch)]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_part_is_committed_when_it_is_full(tmp_path: Path) -> None:
    with PartWriter(tmp_path, rows=10) as writer:
        assert [writer.add([absent(number)]) for number in range(10)] == [False] * 9 + [True]
        assert (len(parts_in(tmp_path)), writer.committed, writer.waiting) == (1, 10, 0)
        writer.add([absent(10)])
    assert paths_in(tmp_path) == [absent(number).path for number in range(11)]


def test_the_rows_of_one_image_are_in_one_part(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, rows=4)
    writer.add([absent(0)] * 3)
    writer.add([hit(1, key) for key in range(5)])
    writer.close()
    assert [pq.read_metadata(part).num_rows for part in parts_in(tmp_path)] == [8]


def test_a_part_is_committed_when_it_is_old(tmp_path: Path) -> None:
    clock = Clock()
    writer = PartWriter(tmp_path, seconds=30.0, clock=clock)
    writer.add([absent(1)])
    clock.now += 29.0
    assert not writer.tick()
    clock.now += 1.0
    assert writer.tick()
    assert not writer.tick()
    clock.now += 1000.0
    assert not writer.add([absent(2)])  # its age counts from when it came


def test_many_rows_wait_in_order(tmp_path: Path) -> None:
    with PartWriter(tmp_path) as writer:
        for number in range(4_500):
            writer.add([absent(number)])
    assert paths_in(tmp_path) == [absent(number).path for number in range(4_500)]


def test_writers_of_one_folder_never_meet(tmp_path: Path) -> None:
    def write(first: int) -> None:
        with PartWriter(tmp_path, rows=1) as writer:
            for number in range(first, first + 25):
                writer.add([absent(number)])

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(parts_in(tmp_path)) == 75
    assert len(set(paths_in(tmp_path))) == 75


KILLED = """
import sys
from pathlib import Path
from stablesig.scanning.parts import PartWriter
from stablesig.scanning.row import Row
with PartWriter(Path(sys.argv[1]), rows=200) as writer:
    for number in range(10**9):
        writer.add([Row(f"{number:09d}", None, "not detected")])
        if number == 400:
            print("going", flush=True)
"""


def test_a_killed_writer_leaves_whole_parts_only(tmp_path: Path) -> None:
    for moment in (0.0, 0.011, 0.023):
        folder = tmp_path / str(moment)
        folder.mkdir()
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline()
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        paths = paths_in(folder)
        assert len(paths) % 200 == 0
        assert paths == [f"{number:09d}" for number in range(len(paths))]


def test_rows_that_do_not_fit_on_the_disk_wait_until_they_do(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = PartWriter(tmp_path)
    writer.add([absent(1)])
    writer.flush()
    writer.add([absent(2)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match=r"File too large.*kept.*--resume"):
            writer.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert paths_in(tmp_path) == [absent(1).path]
    assert not leftovers_in(tmp_path)
    writer.add([absent(3)])
    writer.close()
    assert paths_in(tmp_path) == [absent(number).path for number in (1, 2, 3)]


def test_a_writer_that_failed_does_not_try_again_on_its_way_out(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with pytest.raises(OutputError, match="No such file"), PartWriter(folder, rows=1) as writer:
        writer.add([absent(1)])


def test_other_errors_do_not_cost_the_rows(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path)
    writer.add([absent(1)])
    with pytest.raises(KeyError), writer:
        raise KeyError
    assert paths_in(tmp_path) == [absent(1).path]


def test_an_interruption_right_after_a_commit_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    writer = PartWriter(tmp_path)
    writer.add([absent(1)])
    with monkeypatch.context() as patch:
        patch.setattr("stablesig.scanning.parts.sync_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.flush()
    writer.add([absent(2)])
    writer.close()
    assert paths_in(tmp_path) == [absent(1).path, absent(2).path]
    assert writer.committed == 2


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "part-1.parquet"
    write_part(path, [batch_of([absent(number) for number in range(300)])])
    return path


@pytest.mark.parametrize("kept", [0, 3, 100, -1, -400])
def test_a_truncated_part_is_named(part: Path, kept: int) -> None:
    size = part.stat().st_size
    os.truncate(part, kept if kept >= 0 else size + kept)
    with pytest.raises(DamagedPartError, match=r"part-1\.parquet is damaged"):
        list(batches_of(part))


def test_an_altered_page_is_noticed_by_its_checksum(part: Path) -> None:
    content = bytearray(part.read_bytes())
    content[pq.read_metadata(part).row_group(0).column(3).data_page_offset + 50] ^= 0xFF
    part.write_bytes(content)
    with pytest.raises(DamagedPartError, match="is damaged"):
        list(batches_of(part))


def test_a_file_of_another_schema_is_no_part(tmp_path: Path) -> None:
    import pyarrow as pa

    foreign = tmp_path / "part-2.parquet"
    pq.write_table(pa.table({"path": ["a"], "verdict": [1]}), foreign)
    with pytest.raises(OutputError, match=r"part-2\.parquet is no part of a scan: path_bytes"):
        list(batches_of(foreign))


def test_a_part_set_aside_is_kept_and_no_longer_a_part(part: Path) -> None:
    aside = set_aside(part)
    assert aside.exists()
    assert not parts_in(part.parent)
