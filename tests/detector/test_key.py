"""Keys: the expansion is stable, parts are checked, draws are secure, and nothing prints a secret."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stablesig_detector import key as key_module
from stablesig_detector.errors import KeyFileError, UsageError
from stablesig_detector.key import PublicKey, SecretKey

SEED = bytes(range(32))
MESSAGE = tuple(int(bit) for bit in "110100111010001011101001110010100011011010011100")
STATISTICS = "ab" * 32
FEATURES = {"feature_version": "spectrum-test", "dimension": 232, "statistics_sha256": STATISTICS}

# Golden: what this seed and message must give for ever. A change here breaks every key in the field.
GOLDEN_ID = "bfad8e82c6d0c4b0"
GOLDEN_DIRECTION_Q = [-5424, -47694, -79316, 63061, 11618, -29116, 6306, 112399]


def _secret() -> SecretKey:
    return SecretKey(SEED, MESSAGE, **FEATURES)


# The expansion.


def test_the_golden_key() -> None:
    key = _secret()
    assert key.id == GOLDEN_ID
    assert key.direction_q[:8].tolist() == GOLDEN_DIRECTION_Q
    assert key.direction[:8] == pytest.approx(np.array(GOLDEN_DIRECTION_Q) / 2**20, abs=1e-6)


def test_carriers_are_orthonormal_and_carry_the_message() -> None:
    key = _secret()
    assert key.carriers.shape == (48, 232)
    np.testing.assert_allclose(key.carriers @ key.carriers.T, np.eye(48), atol=1e-12)
    projections = key.carriers @ key.direction  # m_i / sqrt(48), up to the rounding of u
    np.testing.assert_allclose(projections, (2 * np.array(MESSAGE) - 1) / np.sqrt(48), atol=1e-5)


def test_secret_and_public_key_have_the_very_same_direction_and_id() -> None:
    key = _secret()
    public = key.public()
    assert key.direction.tobytes() == public.direction.tobytes()
    assert np.linalg.norm(key.direction) == pytest.approx(1.0, abs=1e-15)
    assert (public.id, public.n_bits, public.dimension) == (key.id, 48, 232)


def test_every_part_of_a_key_changes_its_id() -> None:
    key = _secret()
    others = [
        SecretKey(SEED[::-1], MESSAGE, **FEATURES),
        SecretKey(SEED, (1 - MESSAGE[0], *MESSAGE[1:]), **FEATURES),
        SecretKey(SEED, MESSAGE, **{**FEATURES, "dimension": 233}),
        SecretKey(SEED, MESSAGE, **{**FEATURES, "feature_version": "spectrum-other"}),
    ]
    public = PublicKey(key.direction_q, 47, "spectrum-test", STATISTICS)
    assert len({key.id, public.id, *(other.id for other in others)}) == 6


def test_carriers_are_haar_distributed() -> None:
    # QR alone leaves the signs of diag(R) to LAPACK, which makes the first entry of each carrier one-sided.
    first = [
        SecretKey(np.random.default_rng(n).bytes(32), (1, 0), "spectrum-test", 3, STATISTICS).carriers[:, 0]
        for n in range(2000)
    ]
    # A coordinate of a uniform unit vector in three dimensions is uniform on [-1, 1] (Archimedes).
    mean, variance = np.mean(first, axis=0), np.var(first, axis=0)
    np.testing.assert_allclose(mean, 0.0, atol=4 * np.sqrt(1 / 3 / 2000))
    np.testing.assert_allclose(variance, 1 / 3, atol=0.03)


def test_arrays_of_a_key_cannot_be_changed() -> None:
    key = _secret()
    for array in (
        key.carriers,
        key.direction,
        key.direction_q,
        key.public().direction_q,
        key.public().direction,
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_a_public_key_keeps_its_own_copy() -> None:
    numbers = _secret().direction_q.copy()
    public = PublicKey(numbers, 48, "spectrum-test", STATISTICS)
    numbers[0] += 1000
    assert public.id == GOLDEN_ID


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": b"short"}, "32 bytes"),
        ({"message": ()}, "number of bits"),
        ({"message": (1,) * 233}, "number of bits"),
        ({"message": (1, 0, 2)}, "integers 0 and 1"),
        ({"message": (True, False)}, "integers 0 and 1"),
        ({"feature_version": "Spectrum 1"}, "feature version"),
        ({"dimension": 1}, "dimension"),
        ({"dimension": 4097}, "dimension"),
        ({"statistics_sha256": "AB" * 32}, "SHA-256"),
    ],
)
def test_a_secret_key_checks_its_parts(change: dict[str, Any], message: str) -> None:
    with pytest.raises(KeyFileError, match=message):
        SecretKey(**{"seed": SEED, "message": MESSAGE, **FEATURES, **change})


@pytest.mark.parametrize("direction_q", [np.zeros(232, np.int32), np.ones((2, 3), np.int32), np.ones(232)])
def test_a_public_key_checks_its_direction(direction_q: np.ndarray) -> None:
    with pytest.raises(KeyFileError, match="direction"):
        PublicKey(direction_q, 48, "spectrum-test", STATISTICS)


# Drawing.


def test_drawn_keys_differ_and_take_48_bits() -> None:
    one, other = SecretKey.draw(**FEATURES), SecretKey.draw(**FEATURES)
    assert one.n_bits == 48
    assert one.seed != other.seed
    assert one.message != other.message
    assert one.id != other.id


def test_drawing_uses_the_secure_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_module.secrets, "token_bytes", lambda n: b"\7" * n)
    monkeypatch.setattr(key_module.secrets, "randbits", lambda bits: 1)
    key = SecretKey.draw(8, **FEATURES)
    assert (key.seed, key.message) == (b"\7" * 32, (1,) * 8)


def test_a_given_message_is_kept() -> None:
    assert SecretKey.draw(message=np.array([1, 0, 1]), **FEATURES).message == (1, 0, 1)


@pytest.mark.parametrize(
    ("bits", "message", "error"),
    [
        (0, None, "1 to 232 bits; got 0"),
        (257, None, "1 to 232 bits; got 257"),
        (4, (1, 0, 1), "3 bits, 4 were asked for"),
        (None, (), "1 to 232 bits; got 0"),
        (None, (1, 0, 7), "bits 0 and 1"),
    ],
)
def test_a_key_that_cannot_be_drawn(bits: int | None, message: tuple[int, ...] | None, error: str) -> None:
    with pytest.raises(UsageError, match=error):
        SecretKey.draw(bits, message, **FEATURES)


# Printing.


def test_a_key_never_prints_its_secrets() -> None:
    key = _secret()
    assert repr(key) == str(key) == f"SecretKey(48 bits, id={GOLDEN_ID})"
    assert repr(key.public()) == f"PublicKey(48 bits, id={GOLDEN_ID})"
    assert f"{key}" == repr(key)
