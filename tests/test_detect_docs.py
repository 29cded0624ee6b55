"""docs/detect.md: its commands run, and print what it says, figures and ids aside.

To bring it up to date: STABLESIG_UPDATE_DOCS=1 pytest tests/test_detect_docs.py
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stablesig.cli import main
from stablesig_detector.carriers import DIRECTION_SCALE
from stablesig_detector.key import PublicKey, SecretKey
from stablesig_detector.spectrum import FEATURE_VERSION, spectrum
from stablesig_detector.whitening import load_default

PAGE = Path(__file__).parents[1] / "docs" / "detect.md"
PICTURES = Path(str(files("stablesig"))) / "data" / "demo-images"
STRENGTH = 0.55  # cosine between photo.png and the key: about what embed reaches


def key_for(pixels: np.ndarray) -> PublicKey:
    """A public key that photo.png scores STRENGTH with: a decoder's work, without a decoder."""
    whitening = load_default()
    phi = whitening.apply(spectrum(pixels).values)
    phi /= np.linalg.norm(phi)
    chance = np.random.default_rng(0).standard_normal(phi.size)
    chance -= (chance @ phi) * phi
    direction = STRENGTH * phi + np.sqrt(1 - STRENGTH**2) * chance / np.linalg.norm(chance)
    return PublicKey(
        np.rint(direction * DIRECTION_SCALE).astype(np.int32), 48, FEATURE_VERSION, whitening.sha256
    )


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the images and keys that the page names."""
    with Image.open(PICTURES / "fig.jpg") as picture:
        photo = picture.convert("RGB").crop((0, 0, 256, 256))
    photo.save(tmp_path / "photo.png")
    photo.resize((384, 384), Image.Resampling.BICUBIC).save(tmp_path / "enlarged.png")
    with Image.open(PICTURES / "meadow.jpg") as picture:
        collage = picture.convert("RGB").resize((640, 480))
    collage.paste(photo, (320, 100))
    collage.save(tmp_path / "collage.png")
    shutil.copy(PICTURES / "meadow.jpg", tmp_path)
    (tmp_path / "downloads" / "more").mkdir(parents=True)
    shutil.copy(PICTURES / "nuthatch.jpg", tmp_path / "downloads" / "more")
    shutil.copy(tmp_path / "photo.png", tmp_path / "downloads" / "copy.png")
    (tmp_path / "broken.jpg").write_bytes((PICTURES / "fig.jpg").read_bytes()[:3000])
    key = key_for(np.asarray(photo))
    (tmp_path / "keys").mkdir()
    for place in (tmp_path, tmp_path / "keys"):
        key.save(place / "publisher.pub.json")
    SecretKey.draw().public().save(tmp_path / "keys" / "another.pub.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, last_code: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command of the page as a shell would: `echo $?`, or stablesig, perhaps with `< FILE`."""
    if command == "echo $?":
        print(last_code)
        return 0
    words = shlex.split(command)
    assert words.pop(0) == "stablesig", command
    if "<" in words:
        data = Path(words.pop()).read_bytes()
        assert words.pop() == "<"
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    return main(words)


def without_figures(text: str) -> str:
    """Hashes, ids, times and numbers, with the words that go with them, as one mark each."""
    text = re.sub(r"(?<![\w.])[0-9a-f]{16,64}\b", "HASH", text)  # and no digits after a point
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", text)
    number = r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
    text = re.sub(
        rf"(?:one in|about) {number}(?: in 10)?(?: million| billion| trillion| x {number} \(.*?\))*",
        "SHARE",
        text,
        flags=re.S,
    )
    text = text.replace("up to all of the", "SHARE")
    text = re.sub(r"\b(identity|flip|rot90|rot90flip) ", "GEOMETRY ", text)
    text = re.sub(rf"(?<![\w.]){number}(?![\w])", "#", text)
    return " ".join(text.split())


def test_the_commands_print_what_the_page_says(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "96")
    # The limits are of wall-clock time, which a busy machine has less of.
    monkeypatch.setattr("stablesig.detect_command._SECONDS", dict.fromkeys(("none", "fast", "full"), 600.0))
    page = PAGE.read_text(encoding="utf-8")
    code, ran = 0, []

    def outcome(block: re.Match[str]) -> str:
        nonlocal code
        printed = ""
        for command in re.findall(r"(?m)^\$ (.*)$", block[1]):
            code = run(command, code, monkeypatch)
            printed += f"$ {command}\n{capsys.readouterr().out}"
            ran.append(command)
        return f"```console\n{printed}```"

    wanted = re.sub(r"(?m)^```console\n([\s\S]*?)^```$", outcome, page)
    assert len(ran) >= 10
    assert (workplace / "why.png").exists()
    if os.environ.get("STABLESIG_UPDATE_DOCS"):
        PAGE.write_text(wanted, encoding="utf-8")
    else:
        assert without_figures(page) == without_figures(wanted)


def test_the_synopsis_and_the_examples_name_the_options_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["detect", "--help"]) == 0
    help_text, _, options = capsys.readouterr().out.partition("\nOptions:\n")
    there_are = set(re.findall(r"--[a-z-]+", re.sub(r"(?m)^ {10,}.*$", "", options))) - {"--help"}
    synopsis = PAGE.read_text(encoding="utf-8").partition("## Synopsis")[2].partition("```\n\n")[0]
    assert set(re.findall(r"--[a-z-]+", synopsis)) == there_are
    examples = help_text.partition("Examples:")[2].partition("\n\n")[0]
    assert examples.count("stablesig detect") == 5
    assert set(re.findall(r"--[a-z-]+", examples)) <= there_are


def test_links_lead_somewhere_and_exit_codes_are_those_of_the_command() -> None:
    page = PAGE.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", page)
    assert links
    assert [link for link in links if "://" not in link and not (PAGE.parent / link).exists()] == []
    listed = {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", page)}
    assert {0, 1, 2, 3, 4, 8, 130, 141} == listed
