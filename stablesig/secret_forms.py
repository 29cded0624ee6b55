"""The guises in which a key could slip into a file, as strings of bytes to look for."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stablesig_detector.key import SECRET_FORMAT, PublicKey, SecretKey

# How the bytes of a needle stand in a file: as they are; as text; as text with only the digits or letters of
# the encoding left, which undoes wrapping and separators.
Guise = Literal["raw", "text", "hex", "base64", "list", "bits"]

_RAW_MESSAGE_BITS = 40  # fewer occur by chance among the bytes of large weights
_TEXT_MESSAGE_BITS = 16
_BIT_ORDERS: tuple[Literal["big", "little"], ...] = ("big", "little")
_DIRECTION_NUMBERS = 12  # neighbours that are looked for together, at both ends


@dataclass(frozen=True, repr=False)
class Needle:
    """label: what it is, for the finding; nothing secret. content: what is looked for."""

    label: str
    guise: Guise
    content: bytes


def secret_needles(key: SecretKey) -> Iterator[Needle]:
    """Seed and message of a secret key. Whoever holds the seed's digits holds the key file's content."""
    seed = "the secret key's seed"
    yield Needle(seed, "raw", key.seed)
    yield Needle(f"{seed}, reversed", "raw", key.seed[::-1])
    yield from _encoded(seed, key.seed)
    yield from _twice(seed, key.seed)
    yield Needle(f"{seed} as a list", "list", ",".join(map(str, key.seed)).encode())
    yield from _message_needles(key.message)


def _message_needles(bits: tuple[int, ...]) -> Iterator[Needle]:
    label = "the secret key's message"
    if len(bits) < _TEXT_MESSAGE_BITS:
        return  # so few bits are everywhere; the key file's format gives them away
    digits = "".join(map(str, bits)).encode()
    yield Needle(label, "bits", digits)
    yield from _encoded(label, digits)
    yield Needle(f"{label} as a list", "list", ",".join(map(str, bits)).encode())
    yield Needle(f"{label} as a list of signs", "list", ",".join(str(2 * bit - 1) for bit in bits).encode())
    yield Needle(f"{label}, a byte a bit", "raw", bytes(bits))
    if len(bits) >= _RAW_MESSAGE_BITS:
        whole = len(bits) - len(bits) % 8
        for order in _BIT_ORDERS:
            packed = _packed(bits[:whole], order)
            yield Needle(f"{label}, packed", "raw", packed)
            yield from _encoded(label, packed)


def _packed(bits: tuple[int, ...], order: Literal["big", "little"]) -> bytes:
    return np.packbits(np.array(bits, np.uint8), bitorder=order).tobytes()


def direction_needles(key: SecretKey | PublicKey) -> Iterator[Needle]:
    """The public direction, for a release that publishes only its commitment: a few numbers of either end."""
    label = "the key's direction"
    count = min(_DIRECTION_NUMBERS, key.dimension)
    for steps, unit in (
        (key.direction_q[:count], key.direction[:count]),
        (key.direction_q[-count:], key.direction[-count:]),
    ):
        yield Needle(f"{label} as a list", "list", ",".join(map(str, steps.tolist())).encode())
        for numbers in (steps.astype("<i4"), unit.astype("<f8"), unit.astype("<f4")):
            packed = numbers.tobytes()
            yield Needle(label, "raw", packed)
            yield from _encoded(label, packed)
            yield from _twice(label, packed)
        shortest = ",".join(repr(value) for value in unit.tolist()).encode()
        yield Needle(f"{label} as numbers", "text", shortest)


def format_needles() -> Iterator[Needle]:
    """What every secret key file holds, whoever's it is."""
    label = "a secret key file"
    name = SECRET_FORMAT.encode()
    yield Needle(label, "text", name)
    yield from _encoded(label, name)
    yield from _twice(label, name)


def _encoded(label: str, content: bytes) -> Iterator[Needle]:
    yield Needle(f"{label} in hexadecimal", "hex", content.hex().encode())
    for fragment in base64_fragments(content):
        yield Needle(f"{label} in base64", "base64", fragment)


def _twice(label: str, content: bytes) -> Iterator[Needle]:
    """Text that encodes it, encoded again: the seed's digits in a key file that was put into base64, say."""
    for text in (
        content.hex(),
        content.hex().upper(),
        base64.b64encode(content).decode(),
        base64.urlsafe_b64encode(content).decode(),
    ):
        yield from _encoded(f"{label}, encoded twice,", text.encode())


def base64_fragments(content: bytes) -> set[bytes]:
    """What stands in the base64 of anything that has `content` in it, in both alphabets, at any place.

    Three bytes make four characters, so there are three alignments; at both ends the characters that also
    depend on the bytes around are left out.
    """
    found = set()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + content).rstrip(b"=")
        shared_start = (0, 2, 3)[before]
        shared_end = 1 if (before + len(content)) % 3 else 0
        fragment = encoded[shared_start : len(encoded) - shared_end]
        found |= {fragment, fragment.translate(bytes.maketrans(b"+/", b"-_"))}
    return found
