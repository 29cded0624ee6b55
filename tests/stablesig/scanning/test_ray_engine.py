"""The Ray engine gives the rows of the local engine, whatever dies meanwhile."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stablesig.extras import MissingExtraError
from stablesig.scanning import ray_connection, ray_engine
from stablesig.scanning.api import scan
from stablesig.scanning.item import Item, readable
from stablesig.scanning.local_engine import scan_items
from stablesig.scanning.ray_engine import RayEngine
from stablesig.scanning.row import Row
from stablesig.scanning.settings import ScanSettings
from stablesig_detector.errors import UsageError
from stablesig_detector.key_set import load_key_set

if find_spec("ray") is None:  # not imported yet: it reads its environment then
    pytest.skip("Ray is not installed", allow_module_level=True)

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def settings(gallery: Any) -> ScanSettings:
    return ScanSettings(load_key_set([gallery.finds_first, gallery.finds_second]))


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    with ray_engine.ray_engine(jobs=2) as engine:
        yield engine


@pytest.fixture(scope="module")
def folder(gallery: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Marked, broken, tiny, empty and oddly named files."""
    folder = tmp_path_factory.mktemp("uploads")
    for source in (gallery.first, gallery.second, gallery.broken):
        (folder / source.name).write_bytes(source.read_bytes())
    (folder / "empty.jpg").touch()
    (folder / "two\nlines.png").write_bytes(gallery.first.read_bytes())
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))).write_bytes(gallery.second.read_bytes())
    (folder / "nowhere.png").symlink_to("gone.png")
    transparent = np.zeros((64, 64, 4), np.uint8)
    Image.fromarray(transparent).save(folder / "transparent.png")
    return folder


def as_item(path: Path | str) -> Item:
    name, exact = readable(str(path))
    return Item(name, "file", str(path), path_bytes=exact)


def comparable(outcomes: Iterable[list[Row]]) -> list[str]:
    """All rows but for what time decides, in an order of their own."""
    return sorted(repr(replace(row, seconds=None, time=None)) for rows in outcomes for row in rows)


def missing(count: int) -> list[Item]:
    return [Item(f"missing/{number}.png", "file", f"/nowhere/{number}.png") for number in range(count)]


def parent_of(process: int) -> int:
    status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    return int(status.rpartition(")")[2].split()[1])


def processes(name: str) -> list[int]:
    """Those of this test's Ray with `name` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            above = process = int(entry.name)
            while above not in (0, os.getpid()):
                above = parent_of(above)
        except (OSError, ValueError):
            continue
        if above and process != os.getpid() and name in line:
            found.append(process)
    return found


class TestRows:
    def test_are_those_of_the_local_engine(
        self, engine: RayEngine, folder: Path, settings: ScanSettings, gallery: Any
    ) -> None:
        items = [as_item(path) for path in folder.iterdir()]
        items += [
            Item("carried.png", "data", data=gallery.first.read_bytes()),
            Item("loop", "refused", error="leads in a circle", error_kind="not-a-file"),
            as_item(folder / "gone.png"),
        ]
        local = comparable(scan_items(items, settings, 1))
        assert comparable(engine(items, settings, 2)) == local
        assert sum("'detected'" in row for row in local) == 5
        assert sum("error_kind='missing'" in row or "not-a-file" in row for row in local) >= 3

    def test_of_relative_paths_are_of_files_in_the_working_directory(
        self, engine: RayEngine, folder: Path, settings: ScanSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folder)
        [[row]] = engine([as_item("first.png")], settings, 1)
        assert (row.path, row.verdict) == ("first.png", "detected")

    def test_come_once_for_each_of_many_items(self, engine: RayEngine, settings: ScanSettings) -> None:
        items = missing(5000)
        counts = Counter(row.path for rows in engine(items, settings, 2) for row in rows)
        assert counts == Counter({item.path: 1 for item in items})

    def test_come_without_waiting_for_a_source_that_pauses(
        self, engine: RayEngine, settings: ScanSettings
    ) -> None:
        seen: list[str] = []

        def items() -> Iterator[Item | None]:
            yield from missing(3)
            while len(seen) < 3:
                yield None
            yield Item("last", "refused", error="no", error_kind="missing")

        for rows in engine(items(), settings, 2):
            seen += [row.path for row in rows]
        assert sorted(seen) == ["last", *(item.path for item in missing(3))]

    def test_are_drawn_only_as_there_is_room(self, engine: RayEngine, settings: ScanSettings) -> None:
        drawn = 0

        def items() -> Iterator[Item]:
            nonlocal drawn
            for item in missing(100_000):
                drawn += 1
                yield item

        rows = engine(items(), settings, 2)
        for _ in range(100):
            next(rows)
        rows.close()  # type: ignore[attr-defined]
        assert drawn < 100 + 4 * 3 * 16 * 2


class TestDeath:
    def test_of_workers_costs_and_doubles_no_row_and_prints_nothing_to_stdout(
        self, engine: RayEngine, settings: ScanSettings, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """kill -9 of an actor, and of the process beside it in which its workers are."""
        items, counts, killed = missing(12_000), Counter[str](), set[int]()
        names = ["ray::ScanActor", "ray_worker import serve"]
        for rows in engine(items, settings, 2):
            counts.update(row.path for row in rows)
            assert all(row.error_kind == "missing" for row in rows)
            if names and len(counts) > 3000 * (1 + len(killed)):
                victim = next(process for process in processes(names.pop()) if process not in killed)
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)
        assert counts == Counter({item.path: 1 for item in items})
        assert len(killed) == 2
        assert capfd.readouterr().out == ""

    def test_that_an_item_causes_again_and_again_is_its_row(
        self, engine: RayEngine, settings: ScanSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ray_engine, "ScanActor", DyingActor)
        monkeypatch.setattr(ray_engine, "_TRIES", 2)
        items = [*missing(5), Item("deadly", "file", "/nowhere")]
        rows = {row.path: row for rows in engine(items, settings, 1) for row in rows}
        assert len(rows) == 6
        assert (rows["deadly"].verdict, rows["deadly"].error_kind) == ("unreadable", "crash")
        assert all(rows[item.path].error_kind == "missing" for item in missing(5))


class DyingActor(ray_engine.ScanActor):
    """Dies of one item."""

    def rows(self, chunk: Any) -> Any:
        if any("deadly" in values for values in chunk):
            os._exit(1)
        return super().rows(chunk)


class TestRefusal:
    def test_of_nodes_with_other_versions_names_them(
        self, engine: RayEngine, settings: ScanSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = ray_engine.versions()
        monkeypatch.setattr(ray_engine, "versions", lambda: here | {"pillow": "1.0"})
        with pytest.raises(UsageError, match=rf"has pillow {here['pillow']} \(here 1\.0\).*install the same"):
            list(engine(missing(1), settings, 1))

    def test_when_no_worker_can_start_says_what_the_last_one_said(
        self, engine: RayEngine, settings: ScanSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ray_engine, "ScanActor", BrokenActor)
        monkeypatch.setattr(ray_engine, "_FAILED_STARTS", 2)
        with pytest.raises(UsageError, match=r"installed on every node\?.*No module named 'stablesig'"):
            list(engine(missing(1), settings, 1))

    def test_of_a_cluster_that_is_gone_and_still_noted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            free = server.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free}")
        with pytest.raises(UsageError, match=rf"no Ray cluster answers at 127.0.0.1:{free}"):  # noqa: SIM117
            with ray_engine.ray_engine("auto"):
                pass

    def test_of_an_address_without_a_cluster(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            free = server.getsockname()[1]
        for address in (f"127.0.0.1:{free}", f"ray://127.0.0.1:{free}"):
            with pytest.raises(UsageError, match=rf"no Ray cluster answers at {address}"):  # noqa: SIM117
                with ray_connection.connected(address, None):
                    pass

    @pytest.mark.parametrize("address", ["", "nonsense", "ray://", "host:port"])
    def test_of_what_is_no_address(self, address: str) -> None:
        with pytest.raises(UsageError, match="the address of a Ray cluster is"):  # noqa: SIM117
            with ray_connection.connected(address, None):
                pass

    def test_without_ray_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'stablesig\[scan-ray\]'"):  # noqa: SIM117
            with ray_engine.ray_engine():
                pass


class BrokenActor:
    """What an actor is on a node where nothing is installed."""

    def __init__(self, *_: object) -> None:
        raise ModuleNotFoundError("No module named 'stablesig'")

    def start(self) -> None: ...


def test_nothing_is_reported_to_the_makers_of_ray(engine: RayEngine) -> None:
    from ray._common.usage.usage_lib import usage_stats_enabled

    assert not usage_stats_enabled()


@pytest.mark.parametrize(
    ("cpus", "jobs", "sizes"),
    [([2], 2, [2]), ([64, 64], 128, [8] * 16), ([4, 64], 6, [4, 2]), ([16], 3, [3]), ([1, 1], 2, [1, 1])],
)
def test_actors_fit_on_the_smallest_node(cpus: list[int], jobs: int, sizes: list[int]) -> None:
    assert ray_engine._actor_sizes(cpus, jobs) == sizes


def test_a_scan_that_was_interrupted_on_ray_goes_on_with_the_local_engine(
    engine: RayEngine, folder: Path, settings: ScanSettings, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    def interrupted(*arguments: Any) -> Iterator[list[Row]]:
        rows = engine(*arguments)
        yield next(rows)
        yield next(rows)
        raise KeyboardInterrupt

    out = tmp_path / "found.parquet"
    with pytest.raises(KeyboardInterrupt):
        scan([str(folder)], settings, out, engine=interrupted, jobs=1)
    result = scan([str(folder)], settings, out, jobs=1, resume=True)
    assert result.before == 2
    whole = scan([str(folder)], settings, tmp_path / "whole.parquet", engine=engine, jobs=1)
    resumed, at_once = (
        sorted(map(repr, pq.read_table(one).drop_columns(["seconds", "time"]).to_pylist()))
        for one in (out, whole.out)
    )
    assert resumed == at_once


def test_the_example_of_a_cluster_is_valid() -> None:
    import ray
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config

    example = PROJECT / "examples" / "ray-cluster.yaml"
    config = yaml.safe_load(example.read_text(encoding="utf-8"))
    validate_config(prepare_config(config))
    assert ray.__version__ in " ".join(config["setup_commands"])
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 ray start" in " ".join(commands)


SCAN = """
import sys
from stablesig.scanning import api
from stablesig.scanning.ray_engine import ray_engine
from stablesig.scanning.settings import ScanSettings
from stablesig_detector.key_set import load_key_set
api.PART_SECONDS = 0.5
address, out, key, resume, *sources = sys.argv[1:]
with ray_engine(address, 2) as engine:  # the second node may still be on its way
    settings = ScanSettings(load_key_set([key]))
    result = api.scan(sources, settings, out, engine=engine, jobs=engine.jobs, resume=resume == "resume")
print("images", result.tally.images, "before", result.before)
"""


def wait_for(name: str, count: int) -> None:
    until = time.monotonic() + 60.0
    while len(processes(name)) < count:
        assert time.monotonic() < until, f"there are no {count} of {name}"
        time.sleep(0.1)


class TwoNodes:
    """A cluster of two nodes with a CPU each, both on this machine, in processes of its own."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="ray", dir="/tmp")  # short, for sockets
        self.token = Path(self.folder.name) / "token"
        self.token.write_text(secrets.token_hex(32), encoding="ascii")
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.address = f"127.0.0.1:{server.getsockname()[1]}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        port = self.address.rpartition(":")[2]
        head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder.name}"]
        self.scans: list[subprocess.Popen[str]] = []
        self.nodes = [self._start(*head)]
        wait_for("raylet/raylet", 1)
        self.nodes.append(self._start(f"--address={self.address}"))
        wait_for("raylet/raylet", 2)

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--block", *options]
        nowhere = subprocess.DEVNULL
        return subprocess.Popen(command, env=self.environment, stdout=nowhere, stderr=nowhere)

    def scan(self, out: Path, key: Path, *sources: Path, resume: bool = False) -> subprocess.Popen[str]:
        arguments = [str(one) for one in (self.address, out, key, "resume" if resume else "", *sources)]
        command = [sys.executable, "-c", SCAN, *arguments]
        self.scans.append(subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True))
        return self.scans[-1]

    def lose_second(self) -> None:
        """The machine is gone: the node and all that runs on it."""
        raylet = next(one for one in processes("raylet/raylet") if parent_of(one) == self.nodes[1].pid)
        of_node = [one for one in processes("ray") if one == raylet or parent_of(one) == raylet]
        for process in of_node:
            os.kill(process, signal.SIGKILL)

    def close(self) -> None:
        for process in self.scans:
            process.kill()
            with process:  # closes its pipe and waits
                pass
        for node in reversed(self.nodes):
            node.terminate()
            node.wait(30.0)
        self.folder.cleanup()


@pytest.fixture
def two_nodes() -> Iterator[TwoNodes]:
    cluster = TwoNodes()
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def list_of_many(gallery: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names of 400 images, half of them marked, and of 100 that are missing."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(400):
        (folder / f"{number}.png").symlink_to(gallery.first if number % 2 else gallery.second)
    names = folder / "all.txt"
    names.write_text("".join(f"{folder}/{number}.png\n" for number in range(500)), encoding="utf-8")
    return names


def wait_for_parts(out: Path) -> None:
    until = time.monotonic() + 60.0
    while not list(out.glob("part-*.parquet")):
        assert time.monotonic() < until, "nothing was committed"
        time.sleep(0.05)


def check_many(out: Path) -> None:
    import pyarrow.dataset as ds

    rows = ds.dataset(sorted(out.glob("part-*.parquet"))).to_table(["path", "verdict"]).to_pylist()
    assert len({row["path"] for row in rows}) == len(rows) == 500
    verdicts = Counter(row["verdict"] for row in rows)
    assert verdicts == {"detected": 200, "not detected": 200, "unreadable": 100}


@pytest.mark.slow
class TestCluster:
    def test_that_loses_a_node_has_every_row_once(
        self, two_nodes: TwoNodes, list_of_many: Path, gallery: Any, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        process = two_nodes.scan(out, gallery.finds_first, list_of_many)
        wait_for_parts(out)
        wait_for("raylet/raylet", 2)
        wait_for("ray::ScanActor", 2)
        two_nodes.lose_second()
        assert process.communicate(timeout=200)[0] == "images 500 before 0\n"
        check_many(out)

    def test_goes_on_after_kill_9_of_the_scan(
        self, two_nodes: TwoNodes, list_of_many: Path, gallery: Any, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        process = two_nodes.scan(out, gallery.finds_first, list_of_many)
        wait_for_parts(out)
        process.kill()
        process.communicate()
        process = two_nodes.scan(out, gallery.finds_first, list_of_many, resume=True)
        printed = process.communicate(timeout=200)[0]
        assert "images 500 before" in printed
        assert "before 0" not in printed
        check_many(out)
