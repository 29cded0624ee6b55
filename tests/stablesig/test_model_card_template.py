"""The model card's template is valid Jinja, needs what it says, and prints what it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest

TEMPLATE = Path(__file__).parents[2] / "MODEL_CARD_TEMPLATE.md"
VALUES: dict[str, Any] = {
    "repo_id": "org/marked-vae",
    "license": "mit",
    "base_model": "org/vae",
    "key_id": "0123456789abcdef",
    "feature_version": "spectrum-1",
    "stablesig_version": "0.1.0",
    "n_bits": 48,
    "image_count": 24,
    "image_size": 512,
    "psnr_mean_db": 40.25,
    "psnr_worst_db": 37.5,
    "false_positive_rate": "1e-06",
    "attacks": [
        {"name": "none", "detected": 24, "total": 24, "median_log10_p": -11.13},
        {"name": "JPEG 50", "detected": 22, "total": 24, "median_log10_p": -7.5},
    ],
}


def render(**changes: Any) -> str:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render({**VALUES, **changes})


def test_measured_values_appear_as_given() -> None:
    card = render()
    assert card.startswith("---\nlicense: mit\nbase_model: org/vae\n")
    assert "mean 40.2 dB, worst 37.5 dB" in card
    assert "| none | 24 of 24 | -11.1 |\n| JPEG 50 | 22 of 24 | -7.5 |\n" in card
    assert "`0123456789abcdef`" in card


def test_the_key_is_offered_only_where_it_is_published() -> None:
    assert "stablesig detect image.png --key publisher.pub.json" in render(
        public_key_file="publisher.pub.json"
    )
    private = render(contact="marks@example.org")
    assert "stablesig detect image.png" not in private
    assert "write to marks@example.org" in private


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_missing_value_is_an_error_and_not_a_gap(name: str) -> None:
    values = {key: value for key, value in VALUES.items() if key != name}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    with pytest.raises(jinja2.UndefinedError, match=name):
        environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values)


def test_absence_is_never_called_proof() -> None:
    assert "Absence proves nothing" in render()
