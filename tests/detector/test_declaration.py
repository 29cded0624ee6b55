"""The key that a watermark.json declares."""

from __future__ import annotations

from typing import Any

import pytest

from stablesig_detector.declaration import declared_key
from stablesig_detector.errors import KeyFileError

from .drawn_keys import drawn_key

KEY = drawn_key(0)


def _document(**changes: Any) -> dict[str, Any]:
    key = {
        "id": KEY.id,
        "bits": KEY.n_bits,
        "feature_version": KEY.feature_version,
        "dimension": KEY.dimension,
        "statistics_sha256": KEY.statistics_sha256,
        "direction": KEY.direction_q.tolist(),
    }
    return {"format": "stablesig-watermark", "version": 1, "key": key | changes}


def test_a_published_direction_is_the_key() -> None:
    declared = declared_key(_document())
    assert (declared.key_id, declared.key) == (KEY.id, KEY)


def test_without_a_direction_the_key_is_only_named() -> None:
    document = _document(direction=None)
    assert (declared_key(document).key_id, declared_key(document).key) == (KEY.id, None)
    del document["key"]["direction"]
    assert declared_key(document).key is None


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "0123456789abcdef"},
        {"id": KEY.id.upper()},
        {"id": 7},
        {"bits": 47},
        {"bits": None},
        {"bits": True},
        {"dimension": 119},
        {"dimension": "120"},
        {"feature_version": None},
        {"statistics_sha256": "0"},
        {"direction": "AAAA"},
        {"direction": []},
        {"direction": KEY.direction_q.tolist()[1:]},
        {"direction": [0.5] * KEY.dimension},
        {"direction": [True] * KEY.dimension},
        {"direction": [2**40] * KEY.dimension},
        {"direction": KEY.direction_q.tolist()[::-1]},
    ],
)
def test_a_damaged_key_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(KeyFileError):
        declared_key(_document(**changes))


@pytest.mark.parametrize(
    "document", [None, [], {}, {"format": "other", "key": {}}, {"format": "stablesig-watermark", "key": []}]
)
def test_another_document_is_refused(document: Any) -> None:
    with pytest.raises(KeyFileError):
        declared_key(document)
