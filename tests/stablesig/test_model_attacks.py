"""Attacks on a tiny decoder's weights: each changes what it says, and never what it was given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stablesig import informed_attacks, model_attacks
from stablesig.suites import SET_SUITES, DecoderContext
from stablesig_detector.errors import UsageError
from stablesig_train.decoders import Autoencoder
from stablesig_train.held_out import Pixels, decode_pixels

from .conftest import textured_image
from .tiny_decoders import context_of_tiny_decoders, weights


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> DecoderContext:
    return context_of_tiny_decoders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def context(shared: DecoderContext) -> Iterator[DecoderContext]:
    """The context; the test fails if anything in it is changed."""
    decoders = (shared.original, shared.watermarked, *shared.others)
    before = [weights(one) for one in decoders]
    pictures = [picture.copy() for picture in (*shared.images, *shared.marked)]
    yield shared
    for one, values in zip(decoders, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(weights(one), values, strict=True))
    assert all(map(np.array_equal, (*shared.images, *shared.marked), pictures))


def test_interpolation_starts_at_the_watermarked_and_ends_at_the_original(context: DecoderContext) -> None:
    def between(share: float) -> list[torch.Tensor]:
        return weights(model_attacks.interpolated(context.watermarked, context.original, share))

    w1, w0 = weights(context.watermarked), weights(context.original)
    assert all(map(torch.equal, between(0.0), w1))
    assert all(map(torch.equal, between(1.0), w0))
    for half, a, b in zip(between(0.5), w0, w1, strict=True):
        torch.testing.assert_close(half, (a + b) / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_that_of_the_dtype(dtype: torch.dtype, context: DecoderContext) -> None:
    rounded = model_attacks.rounded(context.watermarked, dtype)
    for after, before in zip(weights(rounded), weights(context.watermarked), strict=True):
        assert torch.equal(after, before.to(dtype).float())
    assert not all(map(torch.equal, weights(rounded), weights(context.watermarked)))


@pytest.mark.parametrize("per_channel", [False, True])
def test_integers_are_symmetric_and_within_half_a_step(per_channel: bool, context: DecoderContext) -> None:
    quantised = model_attacks.quantised(context.watermarked, per_channel=per_channel)
    for after, before in zip(weights(quantised), weights(context.watermarked), strict=True):
        if before.ndim == 1:
            assert torch.equal(after, before)
            continue
        for new, old in zip(after, before, strict=True) if per_channel else [(after, before)]:
            step = old.abs().max() / 127
            levels = new / step
            torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
            assert levels.abs().max() <= 127.001
            assert (new - old).abs().max() <= 0.501 * step


def test_a_channel_of_zeros_stays_zero(context: DecoderContext) -> None:
    twin = model_attacks.duplicate(context.watermarked)
    twin.decoder_parameters()[0].data.zero_()
    quantised = model_attacks.quantised(twin, per_channel=True)
    assert all(bool(weight.isfinite().all()) for weight in weights(quantised))
    assert not weights(quantised)[0].any()


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_pruning_zeroes_the_smallest_share_of_every_tensor(share: float, context: DecoderContext) -> None:
    pruned = model_attacks.pruned(context.watermarked, share)
    for after, before in zip(weights(pruned), weights(context.watermarked), strict=True):
        if before.ndim == 1:
            assert torch.equal(after, before)
            continue
        gone = after == 0
        assert int(gone.sum()) == round(share * before.numel())
        assert torch.equal(after[~gone], before[~gone])
        assert before[gone].abs().max() <= before[~gone].abs().min()


def test_fine_tuning_approaches_the_photographs_and_fewer_steps_are_its_beginning(
    context: DecoderContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_attacks, "LEARNING_RATE", 2e-3)  # so that few steps show

    def error(autoencoder: Autoencoder) -> float:
        pictures = [decode_pixels(autoencoder, latents) for latents in context.latents]
        pairs = zip(pictures, context.images, strict=True)
        return float(np.mean([np.mean((a.astype(float) - b) ** 2) for a, b in pairs]))

    errors = [error(context.watermarked), *(error(model_attacks.fine_tuned(context, n)) for n in (5, 10))]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.9 * errors[0]
    repeated = [weights(model_attacks.fine_tuned(context, 2)) for _ in range(2)]
    assert all(map(torch.equal, *repeated))
    other = weights(model_attacks.fine_tuned(replace(context, seed=1), 2))
    assert not all(map(torch.equal, repeated[0], other))


def test_fine_tuning_leaves_the_encoder(context: DecoderContext) -> None:
    tuned = model_attacks.fine_tuned(context, 1)
    for after, before in zip(
        tuned.module.encoder.parameters(), context.watermarked.module.encoder.parameters(), strict=True
    ):
        assert torch.equal(after, before)
    assert not all(map(torch.equal, weights(tuned), weights(context.watermarked)))


def test_a_known_key_is_what_fine_tuning_drives_to_zero(
    context: DecoderContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stablesig_detector.whitening import load_default
    from stablesig_train.spectrum import Statistic

    statistic = Statistic(context.key.direction, load_default())

    def squared(autoencoder: Autoencoder) -> float:
        with torch.no_grad():
            seen = [autoencoder.decode(latents).clamp(0, 1) for latents in context.latents]
            return float(np.mean([float(statistic(images)) ** 2 for images in seen]))

    monkeypatch.setattr(model_attacks, "LEARNING_RATE", 2e-3)
    monkeypatch.setattr(model_attacks, "KEY_WEIGHT", 100.0)  # so that few steps show
    tuned = model_attacks.fine_tuned(context, 8, key_known=True)
    assert squared(tuned) < 0.5 * squared(context.watermarked)


def test_a_round_trip_keeps_the_size_where_the_stride_does_not_divide_it(context: DecoderContext) -> None:
    [other] = context.others
    picture = textured_image(9, 61, 83)
    assert picture.shape[0] % other.stride
    again = model_attacks.round_trip(other, picture)
    assert again.shape == picture.shape
    even = textured_image(9, 64, 80)
    with torch.inference_mode():
        batch = torch.from_numpy(even).permute(2, 0, 1)[None].float() / 255
        expected = decode_pixels(other, other.encode(batch))
    assert np.array_equal(model_attacks.round_trip(other, even), expected)


def test_twice_is_once_and_again_and_zero_is_the_original(context: DecoderContext) -> None:
    once = list(model_attacks.regenerated(context, 1, 1))
    twice = list(model_attacks.regenerated(context, 1, 2))
    assert np.array_equal(twice[0], model_attacks.round_trip(context.others[0], once[0]))
    itself = list(model_attacks.regenerated(context, 0, 1))
    assert np.array_equal(itself[1], model_attacks.round_trip(context.original, context.marked[1]))


def test_an_autoencoder_that_is_not_there_is_wrong_usage(context: DecoderContext) -> None:
    with pytest.raises(UsageError, match="needs 2 autoencoders besides"):
        list(model_attacks.regenerated(context, 2, 1))


def test_every_set_attack_yields_one_picture_for_each_marked_one(
    context: DecoderContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And asks for the strength that its name says; training and averaging are not done here."""
    asked: list[Any] = []

    def fine_tuned(given: DecoderContext, steps: int, *, key_known: bool = False) -> Autoencoder:
        asked.append(f"fine-tuning, {steps} steps{', key known' if key_known else ''}")
        return given.watermarked

    def mean_residual(_: DecoderContext, count: int) -> np.ndarray:
        asked.append(f"averaging {count}")
        return np.zeros((8, 8, 3))

    monkeypatch.setattr(model_attacks, "fine_tuned", fine_tuned)
    monkeypatch.setattr(informed_attacks, "mean_residual", mean_residual)
    monkeypatch.setattr(informed_attacks, "GRADIENT_STEPS", 1)
    many = replace(context, others=context.others * 3)
    for suite in SET_SUITES.values():
        for attack in suite.attacks:
            count = len(asked)
            pictures: list[Pixels] = list(attack.apply(many))
            assert [picture.shape for picture in pictures] == [one.shape for one in context.marked]
            assert all(picture.dtype == np.uint8 for picture in pictures)
            if attack.name.startswith(("fine-tuning", "averaging")):
                assert asked[count:] == [attack.name]


def test_nothing_is_done_before_the_first_picture_is_asked_for(
    context: DecoderContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Autoencoder:
        raise AssertionError("worked too early")

    monkeypatch.setattr(model_attacks, "fine_tuned", fail)
    [attack] = [one for one in SET_SUITES["model"].attacks if one.name == "fine-tuning, 10 steps"]
    pictures = attack.apply(context)
    with pytest.raises(AssertionError, match="too early"):
        next(pictures)
