"""The model card: MODEL_CARD_TEMPLATE.md with the release's facts, and metadata that the Hub reads.

Every figure comes from the published evaluation, which comes from report.json. Text that was given by hand or
by a file's author is put on one line and escaped, so that it can neither break a table nor the metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from stablesig import __version__
from stablesig.extras import MissingExtraError
from stablesig.one_line import shown
from stablesig.suites import SUITE_NAMES
from stablesig_detector.errors import OutputError, UsageError

TEMPLATE = "MODEL_CARD_TEMPLATE.md"
TAGS = ("watermark", "stablesig", "provenance", "autoencoder")
TASK = "watermark-detection"
SUCCEEDING = 0.5  # an attack succeeds that leaves fewer pictures detected
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MARKED = re.compile(r"([\\`*_\[\]|<>#~$])")  # what Markdown or HTML would take for markup


@dataclass(frozen=True)
class Licence:
    """id: the Hub's identifier; name and link where it is "other"."""

    id: str
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class Base:
    """What was watermarked. hub_id: whether `model` is the id of a repository. reason: the publisher's."""

    model: str
    license: str
    reason: str | None = None

    @property
    def hub_id(self) -> bool:
        """Whether the Hub can link to it."""
        return is_hub_id(self.model)


@dataclass(frozen=True)
class Weights:
    """Where the autoencoder is in the repository, in which forms, and what should be known of them."""

    subfolder: str
    fp16: bool
    single_file: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Verification:
    """How images can be verified. key_file: None where only the commitment is published."""

    key_file: str | None
    commitment: str
    contact: str | None


@dataclass(frozen=True)
class CardFacts:
    """Everything on the card. evaluation, watermark: as published. missed: thresholds, as texts."""

    repo_id: str
    evaluation: Mapping[str, Any]
    watermark: Mapping[str, Any]
    base: Base
    license: Licence
    weights: Weights
    verification: Verification
    reason: str | None
    missed: tuple[str, ...]
    picture: str | None


def render_card(facts: CardFacts) -> str:
    """README.md: metadata and text. Raises UsageError if a value is missing or the Hub would not read it.

    Needs the `hub` extra.
    """
    try:
        import jinja2
        from huggingface_hub import ModelCard
    except ImportError as error:
        raise MissingExtraError(
            f"a model card needs {error.name}, which is not installed; run: pip install 'stablesig[hub]'"
        ) from error
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    environment.filters |= {
        "cell": cell,
        "rate": rate_at,
        "succeeding": succeeding,
        "not_evaluated": not_evaluated,
    }
    data = card_data(facts)
    values = {
        "card_data": data.to_yaml(),
        "repo_id": facts.repo_id,
        "evaluation": facts.evaluation,
        "watermark": facts.watermark,
        "base": asdict(facts.base) | {"hub_id": facts.base.hub_id},
        "license": asdict(facts.license),
        "weights": asdict(facts.weights),
        "verification": asdict(facts.verification),
        "gate": {"reason": facts.reason, "missed": facts.missed},
        "picture": facts.picture,
        "stablesig_version": __version__,
    }
    try:
        content = environment.from_string(_template()).render(values)
    except jinja2.UndefinedError as error:
        raise UsageError(
            f"the model card lacks a value: {error.message}; evaluate the decoder again"
        ) from error
    check_metadata(content, data.to_dict())
    return str(ModelCard(content))


def check_metadata(content: str, wanted: Mapping[str, Any]) -> None:
    """Raise UsageError unless the Hub's client reads the metadata `wanted` from the card."""
    from huggingface_hub import ModelCard

    try:
        card = ModelCard(content)
    except Exception as error:  # whatever a YAML parser and the client make of it
        reason = str(error).partition("\n")[0]
        raise UsageError(f"the card's metadata cannot be read back: {reason}") from error
    if card.data.to_dict() != wanted:
        raise UsageError(
            "the card's metadata reads back as something else; leave odd characters out of the options"
        )
    if str(card) != content:
        raise UsageError(
            "the card changes when the Hub's client writes it; leave odd characters out of the options"
        )


def card_data(facts: CardFacts) -> Any:
    """huggingface_hub.ModelCardData: licence, base model, tags, and a result for each attack."""
    from huggingface_hub import ModelCardData

    kind = facts.evaluation["autoencoder"]["kind"]
    base = {"base_model": facts.base.model, "base_model_relation": "finetune"} if facts.base.hub_id else {}
    named = {"license_name": facts.license.name, "license_link": facts.license.link}
    return ModelCardData(
        license=facts.license.id,
        library_name=None if kind == "TAEF2" else "diffusers",  # of which diffusers has no class
        tags=list(TAGS),
        model_name=facts.repo_id.partition("/")[2],
        eval_results=_results(facts.evaluation),
        **base,
        **{name: value for name, value in named.items() if value},
    )


def _results(evaluation: Mapping[str, Any]) -> list[Any]:
    return [
        result
        for number, one in enumerate(evaluation["evaluations"], 1)
        for result in _results_of(one, "held-out" if number == 1 else f"held-out-{number}")
    ]


def _results_of(one: Mapping[str, Any], split: str) -> list[Any]:
    from huggingface_hub import EvalResult

    images, settings = one["images"], one["settings"]
    common = {
        "task_type": TASK,
        "task_name": "Watermark detection",
        "dataset_type": "held-out-images",
        "dataset_name": f"{images['count']} images, {images['size_px']} px",
        "dataset_split": split,
        "dataset_args": {"manifest_sha256": images["manifest_sha256"]},
    }
    found = [
        EvalResult(
            metric_type=metric,
            metric_name=f"{name} to the original decoder, mean",
            metric_value=value,
            **common,
        )
        for metric, name, value in (
            ("psnr", "PSNR (dB)", one["quality"]["psnr_db"]["mean"]),
            ("ssim", "SSIM", one["quality"]["ssim"]["mean"]),
        )
    ]
    for row in one["attacks"]:
        rate = rate_at(row, settings["fpr"])
        arguments = {
            **{name: row[name] for name in ("suite", "search")},
            "attack": row["name"],
            "false_positive_rate": rate["fpr"],
            "detected": rate["count"],
            "images": rate["total"],
        }
        found.append(
            EvalResult(
                metric_type="true-positive-rate",
                metric_name=f"Detected after {row['name']} ({row['suite']})",
                metric_value=round(rate["count"] / rate["total"], 4),
                metric_args=arguments,
                **common,
            )
        )
    return found


def rate_at(row: Mapping[str, Any], fpr: float) -> Mapping[str, Any]:
    """The rate of an attack at one level. Raises UsageError if it was not counted there."""
    for rate in row["detected"]:
        if rate["fpr"] == fpr and rate["total"]:
            found: Mapping[str, Any] = rate
            return found
    raise UsageError(f"{row['name']} was not counted at {fpr:g}; evaluate the decoder again")


def succeeding(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The attacks that leave fewer than half of the pictures detected, weakest detection first."""
    found = []
    for one in evaluation["evaluations"]:
        for row in one["attacks"]:
            rate = rate_at(row, one["settings"]["fpr"])
            if rate["count"] < SUCCEEDING * rate["total"]:
                found.append({"name": row["name"], "suite": row["suite"], **rate})
    return sorted(found, key=lambda row: row["count"] / row["total"])


def not_evaluated(evaluation: Mapping[str, Any]) -> list[str]:
    """stablesig's suites that no report ran."""
    ran = {suite for one in evaluation["evaluations"] for suite in one["settings"]["suites"]}
    return [name for name in SUITE_NAMES if name not in ran]


def cell(text: object) -> str:
    """Text from outside as plain words: on one line, with the characters escaped that Markdown acts on."""
    return _MARKED.sub(r"\\\1", shown(str(text))).replace("&", "&amp;")


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form ORG/NAME of a repository."""
    if not _HUB_ID.fullmatch(text):
        return False
    try:
        from huggingface_hub.utils import HFValidationError, validate_repo_id
    except ImportError:
        return True
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


@cache
def _template() -> str:
    """As the wheel ships it; from the root of the repository in a checkout."""
    shipped = resources.files("stablesig") / "data" / TEMPLATE
    path: Any = shipped if shipped.is_file() else Path(__file__).parents[1] / TEMPLATE
    try:
        text: str = path.read_text(encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{TEMPLATE} is missing from this installation; install stablesig again") from error
    return text


def labels(checks: Sequence[Any]) -> tuple[str, ...]:
    """Gate checks as texts for the card."""
    return tuple(f"{check.name}: {check.text}" for check in checks)
