"""Fidelity: PSNR, the error that training lowers, and the controller."""

import math

import pytest
import torch

from stablesig_detector.spectrum import COLOUR_MATRIX
from stablesig_train.fidelity import Fidelity, lasting_error, psnr


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


def wave(cycles_per_px: float, size: int = 64) -> torch.Tensor:
    """A grey grating of amplitude 0.01: (1, 3, size, size)."""
    phase = 2 * math.pi * cycles_per_px * torch.arange(size)
    return (0.01 * torch.cos(phase)).expand(1, 3, size, size)


@pytest.mark.parametrize(
    ("cycles_per_px", "share"), [(1 / 16, 0.92), (5 / 32, 0.75), (15 / 64, 1.0), (15 / 32, 2.5)]
)
def test_fine_luma_counts_more_than_coarse_luma(cycles_per_px: float, share: float) -> None:
    error = wave(cycles_per_px)
    counted = float(lasting_error(flat(0.5) + error, flat(0.5)) / error.square().mean())
    assert counted == pytest.approx(share, rel=0.05)


def test_a_colour_difference_counts_half_more_than_luma() -> None:
    grey = torch.full((1, 3, 64, 64), 0.01)
    blue = torch.linalg.solve(torch.tensor(COLOUR_MATRIX), torch.tensor([0.0, 0.01, 0.0])).view(1, 3, 1, 1)
    assert float(lasting_error(flat(0.5) + grey, flat(0.5))) == pytest.approx(1e-4, rel=1e-2)
    assert float(lasting_error(flat(0.5) + blue, flat(0.5))) == pytest.approx(1.5e-4, rel=1e-2)


def test_loss_pulls_towards_the_original_and_stops_beyond_the_slack() -> None:
    fidelity = Fidelity(40.0)
    original = texture(0.1)
    image = (original + grain(0.02)).requires_grad_()
    fidelity.loss(image, original).backward()
    assert image.grad is not None
    assert float((image.grad * (image.detach() - original)).sum()) > 0
    near = (original + grain(0.002)).requires_grad_()
    assert float(fidelity.loss(near, original).detach()) == 0.0


def test_loss_does_not_jump_where_an_image_enters_the_slack() -> None:
    fidelity, original = Fidelity(40.0), texture(0.1)
    # white grain: 41 dB at 2.27 grey levels; it counts for about twice its squared error
    just_outside = fidelity.loss(original + grain(2.3 / 255), original)
    assert psnr(original + grain(2.3 / 255), original) < 41.0
    assert abs(float(just_outside)) < 0.4 * fidelity.weight


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
