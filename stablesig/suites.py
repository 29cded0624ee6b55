"""The attack suites: what is done to marked pictures before the detector sees them, defined once, as data.

An attack has a name, the convention of the literature written beside it, and a function. Image attacks work
on one picture at a time; set attacks need the decoders, the key or all the pictures together. The suites
themselves are in `image_suites` and `set_suites`, and are imported when IMAGE_SUITES or SET_SUITES is first
asked for: importing this module loads neither NumPy nor torch, so that a command's help can name the suites.
docs/suites.md shows them as tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from stablesig_detector.detection import Key
    from stablesig_detector.whitening import Whitening
    from stablesig_train.decoders import Autoencoder
    from stablesig_train.held_out import Pixels as Pixels  # (H, W, 3) uint8 RGB

    IMAGE_SUITES: dict[str, Suite[ImageAttack]]
    SET_SUITES: dict[str, Suite[SetAttack]]

IMAGE_SUITE_NAMES = ("targets", "legacy", "video-seal", "codecs", "platform")
SET_SUITE_NAMES = ("regeneration", "model", "informed")
SUITE_NAMES = IMAGE_SUITE_NAMES + SET_SUITE_NAMES

NO_ATTACK = "none"  # the name under which a suite holds the pictures as they are


@dataclass(frozen=True)
class ImageAttack:
    """What is done to one picture.

    name: unique in its suite; reports print it.  convention: the parameter as its source defines it, and what
    it means here.  apply: (picture, place) -> attacked picture, both (H, W, 3) uint8; `place` seeds whatever
    is random, the same two give the same pixels. Functions are not picklable: hand workers the name.
    search: the least of the detector's searches that can undo it.  codec: Pillow's name of the feature that
    it needs, or "".
    """

    name: str
    convention: str
    apply: Callable[[Pixels, int], Pixels]
    search: str = "fast"
    codec: str = ""


@dataclass(frozen=True, eq=False)
class DecoderContext:
    """What set attacks may use. No attack changes any of it.

    original, watermarked: the decoder before and after `embed`.  others: other autoencoders of RGB images.
    key: the key that `watermarked` carries; attacks use its public direction only.  latents: (1, C, h, w)
    each.  images: held-out photographs, of any number.  marked, originals: the watermarked and the original
    decoder's pictures of `latents`, one for each, in order.  seed: of whatever is random.  whitening: the
    detector's statistics, None for those shipped.
    """

    original: Autoencoder
    watermarked: Autoencoder
    others: tuple[Autoencoder, ...]
    key: Key
    latents: Sequence[Tensor]
    images: Sequence[Pixels]
    marked: Sequence[Pixels]
    originals: Sequence[Pixels]
    seed: int
    whitening: Whitening | None = None


@dataclass(frozen=True)
class SetAttack:
    """What is done with the decoders, the key, or all pictures together.

    name, convention, search: as of an `ImageAttack`.  apply: yields one attacked picture for each of
    `context.marked`, in order; work for all of them, such as fine-tuning, is done when the first is asked
    for. Attacks on the decoder give the pictures that the attacked decoder makes of `context.latents`: they
    cost fidelity, so compare with `marked` and with `originals`.  others: how many of `context.others` it
    needs.
    """

    name: str
    convention: str
    apply: Callable[[DecoderContext], Iterator[Pixels]]
    search: str = "fast"
    others: int = 0


AnyAttack = TypeVar("AnyAttack", ImageAttack, SetAttack)


@dataclass(frozen=True)
class Suite(Generic[AnyAttack]):
    """Attacks that are reported together. source: the paper or site whose convention it is."""

    name: str
    description: str
    source: str
    attacks: tuple[AnyAttack, ...]


def available(suite: Suite[AnyAttack], others: int = 1) -> tuple[tuple[AnyAttack, ...], tuple[str, ...]]:
    """The attacks of a suite that can run here, in order, and the names of those that cannot.

    Left out are attacks whose codec this Pillow lacks, and those that need more than `others` autoencoders
    besides the one that is evaluated.
    """
    from PIL import features

    def runs(attack: ImageAttack | SetAttack) -> bool:
        if isinstance(attack, SetAttack):
            return attack.others <= others
        return not attack.codec or bool(features.check(attack.codec))

    return (
        tuple(attack for attack in suite.attacks if runs(attack)),
        tuple(attack.name for attack in suite.attacks if not runs(attack)),
    )


if not TYPE_CHECKING:  # hidden from type checkers, which would take any name for one of this module's

    def __getattr__(name: str) -> Any:
        if name == "IMAGE_SUITES":
            from stablesig.image_suites import IMAGE_SUITES

            return IMAGE_SUITES
        if name == "SET_SUITES":
            from stablesig.set_suites import SET_SUITES

            return SET_SUITES
        if name == "Pixels":
            from stablesig_train.held_out import Pixels

            return Pixels
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
