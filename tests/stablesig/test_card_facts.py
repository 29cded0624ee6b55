"""Figures come from the reports alone: rounded, checked, and without anything of a single picture."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from stablesig.card_facts import MissingFactError, public_evaluation, read_report, read_watermark
from stablesig_detector.errors import UsageError

from .release_fixture import Publishable, make_publishable


@pytest.fixture
def case(tmp_path: Path) -> Publishable:
    return make_publishable(tmp_path)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for one in value.values() for number in numbers(one)]
    if isinstance(value, list):
        return [number for one in value for number in numbers(one)]
    return [value] if isinstance(value, float) else []


def test_the_fixture_s_report_is_what_evaluate_writes(case: Publishable) -> None:
    schema = json.loads((resources.files("stablesig") / "data" / "evaluation.schema.json").read_bytes())
    jsonschema.Draft202012Validator(schema).validate(json.loads((case.report / "report.json").read_bytes()))


def test_figures_are_those_of_the_report(case: Publishable) -> None:
    [one] = public_evaluation([read_report(case.report)])["evaluations"]
    assert one["images"]["count"] == 24
    assert one["quality"]["psnr_db"] == {"mean": 40.42, "worst": 37.16}
    jpeg = one["attacks"][1]
    assert (jpeg["name"], jpeg["matches"], jpeg["bits"], jpeg["median_log10_p"]) == (
        "JPEG 50",
        1000,
        1152,
        -12.3,
    )
    assert jpeg["detected"][1] == {"fpr": 1e-6, "count": 18, "total": 24, "low": 0.5123, "high": 0.9877}


def test_nothing_of_a_single_picture_and_no_statistic_is_published(case: Publishable) -> None:
    published = public_evaluation([read_report(case.report)])
    text = json.dumps(published)
    for secret in ('statistic"', "worst_log10_p", "worst_image", "histogram", ".png", "lowest_log10_p"):
        assert secret not in text
    for number in numbers(published):
        assert round(number, 4) == number or number in (1e-6, 1e-9)


def test_a_median_of_few_pictures_is_left_out(case: Publishable) -> None:
    case.change("report.json", attacks__0__total=9)
    [one] = public_evaluation([read_report(case.report)])["evaluations"]
    assert one["attacks"][0]["median_log10_p"] is None
    assert one["attacks"][1]["median_log10_p"] == -12.3


@pytest.mark.parametrize(
    "field",
    [
        "key__id",
        "autoencoder__decoder_sha256",
        "autoencoder__original__decoder_sha256",
        "images__manifest_sha256",
        "settings__fpr",
        "quality__psnr_db__mean",
        "quality__haarpsi",
        "attacks__1__detected__1__count",
        "attacks__0__median_log10_p",
        "attacks__2__control",
        "control__false_positives",
        "stablesig_version",
        "run__finished",
    ],
)
def test_a_missing_value_stops_the_build_and_is_named(field: str, case: Publishable) -> None:
    case.change("report.json", **{field: ...})
    with pytest.raises(MissingFactError, match=field.rpartition("__")[2]):
        public_evaluation([read_report(case.report)])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quality__psnr_db__mean", "40"),
        ("quality__psnr_db__mean", True),
        ("attacks__0__detected__1__count", 24.0),
        ("attacks__0__detected__1__count", -1),
        ("attacks__0__detected__1__count", 25),
        ("key__statistics_sha256", "zz"),
        ("attacks", {}),
    ],
)
def test_a_malformed_value_stops_it_too(field: str, value: object, case: Publishable) -> None:
    case.change("report.json", **{field: value})
    with pytest.raises(MissingFactError):
        public_evaluation([read_report(case.report)])


def test_a_report_that_is_none_is_refused(case: Publishable, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="evaluate wrote"):
        read_report(tmp_path / "nowhere")
    (case.report / "report.json").write_text('{"schema": "stablesig-evaluation", "schema_version": NaN}')
    with pytest.raises(UsageError, match="is not JSON"):
        read_report(case.report)
    (case.report / "report.json").write_text('{"schema": "stablesig-evaluation", "schema_version": 2}')
    with pytest.raises(UsageError, match="schema_version 1"):
        read_report(case.report)
    with pytest.raises(UsageError, match="embed wrote"):
        read_watermark(tmp_path)


def test_reports_on_two_suites_are_put_together_and_one_attack_twice_is_not(case: Publishable) -> None:
    first = read_report(case.report)
    with pytest.raises(UsageError, match="both have none of targets"):
        public_evaluation([first, first])
    case.change(
        "report.json", attacks__0__suite="legacy", attacks__1__suite="legacy", attacks__2__suite="legacy"
    )
    second = read_report(case.report)
    assert len(public_evaluation([first, second])["evaluations"]) == 2
    case.change("report.json", autoencoder__decoder_sha256="d" * 64)
    with pytest.raises(UsageError, match=r"differ in autoencoder\.decoder_sha256"):
        public_evaluation([first, read_report(case.report)])
