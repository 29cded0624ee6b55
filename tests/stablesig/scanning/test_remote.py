"""Stores through fsspec: one on this disk, the Hub on loopback, and S3 where its packages are installed."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stablesig.extras import MissingExtraError
from stablesig.scanning import remote
from stablesig.scanning.addresses import public_address
from stablesig.scanning.item import Item
from stablesig.scanning.opening import open_source
from stablesig.scanning.reading import ItemError, PassingError, ReadOptions, read_item
from stablesig.scanning.sources import SourceOptions, find_items
from stablesig_detector.errors import UsageError
from stablesig_detector.urls import FetchPolicy

from ...hub_server import TOKEN, Fault, HubServer
from ..hub_fixture import hub as hub
from ..hub_fixture import waits as waits
from .test_archives import tar_bytes, zip_bytes
from .test_reading import Pictures, in_a_process
from .test_reading import pictures as pictures

pytest.importorskip("fsspec")
QUICK = ReadOptions(FetchPolicy(allow_private=True, seconds=5.0), retries=2, first_wait=0.001)
OPTIONS = SourceOptions(read=QUICK)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    remote._filesystems.clear()
    yield
    remote._filesystems.clear()


def outcome(item: Item) -> bytes | str:
    try:
        return read_item(item, QUICK)
    except ItemError as error:
        return error.kind if str(error).startswith(item.path) else f"names another: {error}"


def outcomes(*sources: str) -> dict[str, bytes | str]:
    return {item.path: outcome(item) for item in find_items(sources, OPTIONS)}


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The address of a folder, read by the same code as any store."""
    files = {
        "a.jpg": b"A",
        "sub dir/ü.png": b"U",
        "sub dir/[x] 100%.png": b"X",
        "notes.txt": b"n",
        "s-00.tar": tar_bytes({"m.jpg": b"one", "m.json": b"{}", "n.jpg": b"two" * 5000}),
        "s-01.tar": tar_bytes({"m.jpg": b"three"}),
        "z.zip": zip_bytes({"m.jpg": b"zip" * 1000, "k.txt": b""}),
        "cut.tar": tar_bytes({"m.jpg": b"one", "n.jpg": b"two" * 5000})[:5000],
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    os.mkfifo(tmp_path / "pipe.jpg")
    return f"local://{tmp_path}"


def test_a_folder_and_patterns_of_a_store(store: str) -> None:
    images = {f"{store}/a.jpg": b"A", f"{store}/sub dir/ü.png": b"U", f"{store}/sub dir/[x] 100%.png": b"X"}
    assert outcomes(store) == {**images, f"{store}/pipe.jpg": "not-a-file"}
    assert outcomes(f"{store}/") == outcomes(store)
    assert outcomes(f"{store}/**/*.png") == {name: data for name, data in images.items() if "png" in name}
    assert outcomes(f"{store}/sub dir/[x] 100%.png") == {f"{store}/sub dir/[x] 100%.png": b"X"}  # as it is
    assert outcomes(f"{store}/a.*") == {f"{store}/a.jpg": b"A"}


def test_archives_in_a_store_are_read_as_they_come(store: str) -> None:
    assert outcomes(f"{store}/s-{{00..02}}.tar", f"{store}/z.zip") == {
        f"{store}/s-00.tar::m.jpg": b"one",
        f"{store}/s-00.tar::n.jpg": b"two" * 5000,
        f"{store}/s-01.tar::m.jpg": b"three",
        f"{store}/s-02.tar": "missing",
        f"{store}/z.zip::m.jpg": b"zip" * 1000,
    }
    assert outcomes(f"{store}/cut.tar") == {
        f"{store}/cut.tar::m.jpg": b"one",
        f"{store}/cut.tar::n.jpg": "archive",
        f"{store}/cut.tar": "archive",
    }


def test_lists_in_a_store_and_of_a_store(store: str, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(f"id,url\n1,{store}/a.jpg\n2,{store}/gone.jpg\n3,{store}/sub dir\n")
    expected = {f"{store}/a.jpg": b"A", f"{store}/gone.jpg": "missing", f"{store}/sub dir": "not-a-file"}
    assert outcomes(f"{store}/l.csv") == expected
    assert outcomes(f"@{store}/l.csv") == expected
    assert outcomes(str(tmp_path / "l.csv")) == expected
    (tmp_path / "bad.csv").write_text("id\n1\n")
    with pytest.raises(UsageError, match="it has 'id'"):
        find_items([f"{store}/bad.csv"], OPTIONS)


def test_a_store_works_in_a_process_that_was_forked(store: str) -> None:
    items = list(find_items([store], OPTIONS))
    assert in_a_process(lambda: str([outcome(item) for item in items])) == str(
        [outcome(item) for item in items]
    )


def test_memory_is_a_store_too() -> None:
    store = remote.filesystem("memory://")
    store.pipe_file("/scan/a.jpg", b"A")
    assert outcomes("memory:///scan") == {"memory:///scan/a.jpg": b"A"}
    assert outcomes("memory://scan/a.jpg") == {"memory://scan/a.jpg": b"A"}


def test_one_over_the_bound_is_not_read(store: str) -> None:
    for size in (-1, 1 << 40):
        item = Item(f"{store}/a.jpg", "remote", f"{store}/a.jpg", size=size)
        with pytest.raises(ItemError) as caught:
            read_item(item, ReadOptions(max_bytes=0))
        assert caught.value.kind == "too-large"


@pytest.mark.parametrize(
    "address",
    [
        "ftp://inside/x.png",
        "simplecache::http://169.254.169.254/x.png",
        "zip://x.png::http://169.254.169.254/a.zip",
        "filecache://x",
        "memory::https://h/x",
        "github://org:repo@main/x.png",
        "s3://bucket/x::http://169.254.169.254/",
    ],
)
def test_addresses_that_could_lead_elsewhere_are_not_read(address: str) -> None:
    with pytest.raises(ItemError, match="not read"):
        remote.filesystem(address)
    assert list(outcomes(address).values()) == ["network"]
    assert outcome(Item(public_address(address), "remote", address)) == "network"


def test_a_key_in_an_address_is_neither_used_nor_shown() -> None:
    (item,) = find_items(["s3://AKIA:sec/ret@bucket/a.jpg"], OPTIONS)
    assert "sec" not in item.path + str(item.error)
    assert item.error_kind == "permission"
    carried = Item("s3://***@bucket/a.jpg", "remote", "s3://AKIA:sec/ret@bucket/a.jpg")
    with pytest.raises(ItemError) as caught:
        read_item(carried, QUICK)
    assert "sec" not in str(caught.value)


def test_a_missing_package_is_named_before_the_scan_and_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingExtraError, match="pip install gcsfs"):
        find_items(["gs://bucket/a.jpg"], OPTIONS)
    with pytest.raises(ItemError, match="pip install gcsfs"):
        read_item(Item("gs://b/a.jpg", "remote", "gs://b/a.jpg"), QUICK)


class Flaky:
    """A store whose calls fail with each of `errors` first."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors, self.calls = errors, 0

    def _strip_protocol(self, address: str) -> str:
        return address

    def cat_file(self, path: str) -> bytes:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return b"picture"


class StoreError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("https://u:secret@h/x?token=secret said no\nfor a reason")
        self.status = status


@pytest.mark.parametrize(
    ("error", "kind", "calls"),
    [
        (OSError("broke off"), "network", 3),
        (TimeoutError(), "network", 3),
        (ConnectionResetError(104, "reset"), "network", 3),
        (StoreError(503), "network", 3),
        (StoreError(429), "network", 3),
        (StoreError(400), "network", 1),
        (StoreError(404), "missing", 1),
        (StoreError(403), "permission", 1),
        (FileNotFoundError("x"), "missing", 1),
        (PermissionError("x"), "permission", 1),
        (IsADirectoryError("x"), "not-a-file", 1),
        (ValueError("a fault of the package"), "network", 1),
        (type("NoCredentialsError", (Exception,), {})("no"), "permission", 1),
        (
            type("EndpointConnectionError", (type("ConnectionError", (Exception,), {}),), {})("no"),
            "network",
            3,
        ),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_may_pass_is_tried_again(
    error: Exception, kind: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = Flaky([error] * 9)
    monkeypatch.setitem(remote._filesystems, (os.getpid(), "s3"), flaky)
    item = Item("s3://b/a.jpg", "remote", "s3://b/a.jpg", size=7)
    with pytest.raises(ItemError) as caught:
        read_item(item, QUICK)
    assert (caught.value.kind, flaky.calls) == (kind, calls)
    assert not isinstance(caught.value, PassingError)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    flaky.errors = [error] * (calls - 1)
    assert read_item(item, QUICK) == b"picture"


def test_an_archive_on_the_web_is_fetched_within_the_policy(pictures: Pictures) -> None:
    body = tar_bytes({"m.jpg": b"one"})
    served: Callable[..., object] = pictures.respond
    from ...faulty_server import Answer

    def respond(method: str, target: str, headers: object, data: bytes) -> object:
        return Answer(200, body) if target == "/s.tar" else served(method, target, headers, data)

    pictures.respond = respond  # type: ignore[assignment,method-assign]
    pictures.faults.append(Fault("GET /s.tar", status=503))
    address = f"{pictures.url}/s.tar"
    assert outcomes(address) == {f"{address}::m.jpg": b"one"}
    assert outcomes(f"{pictures.url}/none.tar", address)[f"{pictures.url}/none.tar"] == "missing"
    (refused,) = find_items([address])  # not public
    assert refused.error_kind == "permission"


def test_the_hub_is_read_as_a_store(hub: HubServer) -> None:
    files = {
        "a.jpg": b"A" * 100,
        "big.png": b"B" * 5000,  # stored by LFS, behind a redirect
        "sub/c.jpg": b"C",
        "notes.txt": b"n",
        "shards/s-0.tar": tar_bytes({"m.jpg": b"one" * 3000}),
        "l.csv": b"url\nhf://org/pics/a.jpg\nhf://org/pics/gone.jpg\n",
    }
    hub.create("org/pics", private=True, files=files)
    images = {f"hf://org/pics/{name}": data for name, data in files.items() if name.endswith(("jpg", "png"))}
    assert outcomes("hf://org/pics") == images
    assert outcomes("hf://org/pics@main/sub") == {"hf://org/pics@main/sub/c.jpg": b"C"}
    assert outcomes("hf://org/pics/*/*.jpg") == {"hf://org/pics/sub/c.jpg": b"C"}
    assert outcomes("hf://org/pics/shards/s-{0..0}.tar") == {
        "hf://org/pics/shards/s-0.tar::m.jpg": b"one" * 3000
    }
    assert outcomes("hf://org/pics/l.csv") == {
        "hf://org/pics/a.jpg": b"A" * 100,
        "hf://org/pics/gone.jpg": "missing",
    }
    assert {request.token for request in hub.asked("GET /org/pics/resolve")} == {TOKEN}
    assert not any(request.token for request in hub.asked("GET /lfs/"))


def test_the_hub_in_trouble_and_without_rights(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.create("org/pics", private=True, files={"a.jpg": b"A"})
    item = Item("hf://org/pics/a.jpg", "remote", "hf://org/pics/a.jpg", size=1)
    hub.faults.append(Fault("GET /org/pics/resolve", status=503, times=1))
    assert outcome(item) == b"A"
    with pytest.raises(UsageError, match="hf://org/none: is not there"):
        find_items(["hf://org/none"], OPTIONS)
    remote._filesystems.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_wrongButSecret")
    with pytest.raises(ItemError) as caught:
        read_item(item, QUICK)
    assert caught.value.kind in ("permission", "missing")
    assert "hf_wrong" not in str(caught.value)


def test_the_hub_works_in_a_process_that_was_forked(hub: HubServer) -> None:
    hub.create("org/pics", private=True, files={"a.jpg": b"A"})
    (item,) = find_items(["hf://org/pics"], OPTIONS)
    assert outcome(item) == b"A"
    assert in_a_process(lambda: str(outcome(item))) == "b'A'"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a real server of S3 on loopback (moto)."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "notARealSecret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    remote.filesystem("s3://").mkdir("bucket")
    yield "s3://bucket"
    server.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_s3_is_read_as_a_store(s3: str) -> None:
    files = {
        "pics/a.jpg": b"A" * 10,
        "pics/empty.jpg": b"",
        "pics/100%20.jpg": b"P",
        "pics/sub dir/ü [1].png": b"U" * 20,
        "shards/s-0.tar": tar_bytes({"m.jpg": b"one" * 3000, "m.json": b"{}"}),
        "shards/z.zip": zip_bytes({"m.jpg": b"two"}),
        "l.csv": f"path\n{s3}/pics/a.jpg\n{s3}/pics/gone.jpg\n".encode(),
    }
    for name, data in files.items():
        remote.filesystem(s3).pipe_file(f"bucket/{name}", data)
    images = {f"{s3}/{name}": data for name, data in files.items() if name.startswith("pics")}
    assert outcomes(f"{s3}/pics") == images
    assert outcomes(f"{s3}/**/*.png") == {name: data for name, data in images.items() if "png" in name}
    assert outcomes(f"{s3}/shards/s-{{0..1}}.tar", f"{s3}/shards/z.zip") == {
        f"{s3}/shards/s-0.tar::m.jpg": b"one" * 3000,
        f"{s3}/shards/s-1.tar": "missing",
        f"{s3}/shards/z.zip::m.jpg": b"two",
    }
    assert outcomes(f"{s3}/l.csv") == {f"{s3}/pics/a.jpg": b"A" * 10, f"{s3}/pics/gone.jpg": "missing"}
    assert outcomes("s3://nobucket/x.jpg", s3)["s3://nobucket/x.jpg"] == "missing"
    item = Item(f"{s3}/pics/a.jpg", "remote", f"{s3}/pics/a.jpg")
    assert in_a_process(lambda: str(outcome(item))) == str(b"A" * 10)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_s3_without_a_server_and_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    item = Item("s3://b/a.jpg", "remote", "s3://b/a.jpg")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert outcome(item) == "permission"
    remote._filesystems.clear()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "notARealSecret")
    with pytest.raises(ItemError) as caught:
        read_item(item, ReadOptions(retries=0))
    assert caught.value.kind == "network"
    assert "notARealSecret" not in str(caught.value)


def test_opening_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="is not there"):
        open_source(f"local://{tmp_path}/gone", QUICK)
    with warnings.catch_warnings(), pytest.raises(ItemError, match="names no file on this machine"):
        open_source("file://elsewhere/x", QUICK)
