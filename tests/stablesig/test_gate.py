"""The gate: what stops a release, what a reason lets pass, and that the reason is kept."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from stablesig.card_facts import MissingFactError, public_evaluation, read_report, read_watermark
from stablesig.gate import (
    Check,
    GateReport,
    ReleaseRefusedError,
    Thresholds,
    image_checks,
    key_checks,
    measured_checks,
    weights_checks,
)
from stablesig_detector.errors import UsageError
from stablesig_detector.key import SecretKey
from stablesig_detector.key_set import KeyEntry

from .release_fixture import Publishable, make_publishable

TODAY = date(2026, 11, 24)


@pytest.fixture
def case(tmp_path: Path) -> Publishable:
    return make_publishable(tmp_path)


def failing(case: Publishable, **thresholds: Any) -> list[str]:
    evaluation = public_evaluation([read_report(case.report)])
    return [one.name for one in measured_checks(evaluation, Thresholds(**thresholds)) if not one.passed]


def test_thresholds_are_held_to_the_count_and_the_decibel(case: Publishable) -> None:
    assert failing(case, psnr_db=40.42, attacks={"JPEG 50": 0.75}) == []
    assert failing(case, psnr_db=40.43) == ["PSNR"]
    assert failing(case, attacks={"JPEG 50": 0.76, "targets/JPEG 30": 0.3}) == [
        "detection after JPEG 50",
        "detection after targets/JPEG 30",
    ]
    assert failing(case, images=25) == ["images"]


def test_one_picture_in_twenty_four_is_too_many(case: Publishable) -> None:
    case.change("report.json", attacks__0__detected__1__count=23)
    assert failing(case) == ["detection"]


def test_a_false_positive_of_the_original_decoder_is_noticed(case: Publishable) -> None:
    case.change("report.json", control__false_positives__0__count=1)
    assert failing(case) == ["control"]


def test_the_weakest_of_two_suites_counts(case: Publishable) -> None:
    case.change("report.json", attacks__2__name="none", attacks__2__suite="legacy")
    assert failing(case) == ["detection"]


def test_an_attack_that_was_not_measured_cannot_be_overridden(case: Publishable) -> None:
    evaluation = public_evaluation([read_report(case.report)])
    checks = tuple(measured_checks(evaluation, Thresholds(attacks={"WebP 50": 0.5})))
    with pytest.raises(ReleaseRefusedError, match="no report measured 'WebP 50'"):
        GateReport(checks, "we are sure").enforce()


def test_thresholds_cannot_be_lowered_without_a_word() -> None:
    for lower in ({"detection": 0.9}, {"psnr_db": 30.0}, {"images": 1}):
        with pytest.raises(UsageError, match="--override-reason"):
            Thresholds(**lower)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"share in 0\.\.1"):
        Thresholds(attacks={"JPEG 50": 70})


def test_a_reason_lets_missed_thresholds_pass_and_nothing_else() -> None:
    missed = Check("PSNR", False, "30 dB, 38 wanted", overridable=True)
    hard = Check("key", False, "another one")
    with pytest.raises(ReleaseRefusedError, match="--override-reason TEXT") as refused:
        GateReport((missed,)).enforce()
    assert refused.value.exit_code == 10
    passed = GateReport((missed,), "a demonstration")
    passed.enforce()
    assert passed.overridden == (missed,)
    with pytest.raises(ReleaseRefusedError) as refused:
        GateReport((missed, hard), "a demonstration").enforce()
    assert "key: another one" in str(refused.value)
    assert "--override-reason" not in str(refused.value)


@pytest.mark.parametrize("spoil", ["weights", "listed", "evaluated", "extra", "original"])
def test_weights_are_those_that_were_evaluated(spoil: str, case: Publishable) -> None:
    weights = "diffusion_pytorch_model.safetensors"
    if spoil == "weights":
        path = case.folder / "vae" / weights
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif spoil == "listed":
        case.change("watermark.json", autoencoder__files={weights: "0" * 64})
    elif spoil == "evaluated":
        case.change("report.json", autoencoder__files_sha256={weights: "0" * 64})
    elif spoil == "extra":
        (case.folder / "vae" / "unmarked.safetensors").write_bytes(b"")
    else:
        case.change("report.json", autoencoder__original__decoder_sha256="0" * 64)
    checks = weights_checks(case.folder, read_watermark(case.folder), [read_report(case.report)])
    wrong = [one for one in checks if not one.passed]
    assert wrong
    assert not any(one.overridable for one in wrong)


def test_images_that_were_trained_on_are_no_evaluation(case: Publishable) -> None:
    report = read_report(case.report)
    trained = read_watermark(case.folder).at("images.training_sha256")
    [fine] = image_checks(trained, [report])
    assert fine.passed
    [check] = image_checks([*trained, report.facts.at("images.used")[3]["sha256"]], [report])
    assert (check.passed, check.overridable) == (False, False)
    assert "1 of the 24 images" in check.text


def test_the_original_decoder_must_be_known(case: Publishable) -> None:
    case.change("watermark.json", autoencoder__original_decoder_sha256=...)
    with pytest.raises(MissingFactError, match="original_decoder_sha256 is missing"):
        list(weights_checks(case.folder, read_watermark(case.folder), [read_report(case.report)]))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"revoked": date(2026, 1, 1), "reason": "stolen"}, r"revoked from 2026-01-01 on \(stolen\)"),
        ({"revoked": date(2027, 1, 1)}, "revoked from 2027-01-01"),
        ({"not_after": date(2026, 11, 23)}, "valid until"),
        ({"not_before": date(2026, 11, 25)}, "valid from"),
        ({"not_before": date(2026, 11, 24), "not_after": date(2026, 11, 24)}, None),
    ],
)
def test_a_key_that_is_called_off_is_refused(
    entry: dict[str, Any], problem: str | None, case: Publishable
) -> None:
    known = KeyEntry(case.key.public(), file="registry.json", **entry)
    checks = tuple(
        key_checks(case.key, read_watermark(case.folder), [read_report(case.report)], known, TODAY)
    )
    if problem is None:
        GateReport(checks).enforce()
        return
    with pytest.raises(ReleaseRefusedError, match=problem):
        GateReport(checks, "never mind").enforce()


def test_a_key_that_the_detector_cannot_use_is_refused_before_anything_is_sent(case: Publishable) -> None:
    key = SecretKey(case.key.seed, case.key.message, case.key.feature_version, case.key.dimension, "0" * 64)
    case.change("watermark.json", key__id=key.id, key__statistics_sha256="0" * 64)
    case.change("report.json", key__id=key.id, key__statistics_sha256="0" * 64)
    checks = key_checks(key, read_watermark(case.folder), [read_report(case.report)], None, TODAY)
    assert [one.name for one in checks if not one.passed] == ["detector"]


def test_another_key_is_refused(case: Publishable) -> None:
    other = SecretKey(
        bytes(32), (1,) * 48, case.key.feature_version, case.key.dimension, case.key.statistics_sha256
    )
    checks = key_checks(other, read_watermark(case.folder), [read_report(case.report)], None, TODAY)
    with pytest.raises(ReleaseRefusedError, match=f"given is {other.id}, .*report.json has {case.key.id}"):
        GateReport(tuple(checks)).enforce()
