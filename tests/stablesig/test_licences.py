"""What a base model's licence allows."""

from __future__ import annotations

import pytest

from stablesig.licences import judge


@pytest.mark.parametrize(
    ("licence", "base"),
    [
        ("apache-2.0", "mit"),
        ("cc-by-nc-4.0", "mit"),
        ("openrail++", "openrail++"),
        ("cc-by-sa-4.0", "cc-by-sa-4.0"),
    ],
)
def test_what_is_allowed_passes(licence: str, base: str) -> None:
    assert judge(licence, base).problem == ""


@pytest.mark.parametrize(
    ("licence", "base", "problem"),
    [
        (None, "mit", "--license"),
        ("mit", None, "--base-license"),
        ("mit", "unknown", "--base-license"),
        ("MIT License", "mit", "as the Hub|identifier of the Hub"),
        ("mit", "cc-by-nd-4.0", "forbids publishing changed copies"),
        ("apache-2.0", "cc-by-sa-4.0", "binds changed copies"),
        ("mit", "creativeml-openrail-m", "binds changed copies"),
        ("mit", "cc-by-nc-4.0", "binds changed copies"),
    ],
)
def test_what_is_not_is_said_with_what_to_do(licence: str | None, base: str | None, problem: str) -> None:
    import re

    found = judge(licence, base, "a reason does not help here")
    assert re.search(problem, found.problem)
    assert not found.unread


@pytest.mark.parametrize("base", ["other", "llama2", "gemma", "flux-1-dev-non-commercial-license"])
def test_terms_that_take_a_reading_need_the_publisher_s_reason(base: str) -> None:
    found = judge("other", base)
    assert found.unread
    assert "--license-reason" in found.problem
    assert judge("other", base, "section 2 allows derivatives").problem == ""
