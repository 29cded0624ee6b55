"""The exception tree, and what importing the detector costs."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import stablesig_detector
from stablesig_detector import errors

TREE = {
    "StableSigError": ("Exception", 9),
    "UsageError": ("StableSigError", 2),
    "ImageError": ("StableSigError", 3),
    "KeyFileError": ("StableSigError", 4),
    "StatisticsError": ("StableSigError", 5),
    "DecoderError": ("StableSigError", 6),
    "TrainingError": ("StableSigError", 7),
    "OutputError": ("StableSigError", 8),
    "OutputExistsError": ("OutputError", 8),
}


def test_the_tree_and_its_exit_codes() -> None:
    found = {
        name: (kind.__base__.__name__, kind.exit_code)
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == errors.__name__
    }
    assert found == TREE


def test_the_docstring_draws_the_tree_that_there_is() -> None:
    drawn = dict(re.findall(r"(\w+Error)\s+(\d)", errors.__doc__ or ""))
    assert drawn == {name: str(code) for name, (_, code) in TREE.items()}


def test_every_error_is_caught_by_its_root() -> None:
    with pytest.raises(errors.StableSigError):
        stablesig_detector.load_key("/nowhere/k.json")


def test_the_public_names() -> None:
    assert stablesig_detector.__all__ == [
        "DEFAULT_FPR",
        "DecoderError",
        "Detection",
        "ImageError",
        "KeyFileError",
        "OutputError",
        "OutputExistsError",
        "PublicKey",
        "SecretKey",
        "StableSigError",
        "StatisticsError",
        "TrainingError",
        "UsageError",
        "binomial_log10_p",
        "bonferroni_log10",
        "detect",
        "load_image",
        "load_key",
        "load_secret_key",
        "public_key_path",
        "spherical_log10_p",
        "spherical_threshold",
    ]
    assert all(hasattr(stablesig_detector, name) for name in stablesig_detector.__all__)


def _modules_after(code: str) -> set[str]:
    report = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_takes_neither_torch_nor_the_slow_libraries() -> None:
    loaded = _modules_after("import stablesig_detector")
    assert "numpy" in loaded
    # scipy.special takes 0.2 s; PIL, rich and typer are not needed before there is an image or a terminal.
    assert not loaded & {"torch", "scipy", "PIL", "PIL.Image", "rich", "typer", "diffusers", "kornia"}


def test_importing_works_where_torch_is_not_installed() -> None:
    blocked = "import sys\nfor name in ('torch', 'diffusers', 'kornia'): sys.modules[name] = None\n"
    assert "stablesig_detector.detection" in _modules_after(blocked + "import stablesig_detector")
