"""What a report counts, over all forms of results."""

from __future__ import annotations

import json
import math
import os
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stablesig.detect_output import ABSENCE
from stablesig.scanning.parts import parts_in
from stablesig.scanning.report import json_text, make_report
from stablesig.scanning.report_text import chance_sentence, lines, share
from stablesig.scanning.row import Row
from stablesig.scanning.run_folder import open_run, partial_of
from stablesig_detector.errors import UsageError

from .result_rows import absent, broken, hit

ROWS: list[list[Row]] = [
    *[[absent(number)] for number in range(20)],
    [hit(100, 1, -12.5), hit(100, 2, -9.0, key_state="revoked")],
    [hit(101, 1, -30.0, path='a\nb,"c"\r\n.jpg', path_bytes=b"a\xff", sha256="f" * 64, matches=None)],
    [hit(102, 1, -30.0, path="=copy.jpg", sha256="f" * 64, format="PNG", matches=None)],
    *[[broken(200 + number, "missing")] for number in range(5)],
    [broken(300, "damaged", sha256="a" * 64, bytes=5, error='is\n"broken"')],
]
IDENTITY = {"fpr": 1e-6, "search": "fast", "n_keys": 3, "keys": "abc"}


def written(out: Path, groups: list[list[Row]] = ROWS, finish: bool = True, **identity: object) -> str:
    with open_run(out, {**IDENTITY, **identity}) as run:
        with run.writer(rows=7) as writer:
            for rows in groups:
                writer.add(rows)
        if finish:
            run.finish()
    return str(out)


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv", ""])
def test_all_forms_of_results_tell_the_same(tmp_path: Path, ending: str) -> None:
    report = make_report([written(tmp_path / f"it's [x]*{ending}")])
    images = {"images": 29, "detected": 3, "not_detected": 20, "unreadable": 6, "screened": 0}
    assert {name: report.images[name] for name in images} == images
    assert report.images["distinct_files"] == 20 + 1 + 1 + 1
    assert [(key["key_id"][-1], key["images"], key["distinct_images"]) for key in report.keys] == [
        ("1", 3, 2),
        ("2", 1, 1),
    ]
    assert report.key_states == [
        {"state": "valid", "keys": 1, "images": 3},
        {"state": "revoked", "keys": 1, "images": 1},
    ]
    assert [(error["kind"], error["images"], len(error["examples"])) for error in report.errors] == [
        ("missing", 5, 3),
        ("damaged", 1, 1),
    ]
    assert report.errors[1]["examples"] == ['images/000300.jpg: is\n"broken"']
    assert [(one["format"], one["images"], one["detected"]) for one in report.formats] == [
        ("JPEG", 22, 2),
        ("PNG", 1, 1),
    ]
    strongest, second = report.hits
    assert (strongest["path"], strongest["copies"], strongest["matches"]) == ("=copy.jpg", 2, None)
    assert (second["path"], second["n_detected"], second["key_id"][-1]) == (absent(100).path, 2, "1")


def test_false_hits_to_expect_are_images_times_rate_whatever_the_keys(tmp_path: Path) -> None:
    report = make_report([written(tmp_path / "x.parquet", n_keys=1000)])
    chance = report.false_positives
    assert chance["expected"] == pytest.approx(23 * 1e-6)
    assert (chance["distinct_measured_images"], chance["distinct_detected_images"]) == (22, 2)
    assert chance["chance_of_as_many"] == pytest.approx((22e-6) ** 2 / 2, rel=1e-3)
    assert chance["expected_per_key"] == pytest.approx(23e-6 / 3)
    assert "random" in chance["presumes"]
    assert "whatever the number of keys" in chance["presumes"]
    assert ABSENCE in report.notes


def test_several_results_are_added_and_their_common_files_counted_once(tmp_path: Path) -> None:
    names = [written(tmp_path / "x.parquet"), written(tmp_path / "y.parquet", keys="other", fpr=1e-3)]
    report = make_report([*names, names[0]])  # one named twice is one
    assert report.images["images"] == 58
    assert report.images["distinct_files"] == 23
    chance = report.false_positives
    assert chance["expected"] == pytest.approx(23e-6 + 23e-3)
    assert chance["expected_distinct"] == pytest.approx(22e-6 + 22e-3)
    assert chance["distinct_detected_images"] == 2
    assert [one["fpr"] for one in report.results] == [1e-6, 1e-3]


def test_the_same_images_against_the_same_keys_are_no_further_chance(tmp_path: Path) -> None:
    names = [written(tmp_path / "x.parquet"), written(tmp_path / "y.parquet", recursive=False)]
    assert make_report(names).false_positives["expected_distinct"] == pytest.approx(22e-6)


def test_a_scan_at_work_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    with open_run(out, IDENTITY) as run:
        assert make_report([str(out)]).images["images"] == 0  # nothing is committed yet
        with run.writer() as writer:
            writer.add(ROWS[0])
        report = make_report([str(out)])
        assert (report.results[0]["state"], report.images["images"]) == ("at work", 1)
    assert make_report([str(partial_of(out))]).results[0]["state"] == "unfinished"


def test_a_torn_part_is_left_out_and_named(tmp_path: Path) -> None:
    written(tmp_path / "x.parquet", finish=False)
    first = parts_in(tmp_path / "x.parquet.partial")[0]
    os.truncate(first, 50)
    report = make_report([str(tmp_path / "x.parquet")])
    assert report.images["images"] == 29 - 7
    assert first.name in report.notes[0]
    assert "--resume" in report.notes[0]


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv", ""])
def test_empty_results_are_a_report(tmp_path: Path, ending: str) -> None:
    report = make_report([written(tmp_path / f"x{ending}", [])])
    assert report.images["images"] == 0
    assert report.histogram == []
    assert report.hits == []
    assert chance_sentence(report.false_positives) == "There are no hits to explain."
    assert json.loads(json_text(report))["throughput"]["images_per_second"] is None
    assert any(line.startswith("detected") for line in lines(report))


def test_a_threshold_that_csv_does_not_say_is_taken_unless_its_rows_contradict(tmp_path: Path) -> None:
    name = written(tmp_path / "x.csv")
    assert any("1e-06" in note and "assumed" in note for note in make_report([name]).notes)
    report = make_report([name], fpr=1e-3)
    assert report.false_positives["expected"] == pytest.approx(23e-3)
    assert report.notes == [ABSENCE]
    with pytest.raises(UsageError, match=r"holds a hit with p = 1.0e-09.*--fpr"):
        make_report([name], fpr=1e-10)
    with pytest.raises(UsageError, match=r"counts p = 0.5 as not detected.*--fpr"):
        make_report([name], fpr=0.9)


def test_the_histogram_has_what_lies_below_all_decades_in_the_last(tmp_path: Path) -> None:
    rows = [[absent(1)], [absent(2, log10_p_value=0.0)], [absent(3, log10_p_value=-2.0)], [hit(4, 0, -900.0)]]
    histogram = make_report([written(tmp_path / "x.parquet", rows)]).histogram
    counted = {number: one["images"] for number, one in enumerate(histogram) if one["images"]}
    assert counted == {0: 2, 2: 1, 40: 1}
    assert sum(one["expected_at_most"] for one in histogram) == pytest.approx(4)


def test_throughput_is_that_of_the_time_from_the_first_image_to_the_last(tmp_path: Path) -> None:
    report = make_report([written(tmp_path / "x.parquet", [[absent(number)] for number in range(11)])])
    found = report.throughput
    assert found["span_seconds"] == pytest.approx(10.02)
    assert found["images_per_second"] == pytest.approx(11 / 10.02)
    assert found["worker_seconds"] == pytest.approx(0.22)


def test_json_has_a_version_and_bytes_in_base64(tmp_path: Path) -> None:
    rows = [[hit(1, path="\\xff", path_bytes=b"\xff")]]
    document = json.loads(json_text(make_report([written(tmp_path / "x.parquet", rows)])))
    assert (document["schema"], document["schema_version"]) == ("stablesig-scan-report", 1)
    assert document["hits"][0]["path_bytes"] == "/w=="


def test_text_from_outside_cannot_steer_the_terminal(tmp_path: Path) -> None:
    rows = [[broken(1, error="\x1b[2J\u202e.jpg: is damaged")], [hit(2, provider="A\x1b]0;title\x07")]]
    text = "\n".join(lines(make_report([written(tmp_path / "x.parquet", rows)])))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\x07" not in text


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("gone.parquet", None, "does not exist"),
        ("x.txt", b"hello", r"which ends in \.parquet, \.jsonl, \.csv or is a folder"),
        ("x.parquet", b"PAR1 or not", "is no result of stablesig scan"),
        ("x.csv", b"path,verdict\r\n", r"columns are not those of a scan \(no path_bytes\)"),
        ("x.csv", b"\xff\xfe", "is no result of stablesig scan"),
        ("x.jsonl", b'{"path": "a"}\n', r"no path_bytes"),
        ("x.jsonl", b"[1]\n", "columns are not those"),
        ("x.jsonl", b"nonsense\n", "is no result of stablesig scan"),
    ],
)
def test_files_of_something_else_are_refused(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=says):
        make_report([str(tmp_path / name)])


def test_a_folder_or_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folder without results"):
        make_report([str(tmp_path)])
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="no such column"):
        make_report([str(tmp_path / "x.parquet")])


def test_results_that_break_off_in_the_middle_are_named(tmp_path: Path) -> None:
    name = written(tmp_path / "x.jsonl")
    with Path(name).open("ab") as file:
        file.write(b'{"path": "torn')
    with pytest.raises(UsageError, match="cannot be read"):
        make_report([name])


def test_percentages_do_not_round_to_none_or_all() -> None:
    assert [share(0, 9), share(9, 9), share(1, 10**6), share(10**6 - 1, 10**6), share(1, 8)] == [
        "0 %",
        "100 %",
        "< 0.01 %",
        "> 99.99 %",
        "12.50 %",
    ]


def test_every_version_of_a_file_that_was_replaced_is_an_image(tmp_path: Path) -> None:
    later = hit(1).time + timedelta(days=1)  # type: ignore[operator]
    rows = [
        [hit(1, 1), hit(1, 2)],
        [hit(1, 2, sha256="e" * 64, time=later)],
        [absent(2)],
        [hit(2, 1, sha256="d" * 64, time=later)],
    ]
    report = make_report([written(tmp_path / "x", rows, follow=True)])
    assert (report.images["images"], report.images["detected"]) == (4, 3)
    assert sorted(found["n_detected"] for found in report.hits) == [1, 1, 2]
    assert report.false_positives["expected"] == pytest.approx(4e-6)
    assert "2 of the images are earlier versions" in report.notes[0]


def test_rows_that_another_part_has_replaced_are_counted_once(tmp_path: Path) -> None:
    written(tmp_path / "x", [[absent(1)], [absent(2)]])
    [old] = parts_in(tmp_path / "x")
    copy = old.with_name(old.name.replace("part-", "part-9"))
    copy.write_bytes(old.read_bytes())
    plan = {"whole": f".{copy.name}.whole", "part": copy.name, "replaces": [old.name]}
    (tmp_path / "x" / ".compacting.json").write_text(json.dumps(plan))
    assert make_report([str(tmp_path / "x")]).images["images"] == 2


def test_one_result_named_in_two_ways_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "x.parquet")
    monkeypatch.chdir(tmp_path)
    report = make_report(["x.parquet", "./x.parquet"])
    assert (report.images["images"], report.results[0]["name"]) == (29, "x.parquet")


@pytest.mark.parametrize(
    "row",
    [
        hit(1, key_id=None),
        hit(1, statistic=math.nan),
        hit(1, log10_p_value=None),
        absent(1, log10_p_value=-math.inf),
        absent(1, verdict="<b>"),
        absent(1, bytes=2**62),
    ],
)
def test_rows_that_no_scan_writes_are_refused(tmp_path: Path, row: Row) -> None:
    with pytest.raises(UsageError, match=r"no scan writes, such as its row for images/000001\.jpg"):
        make_report([written(tmp_path / "x.parquet", [[row]])])


@pytest.mark.parametrize("identity", [[1], {"n_keys": "<b>", "fpr": "no", "search": ["<b>"]}])
def test_metadata_of_another_kind_are_passed_over(tmp_path: Path, identity: object) -> None:
    written(tmp_path / "x.parquet", [[hit(1, n_keys=None)]])
    table = pq.read_table(tmp_path / "x.parquet")
    about = {**table.schema.metadata, b"stablesig.scan": json.dumps({"identity": identity}).encode()}
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "y.parquet")
    report = make_report([str(tmp_path / "y.parquet")])
    assert (report.results[0]["n_keys"], report.results[0]["fpr"]) == (None, 1e-6)
    assert json_text(report)
