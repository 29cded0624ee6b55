"""The suites as data: names, sizes, determinism, and the tables of docs/suites.md.

To bring the tables up to date: STABLESIG_UPDATE_DOCS=1 pytest tests/stablesig/test_suites.py
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import features

from stablesig import suites
from stablesig.suites import IMAGE_SUITES, SET_SUITES, SUITE_NAMES, ImageAttack, Suite, available
from stablesig_train.held_out import ATTACKS as EMBED_ATTACKS

from .conftest import textured_image

ALL_SUITES: dict[str, Suite[Any]] = {**IMAGE_SUITES, **SET_SUITES}
TABLES = Path(__file__).parents[2] / "docs" / "suites.md"
# side -> what an attack that changes sizes leaves of it, by the name of the attack
ROUNDED_DOWN = {
    "resize side 0.7": 0.7,
    "resize side 0.5": 0.5,
    "resize side 1.5": 1.5,
    "crop area 0.5": 0.5**0.5,
    "crop area 0.1": 0.1**0.5,
    "resize area 0.7": 0.7**0.5,
    "resize area 0.5": 0.5**0.5,
    "resize area 0.3": 0.3**0.5,
    "resize area 0.1": 0.1**0.5,
    "combined, brightness x1.5": 0.5**0.5,
    "combined, brightness x2": 0.5**0.5,
    **{f"{what} side {ratio:g}": ratio for what in ("resize", "crop") for ratio in (0.71, 0.55, 0.32)},
    **{f"JPEG {quality} + crop side 0.71 + brightness x0.5": 0.71 for quality in (40, 60, 80)},
}
ROUNDED = {  # crops that never go below what the detector can measure
    "crop 25 %": 0.25**0.5,
    "crop 10 %": 0.1**0.5,
    "crop 50 % + brightness x2 + JPEG 80": 0.5**0.5,
}


def expected_size(name: str, suite: str, height: int, width: int) -> tuple[int, int]:
    from stablesig_detector.spectrum import MIN_SIDE

    if name in ROUNDED_DOWN:
        return int(height * ROUNDED_DOWN[name]), int(width * ROUNDED_DOWN[name])
    if name in ROUNDED:
        tall, wide = (max(MIN_SIDE, round(side * ROUNDED[name])) for side in (height, width))
        return tall, wide
    if name == "rotation 90" and suite == "targets":
        return width, height
    if name == "JPEG 75 twice, off the grid":
        return height - 4, width - 4
    if name.startswith("screenshot"):
        shown = [int(side * float(name.removeprefix("screenshot x"))) for side in (height, width)]
        tall, wide = (round(side * 0.8**0.5) for side in shown)
        return tall, wide
    return height, width  # thumbnails too: the pictures are smaller


@pytest.mark.parametrize("shape", [(96, 96), (96, 144)])
@pytest.mark.parametrize("suite", IMAGE_SUITES)
def test_every_image_attack_gives_a_picture_of_its_size_and_the_same_one_again(
    suite: str, shape: tuple[int, int]
) -> None:
    picture = textured_image(3, *shape)
    before = picture.copy()
    for attack in available(IMAGE_SUITES[suite])[0]:
        attacked = attack.apply(picture, 5)
        assert attacked.dtype == np.uint8, attack.name
        assert attacked.shape == (*expected_size(attack.name, suite, *shape), 3), attack.name
        assert np.array_equal(attack.apply(picture, 5), attacked), attack.name
        assert np.array_equal(picture, before), attack.name
        assert (attack.name == suites.NO_ATTACK) == np.array_equal(attacked, picture), attack.name


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_names_are_unique_and_conventions_are_written(name: str) -> None:
    suite = ALL_SUITES[name]
    assert suite.name == name
    assert suite.description
    assert suite.source
    names = [attack.name for attack in suite.attacks]
    assert len(set(names)) == len(names)
    for attack in suite.attacks:
        assert attack.convention, attack.name
        assert attack.search in ("none", "fast", "full"), attack.name
        assert attack.name.isprintable()
        assert "|" not in attack.name + attack.convention  # would break the tables


def test_the_suites_are_these() -> None:
    assert tuple(IMAGE_SUITES) + tuple(SET_SUITES) == SUITE_NAMES
    assert tuple(IMAGE_SUITES) == suites.IMAGE_SUITE_NAMES


def test_attacks_that_scale_or_rotate_ask_for_the_full_search() -> None:
    moved = {
        attack.name for suite in IMAGE_SUITES.values() for attack in suite.attacks if attack.search == "full"
    }
    for suite in IMAGE_SUITES.values():
        for attack in suite.attacks:
            scaled = re.match(r"resize|perspective|thumbnail|screenshot|rotation (?!90)", attack.name)
            assert (attack.name in moved) == bool(scaled), attack.name


def test_what_embed_reports_on_means_the_same_here() -> None:
    by_name = {attack.name: attack.apply for attack in IMAGE_SUITES["targets"].attacks}
    assert set(EMBED_ATTACKS) <= set(by_name)
    assert all(by_name[name] is attack for name, attack in EMBED_ATTACKS.items())


def test_attacks_without_their_codec_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: feature != "avif")
    attacks, missing = available(IMAGE_SUITES["codecs"])
    assert missing == ("AVIF 80", "AVIF 50", "AVIF 20")
    assert len(attacks) + len(missing) == len(IMAGE_SUITES["codecs"].attacks)
    assert available(IMAGE_SUITES["legacy"])[1] == ()
    monkeypatch.setattr(features, "check", lambda feature: feature != "webp")
    assert "JPEG 80, WebP 50" in available(IMAGE_SUITES["codecs"])[1]


def test_round_trips_without_their_autoencoder_are_left_out_and_named() -> None:
    attacks, missing = available(SET_SUITES["regeneration"], others=1)
    assert [attack.name for attack in attacks] == [
        "original autoencoder, once",
        "original autoencoder, twice",
        "other autoencoder, once",
        "other autoencoder, twice",
    ]
    assert missing[0] == "second other autoencoder, once"
    assert available(SET_SUITES["regeneration"], others=3)[1] == ()
    assert len(available(SET_SUITES["regeneration"], others=0)[0]) == 2


def test_naming_the_suites_loads_no_library_for_numbers() -> None:
    code = (
        "import sys\nfrom stablesig.suites import SUITE_NAMES, SetAttack\n"
        "print(*{'numpy', 'PIL', 'torch'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="AUDIO_SUITES"):
        _ = suites.AUDIO_SUITES  # type: ignore[attr-defined]


def table(suite: Suite[Any]) -> str:
    """Description, source and attacks of a suite, Markdown."""
    lines = [f"{suite.description[0].upper()}{suite.description[1:]}.", "", f"Source: {suite.source}.", ""]
    lines += ["| attack | convention | search |", "|---|---|---|"]
    for attack in suite.attacks:
        codec = f" (needs {attack.codec})" if isinstance(attack, ImageAttack) and attack.codec else ""
        lines.append(f"| {attack.name} | {attack.convention}{codec} | {attack.search} |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_the_tables_show_the_suites(name: str) -> None:
    text = TABLES.read_text(encoding="utf-8")
    found = re.search(rf"(?m)(^## {name}\n\n)([\s\S]*?)(?=^## |\Z)", text)
    assert found, f"docs/suites.md has no section {name}"
    end = "" if found.end() == len(text) else "\n"
    wanted = table(ALL_SUITES[name]) + end
    if os.environ.get("STABLESIG_UPDATE_DOCS"):
        TABLES.write_text(text[: found.start(2)] + wanted + text[found.end(2) :], encoding="utf-8")
        return
    assert found[2] == wanted
