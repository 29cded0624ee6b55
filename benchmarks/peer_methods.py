"""The ways to mark a picture that benchmarks/peers.py compares, behind one face.

The peers are invisible-watermark's methods, as the package has them and with its own settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stablesig_detector.detection import Key, detect
from stablesig_detector.errors import ImageError, UsageError
from stablesig_detector.statistics import binomial_log10_p
from stablesig_train.decoders import Autoencoder
from stablesig_train.held_out import HeldOut, Pixels, decode_pixels

PACKAGES = ("invisible-watermark", "onnxruntime", "opencv-python-headless", "PyWavelets")
INSTALL = (
    "pip install -r benchmarks/requirements-peers.txt, then pip install --no-deps invisible-watermark==0.2.0"
)

Bits = tuple[int, ...]
Evidence = tuple[int | None, int | None, float | None]  # bits that match, bits that read 1, log10 p


@dataclass(frozen=True)
class Peer:
    """A method of invisible-watermark. rivaGan's network has 32 bits and no others."""

    method: str
    n_bits: int

    @property
    def name(self) -> str:
        return f"{self.method}, {self.n_bits} bits"

    def mark(self, picture: Pixels, message: Bits) -> Pixels:
        """(H, W, 3) -> the same with `message` in it."""
        from imwatermark import WatermarkEncoder

        encoder = WatermarkEncoder()
        encoder.set_by_bits(message)
        return _swapped(encoder.encode(_swapped(picture), self.method))

    def read(self, picture: Pixels) -> Bits | None:
        """(H, W, 3), marked or not -> n_bits bits; None if the method refuses it for being too small."""
        from imwatermark import WatermarkDecoder

        decoder = WatermarkDecoder("bits", self.n_bits)
        try:
            return tuple(int(bit) for bit in decoder.decode(_swapped(picture), self.method))
        except RuntimeError as error:
            if "too small" not in str(error):
                raise
            return None


PEERS = (
    Peer("dwtDct", 32),
    Peer("dwtDct", 48),
    Peer("dwtDctSvd", 32),
    Peer("dwtDctSvd", 48),
    Peer("rivaGan", 32),
)
METHODS = tuple(dict.fromkeys(peer.method for peer in PEERS))


@dataclass(frozen=True)
class Contender:
    """A method at work on the test pictures.

    marked: index of a key -> the marked pictures.  found: (picture, index of the key, search) -> evidence.
    mark_one, find_one: the work that is timed, the second given the search.
    """

    name: str
    n_bits: int
    marked: Callable[[int], list[Pixels]]
    found: Callable[[Pixels, int, str], Evidence]
    mark_one: Callable[[], object]
    find_one: Callable[[str], object]


def peer_contender(peer: Peer, seed: int, pictures: Sequence[Pixels]) -> Contender:
    """`peer`, which marks `pictures` with one random message for each key; it knows no search."""

    def mark(picture: Pixels, key: int) -> Pixels:
        return peer.mark(picture, random_message(seed, key, peer.n_bits))

    sample = mark(pictures[0], 0)
    return Contender(
        name=peer.name,
        n_bits=peer.n_bits,
        marked=lambda key: [mark(picture, key) for picture in pictures],
        found=lambda picture, key, _: evidence(peer.read(picture), random_message(seed, key, peer.n_bits)),
        mark_one=lambda: mark(pictures[0], 0),
        find_one=lambda _: peer.read(sample),
    )


def stablesig_contender(keys: Sequence[Key], decoders: Sequence[Autoencoder], held_out: HeldOut) -> Contender:
    """The watermarked decoders, one for each key. Bits are known for secret keys only."""

    def found(picture: Pixels, key: int, search: str) -> Evidence:
        try:
            [one] = detect(picture, [keys[key]], search=search)
        except ImageError:  # too small; nothing else is wrong with an array
            return None, None, None
        ones = None if one.message_bits is None else sum(one.message_bits)
        return one.matches, ones, one.log10_p_value

    sample = decode_pixels(decoders[0], held_out.latents[0])
    return Contender(
        name="stablesig",
        n_bits=keys[0].n_bits,
        marked=lambda key: [decode_pixels(decoders[key], latents) for latents in held_out.latents],
        found=found,
        mark_one=lambda: decode_pixels(decoders[0], held_out.latents[0]),
        find_one=lambda search: detect(sample, keys[:1], search=search),
    )


def random_message(seed: int, key: int, n_bits: int) -> Bits:
    """The message that the peers of `n_bits` bits get in place of the key of that index."""
    return tuple(int(bit) for bit in np.random.default_rng([seed, key, n_bits]).integers(0, 2, n_bits))


def evidence(bits: Bits | None, sent: Bits) -> Evidence:
    """What bits that were read say about a message, log10 p being that of P(Bin(n, 1/2) >= matches).

    All None for a picture that was refused.
    """
    if bits is None:
        return None, None, None
    matches = sum(read == wanted for read, wanted in zip(bits, sent, strict=True))
    return matches, sum(bits), binomial_log10_p(matches, len(sent))


def use_threads(count: int) -> None:
    """Let PyTorch, OpenCV and rivaGan's network compute with `count` threads.

    By itself the package would load the network with a thread for each core, but it keeps one that is there.
    Raises UsageError if a package is missing.
    """
    try:
        import cv2
        import imwatermark
        import onnxruntime
        from imwatermark.rivaGan import RivaWatermark
    except ImportError as error:
        raise UsageError(f"{error.name or error} is missing; {INSTALL}") from error
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = count
    for part in ("encoder", "decoder"):
        model = Path(imwatermark.__file__).with_name(f"rivagan_{part}.onnx")
        network = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        setattr(RivaWatermark, part, network)


def _swapped(picture: Pixels) -> Pixels:
    """RGB to the BGR that OpenCV works in, and back."""
    return np.ascontiguousarray(picture[..., ::-1])
