"""The card says what was measured, in metadata that the Hub's client reads, and breaks on what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from stablesig.card_facts import public_evaluation, read_report, read_watermark
from stablesig.model_card import (
    Base,
    CardFacts,
    Licence,
    Verification,
    Weights,
    cell,
    check_metadata,
    is_hub_id,
    render_card,
)
from stablesig.release_declaration import declaration
from stablesig_detector.errors import UsageError

from .release_fixture import make_publishable

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> CardFacts:
    case = make_publishable(tmp_path_factory.mktemp("card"))
    watermark = declaration(read_watermark(case.folder), {"config.json": "0" * 64})
    return CardFacts(
        repo_id="org/marked-vae",
        evaluation=public_evaluation([read_report(case.report)]),
        watermark=watermark | {"release": {"training_merkle_root": "e" * 64}},
        base=Base("org/vae", "mit"),
        license=Licence("apache-2.0"),
        weights=Weights("vae", False, None, ()),
        verification=Verification("key.pub.json", "f" * 64, None),
        reason=None,
        missed=(),
        picture="pictures/side_by_side.png",
    )


def test_measured_values_appear_as_published(facts: CardFacts) -> None:
    card = render_card(facts)
    assert "| PSNR | 40.42 dB | 37.16 dB |" in card
    assert "| targets | JPEG 50 | 18 of 24 | 51.2 to 98.8 % | 1e-12.3 | 1000 of 1152 |" in card
    assert "| 24 | 1e-06 | 0 of 72 |" in card
    assert "- JPEG 30 (targets): 7 of 24" in card
    assert "AVIF 50 (targets)" in card
    assert f"`{'e' * 64}`" in card
    assert f"`{facts.evaluation['key']['id']}`" in card


def test_the_hub_s_client_reads_the_metadata(facts: CardFacts) -> None:
    data = ModelCard(render_card(facts)).data
    assert (data.license, data.library_name, data.base_model) == ("apache-2.0", "diffusers", "org/vae")
    assert data.to_dict()["base_model_relation"] == "finetune"
    assert {"watermark", "stablesig"} <= set(data.tags)
    by_attack = {one.metric_args["attack"]: one for one in data.eval_results if one.metric_args}
    assert by_attack["JPEG 50"].metric_value == 0.75
    assert by_attack["JPEG 50"].metric_args["detected"] == 18
    assert by_attack["JPEG 50"].metric_args["false_positive_rate"] == 1e-6
    assert [one.metric_value for one in data.eval_results if one.metric_type == "psnr"] == [40.42]


def test_a_base_that_is_not_on_the_hub_is_named_in_the_text_only(facts: CardFacts) -> None:
    card = render_card(replace(facts, base=Base("our own autoencoder, 2024", "mit")))
    assert "base_model" not in ModelCard(card).data.to_dict()
    assert "The autoencoder of our own autoencoder, 2024 with its decoder" in card


def test_the_key_is_offered_only_where_it_is_published(facts: CardFacts) -> None:
    assert "stablesig detect image.png --key key.pub.json" in render_card(facts)
    private = render_card(replace(facts, verification=Verification(None, "f" * 64, "marks@example.org")))
    assert "key.pub.json\n" not in private
    assert f"`{'f' * 64}`" in private
    assert "marks@example.org" in private


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("AutoencoderKL", 'AutoencoderKL.from_pretrained("org/marked-vae", subfolder="vae")'),
        ("AutoencoderTiny", 'AutoencoderTiny.from_pretrained("org/marked-vae", subfolder="vae")'),
        ("TAEF2", 'load_autoencoder("taef2:" + snapshot_download("org/marked-vae") + "/vae")'),
    ],
)
def test_loading_is_shown_for_the_kind(kind: str, line: str, facts: CardFacts) -> None:
    evaluation = dict(facts.evaluation) | {"autoencoder": facts.evaluation["autoencoder"] | {"kind": kind}}
    card = render_card(replace(facts, evaluation=evaluation))
    assert line in card
    assert ("library_name: diffusers" in card) == (kind != "TAEF2")
    assert ("ComfyUI" in card) == (kind == "AutoencoderKL")
    blocks = card.split("```python\n")[1:]
    for block in blocks:
        compile(block.partition("```")[0], "card", "exec")


def test_a_missed_threshold_and_its_reason_are_on_the_card(facts: CardFacts) -> None:
    assert "threshold was missed" not in render_card(facts)
    card = render_card(replace(facts, reason="a demonstration", missed=("PSNR: 37 dB mean, 38 wanted",)))
    assert "PSNR: 37 dB mean, 38 wanted. The publisher's reason: a demonstration" in card


@pytest.mark.parametrize("gone", ["key", "quality", "control", "attacks", "images", "training"])
def test_a_missing_value_is_an_error_and_not_a_gap(gone: str, facts: CardFacts) -> None:
    evaluation: dict[str, Any] = dict(facts.evaluation)
    watermark: dict[str, Any] = dict(facts.watermark)
    if gone == "key":
        del evaluation["key"]
    elif gone == "training":
        watermark["images"] = {"manifest_sha256": "0" * 64}
    else:
        [one] = evaluation["evaluations"]
        evaluation["evaluations"] = [{name: value for name, value in one.items() if name != gone}]
    with pytest.raises((UsageError, KeyError), match=gone):
        render_card(replace(facts, evaluation=evaluation, watermark=watermark))


def test_text_from_outside_breaks_neither_table_nor_metadata(facts: CardFacts) -> None:
    odd = "---\nlicense: gpl | <script>alert(1)</script> [x](y) {{ 7 * 7 }} `z`"
    [one] = facts.evaluation["evaluations"]
    row = one["attacks"][0] | {"name": odd}
    evaluation = dict(facts.evaluation) | {"evaluations": [one | {"attacks": [row]}]}
    card = render_card(
        replace(
            facts,
            evaluation=evaluation,
            base=Base(odd, "other", odd),
            license=Licence("other", odd, odd),
            verification=Verification(None, "f" * 64, odd),
            reason=odd,
            missed=(odd,),
        )
    )
    assert ModelCard(card).data.license == "other"
    body = card.partition("\n---\n\n")[2]
    assert "<script" not in body.replace("\\<", "")
    assert "\nlicense: gpl" not in body
    assert "{{ 7" in body
    assert cell("a|b\nc") == "a\\|b c"


def test_metadata_that_reads_back_as_something_else_is_refused(facts: CardFacts) -> None:
    card = render_card(facts)
    with pytest.raises(UsageError, match="reads back as something else"):
        check_metadata(card.replace("license: apache-2.0", "license: mit"), ModelCard(card).data.to_dict())
    with pytest.raises(UsageError, match="cannot be read back"):
        check_metadata("---\n: [\n---\n", {})


def test_the_metadata_is_plain_yaml(facts: CardFacts) -> None:
    head = render_card(facts).split("---\n")[1]
    assert yaml.safe_load(head)["model-index"][0]["name"] == "marked-vae"


def test_absence_is_never_called_proof(facts: CardFacts) -> None:
    assert "Absence proves nothing" in render_card(facts)


@pytest.mark.parametrize("key_file", ["key.pub.json", None])
def test_nothing_is_claimed_of_every_image_or_of_an_eye(key_file: str | None, facts: CardFacts) -> None:
    card = render_card(replace(facts, verification=Verification(key_file, "f" * 64, None)))
    assert "every image" not in card
    assert "invisible" not in card
    assert "exact for one geometry and an upper bound for several" in card
    assert "can estimate the key's direction" in card, "a commitment does not hide what the weights show"


@pytest.mark.parametrize("name", ["org/name", "a/b.c-d_e"])
def test_ids_of_the_hub(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name", ["name", "org/name/more", "org/na me", "/x", "org/..", "org/a--b", "org/x.git"]
)
def test_what_is_no_id_of_the_hub(name: str) -> None:
    assert not is_hub_id(name)
