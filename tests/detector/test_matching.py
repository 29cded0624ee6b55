"""Many keys: the quick look in single precision gives the very answers of the exact look at every key."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from stablesig_detector import matching
from stablesig_detector.detection import Detection, weigh, weigh_families
from stablesig_detector.errors import KeyFileError
from stablesig_detector.key_block import KeyBlock
from stablesig_detector.key_entry import KeyEntry
from stablesig_detector.key_set import KeySet
from stablesig_detector.matching import strongest
from stablesig_detector.search import Family, Geometry
from stablesig_detector.statistics import cosine_statistic

from .drawn_keys import D, drawn_key

N = 700
KEYS = [drawn_key(n) for n in range(N)]
SET = KeySet.of(KeyEntry(key) for key in KEYS)


def _near(cosines: dict[int, float], n: int = 0) -> np.ndarray:
    """(D,) features at given cosines to some keys, up to those keys' own cosines with each other."""
    phi = np.random.default_rng(n).standard_normal(D)
    phi *= math.sqrt(max(0.0, 1 - sum(c * c for c in cosines.values()))) / np.linalg.norm(phi)
    return 5.0 * (phi + sum(c * KEYS[place].direction for place, c in cosines.items()))


def _families(seed: int, marked: dict[int, float]) -> list[Family]:
    """Two families with different factors; the second holds the keys of `marked`."""
    rng = np.random.default_rng(seed)
    plain = Family((Geometry("identity"), Geometry("flip")), rng.standard_normal((2, D)), 4)
    turned = Family((Geometry("rot90"),), np.stack([_near(marked, seed)]), 2)
    return [plain, turned]


def _weighed(families: list[Family], keys: KeySet | list, fpr: float, best: int | None) -> list[Detection]:  # type: ignore[type-arg]
    return weigh_families(families, keys, fpr, hypotheses=3, width=9, height=9, best=best)


@pytest.mark.parametrize("best", [1, 5, 60])
@pytest.mark.parametrize("seed", range(4))
def test_the_answer_is_that_of_the_exact_look_at_every_key(best: int, seed: int) -> None:
    families = _families(seed, {3: 0.5, 400: 0.4, 650: 0.3})
    quick = _weighed(families, SET, 1e-4, best)
    exact = _weighed(families, KEYS, 1e-4, best)
    assert [found.key_id for found in quick] == [found.key_id for found in exact]
    for ours, theirs in zip(quick, exact, strict=True):
        assert ours == replace(
            theirs, statistic=ours.statistic, log10_p_value=ours.log10_p_value
        )  # the same but for the last bits of a product
        assert ours.statistic == pytest.approx(theirs.statistic, abs=1e-14)
        assert ours.log10_p_value == pytest.approx(theirs.log10_p_value, abs=1e-11)
    assert quick[0].n_keys == N


def test_every_detected_key_is_reported_however_few_were_asked_for() -> None:
    rng = np.random.default_rng(2)
    related = []
    for _ in range(30):  # keys near one another, so that an image can hold all of them
        direction = KEYS[0].direction + 0.08 * rng.standard_normal(D)
        direction_q = np.rint(direction / np.linalg.norm(direction) * 2**20).astype(np.int32)
        related.append(replace(KEYS[0], direction_q=direction_q))
    keys = KeySet.of(KeyEntry(key) for key in [*KEYS[1:300], *related, *KEYS[300:]])
    found = weigh({"identity": KEYS[0].direction}, keys, 1e-6, width=9, height=9, best=1)
    assert {one.key_id for one in found} == {key.id for key in related}
    assert all(one.detected for one in found)


def test_reported_keys_are_in_order_of_their_p_values() -> None:
    found = weigh({"identity": _near({10: 0.6, 20: 0.3})}, SET, 1e-3, width=9, height=9, best=12)
    assert [found[0].key_id, found[1].key_id] == [KEYS[10].id, KEYS[20].id]
    assert [one.detected for one in found] == [True, *[False] * 11]
    statistics = [one.statistic for one in found]
    assert statistics == sorted(statistics, reverse=True)


def test_without_best_a_set_gives_every_key_in_order() -> None:
    few = KeySet.of(KeyEntry(key) for key in KEYS[:20])
    found = weigh({"identity": _near({3: 0.7})}, few, 1e-6, width=9, height=9)
    assert [one.key_id for one in found] == [key.id for key in KEYS[:20]]
    assert [place for place, one in enumerate(found) if one.detected] == [3]


def test_the_allowance_covers_single_precision() -> None:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((6, D)) * 10.0 ** rng.uniform(-9, 9, (6, 1))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    quick = np.concatenate(list(matching._best_cosines(unit, SET.blocks)))
    exact = cosine_statistic(features, np.stack([key.direction for key in KEYS])).max(axis=1)
    assert np.abs(quick - exact).max() < matching._allowance(D)
    assert matching._allowance(D) < 1e-4  # more would look at many keys for nothing


def test_keys_within_the_allowance_of_the_last_are_looked_at_too() -> None:
    """Directions that single precision cannot tell apart: none may be lost for the other."""
    key = KEYS[0]
    direction_q = key.direction_q.copy()
    direction_q[:2] += (1, -1)
    near = replace(key, direction_q=direction_q)
    keys = KeySet.of(KeyEntry(one) for one in [*KEYS[1:50], key, near])
    places = strongest([Family((Geometry("identity"),), key.direction[None], 1)], keys.blocks, 1)
    assert places == [49, 50]


def test_parts_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    families = _families(0, {600: 0.4})
    expected = strongest(families, SET.blocks, 5)
    monkeypatch.setattr(matching, "_KEYS_AT_ONCE", 33)
    monkeypatch.setattr(matching, "_COSINES_AT_ONCE", 200)
    assert strongest(families, SET.blocks, 5) == expected


def test_features_that_point_nowhere_end_quickly() -> None:
    found = weigh({"identity": np.zeros(D)}, SET, 1e-6, width=9, height=9, best=3)
    assert [one.statistic for one in found] == [0.0, 0.0, 0.0]


def test_a_direction_that_is_not_a_number_is_refused_and_not_passed_over() -> None:
    block = SET.blocks[0]
    directions = block.directions.copy()
    directions[5] = np.nan

    class Damaged(list):  # type: ignore[type-arg]
        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            if index == 5:
                raise KeyFileError("damaged")
            return block.entries[index]

    damaged = KeyBlock(block.space, directions, block.ids, Damaged(block.entries))
    with pytest.raises(KeyFileError, match="damaged"):
        weigh({"identity": _near({3: 0.7})}, replace(SET, blocks=(damaged,)), 1e-6, width=9, height=9, best=1)
