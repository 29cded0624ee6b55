"""Settings refuse what no worker could do, and say which scans may go on with one another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stablesig.scanning.settings import key_fingerprint
from stablesig_detector.errors import KeyFileError, UsageError
from stablesig_detector.key import SecretKey
from stablesig_detector.key_entry import KeyEntry
from stablesig_detector.key_set import KeySet

from .scanned import settings_for


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"keys": KeySet.of([])}, "no keys"),
        ({"fpr": 0.0}, "false positive rate"),
        ({"search": "wide"}, "'wide'"),
        ({"screen": True, "search": "full"}, "screening"),
        ({"seconds": 0.0}, "time limit"),
        ({"memory_bytes": 1000}, "1,000"),
    ],
)
def test_what_cannot_be_done_is_refused(changes: dict[str, Any], word: str) -> None:
    settings = settings_for()
    with pytest.raises(UsageError, match=word):
        replace(settings, **changes)


def test_a_key_for_other_features_is_refused_before_any_image_is_read() -> None:
    foreign = SecretKey.draw(feature_version="other1")
    with pytest.raises(KeyFileError, match="other1"):
        replace(settings_for(), keys=KeySet.of([KeyEntry(foreign)]))


def test_a_fingerprint_changes_with_the_keys_and_not_with_their_order_or_provider() -> None:
    first, second = (KeyEntry(SecretKey.draw()) for _ in range(2))
    both = key_fingerprint(KeySet.of([first, second]))
    assert key_fingerprint(KeySet.of([replace(second, provider="P"), first])) == both
    assert key_fingerprint(KeySet.of([first])) != both


def test_limits_do_not_decide_over_the_identity_and_the_search_does() -> None:
    settings = settings_for()
    other = replace(settings, seconds=None, memory_bytes=None, dedup=True)
    assert other.identity() == settings.identity()
    assert replace(settings, search="none").identity() != settings.identity()
