"""Fidelity: PSNR, the masking model, and the controller."""

import math

import pytest
import torch

from stablesig_train.fidelity import Fidelity, psnr, visibility


def flat(level: float, size: int = 64) -> torch.Tensor:
    return torch.full((1, 3, size, size), level)


def texture(contrast: float, size: int = 64) -> torch.Tensor:
    return (
        (0.5 + contrast * torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(0)))
        .clamp(0, 1)
        .expand(1, 3, -1, -1)
    )


def grain(sigma: float, size: int = 64) -> torch.Tensor:
    return sigma * torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(1)).expand(
        1, 3, -1, -1
    )


def test_psnr_of_a_known_error() -> None:
    assert float(psnr(flat(0.51), flat(0.5))) == pytest.approx(40.0, abs=0.01)
    assert float(psnr(flat(0.5), flat(0.5))) == pytest.approx(100.0, abs=0.01)


def test_texture_hides_and_flat_areas_show() -> None:
    error = grain(0.01)
    assert float(visibility(flat(0.5) + error, flat(0.5))) > 3 * float(
        visibility(texture(0.15) + error, texture(0.15))
    )


def test_visibility_is_quadratic_in_the_error() -> None:
    one, two = (float(visibility(flat(0.5) + grain(s), flat(0.5))) for s in (0.005, 0.01))
    assert two == pytest.approx(4 * one, rel=1e-3)


def test_dark_blocks_are_more_sensitive_than_bright_ones() -> None:
    error = grain(0.01)
    assert float(visibility(flat(0.1) + error, flat(0.1))) > 2 * float(
        visibility(flat(0.8) + error, flat(0.8))
    )


def test_loss_pulls_towards_the_original_and_stops_beyond_the_slack() -> None:
    fidelity = Fidelity(40.0)
    original = texture(0.1)
    image = (original + grain(0.02)).requires_grad_()
    fidelity.loss(image, original).backward()
    assert image.grad is not None
    assert float((image.grad * (image.detach() - original)).sum()) > 0
    near = (original + grain(0.002)).requires_grad_()
    assert float(fidelity.loss(near, original).detach()) == 0.0


def test_controller_settles_a_decoder_that_answers_late() -> None:
    """A made-up plant: PSNR rises by 3 dB for each doubling of the weight, with a lag of about 15 steps."""
    fidelity, now, seen = Fidelity(40.0), 57.0, []
    for _ in range(400):
        fidelity.update(now)
        now += (36 + 10 * math.log10(fidelity.weight / 0.2) - now) / 15
        seen.append(now)
    assert seen[-1] == pytest.approx(40.0, abs=0.2)
    assert min(seen) > 37


def test_far_above_the_target_at_the_start_does_not_wind_the_weight_down() -> None:
    fidelity = Fidelity(40.0, weight=0.5)
    for _ in range(50):
        fidelity.update(57.0)
    assert fidelity.weight == 0.5


def test_controller_continues_from_its_state() -> None:
    fidelity, other = Fidelity(40.0), Fidelity(40.0)
    fidelity.update(30.0)
    other.load_state_dict(fidelity.state_dict())
    assert other.weight == fidelity.weight > 0.5
