"""Reading one input: files that change or are none, and a web server that fails."""

from __future__ import annotations

import os
import pickle
import resource
import socket
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from stablesig.scanning import reading
from stablesig.scanning.item import Item
from stablesig.scanning.reading import ItemError, ReadOptions, read_item
from stablesig_detector.urls import FetchPolicy

from ...faulty_server import Answer, Fault, FaultyServer

OPTIONS = ReadOptions(FetchPolicy(allow_private=True, seconds=2.0), retries=2, first_wait=0.001)


def file_item(path: Path) -> Item:
    return Item(str(path), "file", str(path))


def refusal(item: Item, options: ReadOptions = OPTIONS) -> ItemError:
    with pytest.raises(ItemError) as caught:
        read_item(item, options)
    assert str(caught.value).startswith(item.path)
    return caught.value


def test_a_file_comes_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc" * 100_000)
    assert read_item(file_item(path), OPTIONS) == b"abc" * 100_000
    assert read_item(Item("x", "data", data=b"abc"), OPTIONS) == b"abc"


def test_what_is_no_file_is_told_by_its_kind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "file").touch()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    kinds = {
        "gone": "missing",
        "nowhere": "missing",
        "file/below": "missing",
        "x" * 300: "missing",
        "nul\0": "missing",
        "pipe": "not-a-file",
        "socket": "not-a-file",
        "circle": "not-a-file",
        ".": "not-a-file",
    }
    try:
        assert {name: refusal(file_item(tmp_path / name)).kind for name in kinds} == kinds
        assert refusal(file_item(Path("/dev/zero"))).kind == "not-a-file"
    finally:
        listening.close()


def test_a_refused_item_is_its_error() -> None:
    error = refusal(Item("x.jpg", "refused", error="x.jpg: is a pipe", error_kind="not-a-file"))
    assert (str(error), error.kind) == ("x.jpg: is a pipe", "not-a-file")


def in_a_process(work: Callable[[], str]) -> str:
    """What `work` returns in a process of its own."""
    reading_end, writing_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, from 3.12 on
        child = os.fork()
    if child == 0:
        try:
            os.write(writing_end, work().encode())
        finally:
            os._exit(0)
    os.close(writing_end)
    with os.fdopen(reading_end, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(child, 0)
    return said


def as_nobody(work: Callable[[], str]) -> str:
    """The same without the rights of root."""

    def without_rights() -> str:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        return work()

    return in_a_process(without_rights)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may pass through; pytest's own are closed to others."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which root alone may")
def test_a_file_that_may_not_be_read(open_folder: Path) -> None:
    path = open_folder / "a.jpg"
    path.write_bytes(b"x")
    path.chmod(0)
    (open_folder / "closed").mkdir(mode=0o700)
    for name in (path, open_folder / "closed" / "b.jpg"):
        assert as_nobody(lambda name=name: refusal(file_item(name)).kind) == "permission"


def changing(path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the file grow right before each of the next reads ends."""
    left = [times]
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        caller_reads = os.lseek(descriptor, 0, os.SEEK_CUR) > 0
        if caller_reads and left[0] > 0:
            left[0] -= 1
            with path.open("ab") as file:
                file.write(b"more")
        return real(descriptor)

    monkeypatch.setattr("stablesig.scanning.reading.os.fstat", fstat)


def test_a_file_that_grows_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"begin")
    changing(path, monkeypatch, 1)
    assert read_item(file_item(path), OPTIONS) == b"beginmore"


def test_one_that_goes_on_growing_is_changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"begin")
    changing(path, monkeypatch, 2)
    assert refusal(file_item(path)).kind == "changing"


def test_a_writer_beside_never_gives_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"")
    stop = threading.Event()
    kinds = set()

    def write() -> None:
        while not stop.is_set():
            with path.open("wb", buffering=0) as file:
                for _ in range(25):
                    file.write(b"x" * 4096)  # a page: within a larger write the file grows page by page

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            try:
                length = len(read_item(file_item(path), OPTIONS))
            except ItemError as error:
                kinds.add(error.kind)
            else:
                assert length % 4096 == 0  # what was there at one moment
    finally:
        stop.set()
        writer.join()
    assert kinds <= {"changing"}


def test_one_over_the_bound_is_too_large_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert refusal(file_item(path)).kind == "too-large"
    assert refusal(Item("x", "data", data=b"12345"), ReadOptions(max_bytes=4)).kind == "too-large"


def test_too_many_open_files_is_not_the_files_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.touch()

    def work() -> str:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        return refusal(file_item(path)).kind

    assert in_a_process(work) == "memory"


def test_errors_pass_through_a_pipe() -> None:
    error = pickle.loads(pickle.dumps(ItemError("a: is gone", "missing")))
    assert (str(error), error.kind) == ("a: is gone", "missing")
    assert pickle.loads(pickle.dumps(OPTIONS)) == OPTIONS


class Pictures(FaultyServer):
    def respond(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        answers = {
            "/a.jpg": Answer(200, b"picture" * 1000, {"Content-Type": "image/jpeg"}),
            "/page": Answer(200, b"<html>", {"Content-Type": "text/html"}),
            "/big.jpg": Answer(200, bytes(100), {"Content-Length": str(1 << 30)}),
            "/packed.jpg": Answer(200, b"x", {"Content-Encoding": "gzip"}),
            "/round": Answer(302, b"", {"Location": "/round"}),
            "/closed.jpg": Answer(403),
            "/login.jpg": Answer(401),
            "/gone.jpg": Answer(410),
        }
        return answers.get(target.partition("?")[0], Answer(404))


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pictures]:
    waits: list[float] = []
    monkeypatch.setattr("stablesig.scanning.reading.time", SimpleNamespace(sleep=waits.append))
    server = Pictures()
    server.waits = waits  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield server
    server.close()
    thread.join()


def url_item(address: str) -> Item:
    from stablesig.scanning.addresses import public_address

    return Item(public_address(address), "url", address)


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault("GET /a.jpg", status=status, times=2) for status in (408, 429, 500, 502, 503, 504)),
        Fault("GET /a.jpg", "drop", times=2),
        Fault("GET /a.jpg", "cut", after=100, times=2),
        Fault("GET /a.jpg", "lose", times=2),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_what_may_pass_is_tried_again(fault: Fault, pictures: Pictures) -> None:
    pictures.faults.append(Fault(**{**vars(fault), "hits": 0}))
    assert read_item(url_item(f"{pictures.url}/a.jpg"), OPTIONS) == b"picture" * 1000
    assert len(pictures.requests) == 3


def test_after_the_last_try_the_error_says_how_many(pictures: Pictures) -> None:
    pictures.faults.append(Fault("GET /a.jpg", status=503, times=9))
    error = refusal(url_item(f"{pictures.url}/a.jpg"))
    assert error.kind == "network"
    assert "tried 3 times" in str(error)
    assert len(pictures.requests) == 3
    waits = pictures.waits  # type: ignore[attr-defined]
    assert all(0.5 <= wait / (0.001 * 2**n) <= 1.5 for n, wait in enumerate(waits))


def test_a_server_that_never_answers_costs_the_time_of_the_policy(pictures: Pictures) -> None:
    pictures.faults.append(Fault("GET", "slow", seconds=0.3, times=9))
    options = ReadOptions(FetchPolicy(allow_private=True, seconds=0.1), retries=1, first_wait=0.001)
    error = refusal(url_item(f"{pictures.url}/a.jpg"), options)
    assert error.kind == "network"
    assert "did not arrive within" in str(error)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("none.jpg", "missing"),
        ("gone.jpg", "missing"),
        ("closed.jpg", "permission"),
        ("login.jpg", "permission"),
        ("page", "no-image"),
        ("big.jpg", "too-large"),
        ("packed.jpg", "network"),
        ("round", "network"),
    ],
)
def test_what_will_not_pass_is_asked_for_once(path: str, kind: str, pictures: Pictures) -> None:
    assert refusal(url_item(f"{pictures.url}/{path}")).kind == kind
    assert len(pictures.requests) == (6 if path == "round" else 1)


def test_a_private_address_is_not_connected_to(pictures: Pictures) -> None:
    error = refusal(url_item(f"{pictures.url}/a.jpg"), ReadOptions())
    assert error.kind == "permission"
    assert not pictures.requests


def test_a_password_goes_nowhere(pictures: Pictures) -> None:
    address = pictures.url.replace("//", "//user:secret@") + "/a.jpg?token=secret"
    error = refusal(url_item(address))
    assert error.kind == "permission"
    assert "secret" not in str(error)
    assert not pictures.requests


def test_a_signature_is_sent_and_not_shown(pictures: Pictures) -> None:
    item = url_item(f"{pictures.url}/a.jpg?X-Amz-Signature=secret")
    assert read_item(item, OPTIONS) == b"picture" * 1000
    assert "secret" in pictures.requests[0].path
    pictures.faults.append(Fault("GET", status=500, times=9))
    assert "secret" not in str(refusal(item)) + item.path


def test_nobody_listening_and_no_such_host_are_the_network(pictures: Pictures) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/a.jpg"
        assert refusal(url_item(address)).kind == "network"
    assert refusal(url_item("http://")).kind == "network"
    assert reading.MAY_PASS.isdisjoint(reading.STATES)


def test_a_small_file_takes_little_memory_whatever_a_large_one_may_take(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x" * 100)
    item = Item("a.png", "file", str(tmp_path / "a.png"))
    tracemalloc.start()
    try:
        assert read_item(item, ReadOptions(max_bytes=1 << 28)) == b"x" * 100
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
