"""What Prometheus reads, over real HTTP, and addresses that are refused before anything starts."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stablesig.extras import MissingExtraError
from stablesig.scanning import metrics as metrics_module
from stablesig.scanning.metrics import ScanMetrics, metrics_address, serving
from stablesig_detector.errors import UsageError

from .result_rows import absent, broken, hit


def samples(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urlopen(url, timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(url: str, name: str, **labels: str) -> float:
    return samples(url)["stablesig_" + name, tuple(sorted(labels.items()))]


def test_what_was_scanned_is_answered_over_http() -> None:
    metrics = ScanMetrics({"version": "1.2", "keys": "abc"})
    metrics.image([hit(1, key=0), hit(1, key=1)], latency_s=3.0)
    metrics.image([absent(2)], latency_s=1.0)
    metrics.image([broken(3, "time")])
    metrics.committed()
    metrics.polled(0.25, missing=2)
    metrics.follow_backlog(lambda: 7, lambda: 12.5)
    with serving(metrics, "127.0.0.1:0") as url:
        assert value(url, "scan_images_total", verdict="detected") == 1
        assert value(url, "scan_images_total", verdict="not detected") == 1
        assert value(url, "scan_images_total", verdict="unreadable") == 1
        assert value(url, "scan_hits_total", key_id=f"{1:016x}") == 1
        assert value(url, "scan_errors_total", kind="time") == 1
        assert value(url, "scan_errors_total", kind="network") == 0
        assert value(url, "scan_read_bytes_total") == 1001 + 1002
        assert value(url, "scan_latency_seconds_count") == 2
        assert value(url, "scan_latency_seconds_sum") == 4.0
        assert value(url, "scan_measuring_seconds_bucket", le="0.025") == 3
        assert value(url, "scan_backlog_images") == 7
        assert value(url, "scan_oldest_waiting_seconds") == 12.5
        assert value(url, "scan_sources_missing") == 2
        assert value(url, "scan_last_commit_timestamp_seconds") > 1.7e9
        assert value(url, "scan_build_info", version="1.2", keys="abc") == 1


def test_names_keep_to_the_conventions_of_prometheus() -> None:
    for family in ScanMetrics({"version": "1"}).registry.collect():
        if family.name.startswith("process_"):
            continue
        assert family.name.startswith("stablesig_scan_")
        assert family.documentation.endswith(".")
        if family.type == "counter":
            assert {sample.name for sample in family.samples} <= {
                family.name + "_total",
                family.name + "_created",
            }
        elif family.type in ("histogram", "gauge") and "info" not in family.name:
            assert family.name.rsplit("_", 1)[1] in ("seconds", "images", "missing")


def test_scans_in_one_process_do_not_share_counts() -> None:
    first, second = ScanMetrics({"version": "1"}), ScanMetrics({"version": "1"})
    first.image([absent(1)])
    with serving(second, ":0") as url:
        assert value(url, "scan_images_total", verdict="not detected") == 0


def test_labels_do_not_grow_with_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "MAX_KEY_LABELS", 2)
    metrics = ScanMetrics({"version": "1"})
    for key in (0, 1, 2, 3, 1):
        metrics.image([hit(key, key=key)])
    with serving(metrics, ":0") as url:
        hits = {
            labels: count for (name, labels), count in samples(url).items() if name.endswith("hits_total")
        }
    assert hits == {
        (("key_id", f"{0:016x}"),): 1,
        (("key_id", f"{1:016x}"),): 2,
        (("key_id", "other"),): 2,
    }


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:9464", ("::1", 9464)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_an_address_without_a_host_is_this_machine_only(text: str, address: tuple[str, int]) -> None:
    assert metrics_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "localhost", "localhost:", "1:2:3", "::1:9464", ":65536", ":-1", ":\uff19\uff14"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--metrics is ADDR:PORT"):
        metrics_address(text)


def test_a_port_in_use_is_refused_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        metrics = ScanMetrics({"version": "1"})
        refused = pytest.raises(UsageError, match=f"{address} cannot be opened.*in use.*free port")
        with refused, serving(metrics, address):
            pass


def test_an_address_of_another_machine_is_refused() -> None:
    refused = pytest.raises(UsageError, match=r"192\.0\.2\.1:9464 cannot be opened")
    with refused, serving(ScanMetrics({"version": "1"}), "192.0.2.1:9464"):
        pass


def test_the_port_is_free_again_afterwards() -> None:
    with serving(ScanMetrics({"version": "1"}), ":0") as url:
        port = int(url.split(":")[2].split("/")[0])
    with serving(ScanMetrics({"version": "1"}), f":{port}") as again:
        assert again == url


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'stablesig\[scan\]'"):
        ScanMetrics({"version": "1"})


def test_the_documentation_names_the_metrics_that_there_are() -> None:
    text = Path(__file__).parents[3].joinpath("docs", "scan-follow.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(stablesig_\w+)`", text, re.MULTILINE))
    families = list(ScanMetrics({"version": "1"}).registry.collect())
    names = {family.name + "_total" * (family.type == "counter") for family in families}
    assert documented == {name for name in names if name.startswith("stablesig_")}
    used = {name.removesuffix("_bucket") for name in re.findall(r"stablesig_scan_\w+", text)}
    assert used == documented


@pytest.mark.parametrize("address", ["a" * 70 + ":1", "x..y:1", "127.0.0.1:" + "9" * 5000])
def test_what_cannot_be_an_address_is_wrong_usage(address: str) -> None:
    with pytest.raises(UsageError, match="--metrics"), serving(ScanMetrics({"version": "1"}), address):
        pass
