"""Which module may import which, and what importing costs."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import stablesig
import stablesig_detector
import stablesig_train

PACKAGES = {
    package.__name__: Path(package.__file__ or "").parent
    for package in (stablesig, stablesig_train, stablesig_detector)
}
DETECTOR_MAY_IMPORT = {*sys.stdlib_module_names, "numpy", "PIL", "safetensors", "stablesig_detector"}


def imported_packages(package: str) -> dict[str, set[str]]:
    """Top-level name -> the files of `package` that import it, anywhere in them."""
    found: dict[str, set[str]] = {}
    for file in sorted(PACKAGES[package].rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(file.name)
    return found


def test_the_detector_imports_only_its_three_libraries() -> None:
    found = imported_packages("stablesig_detector")
    assert "numpy" in found, "the scan found nothing"
    assert {name: files for name, files in found.items() if name not in DETECTOR_MAY_IMPORT} == {}


def test_arrows_point_down_only() -> None:
    train = imported_packages("stablesig_train")
    assert "stablesig_detector" in train, "the scan found nothing"
    assert "stablesig" not in train


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("statement", ["import stablesig", "from stablesig import cli"])
def test_importing_the_package_or_its_command_line_loads_no_library_for_numbers(statement: str) -> None:
    loaded = modules_after(statement)
    assert "stablesig" in loaded
    assert loaded & {"numpy", "scipy", "PIL", "torch", "diffusers", "rich"} == set()


def test_detecting_loads_neither_torch_nor_scipy() -> None:
    loaded = modules_after(
        "import contextlib, io\nimport stablesig\nfrom stablesig.cli import main\n"
        "stablesig.detect, stablesig.load_key\n"
        "with contextlib.redirect_stderr(io.StringIO()): main(['detect', 'none.png', '--key', 'none.json'])"
    )
    assert "stablesig_detector.detection" in loaded
    assert loaded & {"torch", "scipy", "rich", "stablesig_train"} == set()


def test_the_help_of_embed_reads_its_defaults_without_torch() -> None:
    loaded = modules_after(
        "import contextlib, io\nfrom stablesig.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): assert main(['embed', '--help']) == 0"
    )
    assert "stablesig_train.embed_config" in loaded
    assert loaded & {"torch", "scipy"} == set()


def test_public_names_are_these() -> None:
    assert stablesig.__all__ == [
        "Calibration",
        "DecoderError",
        "Detection",
        "EmbedConfig",
        "EmbedResult",
        "Evaluation",
        "EvaluationSettings",
        "ImageError",
        "KeyFileError",
        "KeyPair",
        "MissingExtraError",
        "OutputError",
        "OutputExistsError",
        "PublicKey",
        "PublishSettings",
        "Reconstruction",
        "ReleaseRefusedError",
        "SecretKey",
        "StableSigError",
        "StatisticsError",
        "TrainingError",
        "UsageError",
        "__version__",
        "calibrate",
        "detect",
        "embed",
        "evaluate",
        "keygen",
        "load_image",
        "load_key",
        "publish",
        "reconstruct",
        "run_demo",
    ]


@pytest.mark.parametrize("name", stablesig.__all__)
def test_every_public_name_resolves_and_is_listed(name: str) -> None:
    assert getattr(stablesig, name) is not None
    assert name in dir(stablesig)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="watermark_everything"):
        _ = stablesig.watermark_everything


def test_no_module_takes_the_place_of_a_verb() -> None:
    submodules = {module.name for module in pkgutil.iter_modules(stablesig.__path__)}
    assert {"cli", "keypair"} <= submodules
    assert submodules & set(stablesig.__all__) == set()
    importlib.import_module("stablesig.reconstruction")
    assert callable(stablesig.reconstruct)


@pytest.mark.parametrize("name", ["embed", "EmbedConfig"])
def test_without_torch_the_training_side_says_how_to_get_it(name: str) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nimport stablesig\n"
        f"try:\n    stablesig.{name}\n"
        "except ImportError as error:\n    print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("MissingExtraError")
    assert "pip install 'stablesig[train]'" in run.stdout
