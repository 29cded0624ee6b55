"""Watch mode, with real files, workers and signals: each upload gets its rows once, whatever is killed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from urllib.request import urlopen

import duckdb
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from stablesig.scanning import parts
from stablesig.scanning.arrivals import UNFINISHED_SUFFIXES
from stablesig.scanning.follow import COMMIT_S, INTERVAL_S, SETTLE_S, FollowSummary, follow
from stablesig.scanning.item import Item
from stablesig.scanning.local_engine import scan_items
from stablesig.scanning.measuring import WorkerState
from stablesig.scanning.parts import batches_of, parts_in
from stablesig.scanning.queue_folder import LEASE_S
from stablesig.scanning.row import Row
from stablesig.scanning.run_folder import is_locked
from stablesig.scanning.schema import rows_of
from stablesig.scanning.settings import ScanSettings
from stablesig.scanning.watched_tree import WatchedTree
from stablesig_detector.errors import OutputError, UsageError
from stablesig_detector.key_set import load_key_set

from ..conftest import Gallery

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "scan-follow.md"
PATIENCE = 60.0  # s for what takes a fraction of one


@pytest.fixture
def settings(gallery: Gallery) -> ScanSettings:
    return ScanSettings(load_key_set([gallery.finds_first]), search="none")


def picture(path: Path, seed: int) -> None:
    """Appears at once, as an upload that is renamed into its place."""
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path.with_name(".upload"), "PNG")
    path.with_name(".upload").rename(path)


def rows_in(out: Path) -> list[Row]:
    return [row for part in parts_in(out) for batch in batches_of(part) for row in rows_of(batch)]


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class Following:
    """A follower in a thread. A context manager, which stops it; what it returned or raised is there then."""

    def __init__(self, sources: list[Path], settings: ScanSettings, out: Path, **options: object) -> None:
        self.stop, self.out, self.url = threading.Event(), out, ""
        self.summary: FollowSummary | None = None
        self.error: BaseException | None = None
        self.warnings: list[str] = []
        self._options = {"jobs": 1, "interval": 0.02, "settle": 0.05, "commit": 0.05, **options}
        self._thread = threading.Thread(target=self._run, args=(sources, settings))

    def _run(self, sources: list[Path], settings: ScanSettings) -> None:
        try:
            self.summary = follow(
                [str(source) for source in sources],
                settings,
                f"{self.out}/",
                stop=self.stop,
                on_warning=self.warnings.append,
                on_start=self._started,
                **self._options,  # type: ignore[arg-type]
            )
        except BaseException as error:
            self.error = error

    def _started(self, url: str | None) -> None:
        self.url = url or ""

    def __enter__(self) -> Following:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def until_rows(self, count: int) -> list[Row]:
        until(lambda: self.out.exists() and len(rows_in(self.out)) >= count)
        return rows_in(self.out)


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    (tmp_path / "incoming").mkdir()
    return tmp_path / "incoming"


def test_uploads_are_scanned_as_they_come_and_never_again(
    incoming: Path, tmp_path: Path, settings: ScanSettings, gallery: Gallery
) -> None:
    out = tmp_path / "out"
    (incoming / "hit.png").write_bytes(gallery.first.read_bytes())
    (incoming / "broken.png").write_bytes(gallery.broken.read_bytes())
    (incoming / "later.png.part").write_bytes(gallery.second.read_bytes())
    with Following([incoming], settings, out) as following:
        following.until_rows(2)
        (incoming / "day").mkdir()
        picture(incoming / "day" / "new.png", 1)
        following.until_rows(3)
        (incoming / "later.png.part").rename(incoming / "later.png")
        following.until_rows(4)
    assert following.error is None
    verdicts = {Path(row.path).name: row.verdict for row in rows_in(out)}
    assert verdicts == {
        "hit.png": "detected",
        "broken.png": "unreadable",
        "new.png": "not detected",
        "later.png": "not detected",
    }
    assert following.summary is not None
    assert (following.summary.images, following.summary.detected, following.summary.unreadable) == (4, 1, 1)
    assert not is_locked(out)
    with Following([incoming], settings, out) as again:
        picture(incoming / "newest.png", 2)
        again.until_rows(5)
    assert len(rows_in(out)) == 5
    assert len(parts_in(out)) == 1


def test_an_upload_that_grows_is_scanned_when_it_is_whole(
    incoming: Path, tmp_path: Path, settings: ScanSettings, gallery: Gallery
) -> None:
    data = gallery.first.read_bytes()
    with Following([incoming], settings, tmp_path / "out", settle=1.0) as following:
        with (incoming / "grows.png").open("wb") as file:
            for start in range(0, len(data), len(data) // 10):
                file.write(data[start : start + len(data) // 10])
                file.flush()
                time.sleep(0.02)
        [row] = following.until_rows(1)
    assert row.verdict == "detected"


def test_a_replaced_file_gets_rows_of_its_new_content(
    incoming: Path, tmp_path: Path, settings: ScanSettings
) -> None:
    with Following([incoming], settings, tmp_path / "out") as following:
        picture(incoming / "a.png", 1)
        [first] = following.until_rows(1)
        picture(incoming / "a.png", 2)
        rows = following.until_rows(2)
    assert len({row.sha256 for row in rows}) == 2
    assert {row.path for row in rows} == {first.path}
    text = DOCUMENTATION.read_text(encoding="utf-8")
    [query] = re.findall(r"`(SELECT [^`]+)`", text)
    query = query.replace("results/", f"{tmp_path / 'out'}/")
    [newest] = duckdb.sql(query).fetchall()
    assert rows[-1].sha256 in newest


def test_the_documentation_gives_the_defaults() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    assert f"| `--interval S` | {INTERVAL_S:g} |" in text
    assert f"| `--settle S` | {SETTLE_S:g} |" in text
    assert f"at most {COMMIT_S:g} seconds after" in text
    assert f"for {LEASE_S:g} seconds" in text
    assert all(f"`{suffix}`" in text for suffix in UNFINISHED_SUFFIXES)


def test_a_folder_that_is_away_for_a_while_does_not_end_it(
    incoming: Path, tmp_path: Path, settings: ScanSettings
) -> None:
    picture(incoming / "a.png", 1)
    with Following([incoming], settings, tmp_path / "out") as following:
        following.until_rows(1)
        incoming.rename(tmp_path / "away")
        until(lambda: len(following.warnings) == 1)
        picture(tmp_path / "away" / "b.png", 2)
        (tmp_path / "away").rename(incoming)
        following.until_rows(2)
    assert len(rows_in(tmp_path / "out")) == 2


def test_a_queue_is_emptied_into_done_and_failed(
    incoming: Path, tmp_path: Path, settings: ScanSettings, gallery: Gallery
) -> None:
    out = tmp_path / "out"
    with Following([], settings, out, queue=incoming):
        until((incoming / "new").is_dir)
        for name, source in (("hit.png", gallery.first), ("broken", gallery.broken)):
            (incoming / "tmp" / name).write_bytes(source.read_bytes())
            (incoming / "tmp" / name).rename(incoming / "new" / name)
        until((incoming / "done" / "hit.png").exists)
        until((incoming / "failed" / "broken").exists)
    assert {row.path: row.verdict for row in rows_in(out)} == {
        str(incoming / "done" / "hit.png"): "detected",
        str(incoming / "failed" / "broken"): "unreadable",
    }
    assert not list((incoming / "cur").iterdir())


def test_what_cannot_be_committed_stays_in_the_queue(
    incoming: Path, tmp_path: Path, settings: ScanSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (incoming / "new").mkdir()
    picture(incoming / "new" / "a.png", 1)

    def full(*_: object) -> None:
        raise OutputError("there is no space left")

    monkeypatch.setattr(parts, "write_part", full)
    with Following([], settings, tmp_path / "out", queue=incoming) as following:
        until(lambda: following.error is not None)
    assert isinstance(following.error, OutputError)
    assert [path.name for path in (incoming / "new").iterdir()] == ["a.png"]
    monkeypatch.undo()
    with Following([], settings, tmp_path / "out", queue=incoming) as again:
        again.until_rows(1)
        until((incoming / "done" / "a.png").exists)


def test_prometheus_reads_what_is_committed_and_what_waits(
    incoming: Path, tmp_path: Path, settings: ScanSettings, gallery: Gallery
) -> None:
    def samples() -> dict[str, float]:
        with urlopen(following.url, timeout=PATIENCE) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {
                "".join([sample.name, *sorted(sample.labels.values())]): sample.value
                for family in families
                for sample in family.samples
            }

    queue = tmp_path / "queue"
    (queue / "new").mkdir(parents=True)
    (queue / "new" / "hit.png").write_bytes(gallery.first.read_bytes())
    os.utime(queue / "new" / "hit.png", (1, 1))
    picture(incoming / "waits.png", 1)
    options: dict[str, object] = {"metrics": "127.0.0.1:0", "settle": 3600.0, "queue": queue}
    with Following([incoming], settings, tmp_path / "out", **options) as following:
        following.until_rows(1)
        until(lambda: samples()["stablesig_scan_images_totaldetected"] == 1)
        found = samples()
    assert found["stablesig_scan_backlog_images"] == 1
    assert 0 < found["stablesig_scan_oldest_waiting_seconds"] < PATIENCE
    [key_id] = [entry.key.id for entry in settings.keys.entries]
    assert found[f"stablesig_scan_hits_total{key_id}"] == 1
    assert found["stablesig_scan_latency_seconds_count"] == 1
    assert found["stablesig_scan_last_poll_timestamp_seconds"] > 1.7e9
    assert found["stablesig_scan_commits_total"] == 1


def test_a_port_in_use_is_said_before_anything_starts(
    incoming: Path, tmp_path: Path, settings: ScanSettings
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        metrics = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UsageError, match="in use"):
            follow(
                [str(incoming)], settings, f"{tmp_path}/out/", jobs=1, stop=threading.Event(), metrics=metrics
            )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([], {}, "nothing to follow"),
        (["nowhere"], {}, "no such folder: nowhere"),
        (["s3://bucket/"], {}, "s3://bucket/ is no folder"),
        ([__file__], {}, "is no folder"),
        (["."], {"interval": 0.0}, "--interval"),
        (["."], {"settle": -1.0}, "--settle"),
        (["."], {"commit": float("nan")}, "committed every"),
        (["."], {"queue": Path("./queue")}, "would be scanned"),
        (["."], {"out": "out.parquet"}, "end --out in /"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    settings: ScanSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sources: list[str],
    options: dict[str, object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"out": f"{tmp_path}/out/", "jobs": 1, "stop": threading.Event(), **options}
    with pytest.raises(UsageError, match=message):
        follow(sources, settings, **given)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_uploads_are_looked_for_while_workers_have_enough_to_do(
    incoming: Path, tmp_path: Path, settings: ScanSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    meanwhile: list[int] = []
    poll = WatchedTree.poll

    def counted(tree: WatchedTree) -> None:
        looks.append(time.monotonic())
        poll(tree)

    def slow(items: Iterator[Item | None], *_: object) -> Iterator[list[Row]]:
        drawn: list[Item] = []
        while len(drawn) < 10:
            item = next(items)
            if item is None:
                yield []
            else:
                drawn.append(item)
        before = len(looks)
        for item in drawn:
            time.sleep(0.03)
            yield [Row(item.path, None, "not detected", sha256="0" * 64, bytes=1)]
        meanwhile.append(len(looks) - before)
        while next(items, item) is None:  # and what is found then is handed out
            yield []

    for number in range(10):
        picture(incoming / f"{number}.png", number)
    monkeypatch.setattr(WatchedTree, "poll", counted)
    monkeypatch.setattr("stablesig.scanning.follow.scan_items", slow)
    with Following([incoming], settings, tmp_path / "out") as following:
        until(lambda: bool(meanwhile))
    assert following.error is None
    assert meanwhile[0] >= 3


SERVICE = """
import signal, sys
from pathlib import Path
from stablesig.scanning.follow import follow
from stablesig.scanning.settings import ScanSettings
from stablesig.scanning.stopping import stop_on_signals
from stablesig_detector.key_set import load_key_set

key, incoming, queue, out = sys.argv[1:]
settings = ScanSettings(load_key_set([key]), search="none")
with stop_on_signals() as stop:
    summary = follow([incoming], settings, out, jobs=1, interval=0.02, settle=0.02, commit=0.05,
                     queue=Path(queue), stop=stop, on_start=lambda url: print("ready", flush=True))
print(summary.images)
sys.exit(130 if stop.signal == signal.SIGINT else 0)
"""


@pytest.fixture
def service(
    incoming: Path, tmp_path: Path, gallery: Gallery
) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    (tmp_path / "queue" / "new").mkdir(parents=True)

    def start() -> subprocess.Popen[str]:
        places = [gallery.finds_first, incoming, tmp_path / "queue", f"{tmp_path / 'out'}/"]
        command = [sys.executable, "-c", SERVICE, *map(str, places)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


Service = Callable[[], "subprocess.Popen[str]"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_everything_committed(
    service: Service, incoming: Path, tmp_path: Path, number: int, code: int
) -> None:
    process = service()
    for upload in range(30):
        picture(incoming / f"{upload}.png", upload)
    until(lambda: len(rows_in(tmp_path / "out")) > 0)
    process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (code, "")
    rows = rows_in(tmp_path / "out")
    assert int(output) == len(rows) == len({row.path for row in rows})
    assert {row.verdict for row in rows} == {"not detected"}
    assert not is_locked(tmp_path / "out")


def test_a_sigterm_to_all_processes_of_a_service_ends_no_worker(settings: ScanSettings) -> None:
    def told_to_end(
        item: Item, settings: ScanSettings, state: WorkerState, *, alone: bool = True
    ) -> list[Row]:
        os.kill(os.getpid(), signal.SIGTERM)  # as systemd does by default
        return [Row(item.path, None, "not detected")]

    items = [Item(f"{number}.png", "file") for number in range(3)]
    rows = [row for rows in scan_items(items, settings, 1, measure=told_to_end) for row in rows]
    assert [row.verdict for row in rows] == ["not detected"] * 3


def killed_at_random_moments(
    service: Service, incoming: Path, tmp_path: Path, kills: int, uploads: int
) -> None:
    """Uploads come while it is killed and started again; in the end each has one row."""
    random, number = Random(6), 0
    new = tmp_path / "queue" / "new"
    for left in range(kills, -1, -1):
        process = service()
        for _ in range(uploads):
            picture(incoming / f"{number}.png", number)
            picture(new / f"q{number}.png", number)
            number += 1
            time.sleep(0.005)
        if left:
            time.sleep(random.uniform(0.0, 0.3))
            process.kill()
            process.communicate()
    until(lambda: len(rows_in(tmp_path / "out")) >= 2 * number)
    until(lambda: len(list((tmp_path / "queue" / "done").iterdir())) == number)
    process.terminate()
    process.communicate(timeout=PATIENCE)
    counts = Counter(Path(row.path).name for row in rows_in(tmp_path / "out"))
    assert set(counts.values()) == {1}
    assert set(counts) == {f"{prefix}{upload}.png" for prefix in ("", "q") for upload in range(number)}
    assert not list(new.iterdir())


def test_kill_9_loses_and_doubles_nothing(service: Service, incoming: Path, tmp_path: Path) -> None:
    killed_at_random_moments(service, incoming, tmp_path, kills=2, uploads=20)


@pytest.mark.slow
def test_twenty_times_kill_9_loses_and_doubles_nothing(
    service: Service, incoming: Path, tmp_path: Path
) -> None:
    killed_at_random_moments(service, incoming, tmp_path, kills=20, uploads=30)


def test_what_would_be_scanned_twice_or_without_end_is_refused(
    incoming: Path, settings: ScanSettings, tmp_path: Path
) -> None:
    (tmp_path / "queue" / "done").mkdir(parents=True)
    with pytest.raises(UsageError, match="lie in one another"):
        follow(
            [str(tmp_path / "queue" / "done")],
            settings,
            tmp_path / "out",
            jobs=1,
            stop=threading.Event(),
            queue=tmp_path / "queue",
        )
    with pytest.raises(UsageError, match="without end"):
        follow([str(incoming)], settings, incoming / "out", jobs=1, stop=threading.Event(), all_files=True)
    assert not list(incoming.iterdir())
