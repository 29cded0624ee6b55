"""Braces and patterns."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from stablesig.scanning.folders import list_folder
from stablesig.scanning.patterns import expand_braces, has_braces, matching


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("s-{008..011}.tar", ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]),
        ("s-{8..11}.tar", ["s-8.tar", "s-9.tar", "s-10.tar", "s-11.tar"]),
        ("s-{3..1}", ["s-3", "s-2", "s-1"]),
        ("{train,val}/{0..1}.tar", ["train/0.tar", "val/0.tar", "train/1.tar", "val/1.tar"]),
        ("a{,b}", ["a", "ab"]),
        ("{a}", ["{a}"]),
        ("{a..b}", ["{a..b}"]),
        ("plain", ["plain"]),
    ],
)
def test_braces_stand_for_names(pattern: str, names: list[str]) -> None:
    assert list(expand_braces(pattern)) == names
    assert has_braces(pattern) == (names != [pattern])


def test_a_range_without_end_costs_nothing_until_it_is_walked() -> None:
    assert list(islice(expand_braces("{0..999999999999}{0..999999999999}"), 2)) == ["00", "10"]


def test_matches_are_those_of_the_shell(tmp_path: Path) -> None:
    for name in (
        "a.jpg",
        "b.png",
        ".c.jpg",
        "x/d.jpg",
        "x/y/e.jpg",
        ".h/f.jpg",
        "x/[g].jpg",
        "x/new\nline.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "x" / "up").symlink_to(tmp_path)
    (tmp_path / "x" / "z").symlink_to("z")

    def found(*parts: str) -> set[str]:
        return {
            entry.path.removeprefix(f"{tmp_path}/") for entry in matching(str(tmp_path), parts, list_folder)
        }

    assert found("*.jpg") == {"a.jpg"}
    assert found(".*.jpg") == {".c.jpg"}
    assert found("*", "*.jpg") == {"x/d.jpg", "x/[g].jpg", "x/new\nline.jpg"}
    assert found("*", "[[]g].jpg") == {"x/[g].jpg"}
    assert found("**", "*.jpg") == {"a.jpg", "x/d.jpg", "x/y/e.jpg", "x/[g].jpg", "x/new\nline.jpg"}
    assert found("**", "y", "*") == {"x/y/e.jpg"}
    assert found("x", "up", "*.jpg") == {"x/up/a.jpg"}  # a link that is named is gone through
    assert found("**") >= {"x", "x/up", "x/z", "x/y/e.jpg", "b.png"}
    assert found("?.???") == {"a.jpg", "b.png"}
