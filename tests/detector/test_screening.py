"""A screen finds nothing that `detect` does not, at no higher rate by accident, and less seldom."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from PIL import Image

from stablesig_detector.detection import detect
from stablesig_detector.errors import ImageError, KeyFileError, UsageError
from stablesig_detector.key import PublicKey
from stablesig_detector.key_block import KeyBlock, blocks_of
from stablesig_detector.key_entry import KeyEntry
from stablesig_detector.key_set import KeySet
from stablesig_detector.luma import read_luma
from stablesig_detector.screening import LUMA_STAGES, STAGES, Look, Screen, Stage
from stablesig_detector.search import TRANSFORMS
from stablesig_detector.spectrum import DIMENSION, FEATURE_VERSION, spectrum
from stablesig_detector.statistics import spherical_log10_p, unit_rows
from stablesig_detector.whitening import load_default

from .drawn_keys import drawn_key
from .test_spectrum import textured

SMALL = (Stage((16, 9), 0.3, 4e-4), Stage((60, 25), 0.2, 4e-4))


def drawn(n: int) -> PublicKey:
    return drawn_key(n, dimension=DIMENSION, version=FEATURE_VERSION, statistics=load_default().sha256)


def keys(count: int, first: int = 0) -> KeySet:
    return KeySet.of([KeyEntry(drawn(first + n)) for n in range(count)])


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def key_of(pixels: np.ndarray, share: float = 1.0, n: int = 0) -> PublicKey:
    """A key whose cosine with the features of a picture is `share`."""
    phi = load_default().apply(spectrum(pixels).values)
    phi /= np.linalg.norm(phi)
    other = drawn(n).direction
    other = other - (other @ phi) * phi
    direction = share * phi + math.sqrt(1 - share**2) * other / np.linalg.norm(other)
    return replace(drawn(0), direction_q=np.rint(direction * 2**20).astype(np.int32))


def set_of(*found: PublicKey) -> KeySet:
    return KeySet.of([KeyEntry(key) for key in found])


class TestPValue:
    """For a fixed picture, over the draw of the key."""

    @pytest.mark.parametrize("size", [(96, 128), (200, 160)])
    def test_what_is_reported_is_a_p_value_at_every_level(self, size: tuple[int, int]) -> None:
        """The stages as `Screen` takes them, for very many keys at once."""
        pixels = textured(*size, seed=3)
        rng = np.random.default_rng(0)
        directions = unit_rows(rng.standard_normal((60_000, DIMENSION)))
        everything = spectrum(pixels)
        whole = np.stack([load_default().apply(everything.transformed(name)) for name in TRANSFORMS["fast"]])
        looks = [Look(stage, "fast", load_default()).family(pixels).features for stage in SMALL]
        reported = np.full(len(directions), np.nan)
        for features, gate in zip([*looks, whole], [*(stage.gate for stage in SMALL), -1.0], strict=True):
            cosines = (directions @ unit_rows(features).T).max(axis=1)
            p = np.minimum(4 * 10.0 ** spherical_log10_p(cosines, DIMENSION), 1.0)
            out = np.isnan(reported) & (p > gate)
            reported[out] = p[out]
        assert not np.isnan(reported).any()
        for level in (0.001, 0.01, 0.05, 0.15, 0.2, 0.25, 0.3, 0.5, 0.9):
            least = level + 4 * math.sqrt(level / len(directions))
            assert (reported <= level).mean() <= least

    def test_detections_by_accident_stay_below_the_rate(self) -> None:
        """`Screen` itself, with a rate that is reached often enough to be counted."""
        pixels, trials, fpr = textured(96, 112, seed=5), 600, 0.1
        screens = (Screen(keys(2, 2 * n), fpr, stages=SMALL) for n in range(trials))
        found = [screen.look(pixels) for screen in screens]
        hits = sum(any(one.detected for one in verdict.detections) for verdict in found)
        assert hits <= trials * fpr + 4 * math.sqrt(trials * fpr)
        assert 0.5 < sum(verdict.screened for verdict in found) / trials < 1

    def test_of_unmarked_images_no_more_go_on_than_the_gate_lets(self) -> None:
        luma = read_luma(jpeg(textured(256, 256, seed=1)), "x")
        assert luma is not None
        family = Look(LUMA_STAGES[0], "fast", load_default()).family(luma)
        directions = unit_rows(np.random.default_rng(1).standard_normal((50_000, DIMENSION)))
        cosines = (directions @ unit_rows(family.features).T).max(axis=1)
        share = (4 * 10.0 ** spherical_log10_p(cosines, DIMENSION) <= LUMA_STAGES[0].gate).mean()
        assert 0.5 * LUMA_STAGES[0].gate < share <= LUMA_STAGES[0].gate


class TestSameAsDetect:
    @pytest.mark.parametrize("search", ["none", "fast"])
    def test_an_image_that_passes_has_the_detections_of_detect(self, search: str) -> None:
        pixels = textured(256, 320, seed=2)
        those = set_of(key_of(pixels), key_of(pixels, 0.8, 1), *(drawn(n) for n in range(5)))
        verdict = Screen(those, search=search).look(pixels)
        assert not verdict.screened
        assert verdict.detections == detect(pixels, those, search=search, best=1)
        assert sum(found.detected for found in verdict.detections) == 2

    def test_marked_images_pass_the_screen_turned_and_as_jpeg(self) -> None:
        pixels = textured(400, 320, seed=4)
        screen = Screen(set_of(key_of(pixels, 0.9), drawn(1)))
        for turned in (pixels, np.rot90(pixels), pixels[:, ::-1]):
            verdict = screen.look(np.ascontiguousarray(turned))
            assert verdict.detections[0].detected
            assert screen.rule_out(jpeg(np.ascontiguousarray(turned), 95)) is None

    def test_an_unmarked_image_is_ruled_out_with_the_evidence_of_its_strongest_key(self) -> None:
        pixels, those = textured(300, 280, seed=6), keys(40)
        verdict = Screen(those).look(pixels)
        assert verdict.screened
        [found] = verdict.detections
        assert not found.detected
        assert (found.n_keys, found.hypothesis_factor, found.width, found.height) == (40, 4, 280, 300)
        family = Look(STAGES[0], "fast", load_default()).family(pixels)
        cosines = unit_rows(family.features) @ np.stack([key.direction for key in those.keys]).T
        assert found.statistic == pytest.approx(cosines.max(), abs=1e-12)
        assert found.key_id == those.keys[int(cosines.max(axis=0).argmax())].id
        assert found.log10_p_value == pytest.approx(
            min(spherical_log10_p(float(cosines.max()), DIMENSION) + math.log10(160), 0.0), abs=1e-9
        )

    def test_a_wider_gate_lets_all_pass_that_a_narrower_one_does(self) -> None:
        for seed in range(25):
            pixels = textured(80, 90, seed)
            those = keys(3, 100 * seed)
            passed = [
                not Screen(those, stages=(Stage((12, 4), gate, 4e-4),)).look(pixels).screened
                for gate in (0.0, 0.05, 0.5, 1.0)
            ]
            assert passed == sorted(passed)
            assert passed[-1]

    def test_no_gate_is_below_the_rate_asked_for(self) -> None:
        """At a rate above the gates what is ruled out is not what the rate would have detected."""
        found = [Screen(keys(1), 0.6).look(textured(90, 90, seed)) for seed in range(12)]
        ruled_out = [verdict.detections[0].p_value for verdict in found if verdict.screened]
        assert 0 < len(ruled_out) < len(found)
        assert min(ruled_out) > 0.6

    def test_the_numbers_do_not_depend_on_what_was_looked_at_before(self) -> None:
        pictures = [textured(200, 220, seed) for seed in range(4)]
        screen = Screen(keys(30))
        first = [screen.look(pixels).detections for pixels in pictures]
        assert [screen.look(pixels).detections for pixels in reversed(pictures)] == first[::-1]


class TestFiles:
    def test_a_jpeg_is_ruled_out_by_its_luma(self) -> None:
        data = jpeg(textured(240, 320, seed=7))
        found = Screen(keys(10)).rule_out(data, "a.jpg")
        assert found is not None
        assert (found.width, found.height, found.n_keys, found.detected) == (320, 240, 10, False)

    def test_what_is_not_ruled_out_is_none(self) -> None:
        """Other formats, transparent pictures among them, and what is damaged or too small."""
        screen = Screen(keys(10))
        png = io.BytesIO()
        Image.fromarray(textured(100, 100)).convert("RGBA").save(png, "PNG")
        whole = jpeg(textured(100, 100))
        for data in (png.getvalue(), whole[: len(whole) // 2], b"", jpeg(textured(20, 100))):
            assert screen.rule_out(data) is None


class TestRequest:
    def test_a_full_search_has_no_screen(self) -> None:
        with pytest.raises(UsageError, match='"none" and "fast"'):
            Screen(keys(1), search="full")
        with pytest.raises(UsageError, match="search is"):
            Screen(keys(1), search="quick")

    def test_keys_and_rate_are_checked(self) -> None:
        with pytest.raises(UsageError, match="no keys"):
            Screen(KeySet((), date(2026, 1, 1)))
        with pytest.raises(UsageError, match="false positive rate"):
            Screen(keys(1), 0.0)
        with pytest.raises(KeyFileError, match="dimensions"):
            Screen(KeySet.of([KeyEntry(drawn_key(1))]))

    def test_too_small_an_image_is_refused(self) -> None:
        with pytest.raises(ImageError, match="needs at least"):
            Screen(keys(1)).look(textured(20, 100))


def test_several_blocks_of_keys_are_all_looked_at() -> None:
    pixels = textured(256, 256, seed=8)
    [one] = blocks_of([KeyEntry(drawn(n)) for n in range(5)])
    [two] = blocks_of([KeyEntry(key_of(pixels))])
    blocks: tuple[KeyBlock, ...] = (one, two)
    verdict = Screen(KeySet(blocks, date(2026, 1, 1))).look(pixels)
    assert [found.detected for found in verdict.detections] == [True]
