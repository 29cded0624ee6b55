"""The wheel, installed into an environment that has the base requirements and nothing else: no torch."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGES = {"stablesig", "stablesig_train", "stablesig_detector"}
SHIPPED = [
    "stablesig/data/MODEL_CARD_TEMPLATE.md",
    "stablesig/data/calibration.schema.json",
    "stablesig/data/detect.py",
    "stablesig/data/detection.schema.json",
    "stablesig/data/evaluation.css",
    "stablesig/data/evaluation.schema.json",
    "stablesig/data/tiny-vae/config.json",
    "stablesig/data/tiny-vae/diffusion_pytorch_model.safetensors",
    "stablesig/data/watermark.schema.json",
    "stablesig/py.typed",
    "stablesig_detector/data/key.schema.json",
    "stablesig_detector/data/registry.schema.json",
    "stablesig_detector/data/whitening.safetensors",
    "stablesig_detector/py.typed",
    "stablesig_train/py.typed",
]


@dataclass(frozen=True)
class Installed:
    """An environment: its folder, and the wheel that was installed there."""

    folder: Path
    wheel: Path

    def run(self, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        program = str(self.folder / "bin" / command[0])
        return subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, cwd=cwd, env=environment, check=False
        )


def base_requirements() -> set[str]:
    """What `pip install stablesig` brings, without any extra."""
    found: set[str] = set()
    waiting = ["stablesig"]
    while waiting:
        name = waiting.pop()
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            if requirement.name not in found and (
                not requirement.marker or requirement.marker.evaluate({"extra": ""})
            ):
                found.add(requirement.name)
                waiting.append(requirement.name)
    return found


def link_into(site_packages: Path, name: str) -> None:
    """Make an installed distribution importable in another environment without copying it."""
    for file in distribution(name).files or []:
        top = file.parts[0]
        link = site_packages / top
        if top not in ("..", "__pycache__") and not link.exists():
            link.symlink_to(Path(str(distribution(name).locate_file(top))))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("distribution")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    [wheel] = folder.glob("*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    [site_packages] = environment.glob("lib/python*/site-packages")
    for name in base_requirements():
        link_into(site_packages, name)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        str(environment / "bin" / "python"),
    ]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], capture_output=True, check=True)
    return Installed(environment, wheel)


def test_the_wheel_adds_three_packages_and_no_other_module(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES


@pytest.mark.parametrize("name", SHIPPED)
def test_the_wheel_ships(name: str, installed: Installed) -> None:
    archive = zipfile.ZipFile(installed.wheel)
    assert name in archive.namelist()
    assert archive.read(name) or name.endswith("py.typed")


def test_the_template_is_the_one_in_the_repository(installed: Installed) -> None:
    shipped = zipfile.ZipFile(installed.wheel).read("stablesig/data/MODEL_CARD_TEMPLATE.md")
    assert shipped == (ROOT / "MODEL_CARD_TEMPLATE.md").read_bytes()


def test_the_wheel_is_small(installed: Installed) -> None:
    assert installed.wheel.stat().st_size < 8e6  # the default model is at most 6 MB


def test_the_environment_has_no_torch(installed: Installed, tmp_path: Path) -> None:
    run = installed.run("python", "-c", "import torch", cwd=tmp_path)
    assert run.returncode == 1
    assert "No module named 'torch'" in run.stderr


def test_keygen_and_detect_work_there(installed: Installed, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    drawn = installed.run("stablesig", "keygen", "k.json", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    for key in ("k.json", "k.pub.json"):
        found = installed.run("stablesig", "detect", "noise.png", "--key", key, cwd=tmp_path)
        assert found.returncode == 1, found.stderr
        assert found.stdout.startswith("not detected")
        assert found.stderr == ""


def test_embed_says_there_what_is_missing(installed: Installed, tmp_path: Path) -> None:
    assert installed.run("stablesig", "keygen", "k.json", cwd=tmp_path).returncode == 0
    run = installed.run(
        "stablesig", "embed", "vae", "--key", "k.json", "--images", ".", "--out", "out", cwd=tmp_path
    )
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "pip install 'stablesig[train]'" in run.stderr


def test_the_data_is_found_there(installed: Installed, tmp_path: Path) -> None:
    code = (
        "from importlib.resources import files\n"
        "import stablesig, stablesig_detector\n"
        "from stablesig_detector.whitening import load_default\n"
        "template = files('stablesig').joinpath('data/MODEL_CARD_TEMPLATE.md')\n"
        "print(len(load_default().sha256), template.is_file())\n"
        "print(stablesig.__file__)"
    )
    run = installed.run("python", "-c", code, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    first, where = run.stdout.splitlines()
    assert first == "64 True"
    assert Path(where).is_relative_to(installed.folder)
