"""The suites that need decoders or the key, as data: what `stablesig.suites.SET_SUITES` holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from stablesig import informed_attacks as informed
from stablesig import model_attacks as model
from stablesig.suites import DecoderContext, SetAttack, Suite
from stablesig_train.decoders import Autoencoder
from stablesig_train.held_out import Pixels

Apply = Callable[[DecoderContext], Iterator[Pixels]]

FINE_TUNING_STEPS = (10, 50, 200, 500)
AVERAGED = (10, 100, 1000)  # pictures
FLATTENING_BUDGETS_DB = (50, 40)
GRADIENT_BUDGETS_DB = (50, 40, 38, 36)
_OTHERS = ("other autoencoder", "second other autoencoder", "third other autoencoder")


def _regeneration() -> tuple[SetAttack, ...]:
    def through(number: int, times: int) -> Apply:
        return lambda context: model.regenerated(context, number, times)

    convention = (
        "the marked picture, as 8 bits, {} through encoder and decoder of {}; sides padded by reflection to "
        "its stride and cut back"
    )
    which = (
        "the original, unmarked autoencoder itself",
        *(f"the {place} autoencoder given for this" for place in ("first", "second", "third")),
    )
    return tuple(
        SetAttack(
            f"{name}, {often}",
            convention.format(often, which[number]),
            through(number, times),
            others=number,
        )
        for number, name in enumerate(("original autoencoder", *_OTHERS))
        for often, times in (("once", 1), ("twice", 2))
    )


def _decoded(change: Callable[[DecoderContext], Autoencoder]) -> Apply:
    """The pictures of a decoder that is made when the first of them is asked for."""

    def apply(context: DecoderContext) -> Iterator[Pixels]:
        yield from model.decode_all(change(context), context)

    return apply


def _model() -> tuple[SetAttack, ...]:
    def tuned(steps: int, key_known: bool) -> Apply:
        return _decoded(lambda context: model.fine_tuned(context, steps, key_known=key_known))

    def rounded(dtype: torch.dtype) -> Apply:
        return _decoded(lambda context: model.rounded(context.watermarked, dtype))

    def quantised(per_channel: bool) -> Apply:
        return _decoded(lambda context: model.quantised(context.watermarked, per_channel=per_channel))

    def pruned(share: float) -> Apply:
        return _decoded(lambda context: model.pruned(context.watermarked, share))

    def interpolated(share: float) -> Apply:
        return _decoded(lambda context: model.interpolated(context.watermarked, context.original, share))

    clean = (
        f"{{}} steps of Adam, rate {model.LEARNING_RATE:g}, {model.BATCH} random crops of {model.CROP_PX} px "
        "a step of the photographs that are judged, encoded and decoded; loss: mean squared error to them"
    )
    keyed = f", plus {model.KEY_WEIGHT:g} times the squared statistic of the public key"
    integers = "8-bit integers, symmetric, step max abs w / 127, one step for each {}; biases stay"
    return (
        *(
            SetAttack(
                f"fine-tuning, {steps} steps{', key known' if key_known else ''}",
                clean.format(steps) + (keyed if key_known else ""),
                tuned(steps, key_known),
            )
            for key_known in (False, True)
            for steps in FINE_TUNING_STEPS
        ),
        SetAttack("float16 weights", "decoder's parameters rounded to float16", rounded(torch.float16)),
        SetAttack("bfloat16 weights", "decoder's parameters rounded to bfloat16", rounded(torch.bfloat16)),
        SetAttack("int8 weights, per tensor", integers.format("tensor"), quantised(False)),
        SetAttack("int8 weights, per channel", integers.format("output channel"), quantised(True)),
        *(
            SetAttack(
                f"pruning {percent} %",
                f"{percent} % of each weight tensor, the smallest in magnitude, set to 0; biases stay",
                pruned(percent / 100),
            )
            for percent in (10, 20, 30, 40, 50)
        ),
        *(
            SetAttack(
                f"interpolation {share:g}",
                f"weights {share:g} of the way from the watermarked to the original decoder",
                interpolated(share),
            )
            for share in (0.25, 0.5, 0.75)
        ),
    )


def _informed() -> tuple[SetAttack, ...]:
    def averaged(count: int) -> Apply:
        return lambda context: informed.averaged(context, count)

    def flattened(passes: int) -> Apply:
        return lambda context: (informed.flattened(picture, passes) for picture in context.marked)

    def unremarkable(psnr: float) -> Apply:
        return lambda context: informed.unremarkable(context, psnr)

    def evaded(psnr: float) -> Apply:
        return lambda context: informed.evaded(context, psnr)

    kept = "at least {} dB PSNR to the marked picture after rounding"
    return (
        *(
            SetAttack(
                f"averaging {count}",
                f"no key, no unmarked picture: {count} pictures of the watermarked decoder (random "
                f"windows of the pictures judged, some mirrored), each less its Gaussian blur of "
                f"{informed.HIGH_PASS_SIGMA_PX:g} px, are averaged to one tile of "
                f"{informed.TILE_LATENTS} strides, which is subtracted",
                averaged(count),
            )
            for count in AVERAGED
        ),
        *(
            SetAttack(
                f"spectral flattening, {often}",
                f"method known, no key: a linear filter, at most {informed.LARGEST_GAIN_DB:g} dB, brings the "
                f"picture's mean log local spectrum to a smooth surface in radius and angle; {often}",
                flattened(passes),
            )
            for often, passes in (("once", 1), ("three times", 3))
        ),
        *(
            SetAttack(
                f"feature flattening, {psnr} dB",
                f"method and whitening statistics known, no key: {informed.GRADIENT_STEPS} steps of "
                "projected gradient descent on the length of the whitened features, "
                f"{kept.format(psnr)}",
                unremarkable(psnr),
            )
            for psnr in FLATTENING_BUDGETS_DB
        ),
        *(
            SetAttack(
                f"gradient, {psnr} dB",
                f"public key known: {informed.GRADIENT_STEPS} steps of projected gradient descent on the "
                f"statistic, {kept.format(psnr)}",
                evaded(psnr),
            )
            for psnr in GRADIENT_BUDGETS_DB
        ),
    )


SET_SUITES: dict[str, Suite[SetAttack]] = {
    suite.name: suite
    for suite in (
        Suite(
            "regeneration",
            "round trips through autoencoders",
            "regeneration: Zhao et al., NeurIPS 2024, arXiv 2306.01953, without its noise; the attacks by "
            "autoencoder in Stable Signature (Fernandez et al., ICCV 2023)",
            _regeneration(),
        ),
        Suite(
            "model",
            "attacks on the weights of the watermarked decoder; they cost fidelity too",
            "fine-tuning on clean images: model purification in Stable Signature (Fernandez et al., ICCV "
            "2023) and, encoder known, Hu et al., 2024, arXiv 2405.07145; quantisation: Nagel et al., 2021, "
            "arXiv 2106.08295; pruning by magnitude: Han et al., NeurIPS 2015",
            _model(),
        ),
        Suite(
            "informed",
            "attackers who know the method",
            "averaging: Yang et al., NeurIPS 2024, arXiv 2406.09026, without unmarked pictures; projected "
            "gradient: Madry et al., ICLR 2018; what is descended, and flattening, are this project's own",
            _informed(),
        ),
    )
}
