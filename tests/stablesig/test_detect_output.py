"""The words for numbers: a judge reads them, so they may round only to the cautious side."""

from __future__ import annotations

import math

import pytest

from stablesig.detect_output import exit_code, format_p, one_in


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.5, "0.5"), (0.0123, "0.012"), (1e-6, "1.0e-06"), (9.99e-7, "1.0e-06"), (3.14e-21, "3.1e-21")],
)
def test_p_values_keep_two_digits(p: float, text: str) -> None:
    assert format_p(math.log10(p)) == text


def test_p_values_below_the_smallest_float_are_shown() -> None:
    assert format_p(-2000.5) == "3.2e-2001"


@pytest.mark.parametrize(
    ("log10_p", "share"),
    [
        (0.0, "up to all of the images"),
        (math.log10(0.31), "up to 4 in 10 images"),
        (math.log10(0.3), "up to 3 in 10 images"),
        (math.log10(0.1), "one in 10 images"),
        (math.log10(0.042), "one in 23 images"),
        (-5.0, "one in 100,000 images"),
        (-6.0, "one in 1 million images"),
        (-math.log10(3.99e9), "one in 3.9 billion images"),
        (-math.log10(4.27e11), "one in 420 billion images"),
        (-13.0, "one in 10 trillion images"),
        (-16.5, "one in 31 million billion images"),
        (-22.6, "one in 3.9 x 10^22 (a number of 23 digits) images"),
        (-2000.5, "one in 3.1 x 10^2000 (a number of 2001 digits) images"),
    ],
)
def test_a_p_value_in_words_never_claims_more_than_the_number(log10_p: float, share: str) -> None:
    assert one_in(log10_p) == f"{share} made without this key would score this high"


def test_several_keys_are_said() -> None:
    assert one_in(-9.0, n_keys=3) == "one in 1 billion images made without these keys would score this high"


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["detected", "detected"], 0),
        (["detected", "not detected"], 1),
        (["detected", "unreadable"], 3),
        (["not detected", "unreadable"], 3),
        ([], 3),
    ],
)
def test_an_unreadable_image_outranks_one_that_is_not_detected(verdicts: list[str], code: int) -> None:
    assert exit_code(verdicts) == code
