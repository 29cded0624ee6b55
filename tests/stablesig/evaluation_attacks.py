"""Attacks for the tests of `evaluate`, at the top of a module so that other processes can import them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stablesig.suites import NO_ATTACK, DecoderContext, ImageAttack, SetAttack, Suite

Pixels = NDArray[np.uint8]


def leave(picture: Pixels, place: int) -> Pixels:
    return picture


def add_noise(picture: Pixels, place: int) -> Pixels:
    noise = np.random.default_rng(place).normal(0, 20, picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


def cut_to_a_stamp(picture: Pixels, place: int) -> Pixels:
    return picture[:20, :20]


def mirror_all(context: DecoderContext) -> Iterator[Pixels]:
    assert len(context.latents) == len(context.images) == len(context.marked)
    for picture in context.marked:
        yield np.ascontiguousarray(picture[:, ::-1])


NOISE = ImageAttack("noise <20>", "Gaussian, sigma 20 & more", add_noise)
SMALL = Suite("small", "For tests.", "none", (ImageAttack(NO_ATTACK, "as it is", leave), NOISE))
STAMP = Suite("stamp", "Too small.", "none", (ImageAttack("stamp", "20 px", cut_to_a_stamp, "none"),))
ROUND = Suite("regeneration", "A set attack.", "none", (SetAttack("mirror", "flipped", mirror_all),))
