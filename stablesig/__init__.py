"""Keyed watermarks inside the decoder of a diffusion model.

The verbs of the command line, as functions that return evidence:

>>> import stablesig
>>> pair = stablesig.keygen("publisher.json")                                   # doctest: +SKIP
>>> stablesig.embed("my-vae", pair.secret, "photos", "out")                     # doctest: +SKIP
>>> stablesig.detect("photo.png", [pair.public])                                # doctest: +SKIP
[Detection(...)]

Names are imported when they are first used: `import stablesig` costs next to nothing, and everything that
only verifies images works where PyTorch is not installed. `embed` and its classes need the `train` extra and
raise `MissingExtraError`, an `ImportError`, without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stablesig.calibration import Calibration as Calibration
    from stablesig.calibration import calibrate as calibrate
    from stablesig.demo import run_demo as run_demo
    from stablesig.evaluation import evaluate as evaluate
    from stablesig.evaluation_settings import EvaluationSettings as EvaluationSettings
    from stablesig.evaluation_summary import Evaluation as Evaluation
    from stablesig.extras import MissingExtraError as MissingExtraError
    from stablesig.gate import ReleaseRefusedError as ReleaseRefusedError
    from stablesig.keypair import KeyPair as KeyPair
    from stablesig.keypair import keygen as keygen
    from stablesig.publish_settings import PublishSettings as PublishSettings
    from stablesig.publishing import publish as publish
    from stablesig.reconstruction import Reconstruction as Reconstruction
    from stablesig.reconstruction import reconstruct as reconstruct
    from stablesig_detector.detection import Detection as Detection
    from stablesig_detector.detection import detect as detect
    from stablesig_detector.errors import DecoderError as DecoderError
    from stablesig_detector.errors import ImageError as ImageError
    from stablesig_detector.errors import KeyFileError as KeyFileError
    from stablesig_detector.errors import OutputError as OutputError
    from stablesig_detector.errors import OutputExistsError as OutputExistsError
    from stablesig_detector.errors import StableSigError as StableSigError
    from stablesig_detector.errors import StatisticsError as StatisticsError
    from stablesig_detector.errors import TrainingError as TrainingError
    from stablesig_detector.errors import UsageError as UsageError
    from stablesig_detector.image import load_image as load_image
    from stablesig_detector.key import PublicKey as PublicKey
    from stablesig_detector.key import SecretKey as SecretKey
    from stablesig_detector.key import load_key as load_key
    from stablesig_train.embedding import EmbedConfig as EmbedConfig
    from stablesig_train.embedding import EmbedResult as EmbedResult
    from stablesig_train.embedding import embed as embed

__version__ = "0.1.0"

# Public name -> the module that defines it. No module may bear the name of a verb: importing it would put the
# module where the function belongs.
_HOME = {
    "Calibration": "stablesig.calibration",
    "DecoderError": "stablesig_detector.errors",
    "Detection": "stablesig_detector.detection",
    "EmbedConfig": "stablesig_train.embedding",
    "EmbedResult": "stablesig_train.embedding",
    "Evaluation": "stablesig.evaluation_summary",
    "EvaluationSettings": "stablesig.evaluation_settings",
    "ImageError": "stablesig_detector.errors",
    "KeyFileError": "stablesig_detector.errors",
    "KeyPair": "stablesig.keypair",
    "MissingExtraError": "stablesig.extras",
    "OutputError": "stablesig_detector.errors",
    "OutputExistsError": "stablesig_detector.errors",
    "PublicKey": "stablesig_detector.key",
    "PublishSettings": "stablesig.publish_settings",
    "Reconstruction": "stablesig.reconstruction",
    "ReleaseRefusedError": "stablesig.gate",
    "SecretKey": "stablesig_detector.key",
    "StableSigError": "stablesig_detector.errors",
    "StatisticsError": "stablesig_detector.errors",
    "TrainingError": "stablesig_detector.errors",
    "UsageError": "stablesig_detector.errors",
    "calibrate": "stablesig.calibration",
    "detect": "stablesig_detector.detection",
    "embed": "stablesig_train.embedding",
    "evaluate": "stablesig.evaluation",
    "keygen": "stablesig.keypair",
    "load_image": "stablesig_detector.image",
    "load_key": "stablesig_detector.key",
    "publish": "stablesig.publishing",
    "reconstruct": "stablesig.reconstruction",
    "run_demo": "stablesig.demo",
}

__all__ = [
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


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if home.startswith("stablesig_train"):
        from stablesig.extras import needs_train

        with needs_train(f"stablesig.{name}"):
            module = import_module(home)
    else:
        module = import_module(home)
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
