"""Attacks in the loop: real on the way forward, honest on the way back."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from stablesig_detector.spectrum import MIN_SIDE
from stablesig_train import attacks
from stablesig_train.jpeg import compress


def photo(size: int = 96, seed: int = 0) -> torch.Tensor:
    """A smooth random picture on whole grey levels, (1, 3, size, size) in [0, 1]."""
    walk = np.random.default_rng(seed).normal(size=(3, size, size)).cumsum(1).cumsum(2)
    pixels = np.clip(128 + walk / walk.std() * 50, 0, 255).round()
    return torch.from_numpy(pixels)[None].float() / 255


@pytest.mark.parametrize("codec", ["JPEG", "WEBP"])
@pytest.mark.parametrize("size", [96, 83])
def test_compress_gives_what_the_file_gives(codec, size) -> None:
    image = photo(size)
    pixels = (image[0] * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, codec, quality=50)
    expected = np.asarray(Image.open(buffer).convert("RGB"))
    got = (compress(image, 50, codec)[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(got, expected)


def test_compress_passes_gradient_only_through_what_survives() -> None:
    """A pattern at the highest frequency is zeroed by JPEG 30, one at a low frequency is kept."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    checks = (-1.0) ** (x + y)
    slow = torch.cos(torch.pi * (2 * x + 1) / 16)  # the first horizontal frequency of every block
    response = {}
    for name, pattern in (("checks", checks), ("slow", slow)):
        image = (0.5 + 0.02 * checks + 0.1 * slow).expand(1, 3, 64, 64).clone().requires_grad_()
        (compress(image, 30) * pattern).sum().backward()
        assert image.grad is not None
        response[name] = float((image.grad * pattern).sum() / (pattern**2).sum() / 3)
    assert abs(response["checks"]) < 0.05
    assert response["slow"] > 0.2


@pytest.mark.parametrize("choice", attacks.ATTACKS, ids=lambda choice: choice.attack.__name__)
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_every_attack_stays_in_range_measurable_and_differentiable(choice, strength) -> None:
    image = photo().requires_grad_()
    attacked = choice.attack(image, torch.Generator().manual_seed(1), strength)
    assert attacked.shape[1] == 3
    assert min(attacked.shape[-2:]) >= MIN_SIDE
    assert float(attacked.detach().min()) > -0.1
    assert float(attacked.detach().max()) < 1.1
    attacked.square().sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0


def test_full_strength_does_more_than_none() -> None:
    image = photo()
    for attack in (attacks.jpeg, attacks.noise, attacks.blur, attacks.brightness, attacks.contrast):
        error = [
            np.mean(
                [
                    float((attack(image, torch.Generator().manual_seed(s), strength) - image).square().mean())
                    for s in range(8)
                ]
            )
            for strength in (0.0, 1.0)
        ]
        assert error[1] > 1.5 * error[0], attack.__name__


def test_sample_repeats_with_its_generator_and_reaches_every_attack() -> None:
    image = photo(64)
    first, second = (attacks.sample(image, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    weights = torch.tensor([choice.weight for choice in attacks.ATTACKS])
    drawn = {
        int(torch.multinomial(weights, 1, generator=torch.Generator().manual_seed(s))) for s in range(200)
    }
    assert drawn == set(range(len(attacks.ATTACKS)))
