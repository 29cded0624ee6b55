"""Drawing a key: one secret file for the publisher, one public file for everybody who verifies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stablesig_detector.key import PublicKey, SecretKey


@dataclass(frozen=True)
class KeyPair:
    """A secret key, its public key, and the files that hold them."""

    secret: SecretKey
    public: PublicKey
    secret_path: Path
    public_path: Path


def parse_message(text: str) -> tuple[int, ...]:
    """Hexadecimal digits -> four bits each, 0 or 1, the most significant first.

    Raises UsageError for anything else.
    """
    from stablesig_detector.errors import UsageError

    digits = text.lower().removeprefix("0x")
    if not digits or set(digits) - set("0123456789abcdef"):
        # Not shown: the message is part of the secret key.
        raise UsageError("a message is hexadecimal; this one is not; use the digits 0-9 and the letters a-f")
    return tuple(int(bit) for digit in digits for bit in f"{int(digit, 16):04b}")


def keygen(
    secret_path: str | os.PathLike[str], bits: int | None = None, message: str | None = None
) -> KeyPair:
    """Draw a key from the operating system's randomness and write both of its files, or neither.

    secret_path: where the secret file goes (mode 0600); the public one goes beside it, SECRET.json ->
    SECRET.pub.json. bits: length of the message, 48 by default. message: hexadecimal, the most significant
    bit first, instead of a random one. Raises OutputExistsError (nothing is overwritten), OutputError,
    UsageError.
    """
    from stablesig_detector.key import SecretKey, public_key_path

    path = Path(secret_path)
    public_path = public_key_path(path)
    secret = SecretKey.draw(bits, None if message is None else parse_message(message))
    secret.save_pair(path)
    return KeyPair(secret, secret.public(), path, public_path)
